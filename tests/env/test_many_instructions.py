"""Many instructions: the memory-mapped table is the JSONL, and a run from it is the run from memory."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from instructrec_rl import load_env
from instructrec_rl.algorithms import dqn
from instructrec_rl.core import InputError, Item
from instructrec_rl.core import terminal as progress
from instructrec_rl.encoders import states
from instructrec_rl.encoders.bert import EncoderConfig
from instructrec_rl.encoders.loading import load_encoder
from instructrec_rl.env import examples
from instructrec_rl.env.examples import ExampleList, ExampleTable
from instructrec_rl.env.formats import catalog
from instructrec_rl.run.evaluate import Answers, Scorer, chance, watched
from tests.algorithms.test_dqn import SMALL, recorder, same, steps
from tests.env.test_env import spoil

Toys = Callable[..., Path]
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every file of instructions counts as large; the table is cached in an empty folder, in batches of 3 rows."""
    monkeypatch.setattr(catalog, "LARGE_FILE", 0)
    monkeypatch.setattr(examples, "BATCH", 3)
    monkeypatch.setattr(examples, "cache_base", lambda: tmp_path / "cache")
    monkeypatch.setattr(states, "BLOCK", 5)
    return tmp_path / "cache" / "instructions"


def in_memory(monkeypatch: pytest.MonkeyPatch) -> Any:
    with monkeypatch.context() as patched:
        patched.setattr(catalog, "LARGE_FILE", 1 << 40)
        return load_env("toys")


def assert_equal(table: Any, held: Any) -> None:
    assert isinstance(table, ExampleTable)
    assert isinstance(held, ExampleList)
    assert list(table) == held
    assert table[1:-1] == held[1:-1]
    assert table[-1] == held[-1]
    assert table.ids.tolist() == held.ids.tolist()
    rows = np.arange(len(held))[::-2]
    np.testing.assert_array_equal(table.instructions[rows], held.instructions[rows])
    np.testing.assert_array_equal(table.ids[np.arange(len(held)) % 3 == 0], held.ids[np.arange(len(held)) % 3 == 0])
    np.testing.assert_array_equal(table.ids[1:], held.ids[1:])
    for ours, theirs in zip(table.best, held.best):
        np.testing.assert_array_equal(ours, theirs)


def test_the_table_is_the_jsonl(toys: Toys, stored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toys()
    held = in_memory(monkeypatch)
    for _ in range(2):  # made, then read
        env = load_env("toys")
        assert_equal(env.examples, held.examples)
        assert {k: v.tolist() for k, v in env.splits.items()} == {k: v.tolist() for k, v in held.splits.items()}
        assert len(list(stored.iterdir())) == 1


TEXT = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12).filter(lambda text: bool(text.strip()))
VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)
ROW = st.fixed_dictionaries(
    {"instruction": TEXT, "best": st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=3)},
    optional={"references": st.lists(TEXT, max_size=2), "split": st.none() | TEXT, "further": VALUE},
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(ROW, min_size=1, max_size=9), escaped=st.booleans())
def test_any_jsonl_is_the_same_as_a_table(stored: Path, tmp_path: Path, rows: list[Any], escaped: bool) -> None:
    path, items = tmp_path / "any.jsonl", [Item(name, name, f"the text of {name}", {}) for name in "abc"]
    lines = (json.dumps({"id": f"r{i}", **row}, ensure_ascii=escaped) for i, row in enumerate(rows))
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    read = list(catalog._instructions(path, items))
    table, splits = catalog.read_instructions(path, items)
    assert_equal(table, ExampleList(example for example, _ in read))
    assert splits == [split for _, split in read]


def test_making_the_table_says_how_fast_it_is(
    toys: Toys, stored: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    toys()
    monkeypatch.setattr(examples, "SHOWN", 10)
    monkeypatch.setattr(progress, "SECONDS_A_LINE", 0.0)
    number = len(load_env("toys").examples)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith(f"instructions.jsonl into the cache: 10 of {number} instructions, ")
    assert lines[-1].startswith(f"instructions.jsonl into the cache: {number} of {number} instructions, ")
    assert lines[-1].endswith(" instructions/s")
    load_env("toys")
    assert not capsys.readouterr().err


def test_another_content_makes_another_table(toys: Toys, stored: Path) -> None:
    home = toys()
    before = load_env("toys").examples[0]
    stamp = (home / "instructions.jsonl").stat()
    row = json.loads((home / "instructions.jsonl").read_text().splitlines()[0])
    other = row["instruction"][::-1]
    spoil(home / "instructions.jsonl", 1, json.dumps({**row, "instruction": other}))
    os.utime(home / "instructions.jsonl", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert (home / "instructions.jsonl").stat().st_size == stamp.st_size  # neither time nor size tells
    assert (before.instruction, load_env("toys").examples[0].instruction) == (row["instruction"], other)
    lines = (home / "items.jsonl").read_text().splitlines()
    (home / "items.jsonl").write_text("\n".join(reversed(lines)) + "\n")
    env = load_env("toys")
    assert [env.items[i].id for i in env.examples[1].best] == env.examples[1].row["best"]
    assert len(list(stored.iterdir())) == 3


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (5, '{"id": "r4", "instruction"'),
        (7, '{"id": "x", "instruction": "hm", "split": "train", "best": ["red_cirle"]}'),
        (2, '{"id": "x", "instruction": " ", "split": "train", "best": ["red_star"]}'),
        (2, '{"id": "r5", "instruction": "hm", "split": "train", "best": ["red_star"]}'),
        (2, '{"id": "x", "instruction": "hm", "split": "train", "best": []}'),
        (2, '{"id": "x", "instruction": "hm", "split": 3, "best": ["red_star"]}'),
        (2, '{"id": "x", "instruction": "hm", "split": "test", "best": ["red_star"], "references": "one"}'),
        (2, '{"id": "x", "instruction": "hm", "best": ["red_star"]}'),
    ],
)
def test_a_broken_line_is_reported_alike(
    toys: Toys, stored: Path, monkeypatch: pytest.MonkeyPatch, line: int, text: str
) -> None:
    spoil(toys() / "instructions.jsonl", line, text)
    with pytest.raises(InputError) as plain:
        in_memory(monkeypatch)
    with pytest.raises(InputError) as error:
        load_env("toys")
    assert str(error.value) == str(plain.value)
    assert not list(stored.glob("*.part"))


