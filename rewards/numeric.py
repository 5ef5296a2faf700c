"""1 where the last number in the response equals the one in a reference, as answers of GSM8K are judged."""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass
from decimal import Decimal

import numpy as np

from instructrec_rl.core import Batch, InputError
from instructrec_rl.core.options import option
from instructrec_rl.rewards import RewardContext
from instructrec_rl.rewards.pairs import distinct_pairs

NUMBER = re.compile(
    r"(?:\d{1,3}(?:[,，]\d{2,3})*[,，]\d{3}(?!\d)|\d+)(?:\.\d+)?(?:[eE][-+]?\d{1,3}(?!\w))?|(?<!\d)\.\d+"
)
CURRENCY = "$€£¥￥₹₽₩¢"
# a sign counts only where no number, letter or bracket stands before it: "16-3" is 16 and 3; "-$5" and "$-5" are -5
MINUS = re.compile(rf"(?:(?<![\w)\].])[-−][{CURRENCY}]?|[{CURRENCY}][-−])\Z")
COMMAS = str.maketrans("", "", ",，")
ANSWER = "####"  # what follows the last one is the answer, in GSM8K's own solutions


@dataclass
class Config:
    """The difference allowed: |a - b| <= tolerance + relative * |b|, for a response a and a reference b."""

    tolerance: float = option(0.0, "absolute difference allowed", low=0.0)
    relative: float = option(0.0, "difference allowed as a share of the reference", low=0.0)


class Reward:
    """Compares numbers as decimals, so that 0.1 is 0.10 and large integers are exact."""

    def __init__(self, config: Config, context: RewardContext):
        self.tolerance, self.relative = Decimal(str(config.tolerance)), Decimal(str(config.relative))

    def score(self, batch: Batch) -> np.ndarray:
        """Scores (B,), each 0 or 1: the maximum over references. A response without a number is wrong.

        Raises InputError for a reference without a number.
        """
        pairs = distinct_pairs(batch)
        numbers = [last_number(text) for text in pairs.texts]
        if any(numbers[place] is None for place in np.unique(pairs.reference).tolist()):
            _refuse(batch)
        right = [
            self._equal(numbers[response], numbers[reference])
            for response, reference in zip(pairs.response.tolist(), pairs.reference.tolist())
        ]
        return pairs.best(np.array(right, dtype=np.float64))

    def _equal(self, response: Decimal | None, reference: Decimal | None) -> bool:
        if response is None or reference is None:
            return False
        return response == reference or abs(response - reference) <= self.tolerance + self.relative * abs(reference)


def last_number(text: str) -> Decimal | None:
    """The last number of a text, or of what follows its last `####`; None where there is none.

    Takes signs (- + −), currency signs before the number, commas between groups of digits, decimals, exponents of up
    to three digits, and the digits of any script.
    """
    _, mark, after = text.rpartition(ANSWER)
    text = after if mark else text
    last = deque(NUMBER.finditer(text), maxlen=1)
    if not last:
        return None
    value, start = Decimal(last[0][0].translate(COMMAS)), last[0].start()
    return value.copy_negate() if MINUS.search(text[max(0, start - 3) : start]) else value  # "-" would round it


def _refuse(batch: Batch) -> None:
    for row, references in enumerate(batch.references):
        for text in references:
            if last_number(text) is None:
                shown = text[:80] + ("..." if len(text) > 80 else "")
                raise InputError(f'row {row}: the reference "{shown}" has no number')
