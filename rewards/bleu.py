"""Sentence BLEU with effective order: sacrebleu's number over 100.

Source: Papineni et al., "BLEU: a Method for Automatic Evaluation of Machine Translation", 2002, as sacrebleu 2.6
computes it with `BLEU(effective_order=True).sentence_score`; smoothing after Chen and Cherry, "A Systematic Comparison
of Smoothing Techniques for Sentence-Level BLEU", 2014.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import regex

from instructrec_rl.core import Batch, InputError
from instructrec_rl.core.options import option
from instructrec_rl.rewards import RewardContext
from instructrec_rl.rewards.ngrams import cut, shared_ngrams, sizes_of
from instructrec_rl.rewards.tokens import (
    BY_CHARACTER,
    CHUNK_CHARS,
    LANG_HELP,
    LANGUAGES,
    Tokeniser,
    TokenTexts,
    by_character,
    spans_of,
)

SMOOTH_VALUES = {"exp": 0.0, "floor": 0.1, "add-k": 1.0, "none": 0.0}
# mteval-v13a, in its order. The byte table does the same for ASCII text without the odd cases that ODD finds.
SYMBOLS = re.compile(r"([{-~\[-` -&(-+:-@/])")
RULES = (
    (SYMBOLS, r" \1 "),
    (re.compile(r"([^0-9])([.,])"), r"\1 \2 "),
    (re.compile(r"([.,])([^0-9])"), r" \1 \2"),
    (re.compile(r"([0-9])(-)"), r"\1 \2 "),
)
ENTITIES = (("&quot;", '"'), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">"))
ODD = re.compile(r"<skipped>|-\n|&(?:quot|amp|lt|gt);|[.,][.,]")
WIDE = regex.compile(
    f"({BY_CHARACTER}|[\u3001-\u3003\u3008-\u3011\u3014-\u301f\u30fb\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65])"
)
SPACE, SYMBOL, POINT, DIGIT, DASH, OTHER = range(6)


def _classes() -> np.ndarray:
    kinds = np.full(256, OTHER, dtype=np.uint8)
    for byte in range(128):
        char = chr(byte)
        if char.isspace():
            kinds[byte] = SPACE
        elif SYMBOLS.match(char):
            kinds[byte] = SYMBOL
        elif char.isdigit():
            kinds[byte] = DIGIT
    kinds[[ord("."), ord(",")]], kinds[ord("-")] = POINT, DASH
    return kinds


CLASSES = _classes().tobytes()


@dataclass
class Config:
    """sacrebleu's options; its effective order and 13a tokens are what `lang=en` gives without any."""

    smooth: str = option("exp", "for orders without a match: exp, floor, add-k or none", choices=SMOOTH_VALUES)
    smooth_value: float | None = option(None, "of floor (0.1 when null) and add-k (1 when null)", low=0, high=100)
    effective_order: bool = option(True, "leave out orders that the response is too short for")
    max_order: int = option(4, "the longest n-grams", low=1, high=9)
    lowercase: bool = option(False, "compare in lower case")
    lang: str = option("auto", LANG_HELP, choices=LANGUAGES)

    def __post_init__(self) -> None:
        if self.smooth == "floor" and self.smooth_value is not None and self.smooth_value > 1:
            raise ValueError(f"smooth_value={self.smooth_value}: smooth=floor takes at most 1")


