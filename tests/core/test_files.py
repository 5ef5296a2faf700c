import json
import os
import threading
from pathlib import Path

import pytest

from instructrec_rl.core import InputError, files


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.fixture
def places(tmp_path, monkeypatch):
    """A current directory and a second folder named by the environment variable."""
    here, named = tmp_path / "here", tmp_path / "named"
    here.mkdir()
    named.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv(files.PATH_VARIABLE, str(named))
    return here, named


def test_search_path_is_cwd_then_variable_then_bundle(places):
    here, named = places
    assert files.search_path()[:2] == [here, named]
    assert (files.search_path()[-1] / "envs" / "pizza_rec" / "env.yaml").is_file()


def test_search_path_takes_several_folders_and_none_when_empty(places, monkeypatch, tmp_path):
    here, named = places
    monkeypatch.setenv(files.PATH_VARIABLE, os.pathsep.join([str(named), "", str(tmp_path)]))
    assert files.search_path()[:3] == [here, named, tmp_path]
    monkeypatch.setenv(files.PATH_VARIABLE, "")
    assert len(files.search_path()) == 2


def test_first_found_wins_and_other_names_stay(places):
    here, named = places
    for folder in places:
        write(folder / "envs" / "both" / "env.yaml", "name: both")
        write(folder / "rewards" / "both.py", "")
    write(named / "envs" / "far" / "env.yaml", "name: far")
    write(named / "rewards" / "mix.yaml", "reward: both")
    write(named / "experiments" / "quick.yaml", "seed: 1")
    assert files.find_envs()["both"] == here / "envs" / "both"
    assert files.find_envs()["far"] == named / "envs" / "far"
    assert "pizza_rec" in files.find_envs()
    assert files.find_rewards()["both"] == here / "rewards" / "both.py"
    assert files.find_rewards()["mix"] == named / "rewards" / "mix.yaml"
    assert files.find_experiments()["quick"] == named / "experiments" / "quick.yaml"


def test_hidden_names_and_folders_without_env_yaml_are_skipped(places):
    here, _ = places
    for name in (
        "rewards/_private.py",
        "rewards/.hidden.py",
        "rewards/feedback/x.jsonl",
        "envs/_x/env.yaml",
        "envs/y/z",
    ):
        write(here / name, "")
    assert not {"_private", ".hidden", "x", "feedback"} & set(files.find_rewards())
    assert not {"_x", "y"} & set(files.find_envs())


def test_find_algorithms_lists_modules():
    assert "dqn" in files.find_algorithms()
    assert not any(name.startswith("_") for name in files.find_algorithms())


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("a: 1\nb: c: d\n", ":2: broken YAML: mapping values are not allowed here"),
        ("- 1\n", ": expected a mapping (key: value), found a list"),
        ("", ": expected a mapping (key: value), found nothing"),
        ("1: 2\n", ": the key 1 is not text; put it in quotes"),
        ("a: !!python/object/apply:os.system [ls]\n", ":1: broken YAML: could not determine a constructor"),
        (b"a: 1\nb: \xff\n", ":2: not UTF-8 text"),
        ("a: 1\na: 2\n", ':2: broken YAML: the key "a" is there twice'),
    ],
)
def test_broken_yaml_says_where(tmp_path, content, said):
    path = write(tmp_path / "x.yaml", content)
    with pytest.raises(InputError) as caught:
        files.read_yaml(path)
    assert str(caught.value).startswith(f"{path}{said}")


def test_missing_yaml(tmp_path):
    with pytest.raises(InputError, match=r"x\.yaml: cannot read: no such file or directory"):
        files.read_yaml(tmp_path / "x.yaml")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"a": }', "broken JSON: Expecting value (column 7)"),
        ("[1]", "expected a JSON object, found a list"),
        ('"text"', "expected a JSON object, found a string"),
        ("3", "expected a JSON object, found a number"),
        ("null", "expected a JSON object, found null"),
        (b'{"a": "\xff"}', "not UTF-8 text"),
        ('{"a": NaN}', "broken JSON: NaN is not a JSON number"),
        ('{"a": "\\ud800"}', "broken JSON: half of a surrogate pair"),
        ("[" * 100_000, "broken JSON: "),
    ],
)
def test_broken_jsonl_says_the_line(tmp_path, line, said):
    line = line if isinstance(line, bytes) else line.encode()
    path = write(tmp_path / "x.jsonl", b'{"a": 1}\n\n' + line + b"\n")
    stream = files.read_jsonl(path)
    assert next(stream) == (1, {"a": 1})
    with pytest.raises(InputError) as caught:
        next(stream)
    assert str(caught.value).startswith(f"{path}:3: {said}")


def test_jsonl_skips_blank_lines_and_a_byte_order_mark(tmp_path):
    path = write(tmp_path / "x.jsonl", '\ufeff{"a": "é"}\r\n  \n{"b": "\\ud83c\\udf55"}')
    assert list(files.read_jsonl(path)) == [(1, {"a": "é"}), (3, {"b": "🍕"})]


def test_atomic_write_leaves_old_content_and_no_rest_when_it_fails(tmp_path, monkeypatch):
    path = tmp_path / "deep" / "x.json"
    files.write_json_atomic(path, {"a": "é"})
    assert json.loads(path.read_text(encoding="utf-8")) == {"a": "é"}

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(InputError) as caught:
        files.write_text_atomic(path, "new")
    assert str(caught.value) == f"{path}: cannot write: no space left on device"
    assert json.loads(path.read_text(encoding="utf-8")) == {"a": "é"}
    assert [p.name for p in path.parent.iterdir()] == ["x.json"]


def test_full_disk_and_a_file_in_the_way_are_input_errors(tmp_path):
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    with pytest.raises(InputError, match="/dev/full: cannot write: no space left on device"):
        files.append_jsonl(Path("/dev/full"), {"a": 1})
    blocker = write(tmp_path / "file", "")
    with pytest.raises(InputError, match="cannot write: "):
        files.write_text_atomic(blocker / "x.txt", "text")


def test_appends_of_several_threads_do_not_mix(tmp_path):
    path = tmp_path / "x.jsonl"

    def write_many(writer: int) -> None:
        for i in range(200):
            files.append_jsonl(path, {"writer": writer, "i": i, "pad": "x" * 500})

    threads = [threading.Thread(target=write_many, args=(writer,)) for writer in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    records = [record for _, record in files.read_jsonl(path)]
    assert sorted((r["writer"], r["i"]) for r in records) == [(w, i) for w in range(4) for i in range(200)]


def test_nan_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="Out of range float values"):
        files.append_jsonl(tmp_path / "x.jsonl", {"a": float("nan")})
    with pytest.raises(ValueError, match="Out of range float values"):
        files.write_json_atomic(tmp_path / "x.json", float("inf"))


def test_sha256_of_a_file(tmp_path):
    path = write(tmp_path / "x", "abc")
    assert files.sha256_file(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    with pytest.raises(InputError, match="cannot read"):
        files.sha256_file(tmp_path / "absent")
