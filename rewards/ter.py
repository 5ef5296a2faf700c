"""1 - TER, at least 0: the words to edit or shift for the response to become a reference, over the reference's length.

Source: Snover et al., "A Study of Translation Edit Rate with Targeted Human Annotation", 2006; computed by sacrebleu's
`TER(...).sentence_score`, which takes several references at once (fewest edits, mean length).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from instructrec_rl.core import Batch, InputError
from instructrec_rl.options import option
from instructrec_rl.rewards import RewardContext
from instructrec_rl.tokens import LANG_HELP, LANGUAGES, by_character, spaced

MAX_MEMO = 100_000  # distinct rows remembered between calls


@dataclass
class Config:
    """sacrebleu's options, and the language."""

    normalized: bool = option(False, "Tercom's normalisation: punctuation apart, XML entities resolved")
    no_punct: bool = option(False, "leave punctuation out")
    case_sensitive: bool = option(False, "compare with case")
    lang: str = option("auto", LANG_HELP, choices=LANGUAGES)


class Reward:
    """max(0, 1 - TER)."""

    def __init__(self, config: Config, context: RewardContext):
        from sacrebleu.metrics.ter import TER

        self.config = config
        self.ter = TER(normalized=config.normalized, no_punct=config.no_punct, case_sensitive=config.case_sensitive)
        self.memo: dict[tuple[str, ...], float] = {}

    def score(self, batch: Batch) -> np.ndarray:
        """Scores (B,): each distinct row is scored once, one by one."""
        if len(self.memo) > MAX_MEMO:
            self.memo.clear()
        scores = np.empty(len(batch))
        for row, (response, references) in enumerate(zip(batch.responses, batch.references)):
            if not references:
                raise InputError(f"row {row} has no references to compare with")
            key = (response, *references)
            if key not in self.memo:
                first, *others = (spaced(text) if by_character(text, self.config.lang) else text for text in key)
                self.memo[key] = max(0.0, 1.0 - self.ter.sentence_score(first, others).score / 100)
            scores[row] = self.memo[key]
        return scores
