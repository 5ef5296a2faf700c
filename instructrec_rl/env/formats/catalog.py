"""A catalog on disk: items.jsonl, what may be answered, and instructions.jsonl, what is asked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from instructrec_rl.core import Example, InputError, Item, nearest
from instructrec_rl.core.files import read_jsonl
from instructrec_rl.core.json_reader import kind_of
from instructrec_rl.core.same_text import canonical
from instructrec_rl.env.examples import ExampleList, Examples, open_table

LARGE_FILE = 1 << 24  # bytes of instructions from which they are not held in memory: some 30,000 of them


def _once(text: str, key: str, seen: dict[str, int], path: Path, line: int, why: str = "") -> None:
    """Raise InputError for a text that stood at another line, in whatever Unicode form and with whatever blanks."""
    before = seen.setdefault(canonical(text), line)
    if before != line:
        raise InputError(f'the {key} "{text[:80]}" stands already at line {before}{why}', path, line)


def _split(record: Mapping[str, Any], path: Path, line: int) -> str | None:
    split = record.get("split")
    if split is not None and (not isinstance(split, str) or not split.strip()):
        raise InputError(f'the field "split" is {str(split)[:80]!r}; expected text', path, line)
    return split


def _text(record: Mapping[str, Any], key: str, path: Path, line: int) -> str:
    value = record.get(key)
    if not isinstance(value, str) or not value.strip():
        what = f'the field "{key}" is missing' if key not in record else f'the field "{key}" is {str(value)[:80]!r}'
        raise InputError(f"{what}; expected text", path, line)
    return value


def read_items(path: Path, text_field: str) -> tuple[list[Item], list[str | None]]:
    """The catalog, and for each item the only split that offers it (None for regular items, which come first)."""
    rows: list[tuple[Item, str | None]] = []
    ids: dict[str, int] = {}
    texts: dict[str, int] = {}
    for line, record in read_jsonl(path):
        name = _text(record, "name", path, line)
        item_id, text = _text(record, "id", path, line), _text(record, text_field, path, line)
        _once(item_id, "id", ids, path, line)
        _once(text, text_field, texts, path, line, "; an answer with it could be either item")
        attributes = {k: v for k, v in record.items() if k not in ("id", "name", "text", "split")}
        rows.append((Item(item_id, name, text, attributes), _split(record, path, line)))
    if not rows:
        raise InputError("the catalog is empty; expected one item a line (id, name, text)", path)
    rows.sort(key=lambda pair: pair[1] is not None)  # stable: regular items first, in the file's order
    return [item for item, _ in rows], [split for _, split in rows]


def read_instructions(path: Path, items: list[Item]) -> tuple[Examples, list[str | None]]:
    """The examples, and for each the data's name of its split."""
    if path.is_file() and path.stat().st_size >= LARGE_FILE:
        table = open_table(path, items, lambda: _instructions(path, items))
        if table is not None:
            return table, table.splits()
    read = list(_instructions(path, items))
    return ExampleList(example for example, _ in read), [split for _, split in read]


def _instructions(path: Path, items: Sequence[Item]) -> Iterator[tuple[Example, str | None]]:
    """Check and give one instruction after the other, with its split."""
    position = {canonical(item.id): i for i, item in enumerate(items)}
    seen: dict[str, int] = {}
    for line, record in read_jsonl(path):
        row_id = _text(record, "id", path, line)
        _once(row_id, "id", seen, path, line)
        best = record.get("best")
        if not isinstance(best, list) or not best:
            raise InputError('the field "best" must be a list of at least one item id', path, line)
        right: list[int] = []
        for item_id in best:
            if not isinstance(item_id, str):
                raise InputError(f"best item {str(item_id)[:80]} is {kind_of(item_id)}; ids are texts", path, line)
            if canonical(item_id) not in position:
                hint = nearest(item_id, position)
                raise InputError(f'best item "{item_id[:80]}" is not in the catalog.{hint}', path, line)
            right.append(position[canonical(item_id)])
        references = record.get("references") or [items[item].text for item in right]
        if not isinstance(references, list) or not all(isinstance(r, str) for r in references):
            raise InputError('the field "references" must be a list of texts', path, line)
        split = _split(record, path, line)
        instruction = _text(record, "instruction", path, line)
        yield Example(row_id, instruction, tuple(right), tuple(references), record), split
    if not seen:
        raise InputError("there are no instructions; expected one a line (id, instruction, best)", path)
