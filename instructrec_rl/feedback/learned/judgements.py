"""Records as arrays: distinct pairs of instruction and response, ratings of them, and comparisons between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from instructrec_rl.core import Item
from instructrec_rl.env.item_finder import ItemFinder
from instructrec_rl.feedback.schema import Correction, Preference, Ranking, Rating, Record, Thumbs


@dataclass(frozen=True)
class Judgements:
    """What annotators said of P pairs: R ratings and C comparisons.

    instructions, responses: P texts each; annotators: N names. Of each rating: pair (R,), who (R,) position in
    `annotators`, scale (R,) 0 for a rating and 1 for thumbs, value (R,) in [0, 1], weight (R,) the confidence. Of each
    comparison: better and worse (C,) pairs of one instruction, margin (C,) 1, or 0 where they tie, judge (C,) and
    strength (C,) its weight. A ranking of k is its k (k - 1) / 2 pairs with weight 2 / k each, so k - 1 in all; a
    correction is the corrected text above the response.
    """

    instructions: list[str]
    responses: list[str]
    annotators: list[str]
    pair: np.ndarray
    who: np.ndarray
    scale: np.ndarray
    value: np.ndarray
    weight: np.ndarray
    better: np.ndarray
    worse: np.ndarray
    margin: np.ndarray
    judge: np.ndarray
    strength: np.ndarray

    def __len__(self) -> int:
        return len(self.pair) + len(self.better)

    @property
    def groups(self) -> np.ndarray:
        """The instruction of each pair as a number, (P,) int64."""
        return np.unique(np.asarray(self.instructions, dtype=object), return_inverse=True)[1].astype(np.int64)

    @property
    def information(self) -> np.ndarray:
        """How much each judgement tells that the others do not, (R + C,): ratings, then comparisons.

        m ratings of a pair weigh m / (1 + (m - 1) / 2) together, as they share what is peculiar to that pair, and the
        comparisons within an instruction at most as much as its compared responses less one, as the rest follows.
        """
        count = np.bincount(self.pair, minlength=len(self.responses))[self.pair]
        rating = self.weight * 2 / (1 + count)
        group, size = self.groups, len(self.instructions)
        strength = np.bincount(group[self.better], self.strength, size)
        compared = np.zeros(size)
        np.add.at(compared, group[np.unique(np.concatenate([self.better, self.worse]))], 1)
        allowed = np.minimum(1.0, (compared - 1).clip(0) / np.maximum(strength, 1e-9))
        return np.concatenate([rating, self.strength * allowed[group[self.better]]])

    def select(self, ratings: np.ndarray, comparisons: np.ndarray) -> Judgements:
        """Some of the ratings (R,) bool and of the comparisons (C,) bool, over the same pairs."""
        few = {name: getattr(self, name)[ratings] for name in ("pair", "who", "scale", "value", "weight")}
        for name in ("better", "worse", "margin", "judge", "strength"):
            few[name] = getattr(self, name)[comparisons]
        return replace(self, **few)


class _Collector:
    """Gathers rows while records are read."""

    def __init__(self, items: Sequence[Item]):
        self.texts = [item.text for item in items]
        self.find = ItemFinder(items) if items else None
        self.pairs: dict[tuple[str, str], int] = {}
        self.names: dict[str, int] = {}
        self.ratings: list[tuple[int, int, int, float, float]] = []
        self.comparisons: list[tuple[int, int, float, int, float]] = []

    def pair(self, instruction: str, response: str) -> int:
        return self.pairs.setdefault((instruction, self.text(response)), len(self.pairs))

    def text(self, response: str) -> str:
        """The response, or the text of the item that it names."""
        place = int(self.find([response])[0]) if self.find else -1
        return self.texts[place] if place >= 0 else response

    def add(self, record: Record) -> None:
        who = self.names.setdefault(record.annotator, len(self.names))
        sure = 1.0 if record.confidence is None else record.confidence
        asked = record.instruction
        if isinstance(record, Rating):
            self.ratings.append((self.pair(asked, record.response), who, 0, record.share, sure))
        elif isinstance(record, Thumbs):
            self.ratings.append((self.pair(asked, record.response), who, 1, float(record.up), sure))
        elif isinstance(record, Preference):
            self.compare(asked, record.chosen, record.rejected, who, sure, 0.0 if record.tie else 1.0)
        elif isinstance(record, Correction):
            self.compare(asked, record.corrected, record.response, who, sure)
        elif isinstance(record, Ranking):
            share = 2.0 / len(record.responses) * sure
            for place, best in enumerate(record.responses):
                for worse in record.responses[place + 1 :]:
                    self.compare(asked, best, worse, who, share)

    def compare(self, asked: str, better: str, worse: str, who: int, weight: float, margin: float = 1.0) -> None:
        pair = self.pair(asked, better), self.pair(asked, worse)
        if pair[0] != pair[1]:  # two names of one item
            self.comparisons.append((*pair, margin, who, weight))


def collect(records: Sequence[Record], env: str = "", items: Sequence[Item] = ()) -> Judgements:
    """The judgements in records, in an order that does not depend on theirs; without those of confidence 0.

    env: an environment's name, which leaves out the records that name another; "": all count. items: its catalog; a
    response that names an item stands for the item's text.
    """
    collector = _Collector(items)
    for record in sorted(records, key=lambda record: record.id):
        if (not env or record.env in ("", env)) and record.confidence != 0:
            collector.add(record)
    rated = np.array(collector.ratings, dtype=np.float64).reshape(-1, 5)
    compared = np.array(collector.comparisons, dtype=np.float64).reshape(-1, 5)
    return Judgements(
        instructions=[instruction for instruction, _ in collector.pairs],
        responses=[response for _, response in collector.pairs],
        annotators=list(collector.names),
        pair=rated[:, 0].astype(np.int64),
        who=rated[:, 1].astype(np.int64),
        scale=rated[:, 2].astype(np.int64),
        value=rated[:, 3],
        weight=rated[:, 4],
        better=compared[:, 0].astype(np.int64),
        worse=compared[:, 1].astype(np.int64),
        margin=compared[:, 2],
        judge=compared[:, 3].astype(np.int64),
        strength=compared[:, 4],
    )
