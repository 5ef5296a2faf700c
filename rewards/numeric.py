"""1 where the last number in the response equals the one in a reference, as answers of GSM8K are judged."""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import MAX_EMAX, MIN_EMIN, Context, Decimal

import numpy as np

from instructrec_rl.core import Batch, InputError
from instructrec_rl.core.options import option
from instructrec_rl.rewards import RewardContext
from instructrec_rl.rewards.numerals import last_number
from instructrec_rl.rewards.pairs import distinct_pairs

ANSWER = "####"  # what follows the last one is the answer, in GSM8K's own solutions
EXACT = Context(prec=50, Emax=MAX_EMAX, Emin=MIN_EMIN, traps=[])  # of differences: 10^(10^8) does not overflow it


@dataclass
class Config:
    """The difference allowed: |a - b| <= tolerance + relative * |b|, for a response a and a reference b."""

    tolerance: float = option(0.0, "absolute difference allowed", low=0.0)
    relative: float = option(0.0, "difference allowed as a share of the reference", low=0.0)
    decimal: str = option(".", "the mark before a fraction: a point, or a comma as in 1.234,5", choices=(".", ","))

    def __post_init__(self) -> None:
        for key in ("tolerance", "relative"):
            if not math.isfinite(getattr(self, key)):
                raise ValueError(f"{key}={getattr(self, key)}: expected a number")


class Reward:
    """Compares numbers as decimals, so that 0.1 is 0.10 and large integers are exact."""

    def __init__(self, config: Config, context: RewardContext):
        self.tolerance, self.relative = Decimal(str(config.tolerance)), Decimal(str(config.relative))
        self.decimal = config.decimal

    def score(self, batch: Batch) -> np.ndarray:
        """Scores (B,), each 0 or 1: the maximum over references. A response without a number is wrong.

        Raises InputError for a reference without a number.
        """
        pairs = distinct_pairs(batch)
        numbers = [answer(text, self.decimal) for text in pairs.texts]
        if any(numbers[place] is None for place in np.unique(pairs.reference).tolist()):
            _refuse(batch, self.decimal)
        right = [
            self._equal(numbers[response], numbers[reference])
            for response, reference in zip(pairs.response.tolist(), pairs.reference.tolist())
        ]
        return pairs.best(np.array(right, dtype=np.float64))

    def _equal(self, response: Decimal | None, reference: Decimal | None) -> bool:
        if response is None or reference is None:
            return False
        if response == reference:
            return True
        allowed = EXACT.add(self.tolerance, EXACT.multiply(self.relative, reference.copy_abs()))
        return EXACT.subtract(response, reference).copy_abs() <= allowed


def answer(text: str, decimal: str) -> Decimal | None:
    """The last number of a text, or of what follows its last `####`; None where there is none."""
    return last_number(text.rpartition(ANSWER)[2], decimal)


def _refuse(batch: Batch, decimal: str) -> None:
    for row, references in enumerate(batch.references):
        for text in references:
            if answer(text, decimal) is None:
                shown = text[:80] + ("..." if len(text) > 80 else "")
                raise InputError(f'row {row}: the reference "{shown}" has no number')
