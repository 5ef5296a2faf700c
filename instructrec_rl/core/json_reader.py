"""The one reader of JSON: every file, line and field of a form is parsed here, and what it lets in can be written.

Stricter than Python's `json` where its leniency changes data without a word: a key that is there twice, a number that
becomes infinite or has more digits than a float can hold, NaN, half of a surrogate pair, and nesting without end are
errors (RFC 8259, section 4: names should be unique; section 9: a parser may set limits).
"""

from __future__ import annotations

import json
import re
from collections import Counter
from numbers import Real
from pathlib import Path
from typing import Any, NoReturn

from instructrec_rl.core import InputError

MAX_DEPTH = 64
MAX_DIGITS = 308  # a float holds no larger integer
# What the fast parse may get wrong, looked for in the raw bytes: a false alarm costs a second, slower look.
_SUSPECT = re.compile(rb"\d{%d}|\d[eE]\+?\d{3}|\\u[dD][89a-fA-F]" % MAX_DIGITS)


def parse_json(data: bytes | str, path: str | Path | None = None, line: int | None = None) -> Any:
    """The value of a JSON text.

    data: UTF-8 bytes (a byte order mark is passed over) or a text. line: the line of `path` that the text is, where it
    is one line; without it an error names the line within the text. Raises InputError for whatever is not JSON as
    above.
    """
    # read the bytes as text
    try:
        text = data.decode("utf-8-sig") if isinstance(data, bytes) else data
        raw = data if isinstance(data, bytes) else data.encode()
    except UnicodeDecodeError as error:
        at = line if line is not None else error.object.count(b"\n", 0, error.start) + 1
        raise InputError("not UTF-8 text", path, at) from error
    except UnicodeEncodeError as error:
        raise InputError(_SURROGATE, path, line) from error
    # read the value, and look closely where something is suspect
    try:
        value = json.loads(text, object_pairs_hook=_object, parse_constant=_refuse_constant)
        if raw.count(b"[") + raw.count(b"{") > MAX_DEPTH:
            _check_depth(value)
        if _SUSPECT.search(raw):
            _check_closely(text, value)
    except json.JSONDecodeError as error:
        column = f" (column {error.colno})" if error.lineno == 1 else ""
        raise InputError(
            f"broken JSON: {error.msg}{column}", path, line if line is not None else error.lineno
        ) from error
    except RecursionError as error:
        raise InputError(_TOO_DEEP, path, line) from error
    except UnicodeEncodeError as error:
        raise InputError(_SURROGATE, path, line) from error
    except ValueError as error:
        reason = _TOO_LONG if "digits" in str(error) else str(error)
        raise InputError(f"broken JSON: {reason}", path, line) from error
    return value


def parse_object(data: bytes | str, path: str | Path | None = None, line: int | None = None) -> dict[str, Any]:
    """As `parse_json`, where the text must be a JSON object. Raises InputError where it is something else."""
    value = parse_json(data, path, line)
    if not isinstance(value, dict):
        raise InputError(f"expected a JSON object, found {kind_of(value)}", path, line)
    return value


def kind_of(value: Any) -> str:
    """What a JSON value is, in the words of an error: `a list`, `true or false`, `a number`."""
    kinds = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "a number")


_SURROGATE = "broken JSON: half of a surrogate pair (\\ud800 to \\udfff)"
_TOO_DEEP = f"broken JSON: nested more than {MAX_DEPTH} deep"
_TOO_LONG = f"a number of more than {MAX_DIGITS} digits"


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        twice = next(key for key, times in Counter(key for key, _ in pairs).items() if times > 1)
        raise ValueError(f"the key {json.dumps(twice[:80])} is there twice")
    return made


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _check_depth(value: Any) -> None:
    """Raise RecursionError where lists and objects are nested deeper than MAX_DEPTH; level by level, not recursive."""
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > MAX_DEPTH + 1:
            raise RecursionError
        inner: list[Any] = []
        for each in level:
            if isinstance(each, dict):
                inner.extend(each.values())
            elif isinstance(each, list):
                inner.extend(each)
        level = inner


def _check_closely(text: str, value: Any) -> None:
    """Raise ValueError for a number that no float holds, UnicodeEncodeError for half of a surrogate pair."""
    json.dumps(value, ensure_ascii=False).encode()
    json.loads(text, parse_float=_finite, parse_int=_short)


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"{text[:40]} is larger than any number that can be kept (1.8e308)")
    return value


def _short(text: str) -> int:
    if len(text.lstrip("-")) > MAX_DIGITS:
        raise ValueError(_TOO_LONG)
    return int(text)


def is_number(value: Any) -> bool:
    """Whether a value is a real number; true and false are none."""
    return isinstance(value, int | float | Real) and not isinstance(value, bool)
