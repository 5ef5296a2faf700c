"""ROUGE-1, ROUGE-2 and ROUGE-L F1, the maximum over references: the numbers of rouge_score without stemming.

Source: Lin, "ROUGE: A Package for Automatic Evaluation of Summaries", 2004, as google-research's rouge_score 0.1.2
computes it with `RougeScorer([...], use_stemmer=False)`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from rapidfuzz import process
from rapidfuzz.distance import LCSseq

from instructrec_rl.config import option
from instructrec_rl.core import Batch, InputError
from instructrec_rl.pairs import Pairs, distinct_pairs
from instructrec_rl.rewards import RewardContext

VARIANTS = {"rouge1": ("rouge1",), "rouge2": ("rouge2",), "rougeL": ("rougeL",), "mean": ("rouge1", "rouge2", "rougeL")}
KEPT = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789")
TOKEN_BYTES = bytes(byte if byte in KEPT else 0 for byte in range(256))
FIRST_BYTES = np.array([(1 << 8 * size) - 1 for size in range(9)], dtype=np.uint64)  # masks a word of 8 bytes

CHUNK_CHARS = 1 << 18  # text scored at a time: its arrays stay in the processor's cache
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
        """F1 (P,) of each variant over the distinct pairs, in chunks of bounded memory."""
        chars = np.fromiter(map(len, pairs.texts), np.int64, len(pairs.texts)) + 1
        chunk = (chars[pairs.response] + chars[pairs.reference]).cumsum() // CHUNK_CHARS
        bounds = [0, *(np.flatnonzero(np.diff(chunk)) + 1).tolist(), len(chunk)]
        values = {variant: np.empty(len(chunk)) for variant in self.variants}
        for start, end in zip(bounds[:-1], bounds[1:]):
            used, places = np.unique(
                np.concatenate([pairs.response[start:end], pairs.reference[start:end]]), return_inverse=True
            )
            strings = self.texts.encode([pairs.texts[text] for text in used.tolist()])
            both = [strings[place] for place in places.tolist()]
            responses, references = both[: end - start], both[end - start :]
            sizes = np.fromiter(map(len, strings), np.int64, len(strings))[places]
            lengths = [sizes[: end - start], sizes[end - start :]]
            for variant in self.variants:
                n = 2 if variant == "rouge2" else 1
                if variant == "rougeL":
                    shared = process.cpdist(responses, references, scorer=LCSseq.similarity, workers=1)
                else:
                    shared = ngram_overlap(responses, references, lengths, n)
                values[variant][start:end] = f1(shared, *(length - n + 1 for length in lengths))
        return values


def f1(shared: np.ndarray, response_size: np.ndarray, reference_size: np.ndarray) -> np.ndarray:
    """2 P R / (P + R) with P = shared / response_size, R = shared / reference_size; 0 where nothing is shared."""
    precision = shared / np.maximum(response_size, 1)
    recall = shared / np.maximum(reference_size, 1)
    total = precision + recall
    return 2 * precision * recall / np.where(total > 0, total, 1.0)


def ngram_overlap(responses: list[str], references: list[str], lengths: list[np.ndarray], n: int) -> np.ndarray:
    """The size (P,) of the n-gram multisets' intersection, n = 1 or 2, for P pairs of `TokenTexts` strings.

    An n-gram of pair p is the integer (p * V + token) * V + next token. Sorted with a last bit that says whose it is,
    equal n-grams of the two sides are neighbouring runs, and the shorter run is what they share. With P <= 2**19 and
    V < 2**21 the integer stays below 2**62.
    """
    keys = []
    for side, (strings, length) in enumerate(zip((responses, references), lengths)):
        tokens = np.frombuffer("".join(strings).encode("utf-32-le"), "<u4").astype(np.int64)
        owner = np.arange(len(strings)).repeat(length)
        grams = owner * VOCABULARY + tokens
        if n == 2:
            grams = (grams[:-1] * VOCABULARY + tokens[1:])[owner[1:] == owner[:-1]]
        keys.append(grams * 2 + side)
    grams = np.concatenate(keys)
    grams.sort()
    starts = np.flatnonzero(np.diff(grams, prepend=-1))
    runs, counts = grams[starts] // 2, np.diff(starts, append=len(grams))
    met = runs[1:] == runs[:-1]
    shared = np.minimum(counts[1:], counts[:-1])[met]
    return np.bincount(runs[1:][met] // VOCABULARY**n, weights=shared, minlength=len(responses))


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
        fresh = [text for text in texts if text not in self._known]
        if fresh:
            self._known.update(zip(fresh, self._tokenise(fresh)))
        return list(map(self._known.__getitem__, texts))

    def _tokenise(self, texts: list[str]) -> list[str]:
        """All texts as one array of bytes; a token is an integer of its first 8 bytes, or of its place in a dict."""
        lowered = list(map(str.lower, texts))
        data = b"\0" + "\n".join(lowered).encode("ascii", "replace").translate(TOKEN_BYTES) + b"\0" * 8
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
        bounds = np.cumsum([1, *(len(text) + 1 for text in lowered)])
        cuts = np.searchsorted(starts, bounds).tolist()
        return [tokens[start:end] for start, end in zip(cuts, cuts[1:])]

    def _intern(self, codes: np.ndarray) -> np.ndarray:
        """A small number (N,) for each distinct code (N,) above 0, the same in later calls.

        A hash table of arrays: a code's number is the slot it holds, at the first level where it got one. What finds
        no slot at any level goes to a dict.
        """
        ids = np.empty(len(codes), dtype=np.int64)
        todo = np.arange(len(codes))
        for level, multiplier in enumerate(MULTIPLIERS):
            slots, wanted = self._slots[level], codes[todo]
            slot = (wanted * np.uint64(multiplier) >> np.uint64(64 - SLOT_BITS)).astype(np.int64)
            vacant = slots[slot] == 0
            if vacant.any():
                slots[slot[vacant]] = wanted[vacant]  # of codes that meet here one stays; the others see it below
                self._num_slots += int(np.count_nonzero(vacant))
            held = slots[slot] == wanted
            ids[todo[held]] = slot[held] + (level << SLOT_BITS)
            todo = todo[~held]
            if not len(todo):
                return ids
        for place in todo.tolist():
            ids[place] = self._stragglers.setdefault(int(codes[place]), len(self._stragglers)) + (LEVELS << SLOT_BITS)
        if len(self._stragglers) > VOCABULARY - SURROGATES - (LEVELS << SLOT_BITS):
            self._start()
            raise InputError("a pair of texts has more than half a million distinct words")
        return ids
