"""The world: the spec's errors, the batched dynamics, and Gymnasium's shells over them."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from instructrec_rl import load_env
from instructrec_rl.core import InputError
from instructrec_rl.env.gym import InstructionEnv, InstructionVectorEnv
from instructrec_rl.env.registration import register_environments

Toys = Callable[..., Path]


def spoil(path: Path, line: int, text: str) -> None:
    lines = path.read_text().splitlines()
    lines[line - 1] = text
    path.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("missing", ["name", "version", "format", "action", "metrics"])
def test_env_yaml_without_a_field(toys: Toys, missing: str) -> None:
    path = toys() / "env.yaml"
    path.write_text("\n".join(x for x in path.read_text().splitlines() if not x.startswith(missing + ":")))
    with pytest.raises(InputError, match=rf'env\.yaml: the field "{missing}" is missing'):
        load_env("toys")


@pytest.mark.parametrize(
    ("about", "words"),
    [
        ({"format": "catalogue"}, 'format="catalogue" is not known. Did you mean "catalog"?'),
        ({"action": "chose"}, 'action="chose" is not known. Did you mean "choose"?'),
        ({"version": "one"}, "the field \"version\" is 'one'; expected an integer"),
        ({"metric": ["x"]}, 'unknown field "metric". Did you mean "metrics"?'),
        ({"state": "clause"}, 'Did you mean "clauses"?'),
        ({"splits": {"dev": "validation"}}, 'split "dev" is named (env.splits) but empty'),
    ],
)
def test_env_yaml_faults(toys: Toys, about: dict[str, object], words: str) -> None:
    toys(**about)
    with pytest.raises(InputError) as error:
        load_env("toys")
    assert words in str(error.value)
    assert "env.yaml" in str(error.value) or "instructions.jsonl" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "line", "text", "words"),
    [
        ("instructions.jsonl", 5, '{"id": "r4", "instruction"', "instructions.jsonl:5: "),
        (
            "instructions.jsonl",
            3,
            '{"id": "x", "instruction": "hm", "split": "train", "best": ["red_cirle"]}',
            'Did you mean "red_circle"?',
        ),
        (
            "instructions.jsonl",
            2,
            '{"id": "x", "instruction": " ", "split": "train", "best": ["red_star"]}',
            'instructions.jsonl:2: the field "instruction" is',
        ),
        (
            "instructions.jsonl",
            2,
            '{"id": "r5", "instruction": "hm", "split": "train", "best": ["red_star"]}',
            'the id "r5" stands already at line 2',
        ),
        (
            "instructions.jsonl",
            2,
            '{"id": "x", "instruction": "hm", "split": "train", "best": []}',
            '"best" must be a list of at least one',
        ),
        (
            "items.jsonl",
            4,
            '{"id": "red_circle", "name": "n", "text": "t"}',
            'items.jsonl:4: the id "red_circle" stands already at line 1',
        ),
        ("items.jsonl", 4, '{"id": "q", "name": "n"}', 'items.jsonl:4: the field "text" is missing'),
        ("items.jsonl", 12, '{"id": "yellow_star", "name": "n", "text": "t", "split": "tset"}', 'only in split "tset"'),
    ],
)
def test_broken_data(toys: Toys, name: str, line: int, text: str, words: str) -> None:
    spoil(toys() / name, line, text)
    with pytest.raises(InputError) as error:
        load_env("toys")
    assert words in str(error.value)


def test_unknown_names(toys: Toys) -> None:
    toys()
    with pytest.raises(InputError, match='Did you mean "toys"'):
        load_env("toy")
    with pytest.raises(InputError, match=r'no option "catalogue".*Did you mean "catalog"'):
        load_env("toys", catalogue="large")
    with pytest.raises(InputError, match=r'env.catalog="large" is not one of its catalogs'):
        load_env("toys", catalog="large")
    with pytest.raises(InputError, match=r'no split "tests".*Did you mean "test"'):
        load_env("toys").dynamics("tests")


def test_without_splits_a_hash_makes_them(toys: Toys) -> None:
    path = toys() / "instructions.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps({k: v for k, v in row.items() if k != "split"}) + "\n" for row in rows))
    first, second = load_env("toys"), load_env("toys")
    sizes = {name: len(split) for name, split in first.splits.items()}
    assert sizes == {
        "train": len(rows) - 2 * round(len(rows) / 10),
        "validation": round(len(rows) / 10),
        "test": round(len(rows) / 10),
    }
    assert all(np.array_equal(first.splits[name], second.splits[name]) for name in sizes)


@pytest.mark.parametrize("state", ["sentence", "clauses", "tokens"])
@pytest.mark.parametrize("action", ["choose", "generate"])
@pytest.mark.parametrize("turns", [1, 3])
def test_check_env_passes_for_every_combination(toys: Toys, state: str, action: str, turns: int) -> None:
    toys(turns=turns)
    register_environments()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*render.*")
        env = gymnasium.make("instructrec/toys-v1", action=action, state=state)
        check_env(env.unwrapped, skip_render_check=False)
    space = env.observation_space
    if state == "sentence":
        assert space.shape == ((384,) if turns == 1 else (769,))
    else:
        assert set(space.spaces) == {state, "mask"} | ({"context", "last_reward"} if turns > 1 else set())  # type: ignore[attr-defined]
    observation, info = env.reset(seed=0)
    assert space.contains(observation)
    assert info["instruction"]
    assert info["row_id"].startswith("r")


def test_text_and_index_actions_earn_the_same(toys: Toys) -> None:
    toys()
    chooser, writer = InstructionEnv("toys"), InstructionEnv("toys", action="generate")
    for k in range(12):
        chooser.reset(seed=k), writer.reset(seed=k)
        _, by_index, *_ = chooser.step(k)
        for answer in (chooser.shell.environment.items[k].text, chooser.shell.environment.items[k].name.upper()):
            writer.reset(seed=k)
            assert writer.step(answer)[1] == by_index
    writer.reset(seed=0)
    assert writer.step("something else entirely")[1] == 0.0


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**20), num_envs=st.integers(1, 5), turns=st.sampled_from([1, 2, 3]), data=st.data())
def test_same_seed_same_episodes_serial_and_vectorised(
    toys_once: None, seed: int, num_envs: int, turns: int, data: st.DataObject
) -> None:
    many = InstructionVectorEnv("toys", num_envs, turns=turns)
    singles = [InstructionEnv("toys", turns=turns) for _ in range(num_envs)]
    observations, infos = many.reset(seed=seed)
    for i, env in enumerate(singles):
        observation, info = env.reset(seed=seed + i)
        np.testing.assert_array_equal(observation, observations[i])
        assert info["row_id"] == infos["row_id"][i]
    for _ in range(5):
        actions = data.draw(st.lists(st.integers(0, 11), min_size=num_envs, max_size=num_envs))
        observations, rewards, terminated, truncated, infos = many.step(np.array(actions))
        for i, env in enumerate(singles):
            observation, reward, ended, cut, info = env.step(actions[i])
            assert (reward, ended, cut) == (rewards[i], terminated[i], truncated[i])
            if ended or cut:
                np.testing.assert_array_equal(observation, infos["final_obs"][i])
                assert infos["final_info"]["score"][i] == info["score"]
                observation, info = env.reset()
            np.testing.assert_array_equal(observation, observations[i])
            assert info["row_id"] == infos["row_id"][i]


@pytest.fixture
def toys_once(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.conftest import write_toys

    folder = tmp_path_factory.mktemp("toys")
    write_toys(folder)
    monkeypatch.chdir(folder)


@pytest.mark.parametrize("order", ["instructrec_rl, gymnasium", "gymnasium, instructrec_rl"])
def test_the_ids_are_registered_whichever_is_imported_first(toys: Toys, order: str) -> None:
    toys()
    code = f"import {order}; print('instructrec/toys-v1' in gymnasium.registry, gymnasium.__version__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("True")


def test_make_vec_uses_the_native_vector_env(toys: Toys) -> None:
    toys()
    register_environments()
    envs = gymnasium.make_vec("instructrec/toys-v1", num_envs=4, reward="exact_match")
    assert isinstance(envs.unwrapped, InstructionVectorEnv)
    envs.reset(seed=0)
    _, rewards, terminated, truncated, _ = envs.step(envs.action_space.sample())
    assert set(rewards) <= {0.0, 1.0}
    assert terminated.all()
    assert not truncated.any()


def test_turns_pay_for_improvement_and_end_when_right(toys: Toys) -> None:
    toys()
    env = load_env("toys", turns=3, turn_cost=0.1)
    rows = np.array([i for i, e in enumerate(env.examples) if len(e.row["constraints"]) == 2][:1])
    right = env.examples[rows[0]].best[0]
    wanted = {c["attribute"]: c["value"] for c in env.examples[rows[0]].row["constraints"]}
    half = next(i for i, item in enumerate(env.items) if (item.attributes["colour"] == wanted["colour"]) and i != right)
    world = env.dynamics("train")
    first = world.step(world.start(rows), np.array([half]))
    assert first.rewards[0] == pytest.approx(0.5)
    assert not first.terminated[0]
    assert not first.truncated[0]
    again = world.step(first.turn, np.array([half]))
    assert again.rewards[0] == pytest.approx(-0.1)
    solved = world.step(again.turn, np.array([right]))
    assert solved.rewards[0] == pytest.approx(0.5 - 0.1)
    assert solved.terminated[0]
    assert not solved.truncated[0]
    missed = world.step(again.turn, np.array([half]))
    assert missed.truncated[0]
    assert not missed.terminated[0]
    np.testing.assert_allclose(
        world.context(first.turn.tried, first.turn.last_score)[0, :-1], env.item_vectors[half], atol=1e-6
    )  # type: ignore[index]


def test_render_is_text_and_a_row_can_be_asked(toys: Toys) -> None:
    toys()
    env = InstructionEnv("toys", render_mode="ansi")
    env.reset(seed=0, options={"row_id": "r3"})
    env.step(0)
    shown = env.render()
    assert shown
    assert "instruction: I want" in shown
    assert "response: a circle painted red" in shown
    with pytest.raises(InputError, match='split "train" has no row "nope"'):
        env.reset(options={"row_id": "nope"})
