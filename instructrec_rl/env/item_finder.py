"""Which item of a catalog a text names: how a written response becomes an action, and an item a reward can judge."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from instructrec_rl.core import Item

TRAILING = " .,;:!?…。，；：！？、"
MAX_MEMO = 100_000  # distinct responses remembered between calls; policies that write text rarely repeat themselves


def fold(text: str) -> str:
    """`text` casefolded, with runs of white space made one blank and trailing punctuation taken off."""
    return " ".join(text.casefold().split()).rstrip(TRAILING)


class ItemFinder:
    """Finds the item that a response names by its text, its id or its name, compared after `fold`.

    Where texts clash the order text, id, name decides, then the catalog's order. A name that several items share
    names none of them, as a reward could not say which one was meant.
    """

    def __init__(self, items: Sequence[Item]):
        names = Counter(fold(item.name) for item in items)
        self._known: dict[str, int] = {}
        for keys in ((i.text for i in items), (i.id for i in items), (i.name for i in items)):
            for position, key in enumerate(map(fold, keys)):
                self._known.setdefault(key, position)
        texts_and_ids = {fold(text) for item in items for text in (item.text, item.id)}
        for name, count in names.items():
            if count > 1 and name not in texts_and_ids:
                del self._known[name]
        self._known.pop("", None)
        self._memo: dict[str, int] = {}

    def __call__(self, responses: Sequence[str]) -> np.ndarray:
        """Positions (B,) int64 in the catalog, -1 where the response names no item."""
        memo = self._memo
        if len(memo) > MAX_MEMO:
            memo.clear()
        for response in set(responses).difference(memo):
            memo[response] = self._known.get(fold(response), -1)
        return np.fromiter(map(memo.__getitem__, responses), np.int64, len(responses))
