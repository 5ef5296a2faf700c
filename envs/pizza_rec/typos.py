"""Slips of the keyboard that leave what is asked for readable."""

from __future__ import annotations

import random
import re

from grammar import WORDS

# Words whose misspelling could change what is asked.
KEPT = {
    *WORDS, "neither", "without", "nothing", "never", "either", "both", "only", "less", "more", "most", "least",
    "under", "over", "above", "below", "free", "except", "anything", "between", "tenner", "minus", "zero", "instead",
    "rather", "avoid", "skip", "hold", "can't", "don't", "won't", "isn't", "doesn't", "mustn't", "shouldn't", "wasn't",
    "hotter", "mildest", "nope", "past", "with", "some",
}  # fmt: skip
NEIGHBOURS = dict(
    zip("qwertyuiopasdfghjklzxcvbnm", "wqwertyuioqasdfghjkazxcvbn", strict=True),
)


def misspell(text: str, known: frozenset[str], rng: random.Random) -> str | None:
    """The text with one or two slips of the keyboard in words of four letters and more; None where none can be made."""
    places = [m for m in re.finditer(r"[A-Za-z']+", text) if len(m.group()) >= 4 and m.group().isalpha()]
    places = [m for m in places if m.group().lower() not in KEPT]
    count = 2 if rng.random() < 0.3 else 1
    done = 0
    for match in sorted(rng.sample(places, min(len(places), count)), key=lambda m: -m.start()):
        for _ in range(10):
            wrong = slip(match.group(), rng)
            if wrong.lower() not in known and wrong != match.group():
                text = text[: match.start()] + wrong + text[match.end() :]
                done += 1
                break
    return text if done else None


def slip(word: str, rng: random.Random) -> str:
    """One swapped, dropped, doubled or neighbouring letter, never the first."""
    at = rng.randrange(1, len(word) - 1)
    way = rng.choice(("swap", "drop", "double", "neighbour"))
    if way == "swap":
        return word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    if way == "drop":
        return word[:at] + word[at + 1 :]
    if way == "double":
        return word[: at + 1] + word[at] + word[at + 1 :]
    return word[:at] + NEIGHBOURS.get(word[at], word[at]) + word[at + 1 :]
