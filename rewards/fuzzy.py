"""Fuzzy match: 1 - Levenshtein distance / length of the longer text, or rapidfuzz's token-set ratio.

Source: Levenshtein, "Binary codes capable of correcting deletions, insertions, and reversals", 1966, over characters;
the token-set ratio is `rapidfuzz.fuzz.token_set_ratio` over 100.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from rapidfuzz import fuzz, process
from rapidfuzz.distance import Levenshtein

from instructrec_rl.core import Batch
from instructrec_rl.core.options import option
from instructrec_rl.rewards import RewardContext
from instructrec_rl.rewards.pairs import distinct_pairs


@dataclass
class Config:
    """Which ratio, and what does not count."""

    token_set: bool = option(False, "compare the sets of words, whatever their order and number")
    casefold: bool = option(True, "compare without case, with runs of white space as one blank")
    multi: str = option("max", "over several references: their max or mean", choices=("max", "mean"))


class Reward:
    """The similarity of two strings of characters."""

    def __init__(self, config: Config, context: RewardContext):
        self.config = config

    def score(self, batch: Batch) -> np.ndarray:
        """Scores (B,): each distinct pair of texts is scored once."""
        pairs = distinct_pairs(batch)
        texts = pairs.texts
        if self.config.casefold:
            texts = [" ".join(text.casefold().split()) for text in texts]
        responses, references = ([texts[text] for text in side.tolist()] for side in (pairs.response, pairs.reference))
        if self.config.token_set:
            values = process.cpdist(responses, references, scorer=fuzz.token_set_ratio, workers=1, dtype=np.float64)
            values = np.where([a == b for a, b in zip(responses, references)], 1.0, values / 100)  # "" has no tokens
        else:
            values = process.cpdist(
                responses, references, scorer=Levenshtein.normalized_similarity, workers=1, dtype=np.float64
            )
        return pairs.over_references(values, self.config.multi)
