"""METEOR, exact + stem: words aligned by form and then by Porter stem; synonyms only where a WordNet is given.

Source: Lavie and Agarwal, "METEOR: An Automatic Metric for MT Evaluation with High Levels of Correlation with Human
Judgments", 2007, as `nltk.translate.meteor_score` computes it on `nltk.wordpunct_tokenize`'s tokens.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import regex  # its \w has combining marks, so that letters keep their accents and vowel signs

from instructrec_rl.core import Batch, InputError
from instructrec_rl.core.options import option
from instructrec_rl.rewards import RewardContext
from instructrec_rl.rewards.ngrams import cut, sizes_of, token_array
from instructrec_rl.rewards.pairs import Pairs, distinct_pairs
from instructrec_rl.rewards.tokens import (
    LANG_HELP,
    LANGUAGES,
    Tokeniser,
    TokenTexts,
    by_character,
    chunked_strings,
    porter,
    spaced,
    spans_of,
)

WORDS = regex.compile(r"\w+|[^\w\s]+")
SLICE_TOKENS = 1 << 15  # aligned at a time: a pair's number, a token, a side and a place fit in 63 bits
SPACE, WORD, PUNCTUATION = range(3)
LOWERED = bytes(range(256)).lower()
CLASSES = bytes(
    SPACE if byte in b" \t\n\r\v\f" else WORD if chr(byte).isalnum() or byte == ord("_") else PUNCTUATION
    for byte in range(128)
) + bytes(128)


@dataclass
class Config:
    """The paper's parameters, and what a word may be aligned with."""

    alpha: float = option(0.9, "how much precision weighs against recall", low=0, high=1)
    beta: float = option(3.0, "the exponent of the penalty for scattered matches", low=0)
    gamma: float = option(0.5, "the largest penalty", low=0, high=1)
    wordnet: Path | None = option(None, "a folder with WordNet's files: align synonyms too, slowly")  # noqa: RUF009
    lang: str = option("auto", LANG_HELP, choices=LANGUAGES)
    multi: str = option("max", "over several references: their max or mean", choices=("max", "mean"))


