"""ROUGE-1, ROUGE-2 and ROUGE-L F1, the maximum over references: the numbers of rouge_score without stemming.

Source: Lin, "ROUGE: A Package for Automatic Evaluation of Summaries", 2004, as google-research's rouge_score 0.1.2
computes it with `RougeScorer([...], use_stemmer=False)`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from rapidfuzz import process
from rapidfuzz.distance import LCSseq

from instructrec_rl.core import Batch, InputError
from instructrec_rl.options import option
from instructrec_rl.rewards import RewardContext
from instructrec_rl.text_pairs import Pairs, distinct_pairs

VARIANTS = {"rouge1": ("rouge1",), "rouge2": ("rouge2",), "rougeL": ("rougeL",), "mean": ("rouge1", "rouge2", "rougeL")}
KEPT = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789")
TOKEN_BYTES = bytes(byte if byte in KEPT else 0 for byte in bytes(range(256)).lower())
FIRST_BYTES = np.array([(1 << 8 * size) - 1 for size in range(9)], dtype=np.uint64)  # masks a word of 8 bytes

CHUNK_CHARS = 1 << 21  # text scored at a time: at most 2**20 tokens, so Unicode has a character for each
SLICE_CHARS, SLICE_TOKENS = 1 << 16, 1 << 14  # worked on at a time within a chunk: arrays stay in the cache
MAX_VOCABULARY = 1 << 17  # distinct tokens remembered between chunks
MAX_TEXTS, MAX_CHARS = 100_000, 1 << 23  # texts remembered between chunks
TWO_WORDS, LONG = 2 << 62, 3 << 62  # ASCII leaves the top bit of a code of 8 bytes free
SLOT_BITS, LEVELS = 16, 4
MULTIPLIERS = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xD6E8FEB86659FD93)  # odd: any will do
SURROGATES, FIRST_SURROGATE = 0x800, 0xD800
VOCABULARY = 0x110000  # Unicode's size: every token is one character


@dataclass
class Config:
    """Which ROUGE; `mean` is the mean of the three, each the maximum over the references."""

    variant: str = option("rougeL", "rouge1, rouge2, rougeL, or the mean of the three", choices=VARIANTS)


class Reward:
    """F1 = 2 P R / (P + R) of the overlap in tokens, bigrams or longest common subsequence."""

    def __init__(self, config: Config, context: RewardContext):
        self.variants = VARIANTS[config.variant]
        self.texts = TokenTexts()

    def score(self, batch: Batch) -> np.ndarray:
        """Scores (B,): each distinct pair of texts is scored once."""
        pairs = distinct_pairs(batch)
        values = self._pair_values(pairs)
        return np.mean([pairs.best(values[variant]) for variant in self.variants], axis=0)

    def _pair_values(self, pairs: Pairs) -> dict[str, np.ndarray]:
        """F1 (P,) of each variant over the distinct pairs, in chunks of bounded memory and vocabulary."""
        sizes = np.fromiter(map(len, pairs.texts), np.int64, len(pairs.texts))
        values = {variant: np.empty(len(pairs.response)) for variant in self.variants}
        for start, end in cut(sizes[pairs.response] + sizes[pairs.reference], CHUNK_CHARS):
            left, right = pairs.response[start:end], pairs.reference[start:end]
            used, place = np.unique(np.concatenate([left, right]), return_inverse=True)
            left, right = place[: len(left)], place[len(left) :]  # as positions among the chunk's texts
            strings = self.texts.encode([pairs.texts[text] for text in used.tolist()])
            lengths = np.fromiter(map(len, strings), np.int64, len(strings))
            responses, references = ([strings[text] for text in side.tolist()] for side in (left, right))
            for variant in self.variants:
                shared = SHARED[variant](responses, references, lengths[left], lengths[right])
                fewer = variant == "rouge2"  # a text has one bigram less than it has tokens
                values[variant][start:end] = f1(shared, lengths[left] - fewer, lengths[right] - fewer)
        return values


def cut(sizes: np.ndarray, limit: int) -> Iterator[tuple[int, int]]:
    """Ranges (start, end) of neighbours whose sizes (N,) sum to about `limit`, or of a single larger one."""
    if not len(sizes):
        return iter(())
    chunk = (sizes + 1).cumsum() // limit
    bounds = [0, *(np.flatnonzero(np.diff(chunk)) + 1).tolist(), len(sizes)]
    return pairwise(bounds)


def f1(shared: np.ndarray, response_size: np.ndarray, reference_size: np.ndarray) -> np.ndarray:
    """2 P R / (P + R) with P = shared / response_size, R = shared / reference_size; 0 where nothing is shared."""
    precision = shared / np.maximum(response_size, 1)
    recall = shared / np.maximum(reference_size, 1)
    total = precision + recall
    return 2 * precision * recall / np.where(total > 0, total, 1.0)


Strings = Sequence[str]


def common_subsequence(
    responses: Strings, references: Strings, num_left: np.ndarray, num_right: np.ndarray
) -> np.ndarray:
    """The length (P,) of the longest common subsequence of tokens."""
    return process.cpdist(responses, references, scorer=LCSseq.similarity, workers=1)


def common_tokens(responses: Strings, references: Strings, num_left: np.ndarray, num_right: np.ndarray) -> np.ndarray:
    """The size (P,) of the multisets of tokens' intersection."""
    return _overlap(responses, references, num_left, num_right, 1)


