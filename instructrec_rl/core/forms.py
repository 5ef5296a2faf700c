"""The form of a JSON file that is not trusted: typed keys and no others, an error that names the key.

`true` is not 1, and a size is bounded before memory is taken for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from instructrec_rl.core import InputError
from instructrec_rl.core.files import read_bytes
from instructrec_rl.core.json_reader import kind_of, parse_object

MOST_BYTES = 1 << 28  # of a JSON file: the vocabulary of a large catalog has some 10 MB
Size = Annotated[int, Field(ge=1, le=1 << 24)]  # of a network or a text
Number = Annotated[float, Field(allow_inf_nan=False)]


class Form(BaseModel):
    """The form of a JSON file: these keys and no others, each of its own type (`true` is not 1)."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


AForm = TypeVar("AForm", bound=Form)


def read_form(path: Path, form: type[AForm], most: int = MOST_BYTES) -> AForm:
    """A JSON object in its form. Raises InputError, with the key, where it is not in it."""
    return as_form(parse_object(read_bytes(path, most), path), form, path)


def as_form(value: Mapping[str, Any], form: type[AForm], path: Path, line: int | None = None) -> AForm:
    """A parsed JSON object in its form. Raises InputError, with the key, where it is not in it."""
    try:
        return form.model_validate(dict(value))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        key = ".".join(str(part)[:80] for part in first["loc"])
        given = first["input"]
        shown = "" if first["type"] == "missing" else f", found {str(given)[:40] if _short(given) else kind_of(given)}"
        raise InputError(f'"{key}": {first["msg"].lower()}{shown}', path, line) from error


def _short(value: Any) -> bool:
    return isinstance(value, str | int | float | None)
