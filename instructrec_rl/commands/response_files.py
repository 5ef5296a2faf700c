"""Files of responses and of references, read side by side: line k of one belongs to line k of the other."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from instructrec_rl.core import InputError, nearest
from instructrec_rl.core.files import reading
from instructrec_rl.core.json_reader import parse_json

RESPONSE_FIELDS = ("response", "prediction", "text", "output")
REFERENCE_FIELDS = ("references", "reference", "text", "output")


@dataclass(frozen=True)
class Row:
    """A response with its references and the record that those came from ({} where the line was a text)."""

    response: str
    references: list[str]
    id: str
    instruction: str
    record: dict[str, Any]

    @property
    def size(self) -> int:
        """Characters of text."""
        return len(self.response) + sum(map(len, self.references))


def read_rows(predictions: Path, references: Path | None, field: str = "", reference_field: str = "") -> Iterator[Row]:
    """Stream the rows of both files.

    Raises InputError with path and line for broken JSON, a blank line before the end, a missing field, a value that is
    no text, ids that differ, and a file that ends before the other.
    """
    right = read_lines(references) if references is not None else None
    number = 0
    for number, value in read_lines(predictions):
        # read the response
        response, record = _value(value, (field,) if field else RESPONSE_FIELDS, predictions, number)
        if not isinstance(response, str):
            raise InputError(f"expected the response as text, found {_kind(response)}", predictions, number)
        # read the references on the same line
        held: list[str] = []
        source = record
        if right is not None and references is not None:
            line = next(right, None)
            if line is None:
                raise InputError(f"ends before {predictions}, which has a line {number}", references, number)
            read, source = _value(
                line[1], (reference_field,) if reference_field else REFERENCE_FIELDS, references, number
            )
            held = _texts(read, references, number)
            if "id" in record and "id" in source and not _same(record["id"], source["id"]):
                ours, theirs = _written(record["id"]), _written(source["id"])
                reason = f"the id is {theirs:.60}, but {predictions} has {ours:.60} on this line"
                raise InputError(reason, references, number)
        # read the instruction
        asked = record.get("instruction", source.get("instruction", ""))
        if not isinstance(asked, str):
            raise InputError(f"expected the instruction as text, found {_kind(asked)}", predictions, number)
        name = record.get("id", source.get("id", ""))
        yield Row(response, held, name, asked, source)
    if right is not None and references is not None and next(right, None) is not None:
        raise InputError(f"ends before {references}, which has a line {number + 1}", predictions, number + 1)


def read_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """Stream (line number from 1, value) from a file with one JSON text or object a line.

    A blank line is refused, as line k belongs to line k of the other file; at the end of the file it is not.
    """
    blank = 0
    with reading(path):
        stream = path.open("rb")  # a pipe too: `--predictions <(command)`
    with stream:
        lines = enumerate(stream, 1)
        while True:
            with reading(path):
                number, line = next(lines, (0, b""))
            if not number:
                return
            if not line.strip():
                blank = blank or number
                continue
            if blank:
                raise InputError('a blank line; write an empty response as ""', path, blank)
            yield number, parse_json(line, path, number)


def _value(value: Any, fields: tuple[str, ...], path: Path, number: int) -> tuple[Any, dict[str, Any]]:
    """What a line holds: a text (or list) itself, or the first of the fields in an object; and that object."""
    if not isinstance(value, dict):
        return value, {}
    for key in fields:
        if key in value:
            return value[key], value
    wanted = " or ".join(f'"{key}"' for key in fields)
    raise InputError(f"has no field {wanted}.{nearest(fields[0], map(str, value))}", path, number)


def _same(ours: Any, theirs: Any) -> bool:
    """Whether two ids are written alike: 1, 1.0, true and "1" are four ids, while Python says 1 == True == 1.0."""
    if isinstance(ours, str) and isinstance(theirs, str):
        return ours == theirs
    return _written(ours) == _written(theirs)


def _written(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def _texts(value: Any, path: Path, number: int) -> list[str]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list):
        raise InputError(f"expected the references as a text or a list of texts, found {_kind(value)}", path, number)
    for text in texts:
        if not isinstance(text, str):
            raise InputError(f"expected every reference as text, found {_kind(text)}", path, number)
    if not texts:
        raise InputError("the list of references is empty", path, number)
    return texts


def _kind(value: Any) -> str:
    kinds = {list: "a list", dict: "an object", str: "a text", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "a number")
