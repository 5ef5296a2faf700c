"""When two texts are the same to a reader, whatever their bytes: Unicode form, invisible marks, white space, case.

Two levels, and the first that tells texts apart is the one that counts: `canonical` keeps case and punctuation, `fold`
does not. A catalog with "US" and "us" so has two items, and "Us" names neither.
"""

from __future__ import annotations

import functools
import unicodedata
from typing import Any

TRAILING = " .,;:!?…。，；：！？、"
# Default_Ignorable_Code_Point of Unicode, but for the joiners, which tell words and emoji apart
_INVISIBLE = r"[\p{Default_Ignorable_Code_Point}--[\u200c\u200d]]"


def canonical(text: str) -> str:
    """`text` in form NFC, without invisible marks, with runs of white space made one blank.

    Zero-width spaces, byte order marks, directional marks, soft hyphens and variation selectors are such marks.
    """
    if text.isascii():
        return " ".join(text.split())
    return " ".join(unicodedata.normalize("NFC", _invisible().sub("", text)).split())


def fold(text: str) -> str:
    """`canonical`, casefolded, and with trailing punctuation taken off."""
    folded = canonical(text).casefold()
    return (folded if folded.isascii() else unicodedata.normalize("NFC", folded)).rstrip(TRAILING)


def same_value(one: object, other: object) -> bool:
    """Whether two JSON scalars are the same: `true` is not 1, 1 is 1.0, and texts are so where `canonical` says so."""
    return comparable(one) == comparable(other)


def comparable(value: object) -> object:
    """What stands for a JSON scalar where it is compared or looked up; see `same_value`."""
    if isinstance(value, str):
        return canonical(value)
    return ("true or false", value) if isinstance(value, bool) else value


@functools.cache
def _invisible() -> Any:
    import regex

    return regex.compile(_INVISIBLE, regex.VERSION1)
