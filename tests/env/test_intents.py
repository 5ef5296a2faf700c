"""Files of labelled sentences as environments: the formats, the splits, what is left out, and that they are learned."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from instructrec_rl import load_env
from instructrec_rl.core import InputError
from tests.run.test_run import ROOT, result_of, run_here

LABELS = {
    "greet": ("hello there", "good morning"),
    "part": ("see you later", "good bye"),
    "thank": ("thank you", "many thanks"),
}
ROWS = [
    (f"{opener} {text}", label, split)
    for label, texts in LABELS.items()
    for text in texts
    for opener, split in (("so", "train"), ("well", "train"), ("and", "val"), ("oh", "test"))
]
OUTSIDE = [("what is a pizza", "oos", "test"), ("who are you", "oos", "val"), ("how tall is it", "oos", "oos_val")]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("INSTRUCTREC_PATH", raising=False)
    return tmp_path


def write(
    path: Path, rows: list[tuple[str, str, str]], names: tuple[str, str, str] = ("text", "label", "split")
) -> Path:
    """Rows of (text, label, split) in the format that the suffix names."""
    if path.suffix == ".json":
        splits: dict[str, list[list[str]]] = {}
        for text, label, split in rows:
            splits.setdefault(split, []).append([text, label])
        path.write_text(json.dumps(splits))
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(dict(zip(names, row))) + "\n" for row in rows))
    else:
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([names, *rows])
    return path


def error_of(path: Path, **options: Any) -> str:
    with pytest.raises(InputError) as error:
        load_env("intents", path=str(path), **options)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".csv"])
def test_every_format_gives_the_same_environment(here: Path, suffix: str) -> None:
    env = load_env("intents", path=str(write(here / f"data{suffix}", ROWS)))
    assert [item.id for item in env.items] == ["greet", "part", "thank"]
    assert {name: len(rows) for name, rows in env.splits.items()} == {"train": 12, "validation": 6, "test": 6}
    for name, rows in env.splits.items():
        asked = [(env.examples[row].instruction, env.items[env.examples[row].best[0]].id) for row in rows]
        assert asked == [(t, label) for t, label, split in ROWS if split == {"validation": "val"}.get(name, name)]


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_columns_have_the_users_names(here: Path, suffix: str) -> None:
    path = write(here / f"data{suffix}", ROWS, ("utterance", "intent", "part_of"))
    env = load_env("intents", path=str(path), columns={"text": "utterance", "label": "intent", "split": "part_of"})
    assert len(env.examples) == len(ROWS)
    said = error_of(path)
    assert said.startswith(f"{path}:{1 if suffix == '.jsonl' else 2}: ")
    assert 'the column "text" is missing or not text (env.columns.text=NAME names it)' in said
    assert 'no "lable". Did you mean "label"?' in error_of(path, columns={"lable": "intent"})


def test_splits_are_mapped_and_made(here: Path) -> None:
    path = write(here / "data.json", [row for row in ROWS if row[2] != "test"])
    assert "there is no test split" in error_of(path)
    env = load_env("intents", path=str(path), splits={"val": "test"})
    assert {name: len(rows) for name, rows in env.splits.items()} == {"train": 11, "validation": 1, "test": 6}
    said = error_of(path, splits={"dev": "test"})
    assert 'split "dev" is named (env.splits) but empty: no row has it. Known: train, val.' in said
    unsplit = write(here / "flat.jsonl", ROWS, ("text", "label", "other"))
    env = load_env("intents", path=str(unsplit))
    assert sum(len(rows) for rows in env.splits.values()) == len(ROWS)
    assert set(env.splits) == {"train", "validation", "test"}


def test_labels_that_training_never_saw_are_left_out_and_counted(here: Path) -> None:
    write(here / "data.json", ROWS + OUTSIDE)
    assert run_here("env=intents", "env.path=data.json", "algo=random", "baselines=none", "out=run") == 0
    assert json.loads((here / "run" / "manifest.json").read_text())["left_out"] == {
        "test: label oos is not in train": 1,
        "val: label oos is not in train": 1,
        "oos_val: label oos is not in train": 1,
    }
    result = result_of(here / "run")
    assert {name: split["n"] for name, split in result["splits"].items()} == {"validation": 6, "test": 6}


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("data.jsonl", '{"text": "a", "label": "x"}\n{"text": "b", "label": \n', "data.jsonl:2: broken JSON: "),
        (
            "data.jsonl",
            '{"text": "a", "label": "x"}\n{"text": "b", "label": 3.5}\n',
            'data.jsonl:2: the column "label" is',
        ),
        (
            "data.jsonl",
            '{"text": "a", "label": "x"}\n{"text": " ", "label": "y"}\n',
            'data.jsonl:2: the column "text" is',
        ),
        ("data.csv", "text,label\na,x\nb\n", 'data.csv:3: the column "label" is missing or not text'),
        ("data.csv", 'text,label\na,x\n"b,y\n', "data.csv:2: not a readable CSV file: "),
        ("data.json", '{"train": [["a", "x"],\n["b" "y"]]}', "data.json:2: broken JSON: "),
        ("data.json", '{"train": [["a", "x"], ["b"]]}', "split \"train\", entry 1: ['b']; expected [text, label]"),
        ("data.json", '{"train": [["a", "x"]], "test": []}', 'split "test" is empty'),
        ("data.json", '[["a", "x"]]', "data.json: expected an object of splits"),
        ("data.json", '{"test": [["a", "x"]]}', 'no row is in split "train" (found: test); map names with env.splits'),
        ("data.txt", "a x", 'ends in .json, .jsonl or .csv, not ".txt"'),
    ],
)
def test_a_broken_file_is_named_with_its_place(here: Path, name: str, text: str, said: str) -> None:
    (here / name).write_text(text)
    found = error_of(here / name)
    assert found.startswith(str(here / name))
    assert said in found


def test_a_file_that_is_absent(here: Path) -> None:
    assert "no such file of intents; give one with env.path=FILE" in error_of(here / "absent.json")


def test_the_sample_is_learned_from_right_and_wrong_alone(here: Path) -> None:
    assert run_here("env=intents", "algo.interactions=5000", "algo.eval_every=1000", "out=run") == 0
    result = result_of(here / "run")
    assert (result["reward"], result["algo"]) == ("exact_match", "dqn")
    test = result["splits"]["test"]
    assert test["metrics"]["exact_match"] > 0.5
    assert test["normalized"]["exact_match"] > 0.45
    assert result["baselines"]["popularity"]["splits"]["test"]["metrics"]["exact_match"] == pytest.approx(0.1)


def test_a_users_folder_names_its_own_file(here: Path) -> None:
    home = here / "envs" / "small_talk"
    home.mkdir(parents=True)
    write(home / "data.csv", ROWS, ("utterance", "intent", "part_of"))
    (home / "env.yaml").write_text(
        "name: small_talk\nversion: 1\nformat: intents\naction: choose\nmetrics: [exact_match]\npath: data.csv\n"
        "columns: {text: utterance, label: intent, split: part_of}\nsplits: {val: validation}\n"
    )
    assert run_here("env=small_talk", "algo=neighbour", "out=run", "baselines=none") == 0
    result = result_of(here / "run")
    assert result["reward"] == "exact_match"
    assert result["splits"]["validation"]["n"] == 6


@pytest.mark.shared
@pytest.mark.slow
def test_real_intents_are_learned(here: Path, shared: Path) -> None:
    """clinc150's train split with bandit feedback, reported on its val split; .865 when this was written."""
    data = f"env.path={shared / 'clinc150' / 'data_small.json'}"
    assert (ROOT / "experiments" / "clinc150.yaml").exists()
    assert run_here("experiment=clinc150", data, "algo.interactions=30000", "out=run") == 0
    result = result_of(here / "run")
    found = result["splits"]["test"]
    assert (found["n"], len(result["splits"])) == (3000, 2)
    assert found["metrics"]["exact_match"] > 0.8
    assert (
        found["metrics"]["exact_match"] > result["baselines"]["neighbour"]["splits"]["test"]["metrics"]["exact_match"]
    )
    left_out = json.loads((here / "run" / "manifest.json").read_text())["left_out"]
    assert left_out == {"oos_val: label oos is not in train": 100, "oos_train: label oos is not in train": 100}
