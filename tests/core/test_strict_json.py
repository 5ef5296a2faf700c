"""The one reader of JSON: what Python's own lets in with a change, or not at all, is an error with its place."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instructrec_rl.core import InputError
from instructrec_rl.core.files import open_regular, read_bytes, read_json, replacing, write_text_atomic
from instructrec_rl.core.json_reader import MAX_DEPTH, parse_json
from instructrec_rl.core.locks import HeldError, locked

WRONG = [
    ('{"a": 1, "b": 2, "a": 3}', 'the key "a" is there twice'),
    ('{"x": {"a": 1, "a": 1}}', 'the key "a" is there twice'),
    ("[1e400]", "1e400 is larger than any number"),
    ("[-1E+0999]", "-1E+0999 is larger than any number"),
    ('{"id": 1.7e309}', "1.7e309 is larger than any number"),
    ("9" * 309 + ".5", "is larger than any number"),
    ("NaN", "NaN is not a JSON number"),
    ("[-Infinity]", "-Infinity is not a JSON number"),
    ("7" * 5000, "a number of more than 308 digits"),
    ("-" + "7" * 309, "a number of more than 308 digits"),
    ("[" * 100_000 + "]" * 100_000, "nested more than 64 deep"),
    ("[" * 66 + "]" * 66, "nested more than 64 deep"),
    ('{"a":' * 500 + "1" + "}" * 500, "nested more than 64 deep"),
    ('"\\ud83d"', "half of a surrogate pair"),
    ('{"\\udc00": 1}', "half of a surrogate pair"),
    ("{'a': 1}", "Expecting property name"),
    ("", "Expecting value"),
    ("[1] [2]", "Extra data"),
]


@pytest.mark.parametrize(("text", "reason"), WRONG)
def test_wrong_json_is_one_line_with_its_place(text: str, reason: str) -> None:
    for data in (text, text.encode()):
        with pytest.raises(InputError, match=r"^f:7: ") as caught:
            parse_json(data, "f", 7)
        assert reason in str(caught.value)
        assert len(str(caught.value)) < 200


def test_bytes_that_are_no_text() -> None:
    with pytest.raises(InputError, match=r"^f:2: not UTF-8 text"):
        parse_json(b'{"a":\n"\xff"}', "f")
    with pytest.raises(InputError, match=r"^f: broken JSON: half of"):
        parse_json('"\ud800"', "f")


def test_what_lies_at_the_bounds_is_read() -> None:
    assert parse_json("[" * 65 + "]" * 65) is not None
    assert parse_json("9" * 308) == int("9" * 308)
    assert parse_json("1e308") == 1e308
    assert parse_json('"\\ud83d\\ude00 NaN 1e999 \\\\ud800"') == "😀 NaN 1e999 \\ud800"
    assert parse_json(b"\xef\xbb\xbf[1]") == [1]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**300), 10**300) | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(VALUES)
def test_it_reads_what_python_reads_or_refuses_what_is_not_finite(value: object) -> None:
    text = json.dumps(value)
    if "NaN" in text or "Infinity" in text:
        return  # perhaps a number that is none, perhaps a text: the cases above
    read = parse_json(text)
    assert read == json.loads(text)
    assert repr(read) == repr(json.loads(text))  # 1, 1.0 and True stay apart


@given(st.from_regex(r"\A-?[0-9]{1,3}(\.[0-9]{1,3})?[eE][+-]?[0-9]{1,4}\Z"))
def test_no_number_becomes_infinite(text: str) -> None:
    try:
        value = parse_json(text)
    except InputError:
        return
    assert math.isfinite(value)


def test_depth_is_bounded_where_it_is_said() -> None:
    assert MAX_DEPTH == 64


def test_what_is_no_regular_file_is_not_waited_for(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "device").symlink_to("/dev/zero")
    for name in ("pipe.json", "device"):
        with pytest.raises(InputError, match=f"{name}: cannot read: not a regular file"):
            read_json(tmp_path / name)
    with pytest.raises(InputError, match="cannot read: "):
        open_regular(tmp_path)
    (tmp_path / "long").write_bytes(b"x" * 11)
    assert read_bytes(tmp_path / "long", 11) == b"x" * 11
    with pytest.raises(InputError, match="longer than the 10 bytes"):
        read_bytes(tmp_path / "long", 10)


def test_replacing_leaves_the_old_or_the_new(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file"
    with replacing(path) as aside:
        aside.write_text("old")
    with pytest.raises(InputError, match="cannot write"), replacing(path):
        path.with_name("absent").read_text()
    assert path.read_text() == "old"
    assert [p.name for p in path.parent.iterdir()] == ["file"]


def test_a_link_is_followed_and_a_device_stays_a_device(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "file")
    write_text_atomic(tmp_path / "link", "text")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_text() == "text"
    write_text_atomic(Path("/dev/null"), "text")
    assert Path("/dev/null").is_char_device()


HOLD = "import sys, time; from pathlib import Path; from instructrec_rl.core.locks import locked\n"
HOLD += "with locked(Path(sys.argv[1])):\n    print('held', flush=True); time.sleep(60)"


def test_a_lock_is_held_by_one_process_and_let_go_by_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with subprocess.Popen([sys.executable, "-c", HOLD, path], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(HeldError, match="lock: is in use"), locked(path, wait_s=0):
            pass
        calls: list[int] = []
        with pytest.raises(HeldError, match="by a bench"):  # noqa: SIM117
            with locked(path, wait_s=0.25, waiting=lambda: calls.append(1), held="held by a bench"):
                pass
        assert calls
        other.kill()
        with locked(path, wait_s=5):
            pass
