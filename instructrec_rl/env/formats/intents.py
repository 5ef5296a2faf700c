"""Files of labelled sentences as environments: each label is an action, and only the chosen one's reward is seen."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from instructrec_rl.core import Example, InputError, Item, nearest
from instructrec_rl.core.files import read_jsonl

Table = list[tuple[int | None, str, str, str | None]]  # line (None in a JSON file), text, label, split
COLUMNS = ("text", "label", "split")


def read(path: Path, columns: Mapping[str, str]) -> Table:
    """Read `{split: [[text, label], ...]}` from .json, or named columns from .jsonl and .csv.

    columns: maps text, label and split to the file's own column names. Raises InputError with the place.
    """
    for key in columns:
        if key not in COLUMNS:
            raise InputError(f'env.columns has no "{key}".{nearest(key, COLUMNS)}')
    if path.suffix == ".json":
        return _read_json(path)
    if path.suffix == ".jsonl":
        records = list(read_jsonl(path))
    elif path.suffix == ".csv":
        records = _read_csv(path)
    else:
        raise InputError(f'a file of intents ends in .json, .jsonl or .csv, not "{path.suffix}"', path)
    names = {key: columns.get(key, key) for key in COLUMNS}
    table: Table = []
    for line, record in records:
        for key in ("text", "label"):
            if not isinstance(record.get(names[key]), str) or not record[names[key]].strip():
                hint = nearest(names[key], record) if names[key] not in record else ""
                raise InputError(
                    f'the column "{names[key]}" is missing or not text (env.columns.{key}=NAME names it).{hint}',
                    path,
                    line,
                )
        split = record.get(names["split"])
        table.append((line, record[names["text"]], record[names["label"]], None if split is None else str(split)))
    return table


def _read_csv(path: Path) -> list[tuple[int, dict[str, Any]]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            return [(reader.line_num, row) for row in reader]
    except (csv.Error, UnicodeDecodeError) as error:
        raise InputError(f"not a readable CSV file: {error}", path) from error


def _read_json(path: Path) -> Table:
    try:
        data = json.loads(path.read_bytes())
    except json.JSONDecodeError as error:
        raise InputError(f"broken JSON: {error.msg}", path, error.lineno) from error
    except UnicodeDecodeError as error:
        raise InputError(f"not UTF-8 text: {error.reason}", path) from error
    if not isinstance(data, dict):
        raise InputError("expected an object of splits: {split: [[text, label], ...]}", path)
    table: Table = []
    for split, pairs in data.items():
        if not isinstance(pairs, list) or not pairs:
            raise InputError(f'split "{split}" is empty; expected a list of [text, label]', path)
        for k, pair in enumerate(pairs):
            if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(x, str) and x.strip() for x in pair)):
                raise InputError(f'split "{split}", entry {k}: {pair!r}; expected [text, label]', path)
            table.append((None, pair[0], pair[1], split))
    return table


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
    has_splits = any(split is not None for split in splits)
    in_train = {row[2] for row, split in zip(table, splits) if split == "train" or not has_splits}
    if not in_train:
        names = ", ".join(sorted({str(split) for split in splits}))
        raise InputError(f'no row is in split "train" (found: {names}); map names with env.splits', path)
    # make an item of each label
    labels = sorted({row[2] for row in table} if keep_unseen else in_train)
    position = {label: i for i, label in enumerate(labels)}
    items = [Item(label, label, label.replace("_", " "), {}) for label in labels]
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
