"""The item index finds what exact search finds, and what it explores has the propensity that is logged."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from instructrec_rl import load_env
from instructrec_rl.algorithms import dqn
from instructrec_rl.algorithms.loop.item_search import LARGE_CATALOG, ItemSearch
from instructrec_rl.core import InputError, Item
from instructrec_rl.encoders.item_features import MAX_INDICATED, MAX_WORDS, item_features
from instructrec_rl.policies.saved import load_policy, save_policy
from instructrec_rl.run.evaluate import play
from tests.algorithms.test_dqn import SMALL, recorder, same, score, steps

Toys = Callable[..., Path]
faiss = pytest.importorskip("faiss", reason="faiss-cpu is an extra")


def vectors(number: int, kind: str, seed: int = 0) -> torch.Tensor:
    """Items' features as they are: eight attributes of ten values as indicators, or embeddings."""
    rng = np.random.default_rng(seed)
    if kind == "text":
        return torch.from_numpy(rng.standard_normal((number, 385)).astype(np.float32))
    codes = rng.integers(10, size=(number, 8)) + 10 * np.arange(8)
    made = np.zeros((number, 81), np.float32)
    made[:, 80] = 1
    np.put_along_axis(made, codes, 1.0, axis=1)
    return torch.from_numpy(made)


def wishes(number: int, width: int, seed: int = 1) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((number, width)).astype(np.float32))


@pytest.mark.parametrize("kind", ["attributes", "text"])
def test_the_index_finds_the_exact_top_item(kind: str) -> None:
    items = vectors(8_000, kind)
    asked, menu = wishes(300, items.shape[1]), np.arange(7_000)
    found = ItemSearch(items, "index").on(menu).best(asked)
    products = (asked @ items[:7_000].T).numpy()
    assert found.max() < 7_000
    assert (products[np.arange(300), found] >= products.max(1) - 1e-4).mean() >= 0.95


def test_on_a_small_menu_the_index_is_exact() -> None:
    items, menu = vectors(500, "text"), np.arange(3, 480, 2)
    online, target = wishes(200, 385), wishes(200, 385, seed=2)
    exact, index = (ItemSearch(items, kind).on(menu) for kind in ("exact", "index"))
    np.testing.assert_array_equal(exact.best(online), index.best(online))
    torch.testing.assert_close(
        exact.value_of_best(online, target), index.value_of_best(online, target), rtol=1e-4, atol=1e-4
    )


def test_auto_takes_the_index_for_large_catalogs() -> None:
    assert ItemSearch(torch.ones(LARGE_CATALOG, 1), "auto").kind == "index"
    assert ItemSearch(torch.ones(LARGE_CATALOG - 1, 1), "auto").kind == "exact"


def test_a_menu_is_indexed_once() -> None:
    search = ItemSearch(vectors(50, "text"), "index")
    assert search.on(np.arange(20)) is search.on(np.arange(20))
    assert search.on(np.arange(20)) is not search.on(np.arange(21))


@pytest.mark.parametrize(("kind", "number"), [("exact", 300), ("index", 300), ("index", 6_000)])
def test_what_is_drawn_has_the_propensity_that_is_logged(kind: str, number: int) -> None:
    """An item's share of many draws is its propensity, and so is the share of all items that are rarely drawn."""
    items, draws = vectors(number, "attributes"), 40_000
    asked = wishes(1, 81).repeat(draws, 1) / 4
    drawn, likely = ItemSearch(items, kind).on(np.arange(number)).explore(asked, 0.2, 0.1, np.random.default_rng(0))
    known = np.full(number, 0.1 / number)
    known[drawn] = likely
    np.testing.assert_allclose(known[drawn], likely, rtol=1e-3)  # the same at every draw
    shares = np.bincount(drawn, minlength=number) / draws
    often = known * draws > 20
    assert 10 < often.sum() < number
    for ours, theirs in ((shares[often], known[often]), (shares[~often].sum(), 1 - known[often].sum())):
        assert (np.abs(ours - theirs) < 5 * np.sqrt(theirs * (1 - theirs) / draws)).all()
    assert known.min() >= 0.1 / number * (1 - 1e-5)
    assert known.sum() <= 1 + 1e-3


def test_before_learning_every_item_is_as_good() -> None:
    search = ItemSearch(vectors(6_000, "attributes"), "index").on(np.arange(6_000))
    drawn, likely = search.explore(torch.zeros(64, 81), 0.3, 0.0, np.random.default_rng(0))
    assert drawn.min() >= 0
    assert len(set(drawn)) > 32
    np.testing.assert_allclose(likely, 1 / 256, rtol=1e-4)
    assert (search.best(torch.zeros(3, 81)) >= 0).all()


def test_without_the_package_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(InputError) as error:
        ItemSearch(torch.ones(LARGE_CATALOG, 1), "auto")
    assert "pip install 'instructrec-rl[scale]'" in str(error.value)
    assert "20,000 items" in str(error.value)
    assert ItemSearch(torch.ones(4, 1), "auto").kind == "exact"


@pytest.mark.parametrize("turns", [1, 2])
def test_dqn_learns_by_the_index_and_repeats_itself(toys: Toys, tmp_path: Path, turns: int) -> None:
    toys(turns=turns)
    env = load_env("toys")
    config = replace(SMALL, item_search="index", interactions=6_000)
    policy = dqn.learn(env, config, recorder(env, tmp_path / "run"))
    assert score(policy, env)["exact_match"] >= 0.85
    again = dqn.learn(load_env("toys"), config, recorder(env, tmp_path / "again"))
    assert same(policy, again)
    assert steps(tmp_path / "run") == steps(tmp_path / "again")


def test_a_policy_with_an_index_is_saved_without_it_and_answers_alike(toys: Toys, tmp_path: Path) -> None:
    toys()
    env = load_env("toys")
    policy = dqn.learn(env, replace(SMALL, item_search="index", interactions=500), recorder(env, tmp_path / "run"))
    save_policy(tmp_path / "run" / "policy", "dqn", policy, env)
    assert {p.suffix for p in (tmp_path / "run" / "policy").iterdir()} <= {".json", ".jsonl", ".safetensors"}
    loaded = load_policy(tmp_path / "run")
    assert isinstance(loaded.policy, dqn.DQNPolicy)
    assert loaded.policy.search.kind == "index"
    asked = play(policy, env, "test")
    assert loaded.act(list(env.instructions[asked.rows])) == asked.responses(env)


def test_features_of_a_large_catalog_stay_narrow() -> None:
    number = MAX_INDICATED + 1
    many = [Item(str(i), str(i), str(i), {"tags": [str(i % 3_000), "x" if i % 2 else "y"]}) for i in range(number)]
    text, prior = item_features(many, "text", lambda: np.random.default_rng(0).random((number, 8), dtype=np.float32))
    assert text.shape == (number, 9)
    assert prior is not None
    assert prior.shape == (9, 8)
    with pytest.raises(InputError, match=r"algo.item_features=ids: .*4,097 items.*expected at most 4,096"):
        item_features(many, "ids", lambda: text)
    columns, prior = item_features(many, "attributes", lambda: pytest.fail("attributes need no embeddings"))
    assert columns.shape == (number, 1 + MAX_WORDS)
    assert prior is None
