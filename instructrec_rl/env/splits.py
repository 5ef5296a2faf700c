"""Which instructions are learned from, chosen by, and tested on: the data's own splits, or a seeded hash of the ids."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from instructrec_rl.core import InputError, nearest
from instructrec_rl.env.examples import Examples

SPLIT_ALIASES = {"val": "validation", "valid": "validation", "dev": "validation"}


def test_splits(splits: Mapping[str, Any]) -> list[str]:
    """The names of the splits to report: all but train and validation."""
    return [name for name in splits if name not in ("train", "validation")]


def rename_splits(given: list[str | None], names: Mapping[str, str], path: Path) -> list[str | None]:
    """Our names for the data's splits. Raises InputError for a split that `names` mentions and no row has."""
    found = {split for split in given if split is not None}
    for name in names:
        if name not in found:
            raise InputError(
                f'split "{name}" is named (env.splits) but empty: no row has it.{nearest(name, found)}', path
            )
    return [None if split is None else names.get(split, SPLIT_ALIASES.get(split, split)) for split in given]


def make_splits(examples: Examples, split_of: list[str | None], path: Path) -> dict[str, np.ndarray]:
    """Group positions by split; without any `split` a seeded hash of the ids makes 80/10/10, validation at least."""
    ids: Any = examples.ids
    if all(split is None for split in split_of):
        order = sorted(range(len(ids)), key=lambda i: _hash(ids[i]))
        tenth = max(1, round(len(order) / 10))
        if len(order) < 3:
            raise InputError("fewer than three instructions and no split field: nothing would be left to test on", path)
        parts = {"train": order[2 * tenth :], "validation": order[:tenth], "test": order[tenth : 2 * tenth]}
        return {name: np.array(sorted(rows), dtype=np.int64) for name, rows in parts.items()}
    grouped: dict[str, list[int]] = {}
    for i, split in enumerate(split_of):
        if split is None:
            raise InputError(f'instruction "{ids[i]}" has no "split" though others have one', path)
        grouped.setdefault(split, []).append(i)
    if "train" not in grouped:
        raise InputError(
            f'no instruction is in split "train" (found: {", ".join(grouped)}); map names with env.splits', path
        )
    if "validation" not in grouped:  # settings and checkpoints must never be chosen on a test split
        order = sorted(grouped["train"], key=lambda i: _hash(ids[i]))
        tenth = max(1, len(order) // 10)
        grouped["train"], grouped["validation"] = sorted(order[tenth:]), sorted(order[:tenth])
        if not grouped["train"]:
            raise InputError('split "train" is too small to take a validation part from it', path)
    if set(grouped) == {"train", "validation"}:
        raise InputError("there is no test split; name one in the data or with env.splits", path)
    names = ["train", "validation", *(name for name in grouped if name not in ("train", "validation"))]
    return {name: np.array(grouped[name], dtype=np.int64) for name in names}


def _hash(row_id: str) -> bytes:
    return hashlib.blake2b(row_id.encode(), digest_size=8, salt=b"split-0").digest()
