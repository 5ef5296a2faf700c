"""ROUGE-1, ROUGE-2, ROUGE-L and ROUGE-Lsum F1: the numbers of rouge_score, with or without stemming.

Source: Lin, "ROUGE: A Package for Automatic Evaluation of Summaries", 2004, as google-research's rouge_score 0.1.2
computes it with `RougeScorer([...], use_stemmer=...)`.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import regex
from rapidfuzz import process
from rapidfuzz.distance import LCSseq

from instructrec_rl.core import Batch
from instructrec_rl.core.options import option
from instructrec_rl.rewards import RewardContext
from instructrec_rl.rewards.ngrams import shared_ngrams, sizes_of
from instructrec_rl.rewards.pairs import Pairs, distinct_pairs
from instructrec_rl.rewards.tokens import (
    CHARACTERS,
    LANG_HELP,
    LANGUAGES,
    OTHER_SCRIPT,
    OTHER_WORD,
    PICTURES,
    Tokeniser,
    TokenTexts,
    by_character,
    chunked_strings,
    porter,
)

VARIANTS = {
    "rouge1": ("rouge1",),
    "rouge2": ("rouge2",),
    "rougeL": ("rougeL",),
    "rougeLsum": ("rougeLsum",),
    "mean": ("rouge1", "rouge2", "rougeL"),
}
KEPT = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789")
TOKEN_BYTES = bytes(byte if byte in KEPT else ord(" ") for byte in bytes(range(256)).lower())
WORDS = regex.compile(f"[a-z0-9]++|[{CHARACTERS}]|(?P<other>{OTHER_WORD})", regex.V1)
HAS_WORD = re.compile("[A-Za-z0-9]")


@dataclass
class Config:
    """Which ROUGE; `mean` is the mean of rouge1, rouge2 and rougeL, each the maximum over the references."""

    variant: str = option(
        "rougeL", "rouge1, rouge2, rougeL, rougeLsum, or the mean of the first three", choices=VARIANTS
    )
    stemmer: bool = option(False, "compare Porter stems of the words longer than three letters")
    lang: str = option("auto", LANG_HELP, choices=LANGUAGES)
    multi: str = option("max", "over several references: their max or mean", choices=("max", "mean"))


class Reward:
    """F1 = 2 P R / (P + R) of the overlap in tokens, bigrams or longest common subsequence."""

    def __init__(self, config: Config, context: RewardContext):
        self.config, self.variants = config, VARIANTS[config.variant]
        read = "" if config.lang != "en" else "reward.lang=auto, which reads every script, or "
        bigrams = "reward.variant=rouge1, as rouge2 needs two words, or " if config.variant == "rouge2" else ""
        self.if_unpaid = f"choose {read}{bigrams}reward=chrf, which reads characters"
        tokeniser = Tokeniser(lambda text: _is_plain(text, config.lang), _spans, _words)
        self.texts = TokenTexts(tokeniser, _stem() if config.stemmer else None, replace=True)

    def score(self, batch: Batch) -> np.ndarray:
        """Scores (B,): each distinct pair of texts is scored once."""
        pairs = distinct_pairs(batch)
        values = self._pair_values(pairs)
        return np.mean([pairs.over_references(values[name], self.config.multi) for name in self.variants], axis=0)

    def _pair_values(self, pairs: Pairs) -> dict[str, np.ndarray]:
        """F1 (P,) of each variant over the distinct pairs."""
        values = {variant: np.empty(len(pairs.response)) for variant in self.variants}
        orders = [order for order, variant in ((1, "rouge1"), (2, "rouge2")) if variant in self.variants]
        for start, end, responses, references in chunked_strings(self.texts, pairs):
            left, right = sizes_of(responses), sizes_of(references)
            if orders:
                for order, shared in zip(orders, shared_ngrams(list(zip(responses, references)), orders)):
                    values[f"rouge{order}"][start:end] = f1(shared, left - order + 1, right - order + 1)
            if "rougeL" in self.variants:
                shared = process.cpdist(responses, references, scorer=LCSseq.similarity, workers=1)
                values["rougeL"][start:end] = f1(shared, left, right)
            if "rougeLsum" in self.variants:
                values["rougeLsum"][start:end] = self._summary_level(pairs, start, end, responses, references)
        return values

    def _summary_level(
        self, pairs: Pairs, start: int, end: int, responses: list[str], references: list[str]
    ) -> np.ndarray:
        """ROUGE-Lsum F1 of the pairs start to end: of pairs without a line feed it is ROUGE-L."""
        shared = process.cpdist(responses, references, scorer=LCSseq.similarity, workers=1).astype(np.float64)
        left, right = sizes_of(responses), sizes_of(references)
        texts = pairs.texts
        for row, (response, reference) in enumerate(zip(pairs.response[start:end], pairs.reference[start:end])):
            if "\n" in texts[response] or "\n" in texts[reference]:
                sides = [text.split("\n") for text in (texts[response], texts[reference])]
                strings = self.texts.encode(sides[0] + sides[1])
                ours, theirs = strings[: len(sides[0])], strings[len(sides[0]) :]
                shared[row] = union_subsequence(ours, theirs)
                left[row], right[row] = sum(map(len, ours)), sum(map(len, theirs))
        return f1(shared, left, right)


def _stem() -> Callable[[str], str]:
    stem = porter()
    return lambda word: stem(word) if len(word) > 3 else word


def _spans(data: bytes) -> tuple[bytes, np.ndarray, np.ndarray]:
    """rouge_score's tokens: lower-case the text, make all but a-z and 0-9 a blank, split."""
    data = data.translate(TOKEN_BYTES)
    inside = np.frombuffer(data, np.uint8) != ord(" ")
    edges = np.flatnonzero(inside[1:] != inside[:-1]) + 1  # no two tokens touch, so in and out take turns
    return data, edges[::2].copy(), edges[1::2].copy()