def common_bigrams(responses: Strings, references: Strings, num_left: np.ndarray, num_right: np.ndarray) -> np.ndarray:
    """The size (P,) of the multisets of bigrams' intersection."""
    return _overlap(responses, references, num_left, num_right, 2)


SHARED = {"rouge1": common_tokens, "rouge2": common_bigrams, "rougeL": common_subsequence}


def _overlap(
    responses: Strings, references: Strings, num_left: np.ndarray, num_right: np.ndarray, n: int
) -> np.ndarray:
    """The size (P,) of the n-gram multisets' intersection, n = 1 or 2, for pairs of strings with num_* (P,) tokens.

    An n-gram of a slice's pair p is the integer (p * V + token) * V + next token. Sorted with a last bit that says
    whose it is, equal n-grams of the two sides are neighbouring runs, and the shorter run is what they share. With
    p < 2**20 and V < 2**21 the integer stays below 2**63.
    """
    shared = np.empty(len(responses))
    for start, end in cut(num_left + num_right, SLICE_TOKENS):
        keys = []
        for side, (strings, num) in enumerate(((responses, num_left), (references, num_right))):
            tokens = np.frombuffer("".join(strings[start:end]).encode("utf-32-le"), "<u4").astype(np.int64)
            owner = np.arange(end - start).repeat(num[start:end])
            grams = owner * VOCABULARY + tokens
            if n == 2:
                grams = (grams[:-1] * VOCABULARY + tokens[1:])[owner[1:] == owner[:-1]]
            keys.append(grams * 2 + side)
        grams = np.concatenate(keys)
        grams.sort()
        runs = np.flatnonzero(np.diff(grams, prepend=-1))
        gram, counts = grams[runs] // 2, np.diff(runs, append=len(grams))
        met = gram[1:] == gram[:-1]
        both = np.minimum(counts[1:], counts[:-1])[met]
        shared[start:end] = np.bincount(gram[1:][met] // VOCABULARY**n, weights=both, minlength=end - start)
    return shared


class TokenTexts:
    """Texts as strings with one character a token, so that C code written for strings compares tokens.

    rouge_score's tokens: lower-case the text, make all but a-z and 0-9 a blank, split. Texts and vocabulary are kept
    between calls, as a catalog's few texts are responses and references over and over, and dropped at a bound.
    """

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        self._known: dict[str, str] = {}
        self._chars = 0
        self._slots = np.zeros((LEVELS, 1 << SLOT_BITS), dtype=np.uint64)  # 2 MB
        self._num_slots = 0
        self._stragglers: dict[int, int] = {}
        self._long: dict[bytes, int] = {}

    def encode(self, texts: list[str]) -> list[str]:
        """The token strings of distinct texts."""
        if self._num_slots > MAX_VOCABULARY:
            self._num_slots = int(np.count_nonzero(self._slots))  # it was counted with repeats
        if self._num_slots > MAX_VOCABULARY or len(self._known) > MAX_TEXTS or self._chars > MAX_CHARS:
            self._start()
        known = self._known
        fresh = [text for text in texts if text not in known]
        made = []
        for start, end in cut(np.fromiter(map(len, fresh), np.int64, len(fresh)), SLICE_CHARS):
            made += self._tokenise(fresh[start:end])
        known.update(zip(fresh, made))
        return made if len(made) == len(texts) else list(map(known.__getitem__, texts))

    def _tokenise(self, texts: list[str]) -> list[str]:
        """All texts as one array of bytes; a token is an integer of its first 8 bytes, or of its place in a dict."""
        joined = "\n".join(texts)
        if not joined.isascii():  # some letters become ASCII, or change length; the byte table lowers ASCII itself
            texts = list(map(str.lower, texts))
            joined = "\n".join(texts)
        data = b"\0" + joined.encode("ascii", "replace").translate(TOKEN_BYTES) + b"\0" * 8
        self._chars += len(data)
        inside = np.frombuffer(data, np.uint8) != 0
        edges = np.flatnonzero(inside[1:] != inside[:-1]) + 1
        starts, ends = edges[::2], edges[1::2]
        sizes = ends - starts
        words = np.ndarray((len(data) - 7,), "<u8", data, strides=(1,))  # the 8 bytes from each position on
        codes = words[starts] & FIRST_BYTES[np.minimum(sizes, 8)]
        if len(pair := np.flatnonzero((sizes > 8) & (sizes <= 16))):
            rest = words[starts[pair] + 8] & FIRST_BYTES[sizes[pair] - 8]
            both = self._intern(codes[pair]) << 21 | self._intern(rest)
            codes[pair] = both.astype(np.uint64) | np.uint64(TWO_WORDS)
        for token in np.flatnonzero(sizes > 16).tolist():
            codes[token] = LONG | self._long.setdefault(data[starts[token] : ends[token]], len(self._long))
        ids = self._intern(codes)
        ids += (ids >= FIRST_SURROGATE) * SURROGATES  # half of a surrogate pair is not a character
        tokens = ids.astype("<u4").tobytes().decode("utf-32-le")
        bounds = np.cumsum([1, *map(len, texts)]) + np.arange(len(texts) + 1)
        cuts = np.searchsorted(starts, bounds).tolist()
        return [tokens[start:end] for start, end in pairwise(cuts)]

    def _intern(self, codes: np.ndarray) -> np.ndarray:
        """A small number (N,) for each distinct code (N,) above 0, the same in later calls.

        A hash table of arrays: a code's number is the slot it holds, at the first level where it got one. What finds
        no slot at any level goes to a dict.
        """
        ids, todo, wanted = np.empty(len(codes), dtype=np.int64), np.arange(len(codes)), codes
        for level, multiplier in enumerate(MULTIPLIERS):
            slots = self._slots[level]
            slot = (wanted * np.uint64(multiplier) >> np.uint64(64 - SLOT_BITS)).view(np.int64)
            found = slots[slot]
            ids[todo] = slot + (level << SLOT_BITS)  # right where found is wanted; a later level overwrites the others
            missed = np.flatnonzero(found != wanted)
            vacant = missed[found[missed] == 0]
            if len(vacant):
                slots[slot[vacant]] = wanted[vacant]  # of codes that meet here one stays, the others go on
                self._num_slots += len(vacant)
                missed = missed[slots[slot[missed]] != wanted[missed]]
            if not len(missed):
                return ids
            todo, wanted = todo[missed], wanted[missed]
        for place in todo.tolist():
            ids[place] = self._stragglers.setdefault(int(codes[place]), len(self._stragglers)) + (LEVELS << SLOT_BITS)
        if len(self._stragglers) > VOCABULARY - SURROGATES - (LEVELS << SLOT_BITS):
            self._start()
            raise InputError("the texts have more distinct words than rouge can tell apart at a time")
        return ids
