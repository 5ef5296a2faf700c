"""Clean language: 1 without a word of better_profanity's list, less with some. It needs the extra "language".

Source: better_profanity 0.7's list of some 800 English words and phrases, with its spellings in look-alike
characters ("@" for "a", "1" for "i"); the words found are those of its `Profanity().censor`.
"""

from __future__ import annotations

import functools
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from instructrec_rl.core import Batch, InputError, nearest
from instructrec_rl.core.options import option
from instructrec_rl.rewards import RewardContext
from instructrec_rl.rewards.tokens import words

MAX_MEMO = 100_000  # distinct texts remembered between calls
MARK = "\ue000"  # of private use; a word found becomes four of them


@dataclass
class Config:
    """What is scored, and changes to the list. Phrases are allowed in both lists."""

    variant: str = option("clean", "clean: 1 or 0; share: the share of clean words", choices=("clean", "share"))
    words: list[str] = field(default_factory=list, metadata={"help": "more words to find"})
    allow: list[str] = field(default_factory=list, metadata={"help": "words of the list that are fine here"})


class Reward:
    """clean: [h = 0]; share: max(0, 1 - h / n), of h words or phrases found among n words. References are not read."""

    def __init__(self, config: Config, context: RewardContext):
        try:
            from better_profanity import Profanity
        except ImportError as error:
            raise InputError("needs better-profanity: pip install 'instructrec-rl[language]'") from error
        self.config = config
        self.filter = Profanity()
        listed = {str(word) for word in self.filter.CENSOR_WORDSET}
        for word in config.allow:
            if word.lower() not in listed:
                raise InputError(f'allow: "{word}" is not on the list.{nearest(word.lower(), listed)}')
        self.filter.load_censor_words(whitelist_words=list(config.allow))
        self.filter.add_censor_words([word.lower() for word in config.words])
        found = [str(word) for word in self.filter.CENSOR_WORDSET]
        self.filter.CENSOR_WORDSET = WordSet(found, self.filter.CHARS_MAPPING)
        self.value = functools.lru_cache(maxsize=MAX_MEMO)(self._value)

    def score(self, batch: Batch) -> np.ndarray:
        """Scores (B,) of the responses."""
        return np.array([self.value(response) for response in batch.responses])

    def _value(self, text: str) -> float:
        found = self.filter.censor(text.replace(MARK, " "), MARK).count(MARK * 4)
        if self.config.variant == "clean":
            return float(found == 0)
        return max(0.0, 1.0 - found / max(len(words(text)), 1))


class WordSet:
    """What better_profanity's list of varying strings contains, found by length and first character instead of a loop
    over the list for each word of a text.
    """

    def __init__(self, words: Sequence[str], characters: Mapping[str, Sequence[str]]):
        spellings = defaultdict(list)
        for word in filter(None, words):
            pattern = "".join(f"[{re.escape(''.join(characters.get(c, c)))}]" for c in word)
            for first in characters.get(word[0], word[0]):
                spellings[len(word), first].append(pattern)
        self._patterns = {key: re.compile("|".join(found)) for key, found in spellings.items()}

    def __contains__(self, text: str) -> bool:
        pattern = self._patterns.get((len(text), text[:1]))
        return pattern is not None and pattern.fullmatch(text) is not None

    def __bool__(self) -> bool:
        return True  # an empty list is not a reason to load the default one