def _is_plain(text: str, lang: str) -> bool:
    """Whether rouge_score's tokens are ours: in English, and in texts of Latin letters alone. A text, or a line of
    several, without a word is looked at for pictures.
    """
    if lang == "en" or text.isascii():
        return True
    if by_character(text, lang) or OTHER_SCRIPT.search(text):
        return False
    return all(HAS_WORD.search(line) or not PICTURES.search(line) for line in text.split("\n"))


def _words(text: str) -> list[str]:
    """rouge_score's words, Han and kana by character, and the words of all other scripts in form NFC; of a text
    without any of them its emoji and symbols.
    """
    found = WORDS.finditer(text.lower())
    words = [unicodedata.normalize("NFC", match[0]) if match["other"] else match[0] for match in found]
    return words or PICTURES.findall(text)


def f1(shared: np.ndarray, response_size: np.ndarray, reference_size: np.ndarray) -> np.ndarray:
    """2 P R / (P + R) with P = shared / response_size, R = shared / reference_size; 0 where nothing is shared."""
    precision = shared / np.maximum(response_size, 1)
    recall = shared / np.maximum(reference_size, 1)
    total = precision + recall
    return 2 * precision * recall / np.where(total > 0, total, 1.0)


def union_subsequence(responses: list[str], references: list[str]) -> int:
    """Hits of ROUGE-Lsum: for each reference sentence the union of its longest common subsequences with every
    response sentence, no token counted more often than either text has it.
    """
    ours, theirs = Counter("".join(responses)), Counter("".join(references))
    hits = 0
    for reference in references:
        used = sorted(set().union(*(subsequence(reference, response) for response in responses)))
        for token in map(reference.__getitem__, used):
            if ours[token] > 0 and theirs[token] > 0:
                hits += 1
                ours[token] -= 1
                theirs[token] -= 1
    return hits


def subsequence(reference: str, response: str) -> list[int]:
    """Positions in `reference` of the longest common subsequence that rouge_score's backtracking finds.

    Row i of its table of lengths as an integer: bit j is 0 where the length grows from j to j + 1 (Hyyro 2004,
    "Bit-parallel LCS-length computation revisited"). Going back from (i, j), with different tokens there, it
    leaves the response's token where dropping the reference's would cost length, else the reference's.
    """
    where: dict[str, int] = {}
    for place, token in enumerate(response):
        where[token] = where.get(token, 0) | 1 << place
    full = (1 << len(response)) - 1
    rows = [full]
    for token in reference:
        row = rows[-1]
        met = row & where.get(token, 0)
        rows.append(((row + met) | (row - met)) & full)
    i, j, found = len(reference), len(response), []
    while i > 0 and j > 0:
        below = (1 << j) - 1
        if reference[i - 1] == response[j - 1]:
            found.append(i - 1)
            i, j = i - 1, j - 1
        elif (rows[i] & below).bit_count() < (rows[i - 1] & below).bit_count():  # fewer bits: a longer subsequence
            j -= 1
        else:
            i -= 1
    return found
