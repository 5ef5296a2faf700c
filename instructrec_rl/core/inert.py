"""Text of users made inert for the place where it is shown: a terminal or log, Markdown, a cell of CSV.

Names, instructions, answers and file names come from people and may hold anything. HTML has its own (`html.escape`).
"""

from __future__ import annotations

import re
from typing import Any

# What a terminal obeys or a reader cannot see: control characters (C0, DEL, C1), line and paragraph separators, the
# controls that turn the direction of text (the characters of "Trojan Source"), and halves of surrogate pairs, which no
# encoding can write. Marks such as U+200F and joiners such as U+200D are part of honest text and stay.
_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_UNSEEN_IN_LINES = re.compile(_UNSEEN.pattern.replace("\x00-\x1f", "\x00-\x08\x0b-\x1f"))

# What begins or ends markup within a paragraph or a cell: GitHub's dialect with HTML, links, mathematics, mentions.
_MARKUP = re.compile(r"[\\|*_`<[#~$&@]|(?<=\w):(?=//)|(?<=www)\.", re.IGNORECASE)
_BLOCK = re.compile(r"^(?:(?=>|[-+](?:[\s-]|$))|(\d{1,9})(?=[.)]))")  # a quotation, a list, or a rule at the start
_FORMULA = re.compile(r"\s*[=+\-@\t\r\n＝＋－＠]")
_NUMBER = re.compile(r"[+-]?\d+(\.\d*)?([eE][+-]?\d+)?")


def printable(value: Any, lines: bool = False) -> str:
    """A value as a text that a terminal shows and does not obey: what is unseen becomes an escape, ESC is `\\x1b`.

    lines: line breaks and tabs stay, where the text is more than the one line of a message or a cell.
    """
    unseen = _UNSEEN_IN_LINES if lines else _UNSEEN
    return unseen.sub(lambda found: found[0].encode("unicode_escape").decode(), str(value))


def shortened(text: str, most: int = 2000) -> str:
    """A text with its middle left out where it is longer than `most` characters."""
    if len(text) <= most:
        return text
    return f"{text[: most * 2 // 3]} ... {len(text) - most:,} characters ... {text[-most // 3 :]}"


def markdown(value: Any) -> str:
    """A value as one line of Markdown that shows it as it is, within a line or in a cell of a table."""
    return _MARKUP.sub(lambda found: "\\" + found[0], printable(" ".join(str(value).split())))


def markdown_paragraph(value: Any) -> str:
    """The same as a paragraph of its own, or a list's entry, so that its first characters begin nothing."""
    return _BLOCK.sub(lambda found: f"{found[0]}\\", markdown(value))


def csv_cell(value: Any) -> str:
    """A text as a cell of CSV that a spreadsheet shows and does not compute: a formula gets an apostrophe before it.

    A number stays one. (OWASP, "CSV injection".)
    """
    text = printable(value)
    risky = _FORMULA.match(str(value)) and not _NUMBER.fullmatch(str(value))
    return f"'{text}" if risky else text
