"""The novelty gate: whether a response resembles those that were judged, so that a score of it means something."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

KNOWN_TEXTS = 4000  # compared with; of more, as many spread evenly
MARGIN = 0.25  # of the way from the quantile to the median, below the quantile: a few texts know their tail badly
LONGER = 1.5  # times the longest that was judged: longer is novel


class Novelty:
    """Novel is a text whose nearest known text is farther than all but a `quantile` of the known are from each other.

    Nearness is the cosine of sentence embeddings, and apart from that of TF-IDF; both must be near, so that neither a
    pile of the right words nor a fluent text about something else passes. A text without words, or more than 1.5 times
    as long as the longest known, is novel too.
    """

    def __init__(self, table: Any, judged: Sequence[str], catalog: Sequence[str], quantile: float):
        known = list(dict.fromkeys([*judged, *catalog]))
        if len(known) > KNOWN_TEXTS:
            known = [known[i] for i in np.unique(np.linspace(0, len(known) - 1, KNOWN_TEXTS).astype(int))]
        self.table, self.catalog = table, set(catalog)
        place = table.rows(known)
        place = place[table.length[place] > 0]
        self.meaning, self.words = table.meaning[place], table.words[place]
        self.longest = float(np.expm1(table.length[place].max(initial=0.0)))
        own = self._nearest(place, leave_one_out=True)
        self.least = np.zeros(2)
        if own.shape[1] > 1:
            low, middle = np.quantile(own, [quantile, 0.5], axis=1)
            self.least = low - MARGIN * (middle - low)
        self._memo: dict[str, bool] = {}

    def __call__(self, responses: Sequence[str]) -> np.ndarray:
        """Which of B responses are novel, (B,) bool."""
        new = list(dict.fromkeys(text for text in responses if text not in self._memo))
        if new:
            place = self.table.rows(new)
            far = (self._nearest(place) < self.least[:, None] - 1e-6).any(0)
            count = np.expm1(self.table.length[place])
            far |= (count < 0.5) | (count > LONGER * self.longest + 0.5)
            self._memo.update((text, bool(value) and text not in self.catalog) for text, value in zip(new, far))
        return np.array([self._memo[text] for text in responses], dtype=bool)

    def _nearest(self, place: np.ndarray, leave_one_out: bool = False) -> np.ndarray:
        """(2, B): the cosine with the nearest known text in meaning and in words."""
        found = np.full((2, len(place)), -1.0)
        if not len(self.meaning):
            return found
        for start in range(0, len(place), 1024):
            part = place[start : start + 1024]
            cosines = (self.table.meaning[part] @ self.meaning.T, (self.table.words[part] @ self.words.T).toarray())
            for row, cosine in enumerate(cosines):
                if leave_one_out:
                    cosine[np.arange(len(part)), start + np.arange(len(part))] = -1.0
                found[row, start : start + len(part)] = cosine.max(1)
        return found
