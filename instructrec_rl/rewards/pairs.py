"""A batch as distinct (response, reference) pairs, so that a metric scores each pair of texts once."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from instructrec_rl.core import Batch, InputError


@dataclass(frozen=True)
class Pairs:
    """The P distinct pairs among the N (row, reference) pairs of B rows.

    texts: the distinct texts; response, reference: (P,) positions in texts; pair: (N,) the distinct pair of each
    (row, reference), rows in order; starts: (B,) where each row begins in `pair`.
    """

    texts: list[str]
    response: np.ndarray
    reference: np.ndarray
    pair: np.ndarray
    starts: np.ndarray

    def best(self, values: np.ndarray) -> np.ndarray:
        """The maximum over each row's references: values (P,) -> (B,)."""
        return np.maximum.reduceat(values[self.pair], self.starts)

    def first_best(self, values: np.ndarray) -> np.ndarray:
        """The pair (B,) of each row's best reference, the first of equals: values (P,)."""
        given = values[self.pair]
        best = np.flatnonzero(given == self.best(values).repeat(self._counts()))
        return self.pair[best[np.searchsorted(best, self.starts)]]

    def _counts(self) -> np.ndarray:
        return np.diff(self.starts, append=len(self.pair))

    def over_references(self, values: np.ndarray, multi: str) -> np.ndarray:
        """The maximum or, with multi="mean", the mean over each row's references: values (P,) -> (B,)."""
        if multi == "max":
            return self.best(values)
        return np.add.reduceat(values[self.pair], self.starts) / self._counts()


def distinct_pairs(batch: Batch) -> Pairs:
    """The pairs of a batch of at least one row. Raises InputError for a row without references."""
    counts = np.fromiter(map(len, batch.references), np.int64, len(batch))
    if not counts.all():
        raise InputError(f"row {int(counts.argmin())} has no references to compare with")
    given = [*batch.responses, *itertools.chain.from_iterable(batch.references)]
    starts, number = counts.cumsum() - counts, np.arange(len(given))
    index = dict.fromkeys(given)
    texts = list(index)
    if len(texts) == len(given):  # nothing to look for
        return Pairs(texts, number[: len(batch)].repeat(counts), number[len(batch) :], number[: -len(batch)], starts)
    index = dict(zip(texts, range(len(texts))))
    number = np.fromiter(map(index.__getitem__, given), np.int64, len(given))
    keys, pair = np.unique(number[: len(batch)].repeat(counts) * len(texts) + number[len(batch) :], return_inverse=True)
    response, reference = np.divmod(keys, len(texts))
    return Pairs(texts, response, reference, pair.reshape(-1), starts)