def test_a_best_item_that_is_not_on_offer_is_reported_alike(
    toys: Toys, stored: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = toys()
    lines = (home / "items.jsonl").read_text().splitlines()
    spoil(home / "items.jsonl", len(lines), lines[-1].replace('"id"', '"split": "test", "id"'))
    errors = []
    for load in (lambda: in_memory(monkeypatch), lambda: load_env("toys")):
        with pytest.raises(InputError, match="none of its best items is on offer") as error:
            load()
        errors.append(str(error.value))
    assert errors[0] == errors[1]


def test_a_damaged_table_is_made_anew(toys: Toys, stored: Path, caplog: pytest.LogCaptureFixture) -> None:
    toys()
    before = list(load_env("toys").examples)
    file = next(stored.iterdir())
    file.write_bytes(file.read_bytes()[:-40])
    with caplog.at_level(logging.WARNING):
        assert list(load_env("toys").examples) == before
    assert "damaged cache file" in caplog.text


def test_damaged_states_are_made_anew(
    toys: Toys, stored: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    toys(state="clauses")

    def make() -> Any:
        return load_env("toys", encoder=load_encoder(EncoderConfig(cache=str(tmp_path / "vectors")))).states()

    before = make()
    (file,) = (tmp_path / "vectors").glob("*/states-clauses-*/vectors.npy")
    file.write_bytes(file.read_bytes()[:-40])
    with caplog.at_level(logging.WARNING):
        after = make()
    assert "damaged cache" in caplog.text
    np.testing.assert_array_equal(before.index, after.index)
    np.testing.assert_array_equal(after.vectors, make().vectors)


def test_where_nothing_can_be_written_all_is_in_memory(
    toys: Toys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    toys()
    monkeypatch.setattr(catalog, "LARGE_FILE", 0)
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(examples, "cache_base", lambda: tmp_path / "file")
    with caplog.at_level(logging.WARNING):
        assert isinstance(load_env("toys").examples, ExampleList)
    assert "the cache of instructions cannot be written" in caplog.text


@pytest.mark.parametrize("state", ["sentence", "clauses", "tokens"])
def test_a_run_from_the_table_is_the_run_from_memory(
    toys: Toys, stored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    toys(state=state)
    config = replace(SMALL, interactions=1_000)
    runs = []
    for name, env in (("held", in_memory(monkeypatch)), ("made", load_env("toys")), ("read", load_env("toys"))):
        runs.append(dqn.learn(env, config, recorder(env, tmp_path / name)))
        assert isinstance(env.examples, ExampleList) == (name == "held")
    assert same(runs[0], runs[1])
    assert same(runs[0], runs[2])
    assert steps(tmp_path / "held") == steps(tmp_path / "made") == steps(tmp_path / "read")


def test_large_splits_are_scored_in_blocks_and_watched_in_part(toys: Toys, monkeypatch: pytest.MonkeyPatch) -> None:
    toys()
    env = load_env("toys")
    scorer, rows = Scorer(env), env.spec.rows("validation")
    answers = Answers(rows, np.arange(len(rows)) % 12)
    whole = scorer.per_row(answers)
    monkeypatch.setattr("instructrec_rl.run.evaluate.BLOCK", 4)
    monkeypatch.setattr("instructrec_rl.run.evaluate.MAX_WATCHED", 6)
    monkeypatch.setattr("instructrec_rl.run.evaluate.MAX_DRAWN", 2 * len(rows) + 1)
    for name, values in scorer.per_row(answers).items():
        np.testing.assert_array_equal(values, whole[name])
    assert len(watched(env)) == 6
    assert set(watched(env)) <= set(rows)
    assert chance(scorer, "validation", 0)["n"] == len(rows)


@pytest.mark.slow
def test_memory_of_many_instructions(tmp_path: Path) -> None:
    """200,000 instructions start from their cache with little more memory than 2,000 of them."""
    found = tmp_path / "found.json"
    command = [
        sys.executable,
        "-m",
        "benchmarks.speed.scaling",
        "--out",
        str(tmp_path / "worlds"),
        "--json",
        str(found),
    ]
    command += ["--items", "60", "--instructions", "2000", "200000", "--interactions", "7680"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stderr
    few, many = json.loads(found.read_text())["instructions"]
    assert (few["instructions"], many["instructions"]) == (2_000, 200_000)
    assert many["cached"]["start_mb"] - few["cached"]["start_mb"] < 150
    assert many["cached"]["start_s"] < many["cold"]["start_s"]
