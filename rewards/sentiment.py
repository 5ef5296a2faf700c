"""How positive a response sounds, by VADER's lexicon and rules. It needs the extra "language".

Source: Hutto and Gilbert, "VADER: A Parsimonious Rule-based Model for Sentiment Analysis of Social Media Text", 2014;
the compound score of `vaderSentiment` 3.3's `SentimentIntensityAnalyzer().polarity_scores`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from instructrec_rl.core import Batch, InputError
from instructrec_rl.core.options import option
from instructrec_rl.rewards import RewardContext

NEARBY = 8  # words to each side that a rule of VADER may look at
MAX_MEMO = 100_000  # distinct texts remembered between calls
TARGETS = ("positive", "neutral", "negative")


@dataclass
class Config:
    """Which tone is right."""

    target: str = option("positive", "the tone that scores 1: positive, neutral or negative", choices=TARGETS)


class Reward:
    """positive: (1 + c) / 2; negative: (1 - c) / 2; neutral: 1 - |c|, of the compound c in [-1, 1]."""

    def __init__(self, config: Config, context: RewardContext):
        try:
            from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer
        except ImportError as error:
            raise InputError("needs vaderSentiment: pip install 'instructrec-rl[language]'") from error
        self.config = config
        analyzer = SentimentIntensityAnalyzer()
        for check in ("_negation_check", "_special_idioms_check"):
            setattr(analyzer, check, _nearby(getattr(analyzer, check)))
        self.compound = functools.lru_cache(maxsize=MAX_MEMO)(lambda text: analyzer.polarity_scores(text)["compound"])

    def score(self, batch: Batch) -> np.ndarray:
        """Scores (B,) of the responses. References are not read."""
        compound = np.array([self.compound(response) for response in batch.responses])
        if self.config.target == "neutral":
            return 1 - np.abs(compound)
        return (1 + compound) / 2 if self.config.target == "positive" else (1 - compound) / 2


def _nearby(check: Callable[..., float]) -> Callable[..., float]:
    """One of VADER's checks on the words around the place that it is asked about: it looks at three of them, and makes
    all words of the text lower-case for that, so that time was quadratic in the text.
    """

    def checked(valence: float, words: Sequence[str], *places: int) -> float:
        *before, place = places
        start = max(0, place - NEARBY)
        return check(valence, words[start : place + NEARBY], *before, place - start)

    return checked
