"""The share of the row's constraints that the item named by the response satisfies; 0 where it names none."""

from __future__ import annotations

from typing import Any

import numpy as np

from instructrec_rl.core import Batch, InputError
from instructrec_rl.env.constraints import satisfies
from instructrec_rl.env.item_finder import ItemFinder
from instructrec_rl.rewards import RewardContext

MAX_MEMO_CELLS = 64_000_000  # of (distinct constraint, item), a byte each


class Reward:
    """Looks each (distinct constraint, item) up in a table, so that a batch is a gather."""

    def __init__(self, config: None, context: RewardContext):
        if not context.items:
            raise InputError("needs an environment with items: load_reward('constraints', env=...)")
        self.items = context.items
        self.find_items = ItemFinder(context.items)
        self._known: dict[Any, int] = {}
        self._table = np.zeros((0, len(self.items)), dtype=bool)

    def score(self, batch: Batch) -> np.ndarray:
        """Scores (B,): satisfied / asked. A row that asks nothing scores 1 for any item."""
        asked = self._asked(batch)
        counts = np.fromiter(map(len, asked), np.int64, len(asked))
        items = self.find_items(batch.responses)
        columns = self._columns(batch, asked)
        satisfied = self._table[columns, items.repeat(counts)]
        row = np.arange(len(batch)).repeat(counts)
        hits = np.bincount(row, weights=satisfied, minlength=len(batch))
        share = np.where(counts == 0, 1.0, hits / np.maximum(counts, 1))
        return np.where(items >= 0, share, 0.0)

    def _asked(self, batch: Batch) -> list[list[dict[str, Any]]]:
        if batch.rows is None:
            raise InputError("needs rows, the records that hold each instruction's constraints")
        try:
            asked = [row["constraints"] for row in batch.rows]
        except KeyError as error:
            place = next(place for place, row in enumerate(batch.rows) if "constraints" not in row)
            reason = f'{_where(batch, place)} has no "constraints" (a list of what the item must satisfy)'
            raise InputError(reason, row=place) from error
        if set(map(type, asked)) - {list, tuple}:
            place = next(place for place, held in enumerate(asked) if not isinstance(held, list | tuple))
            raise InputError(
                f'{_where(batch, place)}: "constraints" is {str(asked[place])[:80]!r}, expected a list', row=place
            )
        return asked

    def _columns(self, batch: Batch, asked: list[list[dict[str, Any]]]) -> np.ndarray:
        """The table's row of each constraint asked, in order; constraints not met before are judged and added."""
        if self._table.size > MAX_MEMO_CELLS:
            self._forget()
        known, fresh, found = self._known, [], []
        for place, constraints in enumerate(asked):
            for constraint in constraints:
                key = _key(constraint)
                column = known.get(key)
                if column is None:
                    try:
                        fresh.append(satisfies(constraint, self.items))
                    except InputError as error:
                        self._forget()  # what this call added to `known` has no table row yet
                        raise InputError(f"{_where(batch, place)}: {error.reason}", row=place) from error
                    column = known[key] = len(self._table) + len(fresh) - 1
                found.append(column)
        if fresh:
            self._table = np.concatenate([self._table, np.stack(fresh)])
        return np.array(found, dtype=np.int64)

    def _forget(self) -> None:
        self._known, self._table = {}, np.zeros((0, len(self.items)), dtype=bool)


def _key(constraint: Any) -> Any:
    """The same for constraints that ask the same; its text for a broken record, which `satisfies` will explain."""
    try:
        value = constraint["value"]
        if type(value) is list:
            key = (constraint["attribute"], constraint["op"], tuple(map(_typed, value)))
        else:
            key = (constraint["attribute"], constraint["op"], _typed(value))
        hash(key)
    except (KeyError, TypeError):
        return repr(constraint)
    return key


def _typed(value: Any) -> Any:
    """Told apart from what Python takes for equal: `true` from 1."""
    return (bool, value) if type(value) is bool else value


def _where(batch: Batch, place: int) -> str:
    """`row 3 (id "x")`."""
    rows = batch.rows or []
    return f"row {place}" + (f' (id "{rows[place]["id"]}")' if "id" in rows[place] else "")
