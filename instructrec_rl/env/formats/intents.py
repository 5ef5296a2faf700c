"""Files of labelled sentences as environments: each label is an action, and only the chosen one's reward is seen."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from instructrec_rl.core import Example, InputError, Item, nearest
from instructrec_rl.core.files import read_json_value, read_jsonl, read_text
from instructrec_rl.core.json_reader import kind_of
from instructrec_rl.core.same_text import canonical, fold

COLUMNS = ("text", "label", "split")


class Row(NamedTuple):
    """A sentence with its label; `place` is where it stands in the file: `line 3`, or `split "train", entry 3`."""

    place: str
    text: str
    label: str
    split: str | None


Table = list[Row]


def read(path: Path, columns: Mapping[str, str]) -> Table:
    """Read `{split: [[text, label], ...]}` from .json, or named columns from .jsonl and .csv.

    columns: maps text, label and split to the file's own column names. A label may be an integer, as datasets write
    them. Raises InputError with the place.
    """
    # read the records, by the file's kind
    for key in columns:
        if key not in COLUMNS:
            raise InputError(f'env.columns has no "{key}".{nearest(key, COLUMNS)}')
    if path.suffix == ".json":
        return _read_json(path)
    if path.suffix == ".jsonl":
        records = list(read_jsonl(path))
    elif path.suffix == ".csv":
        records = list(_read_csv(path))
    else:
        raise InputError(f'a file of intents ends in .json, .jsonl or .csv, not "{path.suffix}"', path)
    # take the text, the label and the split out of each
    names = {key: columns.get(key, key) for key in COLUMNS}
    table: Table = []
    for line, record in records:
        values = []
        for key in ("text", "label"):
            value = _as_text(record.get(names[key]), key)
            if not value.strip():
                hint = nearest(names[key], record) if names[key] not in record else ""
                raise InputError(
                    f'the column "{names[key]}" is missing or not text (env.columns.{key}=NAME names it).{hint}',
                    path,
                    line,
                )
            values.append(value)
        split = record.get(names["split"])
        if split is not None and not isinstance(split, str):
            raise InputError(f'the column "{names["split"]}" is {kind_of(split)}; expected text', path, line)
        table.append(Row(f"line {line}", values[0], values[1], split))
    return table


def _as_text(value: Any, key: str) -> str:
    """A text, or an integer label as text; nothing where it is something else."""
    if key == "label" and type(value) is int:
        return str(value)
    return value if isinstance(value, str) else ""


def _read_csv(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    text = read_text(path)
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        header = list(reader.fieldnames or [])
        twice = {name for name in header if header.count(name) > 1}
        if twice:
            raise InputError(f'the header has "{min(twice)}" twice', path, reader.line_num)
        for row in reader:
            if None in row:
                raise InputError(
                    f"more fields than the header ({len(header)}); a text with a comma needs quotes",
                    path,
                    reader.line_num,
                )
            yield reader.line_num, row
    except csv.Error as error:
        raise InputError(f"not a readable CSV file: {error}", path, reader.line_num or None) from error


def _read_json(path: Path) -> Table:
    splits = read_json_value(path)
    if not isinstance(splits, dict):
        raise InputError("expected an object of splits: {split: [[text, label], ...]}", path)
    table: Table = []
    for split, pairs in splits.items():
        if not isinstance(pairs, list) or not pairs:
            raise InputError(f'split "{split[:80]}" is empty; expected a list of [text, label]', path)
        for k, pair in enumerate(pairs):
            place = f'split "{split[:80]}", entry {k}'
            texts = [_as_text(value, key) for value, key in zip(pair, COLUMNS)] if isinstance(pair, list) else []
            if len(texts) != 2 or len(pair) != 2 or not all(text.strip() for text in texts):
                raise InputError(f"{place}: {str(pair)[:80]}; expected [text, label]", path)
            table.append(Row(place, texts[0], texts[1], split))
    return table


def _one_spelling(table: Table, path: Path) -> Table:
    """The rows with each label as it is first written: blanks, Unicode form and invisible marks make no other label.

    Raises InputError, with both places, for labels that differ in case alone or in "_" for a blank: who wrote them may
    have meant one label or two, and as answers they would be paid for each other.
    """
    spelling: dict[str, str] = {}
    first: dict[str, Row] = {}
    told: list[Row] = []
    for row in table:
        label = spelling.setdefault(canonical(row.label), canonical(row.label))
        before = first.setdefault(fold(_words(label)), row._replace(label=label))
        if before.label != label:
            raise InputError(
                f'the labels "{before.label[:80]}" ({before.place}) and "{label[:80]}" ({row.place}) differ in case, '
                "blanks or a last mark alone; write one label in one way",
                path,
            )
        told.append(row._replace(label=label))
    return told


def _words(label: str) -> str:
    return label.replace("_", " ")


def to_examples(
    table: Table, splits: list[str | None], path: Path, keep_unseen: bool = False
) -> tuple[list[Item], list[Example], list[str | None], dict[str, int]]:
    """Labels become items, sentences become examples; rows whose label never occurs in training are left out.

    splits: our name for each row's split, parallel to `table`; keep_unseen: keep those rows, and make items of their
    labels too, which training never rewards. Returns items, examples, their splits, and the number of rows left out
    by reason.
    """
    if not table:
        raise InputError("the file has no rows; expected texts with labels", path)
    # see which labels occur in training
    table = _one_spelling(table, path)
    has_splits = any(split is not None for split in splits)
    in_train = {row.label for row, split in zip(table, splits) if split == "train" or not has_splits}
    if not in_train:
        names = ", ".join(sorted({str(split) for split in splits}))
        raise InputError(f'no row is in split "train" (found: {names}); map names with env.splits', path)
    # make an item of each label
    labels = sorted({row.label for row in table} if keep_unseen else in_train)
    position = {label: i for i, label in enumerate(labels)}
    items = [Item(label, label, _words(label), {}) for label in labels]
    # make an example of each sentence
    left_out: Counter[str] = Counter()
    examples: list[Example] = []
    kept: list[str | None] = []
    for k, ((_, text, label, given), split) in enumerate(zip(table, splits)):
        if label not in position:
            left_out[f"{given}: label {label} is not in train"] += 1
            continue
        best = position[label]
        row = {"id": str(k), "instruction": text, "best": [label], "split": split}
        examples.append(Example(str(k), text, (best,), (items[best].text,), row))
        kept.append(split)
    return items, examples, kept, dict(left_out)
