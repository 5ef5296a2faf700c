"""chrF2 and chrF2++: the F-score of character n-grams (and words), sacrebleu's number over 100.

Source: Popovic, "chrF: character n-gram F-score for automatic MT evaluation", 2015, and "chrF++: words helping
character n-grams", 2017, as sacrebleu 2.6 computes them with `CHRF(...).sentence_score`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from instructrec_rl.core import Batch
from instructrec_rl.core.options import option
from instructrec_rl.rewards import RewardContext
from instructrec_rl.rewards.ngrams import cut, shared_ngrams, sizes_of, token_array
from instructrec_rl.rewards.pairs import Pairs, distinct_pairs

PUNCTUATION = frozenset("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")
SLICE_CHARS = 1 << 16  # counted at a time: arrays stay in the cache
MOST = 6  # six characters of a byte, a pair's number and a side are 63 bits
PAIR_BITS = 14


@dataclass
class Config:
    """sacrebleu's options: chrF2 by default, chrF2++ with word_order=2."""

    char_order: int = option(6, "the longest character n-grams", low=1, high=MOST)
    word_order: int = option(0, "the longest word n-grams: 0 for chrF, 2 for chrF++", low=0, high=4)
    beta: int = option(2, "how many times recall counts as much as precision", low=1, high=9)
    lowercase: bool = option(False, "compare in lower case")
    whitespace: bool = option(False, "count white space as characters")
    multi: str = option("max", "over several references: their max (as sacrebleu) or mean", choices=("max", "mean"))


