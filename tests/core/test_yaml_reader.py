"""YAML is read as version 1.2 has it, and what is written comes back as it was."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import gymnasium
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from instructrec_rl.config.compose import compose
from instructrec_rl.config.overrides import override
from instructrec_rl.core import InputError
from instructrec_rl.core.files import read_yaml
from instructrec_rl.core.yaml_reader import YamlError, parse_yaml, write_yaml
from instructrec_rl.env.registration import register_environments
from tests.conftest import write_toys


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("010", "010"), ("0o17", 15), ("0x1F", 31), ("12:30", "12:30"), ("1:30:00", "1:30:00"), ("yes", "yes"),
        ("off", "off"), ("1_000", "1_000"), ("1e4", 10_000.0), ("1.50", 1.5), ("-0", 0), ("+5", 5), (".5", 0.5),
        ("2024-01-15", "2024-01-15"), ("true", True), ("~", None), ("", None), ("'true'", "true"),
        ("-.inf", -float("inf")),
        ("<<", "<<"), ("=", "="),
    ],
)  # fmt: skip
def test_scalars_are_those_of_yaml_1_2(text: str, value: Any) -> None:
    read = parse_yaml(f"key: {text}\n")["key"]
    assert (type(read), read) == (type(value), value)


LEAVES = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text()
LEAVES |= st.sampled_from(["1e3", "010", "yes", "null", "~", "0x1", "1_000", "12:30", "true", ".inf", "1.", "", "- x"])


@given(st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)))
def test_what_is_written_comes_back_in_both_versions(value: Any) -> None:
    text = write_yaml({"key": value})
    assert parse_yaml(text) == {"key": value}
    assert yaml.safe_load(text) == {"key": value}


@pytest.mark.parametrize(
    ("text", "line", "why"),
    [
        ("a: 1\nb: 2\na: 3\n", 3, 'the key "a" is there twice'),
        ("a: {x: 1, y: 2, x: 3}\n", 1, 'the key "x" is there twice'),
        ("a: 1\n? [b]\n: 2\n", 2, "a key is a list or a mapping"),
        ("a: " + "9" * 5_000 + "\n", 1, "a number of more than 308 digits"),
        ("a: !!python/object/apply:os.system [ls]\n", 1, "could not determine a constructor"),
        ("a: " + "[" * 3_000 + "]" * 3_000 + "\n", None, "nested more than 64 deep"),
        ("a: \x00\n", None, "special characters are not allowed"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(text: str, line: int | None, why: str) -> None:
    with pytest.raises(YamlError) as error:
        parse_yaml(text)
    assert why in str(error.value)
    assert error.value.line == line


def test_aliases_are_bounded() -> None:
    """A few hundred bytes that stand for billions of values."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 9)}]" for k in range(1, 12)]
    began = time.process_time()
    with pytest.raises(YamlError, match="with what its aliases stand for"):
        parse_yaml("\n".join(lines))
    assert time.process_time() - began < 5
    assert parse_yaml("a: &x [1]\nb: *x\n") == {"a": [1], "b": [1]}


@pytest.mark.parametrize("name", ["env.yaml", "x.yaml"])
def test_only_regular_files_are_read(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    (tmp_path / "device").symlink_to("/dev/zero")
    for path in (tmp_path / name, tmp_path / "device", tmp_path):
        with pytest.raises(InputError, match="cannot read"):
            read_yaml(path)


@pytest.mark.parametrize("text", ["2024_01_15", "1e3", "1.50", "true", "010", "null", "0x10", "12:30", "-5", "inf"])
def test_texts_stay_as_they_are_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """On the command line, in a file in quotes, and through a bench's command lines."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "quoted.yaml").write_text(f"reward: format\nreward.pattern: '{text}'\n")
    (tmp_path / "experiments" / "plain.yaml").write_text(f"reward: format\nreward.pattern: {text}\n")
    if text != "null":
        assert compose([f"out={text}"]).out == text
        assert compose(["reward=format", f"reward.pattern={text}"]).reward.pattern == text
    assert compose(["experiment=quoted"]).reward.pattern == text
    assert compose(["reward=format", override("reward.pattern", text)]).reward.pattern == text
    if isinstance(parse_yaml(text), str):
        assert compose(["experiment=plain"]).reward.pattern == text
    else:
        with pytest.raises(InputError, match=r"plain\.yaml: reward\.pattern=.*expected text"):
            compose(["experiment=plain"])


@pytest.mark.parametrize("text", ["010", "1:30", "0b1", "ten"])
def test_a_number_is_one_that_nobody_reads_otherwise(text: str) -> None:
    with pytest.raises(InputError, match=f'seed={text}: expected an integer, got "{text}"'):
        compose([f"seed={text}"])
    assert compose(["algo.interactions=1e4"]).algo.interactions == 10_000


@pytest.mark.parametrize("name", ["my env", "a,b", "it's", "k=v", "Umlaut ü"])
def test_an_environment_whose_name_no_id_can_have_hides_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_toys(tmp_path, name=name)
    (tmp_path / "envs" / "toys").rename(tmp_path / "envs" / name)
    write_toys(tmp_path)
    register_environments()
    assert "instructrec/toys-v1" in gymnasium.registry
    assert not [env_id for env_id in gymnasium.registry if name in env_id]
    assert compose(["env='{}'".format(name.replace("'", "\\'"))]).env.name == name