class Reward:
    """Brevity penalty times the geometric mean of n-gram precisions, clipped by the maximum over the references."""

    if_unpaid = "give references that are not blank, or choose another reward"

    def __init__(self, config: Config, context: RewardContext):
        self.config = config
        self.texts = TokenTexts(Tokeniser(_is_plain, _spans, self._words))

    def _words(self, text: str) -> list[str]:
        return tokens_13a(text, by_character(text, self.config.lang))

    def score(self, batch: Batch) -> np.ndarray:
        """Scores (B,), each over all references of its row."""
        return self.score_with_statistics(batch)[0]

    def score_with_statistics(self, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        """Scores (B,), and of each row (B, 2 N + 2) its matches and totals of N orders, length and closest length."""
        found = np.empty((2 * self.config.max_order + 2, len(batch)))
        sizes = np.fromiter(
            (len(a) + sum(map(len, refs)) for a, refs in zip(batch.responses, batch.references)), np.int64, len(batch)
        )
        if not all(batch.references):
            raise InputError(f"row {list(map(bool, batch.references)).index(False)} has no references to compare with")
        for start, end in cut(sizes, CHUNK_CHARS):
            groups = [(a, *refs) for a, refs in zip(batch.responses[start:end], batch.references[start:end])]
            found[:, start:end] = self._counts(groups)
        return self._bleu(found, self.config.effective_order), found.T

    def corpus(self, sums: np.ndarray) -> float:
        """sacrebleu's `BLEU().corpus_score` over 100, no order left out, from statistics summed over the rows."""
        return float(self._bleu(sums[:, None], effective_order=False)[0])

    def _counts(self, groups: list[tuple[str, ...]]) -> np.ndarray:
        """The statistics (2 N + 2, B) of groups of a response and its references."""
        flat = [text for group in groups for text in group]
        if self.config.lowercase:
            flat = list(map(str.lower, flat))
        place: dict[str, int] = {}
        index = [place.setdefault(text, len(place)) for text in flat]
        strings = self.texts.encode(list(place))
        found = list(map(strings.__getitem__, index))
        members = np.fromiter(map(len, groups), np.int64, len(groups))
        starts = members.cumsum() - members
        lengths = sizes_of(found)
        size = lengths[starts]
        if len(found) == 2 * len(groups):
            grouped: list[tuple[str, ...]] = list(zip(found[::2], found[1::2]))
            closest = lengths[1::2]
        else:
            grouped = [tuple(found[at : at + num]) for at, num in zip(starts.tolist(), members.tolist())]
            closest = _closest(size, lengths, starts, members)
        orders = range(1, self.config.max_order + 1)
        totals = [np.maximum(size - order + 1, 0) for order in orders]
        return np.vstack([shared_ngrams(grouped, orders), *totals, size, closest])

    def _bleu(self, statistics: np.ndarray, effective_order: bool) -> np.ndarray:
        """BLEU (B,) of clipped matches (N, B), totals (N, B), the response's length and the closest reference's."""
        matches, totals, (size, closest) = np.split(statistics, [self.config.max_order, 2 * self.config.max_order])
        smooth, given = self.config.smooth, self.config.smooth_value
        value = SMOOTH_VALUES[smooth] if given is None else given
        any_match = matches.any(axis=0)
        total_log, order, halvings = np.zeros(len(size)), np.zeros(len(size)), np.ones(len(size))
        going = np.ones(len(size), dtype=bool)
        for n, (correct, total) in enumerate(zip(matches, totals), 1):
            if smooth == "add-k" and n > 1:
                correct, total = correct + value, total + value
            going &= total > 0
            none = going & (correct == 0)
            halvings[none] *= 2
            least = 1 / halvings if smooth == "exp" else value if smooth == "floor" else 0.0
            precision = np.where(none, least, correct) / np.where(going, total, 1)
            with np.errstate(divide="ignore"):
                logs = np.log(100 * precision)
            counted = going if effective_order else np.ones_like(going)
            total_log += np.where(counted, np.where(going, logs, -np.inf), 0)
            order += counted
        short = size < closest
        penalty = np.where(short, np.exp(1 - closest / np.maximum(size, 1)), 1.0)
        return np.where(any_match, penalty * np.exp(total_log / np.maximum(order, 1)) / 100, 0.0)


def _closest(size: np.ndarray, lengths: np.ndarray, starts: np.ndarray, members: np.ndarray) -> np.ndarray:
    """The length (B,) of the reference closest to the response's size (B,), of two as close the shorter."""
    gap = np.abs(lengths - size.repeat(members))
    keys = gap << 32 | lengths
    keys[starts] = np.iinfo(np.int64).max  # the response itself
    return np.minimum.reduceat(keys, starts) & 0xFFFFFFFF


def _is_plain(text: str) -> bool:
    return text.isascii() and not ODD.search(text)


def tokens_13a(text: str, by_characters: bool) -> list[str]:
    """The tokens of mteval-v13a; `by_characters` sets Han, kana, Thai and wide punctuation apart first."""
    text = text.rstrip().replace("<skipped>", "").replace("-\n", "").replace("\n", " ")
    if "&" in text:
        for entity, char in ENTITIES:
            text = text.replace(entity, char)
    if by_characters:
        text = WIDE.sub(r" \1 ", text)
    text = f" {text} "
    for pattern, replacement in RULES:
        text = pattern.sub(replacement, text)
    return text.split()


def _spans(data: bytes) -> tuple[bytes, np.ndarray, np.ndarray]:
    """13a for ASCII with no two points together: a symbol stands alone, a point unless between digits, and a dash
    after a digit.
    """
    kinds = np.frombuffer(data.translate(CLASSES), np.uint8)
    inside = kinds != SPACE
    digit = kinds == DIGIT
    alone = kinds == SYMBOL
    point = kinds == POINT
    point[1:-1] &= ~(digit[:-2] & digit[2:])
    alone |= point
    alone[1:] |= (kinds[1:] == DASH) & digit[:-1]
    begins = alone.copy()
    begins[1:] |= alone[:-1] | ~inside[:-1]
    begins &= inside
    return data, *spans_of(inside, begins)
