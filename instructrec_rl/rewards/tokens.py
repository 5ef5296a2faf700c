"""Tokens for the metrics: texts as strings with one character a token, so that code for strings compares tokens."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import regex

from instructrec_rl.core import InputError
from instructrec_rl.rewards.ngrams import cut, sizes_of
from instructrec_rl.rewards.pairs import Pairs

LANGUAGES = ("auto", "en", "zh")
LANG_HELP = (
    "auto: words of any script, Han, kana, Thai and the like by character; zh: the same; en: the reference's rule"
)
# Han ideographs, radicals and the marks that stand for one, and kana. Punctuation is left out.
CHARACTERS = (
    "\u2e80-\u2eff\u2f00-\u2fdf\u3005\u3007\u3021-\u3029\u3038-\u303b\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U000323af\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\uff66-\uff9d"
    "\U0001aff0-\U0001b16f"
)
# Scripts of South-East Asia that put no blanks between words (UAX 14's class SA): taken by letter with its marks.
UNSPACED = (
    "\u0e01-\u0e3a\u0e40-\u0e4e\u0e81-\u0ecd\u0edc-\u0edf\u1000-\u103f\u1050-\u108f\u1780-\u17d3\u17dc\u17dd"
    "\u1950-\u1974\u1980-\u19c9\u1a20-\u1a7c\ua9e0-\ua9ef\ua9fa-\ua9fe\uaa60-\uaa7f\uaa80-\uaadf"
)
CHARACTER = re.compile(f"[{CHARACTERS}{UNSPACED}]")
BY_CHARACTER = rf"[{CHARACTERS}]|[{UNSPACED}]\p{{M}}*+"
_APART = regex.compile(BY_CHARACTER)

# A word by Unicode's rule (UAX 29): letters, digits and underscores with their marks; an apostrophe or point between
# letters and a point or comma between digits join. What has no blanks between words counts by character.
_MARKS = r"[\p{WB=Extend}\p{WB=Format}\p{WB=ZWJ}]*+"
_LETTER = rf"[[\p{{WB=ALetter}}\p{{WB=Hebrew_Letter}}\p{{No}}\p{{Nl}}]--[{CHARACTERS}]]{_MARKS}"
_DIGIT = rf"\p{{WB=Numeric}}{_MARKS}"
_IN_WORD = rf"(?:[[\p{{WB=MidLetter}}\p{{WB=MidNumLet}}']--[:：]]{_MARKS}(?={_LETTER}))?+"
_IN_NUMBER = rf"(?:[\p{{WB=MidNum}}\p{{WB=MidNumLet}}']{_MARKS}(?={_DIGIT}))?+"
_WORD = regex.compile(
    rf"[{CHARACTERS}]{_MARKS}|[\p{{L}}--[\p{{WB=ALetter}}\p{{WB=Hebrew_Letter}}]]{_MARKS}"
    rf"|(?:{_LETTER}{_IN_WORD}|{_DIGIT}{_IN_NUMBER}|[\p{{WB=ExtendNumLet}}--\u202f]{_MARKS})++",
    regex.V1,
)
_ASCII_WORD = re.compile(r"\w+(?:(?:(?<=[A-Za-z])['.](?=[A-Za-z])|(?<=[0-9])[.,;'](?=[0-9]))\w+)*", re.ASCII)
WORDS_VERSION = 2  # of what `words` finds: what is saved with counts of words names it

# Words of the scripts that rouge_score reads as blanks. Latin stays as it reads it: a to z, and accents separate.
_ELSEWHERE = (
    r"[[\p{L}\p{Nd}\p{Nl}]--[\p{Script=Latin}\p{Script=Common}\p{Script=Inherited}\p{Script=Han}"
    rf"\p{{Script=Hiragana}}\p{{Script=Katakana}}{UNSPACED}]]{_MARKS}"
)
OTHER_WORD = (
    rf"[{UNSPACED}]\p{{M}}*+|(?:{_ELSEWHERE}(?:[[\p{{WB=MidLetter}}\p{{WB=MidNumLet}}']--:](?={_ELSEWHERE}))?+)++"
)
OTHER_SCRIPT = re.compile(  # a quick look: every letter that OTHER_WORD takes, and some more
    "[\u0370-\u1dff\u1f00-\u1fff\u2126\u2c00-\u2dff\u3105-\u3130\u3131-\u318e\u31a0-\u31bf\ua000-\uabff\uac00-\ud7ff"
    "\ufb07-\ufdff\ufe70-\ufeff\uffa0-\uffdc\U00010000-\U0001aff0\U0001b170-\U0001d3ff\U0001d800-\U0001efff]"
)
PICTURES = regex.compile(r"(?=[[\p{Extended_Pictographic}\p{So}\p{RI}]--[\x00-\xff]])\X", regex.V1)

SLICE_CHARS = 1 << 16  # tokenised at a time: arrays stay in the cache
CHUNK_CHARS = 1 << 21  # scored at a time: at most 2**20 tokens, so Unicode has a character for each
MAX_VOCABULARY = 1 << 17  # distinct tokens remembered between calls
MAX_TEXTS, MAX_CHARS = 100_000, 1 << 23  # texts remembered between calls
FIRST_BYTES = np.array([(1 << 8 * size) - 1 for size in range(9)], dtype=np.uint64)  # masks a word of 8 bytes
TWO_WORDS, LONG = 2 << 62, 3 << 62  # no token of 8 bytes has the top bit of its code
SLOT_BITS, LEVELS = 16, 4
MULTIPLIERS = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xD6E8FEB86659FD93)  # odd: any will do
FIRST_TOKEN, VOCABULARY = 0xE000, 0x110000  # every token is a character of Unicode, after its surrogates


def words(text: str) -> list[str]:
    """The words of a text in any script, in order: what every count of words here counts."""
    return (_ASCII_WORD if text.isascii() else _WORD).findall(text)


def word_rule(about: Mapping[str, Any], path: Path) -> int:
    """The rule by which a saved vocabulary's words were found: a key of WORD_RULES, 1 where none is named.

    Raises InputError for one that is not known: the vocabulary would fit no text.
    """
    rule = about.get("words", 1)
    if type(rule) is not int or rule not in WORD_RULES:
        raise InputError(f"words are counted by the rules {sorted(WORD_RULES)}, not {rule!r}; learn it again", path)
    return rule


# Before 2, a word was a run of letters and digits, and each Han and kana character; policies saved then go on with it.
_WORD_BEFORE = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\u3040-\u30ff\u3400-\u9fff]+")
WORD_RULES: dict[int, Callable[[str], list[str]]] = {1: _WORD_BEFORE.findall, WORDS_VERSION: words}


def spaced(text: str) -> str:
    """`text` with blanks around each Han and kana character, and around each of the scripts that write without."""
    return _APART.sub(r" \g<0> ", text)


def by_character(text: str, lang: str) -> bool:
    """Whether `lang` splits this text's Han, kana, Thai and the like (in a text without any both give the same)."""
    return lang != "en" and not text.isascii() and CHARACTER.search(text) is not None


