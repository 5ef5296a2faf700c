"""1 - TER, at least 0: the words to edit or shift for the response to become a reference, over the reference's length.

Source: Snover et al., "A Study of Translation Edit Rate with Targeted Human Annotation", 2006; the numbers of
sacrebleu's `TER(...).sentence_score`, which takes several references at once (fewest edits, mean length).
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rapidfuzz.distance import Levenshtein

from instructrec_rl.core import Batch, InputError
from instructrec_rl.core.options import option
from instructrec_rl.rewards import RewardContext
from instructrec_rl.rewards.tokens import LANG_HELP, LANGUAGES, by_character, spaced

MAX_MEMO = 100_000  # distinct rows remembered between calls
BEAM = 24  # how far from the diagonal sacrebleu's edit distance looks


@dataclass
class Config:
    """sacrebleu's options, and the language."""

    normalized: bool = option(False, "Tercom's normalisation: punctuation apart, XML entities resolved")
    no_punct: bool = option(False, "leave punctuation out")
    case_sensitive: bool = option(False, "compare with case")
    lang: str = option("auto", LANG_HELP, choices=LANGUAGES)


class Reward:
    """max(0, 1 - TER)."""

    if_unpaid = "give references that are not blank, or choose another reward"

    def __init__(self, config: Config, context: RewardContext):
        from sacrebleu.metrics.ter import TER

        self.config = config
        self.ter = TER(normalized=config.normalized, no_punct=config.no_punct, case_sensitive=config.case_sensitive)
        self._remembered = functools.lru_cache(maxsize=MAX_MEMO)(self._statistics)

    def score(self, batch: Batch) -> np.ndarray:
        """Scores (B,): each distinct row is scored once, one by one."""
        return self.score_with_statistics(batch)[0]

    def score_with_statistics(self, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        """Scores (B,), and of each row (B, 2) the fewest edits and the references' mean length."""
        for row, references in enumerate(batch.references):
            if not references:
                raise InputError(f"row {row} has no references to compare with")
        rows = zip(batch.responses, map(tuple, batch.references))
        found = np.array([self._remembered(response, references) for response, references in rows])
        return _score(*found.T), found

    def corpus(self, sums: np.ndarray) -> float:
        """max(0, 1 - sacrebleu's `TER().corpus_score` over 100), from statistics summed over the rows."""
        return float(_score(*sums))

    def _statistics(self, response: str, references: tuple[str, ...]) -> tuple[float, float]:
        words = self._words(response)
        right = [self._words(reference) for reference in references]
        return min(edits(words, other) for other in right), sum(map(len, right)) / len(right)

    def _words(self, text: str) -> list[str]:
        apart = spaced(text) if by_character(text, self.config.lang) else text
        return self.ter.tokenizer(apart.rstrip()).split()


def _score(edits: np.ndarray, length: np.ndarray) -> np.ndarray:
    rate = np.where(length > 0, edits / np.where(length > 0, length, 1.0), edits > 0)
    return np.maximum(0.0, 1.0 - rate)


@functools.cache
def sacrebleus() -> Any:
    """sacrebleu's parts of TER, some of them private: the tests compare what comes of them with its public scores.
    They take words as characters of a text as well as in a list.
    """
    from sacrebleu.metrics import lib_ter

    return lib_ter


def edits(response: Sequence[str], reference: Sequence[str]) -> int:
    """TER's edits of words, shifts included, as sacrebleu's `translation_edit_rate` finds them.

    A shift costs 1, keeps the words, and is only made where it lowers the edit distance, which is never below
    max(m, n) - (words in common). So a distance of at most 1 above that bound is the result.
    """
    number: dict[str, str] = {}
    ours, theirs = (
        "".join(number.setdefault(word, chr(len(number))) for word in words) for words in (response, reference)
    )
    distance = EditDistance(theirs)
    least = max(len(ours), len(theirs)) - sum((Counter(ours) & Counter(theirs)).values())
    shifts, tried = 0, 0
    while theirs and distance.of(ours) > least + 1:
        distance.current = ours
        gain, shifted, tried = sacrebleus()._shift(ours, theirs, distance, tried)
        if gain <= 0 or tried >= sacrebleus()._MAX_SHIFT_CANDIDATES:
            break
        shifts, ours = shifts + 1, shifted
    return shifts + distance.of(ours)


class EditDistance:
    """Edit distance to a reference as sacrebleu's beam search finds it: in C where the beam cannot matter. A best path
    leaves the diagonal by no more than the distance and the difference in lengths.
    """

    def __init__(self, reference: str):
        self.reference, self.current, self.beam = reference, "", sacrebleus().BeamEditDistance(reference)

    def of(self, words: str) -> int:
        """The distance of words, a character each."""
        num, distance = len(self.reference), Levenshtein.distance(words, self.reference)
        if num <= BEAM or distance + abs(len(words) - num) < BEAM:
            return distance
        return self.beam(words)[0]

    def __call__(self, words: str) -> tuple[int, str]:
        """The distance, and how it comes about where sacrebleu's search for shifts looks at that: of `current`."""
        return self.beam(words) if words is self.current else (self.of(words), "")
