"""Which item of a catalog a text names: how a written response becomes an action, and an item a reward can judge."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from instructrec_rl.core import Item
from instructrec_rl.core.same_text import TRAILING, canonical, fold

MAX_MEMO = 100_000  # distinct responses remembered between calls; policies that write text rarely repeat themselves


def _without_trailing(text: str) -> str:
    return canonical(text).rstrip(TRAILING)


LEVELS: tuple[Callable[[str], str], ...] = (canonical, _without_trailing, fold)


class ItemFinder:
    """Finds the item that a response names by its text, its id or its name.

    As it stands first, then without the punctuation at its end, then without case: the first of these that is some
    item's decides. At each, a text counts before an id and an id before a name; what several items share there names
    none of them, as nobody could say which one was meant.
    """

    def __init__(self, items: Sequence[Item]):
        fields: tuple[list[str], ...] = (
            [item.text for item in items], [item.id for item in items], [item.name for item in items]
        )  # fmt: skip
        self._known = [_unambiguous([[level(text) for text in texts] for texts in fields]) for level in LEVELS]
        self._memo: dict[str, int] = {}

    def __call__(self, responses: Sequence[str]) -> np.ndarray:
        """Positions (B,) int64 in the catalog, -1 where the response names no item."""
        memo = self._memo
        if len(memo) > MAX_MEMO:
            memo.clear()
        for response in set(responses).difference(memo):
            memo[response] = self._find(response)
        return np.fromiter(map(memo.__getitem__, responses), np.int64, len(responses))

    def _find(self, response: str) -> int:
        for level, known in zip(LEVELS, self._known):
            position = known.get(level(response))
            if position is not None:
                return position
        return -1


def _unambiguous(fields: Sequence[Sequence[str]]) -> dict[str, int]:
    """Key -> the item that it names, -1 where it is several items'; keys of earlier fields hide those of later ones."""
    known: dict[str, int] = {}
    for keys in fields:
        own: dict[str, int] = {}
        for position, key in enumerate(keys):
            if key not in known:
                own[key] = position if own.get(key, position) == position else -1
        known |= own
    known.pop("", None)
    return known