@functools.lru_cache(maxsize=1)
def porter() -> Callable[[str], str]:
    """NLTK's PorterStemmer.stem, what rouge_score and NLTK's METEOR use; stems are remembered in the process."""
    from nltk.stem.porter import PorterStemmer  # 1 to 2 s: only where stems are asked for

    return functools.lru_cache(maxsize=MAX_VOCABULARY)(PorterStemmer().stem)


@dataclass(frozen=True)
class Tokeniser:
    """How texts become tokens, twice: for a whole array of bytes, and for one text.

    is_plain: whether the bytes' way is right for a text, or for every line of one. spans: given the bytes of such
    texts, ASCII and with a line feed before, between and after them, returns the bytes that tokens are made of, and
    where each of the N tokens starts and ends there, (N,) and (N,). words: the tokens of any other text, free of line
    feeds. Plain texts that are not ASCII are lower-cased, and what is then left of other letters becomes "?".
    """

    is_plain: Callable[[str], bool]
    spans: Callable[[bytes], tuple[bytes, np.ndarray, np.ndarray]]
    words: Callable[[str], Sequence[str]]


def spans_of(inside: np.ndarray, begins: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where tokens start and end, (N,) and (N,), from whether each byte is inside one and whether one begins there."""
    after = ~inside
    after |= begins
    return np.flatnonzero(begins), np.flatnonzero(after[1:] & inside[:-1]) + 1


class TokenTexts:
    """Texts and vocabulary are kept between calls, as a catalog's few texts are responses and references over and
    over, and dropped at a bound. A token keeps its character until then, so strings of one call to `encode` may be
    compared with each other and with nothing else.

    stem: maps a token to its stem. `replace` makes strings of stems; without it they are beside the tokens in
    `stem_of`: (VOCABULARY,) int32, the stem's number for each token seen.
    """

    def __init__(self, tokeniser: Tokeniser, stem: Callable[[str], str] | None = None, replace: bool = False) -> None:
        self.tokeniser, self.stem, self.replace = tokeniser, stem, replace
        self._start()

    def _start(self) -> None:
        self._known: dict[str, str] = {}
        self._chars = 0
        self._slots = np.zeros((LEVELS, 1 << SLOT_BITS), dtype=np.uint64)  # 2 MB
        self._num_slots = 0
        self._stragglers: dict[int, int] = {}
        self._long: dict[bytes, int] = {}
        self._stems: dict[str, int] = {}
        self.stem_of = np.full(VOCABULARY if self.stem else 0, -1, dtype=np.int32)

    def encode(self, texts: list[str]) -> list[str]:
        """The token strings of distinct texts. Raises InputError for more distinct tokens than there are characters."""
        if self._num_slots > MAX_VOCABULARY:
            self._num_slots = int(np.count_nonzero(self._slots))  # it was counted with repeats
        if self._num_slots > MAX_VOCABULARY or len(self._known) > MAX_TEXTS or self._chars > MAX_CHARS:
            self._start()
        known = self._known
        fresh = [text for text in texts if text not in known] if known else texts
        for start, end in cut(sizes_of(fresh), SLICE_CHARS):
            chosen = fresh[start:end]
            joined = "\n".join(chosen)
            if self.tokeniser.is_plain(joined):
                known.update(zip(chosen, self._plain(chosen, joined)))
                continue
            plain = list(map(self.tokeniser.is_plain, chosen))
            easy = [text for text, ok in zip(chosen, plain) if ok]
            hard = [text for text, ok in zip(chosen, plain) if not ok]
            known.update(zip(easy, self._plain(easy, "\n".join(easy))))
            known.update(zip(hard, self._others(hard)))
        return list(map(known.__getitem__, texts))

    def _plain(self, texts: list[str], joined: str) -> list[str]:
        """Token strings of texts that the bytes' way is right for, given also joined by line feeds."""
        if not joined.isascii():  # some letters become ASCII, or change length; the byte table lowers ASCII itself
            texts = list(map(str.lower, texts))
            joined = "\n".join(texts)
        data, starts, ends = self.tokeniser.spans(b"\n" + joined.encode("ascii", "replace") + b"\n")
        bounds = np.searchsorted(starts, (sizes_of(texts) + 1).cumsum()).tolist()
        return self._strings(data, starts, ends, [0, *bounds])

    def _others(self, texts: list[str]) -> list[str]:
        """Token strings of texts that are tokenised one by one."""
        found = list(map(self.tokeniser.words, texts))
        data = "\n".join(["", *(word for words in found for word in words), ""]).encode("utf-8", "surrogatepass")
        bounds = [0, *itertools.accumulate(map(len, found))]
        breaks = np.flatnonzero(np.frombuffer(data, np.uint8) == ord("\n"))
        return self._strings(data, (breaks[:-1] + 1)[: bounds[-1]], breaks[1:][: bounds[-1]], bounds)

    def _strings(self, data: bytes, starts: np.ndarray, ends: np.ndarray, bounds: list[int]) -> list[str]:
        """A string of characters for the tokens data[starts:ends] of each range of `bounds`."""
        self._chars += len(data)
        ids = self._intern(self._codes(data, starts, ends))
        ids += FIRST_TOKEN
        if self.stem:
            self._find_stems(ids, data, starts, ends)
            ids = self.stem_of[ids] if self.replace else ids
        tokens = ids.astype("<u4").tobytes().decode("utf-32-le")
        return [tokens[start:end] for start, end in pairwise(bounds)]

    def _codes(self, data: bytes, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
        """An integer (N,) for each token: of its first 8 bytes, of two words, or of its place in a dictionary."""
        sizes = ends - starts
        words = np.ndarray((len(data) + 1,), "<u8", data + b"\0" * 8, strides=(1,))  # the 8 bytes from each position on
        codes = words.take(starts)  # it copies words first, and is faster than words[starts] all the same
        codes &= FIRST_BYTES.take(sizes, mode="clip")
        # What a dictionary holds: long tokens, UTF-8 of 8 bytes, whose last may have the top bit, and zeros that an
        # integer would not tell from no byte.
        odd = sizes > 16
        if not data.isascii():
            odd |= (sizes == 8) & (codes >= TWO_WORDS)
        if b"\0" in data:
            odd |= (codes == 0) | (np.frombuffer(data, np.uint8)[ends - 1] == 0)
        if len(pair := np.flatnonzero((sizes > 8) & ~odd)):
            rest = words[starts[pair] + 8] & FIRST_BYTES[sizes[pair] - 8]
            both = self._intern(codes[pair]) << 21 | self._intern(rest)
            codes[pair] = both.astype(np.uint64) | np.uint64(TWO_WORDS)
        for token in np.flatnonzero(odd).tolist():
            codes[token] = LONG | self._long.setdefault(data[starts[token] : ends[token]], len(self._long))
        return codes

    def _find_stems(self, ids: np.ndarray, data: bytes, starts: np.ndarray, ends: np.ndarray) -> None:
        """Fills `stem_of` for tokens seen for the first time; a token and its stem need not have the same number."""
        assert self.stem is not None
        unknown = np.flatnonzero(self.stem_of[ids] < 0)
        fresh, first = np.unique(ids[unknown], return_index=True)
        for token, place in zip(fresh.tolist(), unknown[first].tolist()):
            word = data[starts[place] : ends[place]].decode("utf-8", "surrogatepass")
            self.stem_of[token] = FIRST_TOKEN + self._stems.setdefault(self.stem(word), len(self._stems))

    def _intern(self, codes: np.ndarray) -> np.ndarray:
        """A small number (N,) for each distinct code (N,) above 0, the same in later calls.

        A hash table of arrays: a code's number is the slot it holds, at the first level where it got one. What finds
        no slot at any level goes to a dict.
        """
        todo: np.ndarray | None = None  # at the first level every place, without a copy
        for level, multiplier in enumerate(MULTIPLIERS):
            # look up the slots of this level
            slots, wanted = self._slots[level], codes if todo is None else codes[todo]
            slot = (wanted * np.uint64(multiplier) >> np.uint64(64 - SLOT_BITS)).view(np.int64)
            if todo is None:
                ids = slot
            else:
                ids[todo] = slot + (level << SLOT_BITS)  # where it is wrong, a later level overwrites it
            # take the vacant ones
            held = slots.take(slot)
            missed = np.flatnonzero(held != wanted)
            vacant = missed[held[missed] == 0]
            if len(vacant):
                slots[slot[vacant]] = wanted[vacant]  # of codes that meet here one stays, the others go on
                self._num_slots += len(vacant)
                missed = missed[slots[slot[missed]] != wanted[missed]]
            todo = missed if todo is None else todo[missed]
            if not len(todo):
                return ids
        # number the stragglers
        assert todo is not None
        for i in todo.tolist():
            ids[i] = self._stragglers.setdefault(int(codes[i]), len(self._stragglers)) + (LEVELS << SLOT_BITS)
        if len(self._stragglers) > VOCABULARY - FIRST_TOKEN - (LEVELS << SLOT_BITS):
            self._start()
            raise InputError("the texts have more distinct words than can be told apart at a time")
        return ids


def chunked_strings(texts: TokenTexts, pairs: Pairs) -> Iterator[tuple[int, int, list[str], list[str]]]:
    """Chunks of a batch's distinct pairs: (start, end, responses, references), token strings of pairs start to end.

    Their CHUNK_CHARS characters bound the memory and the vocabulary of a chunk.
    """
    sizes = sizes_of(pairs.texts)
    for start, end in cut(sizes[pairs.response] + sizes[pairs.reference], CHUNK_CHARS):
        sides = [pairs.response[start:end], pairs.reference[start:end]]
        used = pairs.texts
        if end - start < len(pairs.response):
            numbers, place = np.unique(np.concatenate(sides), return_inverse=True)
            used, sides = [pairs.texts[text] for text in numbers.tolist()], np.split(place, [end - start])
        strings = texts.encode(used)
        left, right = ([strings[text] for text in side.tolist()] for side in sides)
        yield start, end, left, right
