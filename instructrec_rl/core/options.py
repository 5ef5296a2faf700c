"""Options as fields of a dataclass: declared with help and a range, and checked where they come from Python or YAML."""

from __future__ import annotations

import dataclasses
import math
import re
import typing
from collections.abc import Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union

from instructrec_rl.core import InputError, nearest


def option(
    default: Any, help: str, low: float | None = None, high: float = math.inf, choices: Any = (), multiple: int = 1
) -> Any:
    """A field with its help, the closed range of its values and, for text, the values it may take.

    multiple: what an integer must be a multiple of.
    """
    metadata = {"help": help, "low": low, "high": high, "choices": tuple(choices), "multiple": multiple}
    return dataclasses.field(default=default, metadata=metadata)


def build_config(
    cls: type | None, preset: Mapping[str, Any], given: Mapping[str, Any], name: str, preset_path: Path | None
) -> Any:
    """An instance of the dataclass `cls` with a reward's options; None where `cls` is None.

    preset: options from the file `preset_path`; given: options from the caller, which win. Raises InputError with the
    key (as `reward.key`) for an unknown or missing option, a wrong type, a value outside the choices or the range
    that the field's metadata names, and whatever ValueError the dataclass raises itself.
    """
    # see what options there are
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init} if cls is not None else {}
    try:
        hints = typing.get_type_hints(cls) if cls is not None else {}
    except NameError as error:
        raise InputError(f"reward={name}: Config has a type that cannot be found: {error}") from error
    # take the values that are given
    values = {}
    for options, path in ((preset, preset_path), (given, None)):
        for key, value in options.items():
            if key not in fields:
                told = nearest(key, fields) if fields else " It takes none."
                raise InputError(f'unknown option "{key}" of reward={name}.{told}', path)
            values[key] = _typed(value, hints[key], f"reward.{key}", path)
            if reason := out_of_range(values[key], fields[key].metadata):
                raise InputError(f"reward.{key}={value}: {reason}", path)
    if cls is None:
        return None
    # see that none is missing
    for key, f in fields.items():
        if key not in values and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
            raise InputError(f"reward.{key}: reward={name} needs this option ({in_words(hints[key])})", preset_path)
    try:
        return cls(**values)
    except (ValueError, InputError) as error:
        raise InputError(f"reward={name}: {getattr(error, 'reason', error)}", preset_path) from error


def _typed(value: Any, hint: Any, key: str, path: Path | None) -> Any:
    """`value` as the hinted type, with integers taken as floats, lists as tuples and texts as paths where asked."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    wrong = InputError(f"{key}: expected {in_words(hint)}, got {value!r}", path)
    if hint is Any:
        return value
    # one of several types, or of several values
    if origin in (Union, UnionType):
        for arm in args:
            try:
                return _typed(value, arm, key, path)
            except InputError:
                continue
        raise wrong
    if origin is Literal:
        if value not in args:
            raise InputError(f"{key}: {value!r} is not one of its values.{nearest(str(value), map(str, args))}", path)
        return value
    # a list or a dictionary, member by member
    kind = origin or hint
    if kind in (list, tuple) and isinstance(value, list | tuple):
        inner = args[0] if args else Any
        return kind(_typed(one, inner, f"{key}[{position}]", path) for position, one in enumerate(value))
    if kind is dict and isinstance(value, Mapping):
        inner = args[1] if args else Any
        return {str(k): _typed(held, inner, f"{key}.{k}", path) for k, held in value.items()}
    # a single value
    if isinstance(value, bool) and kind in (int, float):
        raise wrong
    if kind is float and isinstance(value, int):
        return float(value)
    if kind is Path and isinstance(value, str):
        return Path(value)
    if isinstance(kind, type) and not isinstance(value, kind):
        raise wrong
    return value


def out_of_range(value: Any, metadata: Mapping[str, Any]) -> str:
    """Why the metadata of a field (see `option`) does not allow a value, or an empty text."""
    choices, low, high = metadata.get("choices", ()), metadata.get("low"), metadata.get("high", math.inf)
    if choices and value not in choices:
        return f"not one of its values.{nearest(str(value), (str(choice) for choice in choices if choice != ''))}"
    if "pattern" in metadata and not re.fullmatch(metadata["pattern"], str(value)):
        return f"expected {metadata['expected']}"
    if isinstance(value, float) and not math.isfinite(value):
        return "expected a finite number"
    if low is not None and isinstance(value, int | float) and not low <= value <= high:
        return f"expected at least {low}" + (f" and at most {high}" if high < math.inf else "")
    if isinstance(value, int) and value % metadata.get("multiple", 1):
        return f"expected a multiple of {metadata['multiple']}"
    return ""


def in_words(hint: Any) -> str:
    """A type as a user would say it: "an integer", "a list of text", "a number or null"."""
    words = {int: "an integer", float: "a number", bool: "true or false", str: "text", NoneType: "null", Path: "a path"}
    if typing.get_origin(hint) in (Union, UnionType):
        return " or ".join(in_words(arm) for arm in typing.get_args(hint))
    origin, args = typing.get_origin(hint) or hint, typing.get_args(hint)
    if origin in (list, tuple):
        return "a list" + (f" of {in_words(args[0])}" if args else "")
    if origin is dict:
        return "a mapping" + (f" of names to {in_words(args[1])}" if args else "")
    return words.get(hint, getattr(hint, "__name__", str(hint)))
