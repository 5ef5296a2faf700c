"""The share of the format rules that a response keeps: a pattern, JSON of a shape, lengths, no repetition."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import regex

from instructrec_rl.core import Batch, InputError
from instructrec_rl.core.json_reader import parse_json
from instructrec_rl.core.options import option
from instructrec_rl.rewards import RewardContext
from instructrec_rl.rewards.ecma_patterns import found_in
from instructrec_rl.rewards.json_schema import check_schema, fits
from instructrec_rl.rewards.tokens import words

Rule = Callable[[str], bool]


@dataclass
class Config:
    """Each option that is set is a rule; all weigh the same."""

    pattern: str = option("", "a regular expression that is found in the response (anchor it with ^ and $)")
    forbid: str = option("", "a regular expression that is not found in the response")
    json: bool = option(False, "the response is JSON")
    schema: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "the response is JSON that fits this schema (see json_schema.py)"}
    )
    min_chars: int = option(0, "at least this many characters", low=0)
    max_chars: int = option(0, "at most this many characters; 0 is no limit", low=0)
    min_words: int = option(0, "at least this many words", low=0)
    max_words: int = option(0, "at most this many words; 0 is no limit", low=0)
    no_repetition: int = option(0, "no run of this many words comes twice; 0 allows any", low=0)

    def __post_init__(self) -> None:
        for key in ("pattern", "forbid"):
            try:
                re.compile(getattr(self, key))
                regex.compile(getattr(self, key))
            except (re.error, regex.error, RecursionError, OverflowError) as error:
                raise ValueError(f"{key}: not a regular expression: {error}") from error
        for unit in ("chars", "words"):
            low, high = getattr(self, f"min_{unit}"), getattr(self, f"max_{unit}")
            if high and low > high:
                raise ValueError(f"min_{unit}={low} is more than max_{unit}={high}")
        check_schema(self.schema)


class Reward:
    """kept rules / rules. The parts are the rules, each 0 or 1, by the option's name."""

    def __init__(self, config: Config, context: RewardContext):
        self.rules = _rules(config)
        if not self.rules:
            raise InputError("needs a rule, such as reward.max_words=30 or reward.pattern='^Answer:'")

    def score(self, batch: Batch) -> np.ndarray:
        """Scores (B,), multiples of 1 / rules."""
        return self.combine(self.parts(batch))

    def parts(self, batch: Batch) -> dict[str, np.ndarray]:
        """Which rules hold, (B,) of 0 and 1 each; a text is judged once."""
        texts = {text: place for place, text in enumerate(dict.fromkeys(batch.responses))}
        place = np.fromiter(map(texts.__getitem__, batch.responses), np.int64, len(batch))
        return {name: _judged(rule, list(texts), batch)[place] for name, rule in self.rules.items()}

    def combine(self, parts: dict[str, np.ndarray]) -> np.ndarray:
        """The mean (B,) over the rules."""
        return np.mean(list(parts.values()), axis=0)


def _judged(rule: Rule, texts: Sequence[str], batch: Batch) -> np.ndarray:
    """Which texts keep a rule, (T,) of 0 and 1. Raises InputError, with the row, for a search without end."""
    kept = np.zeros(len(texts))
    for place, text in enumerate(texts):
        try:
            kept[place] = rule(text)
        except InputError as error:
            raise InputError(f"row {list(batch.responses).index(text)}: {error.reason}") from error
    return kept


def _rules(config: Config) -> dict[str, Rule]:
    """The rules that the options ask for, by the option's name."""
    pattern, forbid = regex.compile(config.pattern), regex.compile(config.forbid)
    known: dict[str, Rule] = {
        "pattern": lambda text: found_in(pattern, text, f"reward.pattern={config.pattern}"),
        "forbid": lambda text: not found_in(forbid, text, f"reward.forbid={config.forbid}"),
        "json": lambda text: _read(text) is not BROKEN,
        "schema": lambda text: (value := _read(text)) is not BROKEN and fits(value, config.schema),
        "min_chars": lambda text: len(text) >= config.min_chars,
        "max_chars": lambda text: len(text) <= config.max_chars,
        "min_words": lambda text: len(words(text)) >= config.min_words,
        "max_words": lambda text: len(words(text)) <= config.max_words,
        "no_repetition": lambda text: _all_differ(words(text.casefold()), config.no_repetition),
    }
    return {name: rule for name, rule in known.items() if getattr(config, name)}


def _all_differ(found: list[str], size: int) -> bool:
    """Whether no run of `size` words comes twice; runs are numbered by halves, those of 2n words by two of n words."""
    if size > len(found):
        return True
    known: dict[str, int] = {}
    numbers, length = np.array([known.setdefault(word, len(known)) for word in found], dtype=np.int64), 1
    while length < size:
        step = min(length, size - length)
        pairs = numbers[: len(numbers) - step] * np.int64(len(found) + 1) + numbers[step:]
        numbers, length = np.unique(pairs, return_inverse=True)[1], length + step
    return len(np.unique(numbers)) == len(numbers)


BROKEN = object()


def _read(text: str) -> Any:
    """The value of a JSON text, or BROKEN where it is none: that is what the rule asks."""
    try:
        return parse_json(text)
    except InputError:
        return BROKEN