class Reward:
    """F_beta of precision and recall, each the mean over the orders that both texts are long enough for."""

    if_unpaid = "give references that are not blank, or choose another reward"

    def __init__(self, config: Config, context: RewardContext):
        self.config = config

    def score(self, batch: Batch) -> np.ndarray:
        """Scores (B,): each distinct pair of texts is scored once."""
        return self.score_with_statistics(batch)[0]

    def score_with_statistics(self, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        """Scores (B,), and of each row the counts (B, 3 N) of N orders with its first best reference."""
        pairs = distinct_pairs(batch)
        counts = self._pair_counts(pairs)
        values = self._f_score(counts)
        counts[0] *= counts[1] > 0  # in a corpus sacrebleu leaves out orders that the reference has none of
        best = counts[:, :, pairs.first_best(values)]
        return pairs.over_references(values, self.config.multi), best.reshape(-1, len(batch)).T

    def corpus(self, sums: np.ndarray) -> float:
        """sacrebleu's `CHRF().corpus_score` over 100, from statistics summed over the rows."""
        return float(self._f_score(sums.reshape(3, -1, 1))[0])

    def _pair_counts(self, pairs: Pairs) -> np.ndarray:
        """Counts (3, N, P) of n-grams of the distinct pairs: the response's, the reference's, the shared."""
        given = list(map(str.lower, pairs.texts)) if self.config.lowercase else pairs.texts
        texts = given if self.config.whitespace else ["".join(text.split()) for text in given]
        words = list(map(words_of, given)) if self.config.word_order else []
        found = np.empty((3, self.config.char_order + self.config.word_order, len(pairs.response)))
        sizes = sizes_of(texts)
        for start, end in cut(sizes[pairs.response] + sizes[pairs.reference], SLICE_CHARS):
            chosen = pairs.response[start:end], pairs.reference[start:end]
            left, right = ([texts[text] for text in side.tolist()] for side in chosen)
            matches = shared_characters(left, right, self.config.char_order)
            counts = [_counts(sizes[chosen[0]], sizes[chosen[1]], matches)]
            if words:
                sides = [[words[text] for text in side.tolist()] for side in chosen]
                counts.append(self._words(*sides))
            found[:, :, start:end] = np.concatenate(counts, axis=1)
        return found

    def _words(self, left: list[list[str]], right: list[list[str]]) -> np.ndarray:
        """Counts (3, word_order, P) of word n-grams: the response's, the reference's, the shared."""
        known: dict[str, str] = {}
        for words in (*left, *right):
            for word in words:
                if word not in known:
                    known[word] = chr(len(known) + (len(known) >= 0xD800) * 0x800)
        strings = [["".join(map(known.__getitem__, words)) for words in side] for side in (left, right)]
        matches = shared_ngrams(list(zip(*strings)), range(1, self.config.word_order + 1))
        return _counts(sizes_of(strings[0]), sizes_of(strings[1]), matches)

    def _f_score(self, counts: np.ndarray) -> np.ndarray:
        """F_beta (P,) of counts (3, orders, P)."""
        precision, recall, orders = (np.zeros(counts.shape[2]) for _ in range(3))
        for response, reference, shared in zip(*counts):
            both = (response > 0) & (reference > 0)
            precision += np.where(both, shared / np.maximum(response, 1), 0)
            recall += np.where(both, shared / np.maximum(reference, 1), 0)
            orders += both
        precision /= np.maximum(orders, 1)
        recall /= np.maximum(orders, 1)
        factor = self.config.beta**2
        below = factor * precision + recall
        return (1 + factor) * precision * recall / np.where(below > 0, below, 1.0)


def _counts(left: np.ndarray, right: np.ndarray, matches: np.ndarray) -> np.ndarray:
    """Counts (3, N, P) of n-grams: of texts with left and right (P,) tokens, and the matches (N, P)."""
    less = np.arange(len(matches))[:, None]
    return np.stack([np.maximum(left - less, 0), np.maximum(right - less, 0), matches])


def words_of(text: str) -> list[str]:
    """chrF's words: what white space separates, with one punctuation mark taken off the end or else the beginning."""
    words: list[str] = []
    for word in text.split():
        if len(word) > 1 and word[-1] in PUNCTUATION:
            words += (word[:-1], word[-1])
        elif len(word) > 1 and word[0] in PUNCTUATION:
            words += (word[0], word[1:])
        else:
            words.append(word)
    return words


def shared_characters(left: list[str], right: list[str], orders: int) -> np.ndarray:
    """The character n-grams (orders, P) that the pairs share, as multisets.

    The six bytes from each place on, after the pair's number and before the side, are one integer. Sorted once, the
    n-grams of every order are neighbours: they are its prefixes, and end where the next integer differs in them.
    """
    data = _as_bytes(left, right)
    if data is None:
        return shared_ngrams(list(zip(left, right)), range(1, orders + 1))
    sizes = np.concatenate([sizes_of(left), sizes_of(right)])
    windows = np.ndarray((len(data) - 7,), ">u8", data, strides=(1,))[np.frombuffer(data, np.uint8)[:-7] != 0]
    pair = np.concatenate([np.arange(len(left))] * 2).repeat(sizes)
    keys = (windows.astype(np.int64) >> 16 & 0xFFFF_FFFF_FFFF) << 1 | pair << 49
    keys[sizes[: len(left)].sum() :] |= 1
    keys.sort()
    change = keys[1:] ^ keys[:-1]
    seconds = np.concatenate([[0], (keys & 1).cumsum()])  # how many of the first k integers are the reference's
    shared = np.zeros((orders, len(left)))
    for n in range(1, orders + 1):
        low = 1 + 8 * (MOST - n)
        bounds = np.concatenate([[0], np.flatnonzero(change >= 1 << low) + 1, [len(keys)]])
        theirs = np.diff(seconds[bounds])
        least = np.minimum(theirs, np.diff(bounds) - theirs)
        met = np.flatnonzero(least)
        first = keys[bounds[met]]
        met, first = met[whole := (first >> low & 0xFF) != 0], first[whole]  # a zero byte is past the text's end
        shared[n - 1] = np.bincount(first >> 49, weights=least[met], minlength=len(left))
    return shared


def _as_bytes(left: list[str], right: list[str]) -> bytes | None:
    """All texts with a byte above 0 for each character and zeros between; None where there are too many of them."""
    if len(left) >= 1 << PAIR_BITS or not any(left) or not any(right):
        return None
    between = "\0" * MOST
    joined = between.join([*left, *right])
    if joined.count("\0") > MOST * (2 * len(left) - 1):
        return None
    try:
        return joined.encode("latin-1") + b"\0" * 8
    except UnicodeEncodeError:
        chars = token_array([joined])
        alphabet = np.unique(chars)  # 0, the separator, is its first
        if len(alphabet) > 256:
            return None
        return np.searchsorted(alphabet, chars).astype(np.uint8).tobytes() + b"\0" * 8