class Reward:
    """(1 - gamma (chunks / matches)^beta) P R / (alpha P + (1 - alpha) R)."""

    if_unpaid = "give references that are not blank, or choose another reward"

    def __init__(self, config: Config, context: RewardContext):
        self.config = config
        plain: Callable[[str], bool] = str.isascii
        self.texts = TokenTexts(Tokeniser(plain, _spans, lambda text: _words(text, config.lang)), porter())
        self.wordnet = None if config.wordnet is None else _wordnet(config.wordnet)

    def score(self, batch: Batch) -> np.ndarray:
        """Scores (B,): each distinct pair of texts is scored once."""
        pairs = distinct_pairs(batch)
        values = self._by_nltk(pairs) if self.wordnet is not None else self._pair_values(pairs)
        return pairs.over_references(values, self.config.multi)

    def _pair_values(self, pairs: Pairs) -> np.ndarray:
        """METEOR (P,) of the distinct pairs."""
        values = np.empty(len(pairs.response))
        for first, last, responses, references in chunked_strings(self.texts, pairs):
            left, right = sizes_of(responses), sizes_of(references)
            matches, chunks = np.empty(last - first), np.empty(last - first)
            for start, end in cut(left + right, SLICE_TOKENS):
                sides = responses[start:end], references[start:end]
                matches[start:end], chunks[start:end] = self._align(*sides, left[start:end], right[start:end])
            values[first:last] = self._formula(matches, chunks, left, right)
        return values

    def _align(
        self, responses: list[str], references: list[str], left: np.ndarray, right: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The matches and chunks (P,) of pairs of token strings of left and right (P,) tokens."""
        tokens = token_array([*responses, *references])
        num, count = int(left.sum()), len(left)
        owner = np.concatenate([np.arange(count).repeat(left), np.arange(count).repeat(right)])
        target = np.full(num + 1, -2)  # the reference's token that a response's token is aligned with; -2: none
        free = np.arange(len(tokens))
        for form in (tokens, self.texts.stem_of[tokens].astype(np.int64)):
            ours, theirs = _match(form[free], owner[free], free, num)
            target[ours] = theirs
            taken = np.zeros(len(tokens), dtype=bool)
            taken[ours] = taken[theirs] = True
            free = free[~taken[free]]
        target = target[:num]
        matched = target >= 0
        follows = (
            matched[1:] & (target[1:] == target[:-1] + 1) & matched[:-1] & (owner[1:num] == owner[: max(num - 1, 0)])
        )
        matches = np.bincount(owner[:num][matched], minlength=count)
        return matches, matches - np.bincount(owner[1:num][follows], minlength=count)

    def _formula(self, matches: np.ndarray, chunks: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        alpha, beta, gamma = self.config.alpha, self.config.beta, self.config.gamma
        precision, recall = matches / np.maximum(left, 1), matches / np.maximum(right, 1)
        below = alpha * precision + (1 - alpha) * recall
        mean = precision * recall / np.where(below > 0, below, 1.0)
        return (1 - gamma * (chunks / np.maximum(matches, 1)) ** beta) * mean

    def _by_nltk(self, pairs: Pairs) -> np.ndarray:
        """METEOR (P,) by NLTK, pair by pair: with synonyms, which no array holds."""
        from nltk.translate.meteor_score import single_meteor_score

        tokens = [_words(text, self.config.lang) for text in pairs.texts]
        parameters = {"alpha": self.config.alpha, "beta": self.config.beta, "gamma": self.config.gamma}
        return np.array(
            [
                single_meteor_score(tokens[reference], tokens[response], wordnet=self.wordnet, **parameters)
                for response, reference in zip(pairs.response.tolist(), pairs.reference.tolist())
            ]
        )


def _match(form: np.ndarray, owner: np.ndarray, places: np.ndarray, num: int) -> tuple[np.ndarray, np.ndarray]:
    """Aligned places (M,), (M,): going back from the end, each of a response's tokens with the reference's last free
    equal. So the k-th last of equal tokens meets the k-th last. Places below `num` are the responses'.

    Sorted as (pair, token, side, place backwards), the tokens to align are the beginnings of two neighbouring runs.
    """
    bits = max(int(places[-1] if len(places) else 0).bit_length(), 1)
    mask = (1 << bits) - 1
    keys = ((owner << 21 | form) << 1 | (places >= num)) << bits | mask - places
    keys.sort()
    runs = np.flatnonzero(np.diff(keys >> bits, prepend=-1))
    sizes, group = np.diff(runs, append=len(keys)), keys[runs] >> bits + 1
    met = np.flatnonzero(group[1:] == group[:-1])
    least = np.minimum(sizes[met], sizes[met + 1])
    within = np.arange(least.sum()) - (least.cumsum() - least).repeat(least)
    ours, theirs = (mask - (keys[runs[run].repeat(least) + within] & mask) for run in (met, met + 1))
    return ours, theirs


def _spans(data: bytes) -> tuple[bytes, np.ndarray, np.ndarray]:
    """wordpunct_tokenize for ASCII: runs of letters, digits and _, and runs of other marks; lower-cased."""
    kinds = np.frombuffer(data.translate(CLASSES), np.uint8)
    inside = kinds != SPACE
    begins = inside.copy()
    begins[1:] &= kinds[1:] != kinds[:-1]
    return data.translate(LOWERED), *spans_of(inside, begins)


def _words(text: str, lang: str) -> list[str]:
    return list(map(str.lower, WORDS.findall(spaced(text) if by_character(text, lang) else text)))


def _wordnet(folder: Path) -> Any:
    """NLTK's reader of a WordNet folder. Raises InputError where it cannot be read."""
    import nltk.data
    from nltk.corpus.reader.wordnet import WordNetCorpusReader

    class English(WordNetCorpusReader):
        def map_wn(self, version: str = "wordnet") -> None:
            """No mapping for other languages: it would need a second WordNet."""

    root = str(folder.resolve())
    if folder.is_dir() and root not in nltk.data.path:
        nltk.data.path.append(root)  # NLTK reads from folders on this list only; the user named this one
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on other languages' WordNets, which METEOR does not use
            return English(root, None)
    except (OSError, LookupError) as error:
        raise InputError(f"no WordNet can be read here: {error}", folder) from error
