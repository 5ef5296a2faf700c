"""Counting the n-grams that texts share, in whole arrays: tokens are characters of strings, n-grams are integers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np

TOKEN_BITS = 21  # a token is a character, below 0x110000
SLICE_TOKENS = 1 << 14  # counted at a time: arrays stay in the cache


def cut(sizes: np.ndarray, limit: int) -> Iterator[tuple[int, int]]:
    """Ranges (start, end) of neighbours whose sizes (N,) sum to about `limit`, or of a single larger one."""
    if not len(sizes):
        return iter(())
    chunk = (sizes + 1).cumsum() // limit
    bounds = [0, *(np.flatnonzero(np.diff(chunk)) + 1).tolist(), len(sizes)]
    return pairwise(bounds)


def token_array(strings: Sequence[str]) -> np.ndarray:
    """The tokens (N,) int64 of strings with one character a token, one string after the other."""
    return np.frombuffer("".join(strings).encode("utf-32-le", "surrogatepass"), "<u4").astype(np.int64)


def sizes_of(texts: Sequence[str]) -> np.ndarray:
    """The lengths (N,) of strings."""
    return np.fromiter(map(len, texts), np.int64, len(texts))


def shared_ngrams(groups: Sequence[Sequence[str]], orders: Sequence[int]) -> np.ndarray:
    """How many n-grams the first string of each group shares with the others: (len(orders), G).

    That is sum_gram min(count in the first, max over the others of the count in it), BLEU's clipped matches and, for
    groups of two, the size of the multisets' intersection. orders: ascending, such as (1, 2).
    """
    members = np.fromiter(map(len, groups), np.int64, len(groups))
    sizes = np.fromiter((sum(map(len, group)) for group in groups), np.int64, len(groups))
    shared = np.zeros((len(orders), len(groups)))
    for start, end in cut(sizes, SLICE_TOKENS):
        shared[:, start:end] = _shared_in_slice(
            [string for group in groups[start:end] for string in group], members[start:end], orders
        )
    return shared


def _shared_in_slice(strings: list[str], members: np.ndarray, orders: Sequence[int]) -> np.ndarray:
    """An n-gram is the integer ((group * V + token) * V + next token)...; where 63 bits are too few for one token more,
    the n-grams so far are numbered anew. With the string's place in its group as last bits, a sort brings the counts
    of an n-gram in each string together, the first string's before the others'.
    """
    tokens, num = token_array(strings), sizes_of(strings)
    text = np.arange(len(strings)).repeat(num)
    group = np.arange(len(members)).repeat(members)[text]
    place = (np.arange(len(strings)) - (members.cumsum() - members).repeat(members))[text]
    place_bits = int(members.max(initial=1) - 1).bit_length()
    gram, group_of, levels = group, np.arange(len(members)), 0  # gram >> levels * TOKEN_BITS has the group group_of[.]
    shared = np.zeros((len(orders), len(members)))
    for order in range(1, orders[-1] + 1):
        if len(group_of).bit_length() + (levels + 1) * TOKEN_BITS + place_bits > 63:
            _, seen, gram = np.unique(gram, return_index=True, return_inverse=True)
            group_of, levels = group[seen], 0
        num_starts = max(len(tokens) - order + 1, 0)
        gram, levels = gram[:num_starts] << TOKEN_BITS | tokens[order - 1 :], levels + 1
        if order in orders:
            inside = text[:num_starts] == text[order - 1 :]
            keys = (gram << place_bits | place[:num_starts])[inside]
            found, counts = _clipped(keys, place_bits)
            owner = group_of[found >> levels * TOKEN_BITS]
            shared[orders.index(order)] = np.bincount(owner, weights=counts, minlength=len(members))
    return shared


def _clipped(keys: np.ndarray, place_bits: int) -> tuple[np.ndarray, np.ndarray]:
    """The n-grams that place 0 and another place have, and min(count in place 0, max count in another place)."""
    keys.sort()
    runs = np.flatnonzero(np.diff(keys, prepend=-1))
    gram, counts = keys[runs] >> place_bits, np.diff(runs, append=len(keys))
    if place_bits <= 1:  # at most two runs a gram, place 0 before place 1
        met = gram[1:] == gram[:-1]
        return gram[1:][met], np.minimum(counts[1:], counts[:-1])[met]
    if not len(gram):
        return gram, counts
    own = (keys[runs] & ((1 << place_bits) - 1)) == 0
    starts = np.flatnonzero(np.diff(gram, prepend=-1))
    most = np.maximum.reduceat(np.where(own, 0, counts), starts)
    ours = np.where(own[starts], counts[starts], 0)
    return gram[starts], np.minimum(ours, most)
