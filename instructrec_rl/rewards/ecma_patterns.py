"""Regular expressions of JSON Schema: ECMA 262's, with its flag `u`, translated for `regex`; all else is refused.

The differences that change what fits: $ is the very end, \\d and \\w are ASCII, \\s and the point are ECMA's, a group
that took no part matches the empty text, (?<name>...) names a group, and \\u{1F600} is a character.
"""

from __future__ import annotations

import functools
import re
from typing import Any

import regex

from instructrec_rl.core import InputError

TIMEOUT_S = 5.0  # of one search: nested repeats can take for ever
SPACE = r"\t\n\v\f\r \xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000\ufeff"
CLASSES = {"d": "0-9", "w": "A-Za-z0-9_", "s": SPACE}
CONTROLS = {"t": "\t", "n": "\n", "v": "\v", "f": "\f", "r": "\r"}
WORD = "[A-Za-z0-9_]"
EDGE = rf"(?:(?<={WORD})(?!{WORD})|(?<!{WORD})(?={WORD}))"
NO_EDGE = rf"(?:(?<={WORD})(?={WORD})|(?<!{WORD})(?!{WORD}))"
REPEAT = re.compile(r"(?:[*+?]|\{[0-9]+(?:,[0-9]*)?\})\??")
NAME = re.compile(r"[^\W\d][\w$]*|\$[\w$]*")
HEX = re.compile(r"u\{([0-9A-Fa-f]{1,6})\}|u([0-9A-Fa-f]{4})|x([0-9A-Fa-f]{2})|c([A-Za-z])")
LOW_HALF = re.compile(r"\\u([dD][c-fC-F][0-9A-Fa-f]{2})")
PROPERTY = re.compile(r"[pP]\{([A-Za-z_]+(?:=[A-Za-z_0-9]+)?)\}")
GROUPS = ("(?:", "(?=", "(?!", "(?<=", "(?<!")


class PatternError(ValueError):
    """What is wrong in a pattern, and where."""


@functools.lru_cache(maxsize=256)
def ecma_pattern(pattern: str) -> Any:
    """A compiled `regex` pattern that finds what ECMA 262 finds. Raises PatternError for what is not ECMA's syntax."""
    translated = _Translator(pattern).translate()
    try:
        return regex.compile(translated, regex.V1)
    except (regex.error, RecursionError, OverflowError) as error:
        raise PatternError(str(error)) from error


def found_in(pattern: Any, text: str, what: str) -> bool:
    """Whether a compiled pattern is found in a text. Raises InputError where that takes too long."""
    try:
        return pattern.search(text, timeout=TIMEOUT_S) is not None
    except TimeoutError as error:
        reason = f"{what} took more than {TIMEOUT_S:g} s on a response of {len(text):,} characters"
        raise InputError(f"{reason}; write it without repeats inside of repeats") from error


class _Translator:
    """Reads a pattern from left to right. `at` is the place of the next character."""

    def __init__(self, pattern: str):
        self.pattern, self.at = pattern, 0
        self.names: dict[str, int] = {}
        self.num_groups, self.references = 0, 0

    def translate(self) -> str:
        """The pattern in `regex`'s syntax."""
        self._find_groups()
        made, depth, repeatable = [], [], False
        while self.at < len(self.pattern):
            char = self.pattern[self.at]
            # how often the part before may stand
            if repeat := REPEAT.match(self.pattern, self.at):
                if not repeatable:
                    raise self._error("nothing to repeat")
                low, _, high = repeat[0].strip("{}?").partition(",")
                if high and low.isdigit() and int(high) < int(low):
                    raise self._error("numbers out of order in {}")
                made.append(self._take(len(repeat[0])))
                repeatable = False
                continue
            # a group, a class, an escape, or a character
            repeatable = char not in "^$|("
            if char == "(":
                made.append(self._open())
                depth.append(made[-1] in GROUPS[1:])
            elif char == ")":
                if not depth:
                    raise self._error("unmatched )")
                made.append(self._take(1))
                repeatable = not depth.pop()
            elif char == "[":
                made.append(self._class())
            elif char == "\\":
                part = self._escape()
                made.append(part)
                repeatable = part not in (EDGE, NO_EDGE)
            elif char in "]{}":
                raise self._error(f"a single {char} is written \\{char}")
            else:
                self.at += 1
                made.append({"$": r"\Z", "^": r"\A", ".": r"[^\n\r\u2028\u2029]", "|": "|"}.get(char) or _quoted(char))
        if depth:
            raise self._error("missing )")
        return "".join(made)

    def _find_groups(self) -> None:
        """The names and the number of the groups, as a reference may stand before its group."""
        in_class, at = False, 0
        while at < len(self.pattern):
            char = self.pattern[at]
            if char == "\\":
                at += 1
            elif char in "[]":
                in_class = char == "["
            elif char == "(" and not in_class:
                named = self.pattern.startswith("(?<", at) and self.pattern[at + 3 : at + 4] not in ("=", "!")
                if named or not self.pattern.startswith("(?", at):
                    self.num_groups += 1
                if named and (name := NAME.match(self.pattern, at + 3)):
                    if name[0] in self.names:
                        raise PatternError(f'two groups have the name "{name[0]}"')
                    self.names[name[0]] = self.num_groups
            at += 1

    def _open(self) -> str:
        rest = self.pattern[self.at : self.at + 4]
        if not rest.startswith("(?"):
            return self._take(1)
        for start in sorted(GROUPS, key=len, reverse=True):
            if rest.startswith(start):
                return self._take(len(start))
        name = NAME.match(self.pattern, self.at + 3) if rest.startswith("(?<") else None
        if name is None or not self.pattern.startswith(">", name.end()):
            raise self._error(f'"{rest[:3]}" begins no group of ECMA 262')
        self.at = name.end() + 1
        return "("

    def _escape(self) -> str:
        """What an escape outside of a class stands for."""
        char = self.pattern[self.at + 1 : self.at + 2]
        if char in ("b", "B"):
            self.at += 2
            return EDGE if char == "b" else NO_EDGE
        if char == "k" and (found := re.compile(r"\\k<([^>]*)>").match(self.pattern, self.at)):
            if found[1] not in self.names:
                raise self._error(f'there is no group "{found[1]}"')
            self.at = found.end()
            return _reference(self.names[found[1]])
        if found := re.compile(r"\\([1-9][0-9]*)").match(self.pattern, self.at):
            if int(found[1]) > self.num_groups:
                raise self._error(f"there is no group {found[1][:20]}")
            self.at = found.end()
            return _reference(int(found[1]))
        part, is_set = self._character()
        return f"[{part}]" if is_set else part

    def _character(self) -> tuple[str, bool]:
        """A character or set that an escape stands for, as written inside of a class, and whether it is a set."""
        self.at += 1
        char = self.pattern[self.at : self.at + 1]
        if char and char.lower() in CLASSES:
            self.at += 1
            inside = CLASSES[char.lower()]
            return (inside if char.islower() else f"[^{inside}]"), True
        if found := PROPERTY.match(self.pattern, self.at):
            self.at = found.end()
            return f"\\{found[0]}", True
        if found := HEX.match(self.pattern, self.at):
            self.at = found.end()
            return _quoted(self._code(found)), False
        if char in CONTROLS or (char == "0" and not self.pattern[self.at + 1 : self.at + 2].isdigit()):
            self.at += 1
            return _quoted(CONTROLS.get(char, "\0")), False
        if char and char.isascii() and not char.isalnum() and not char.isspace() and char != "_":
            return _quoted(self._take(1)), False
        raise self._error(f"\\{char} is no escape of ECMA 262")

    def _code(self, found: re.Match[str]) -> str:
        if found[4]:
            return chr(ord(found[4]) % 32)
        code = int(found[1] or found[2] or found[3], 16)
        low = LOW_HALF.match(self.pattern, self.at) if found[2] and 0xD800 <= code < 0xDC00 else None
        if low:
            self.at = low.end()
            code = 0x10000 + (code - 0xD800) * 0x400 + int(low[1], 16) - 0xDC00
        if code > 0x10FFFF:
            raise self._error("there is no such character")
        return chr(code)

    def _class(self) -> str:
        """A class: [] is nothing, [^] anything, and every mark inside is itself."""
        negated = self.pattern.startswith("[^", self.at)
        self.at += 2 if negated else 1
        parts: list[str] = []
        while not self.pattern.startswith("]", self.at):
            part, is_set = self._member()
            if self.pattern.startswith("-", self.at) and not self.pattern.startswith("-]", self.at):
                self.at += 1
                end, end_is_set = self._member()
                if is_set or end_is_set:
                    raise self._error("a set is no end of a range")
                if _plain(part) > _plain(end):
                    raise self._error("a range out of order")
                part = f"{part}-{end}"
            parts.append(part)
        self.at += 1
        if not parts:
            return r"[\s\S]" if negated else r"(?!)"
        return f"[{'^' if negated else ''}{''.join(parts)}]"

    def _member(self) -> tuple[str, bool]:
        if self.at >= len(self.pattern):
            raise self._error("missing ]")
        if self.pattern[self.at] != "\\":
            return _quoted(self._take(1)), False
        if self.pattern.startswith(r"\b", self.at):
            self.at += 2
            return r"\x08", False
        return self._character()

    def _take(self, size: int) -> str:
        self.at += size
        return self.pattern[self.at - size : self.at]

    def _error(self, reason: str) -> PatternError:
        return PatternError(f"{reason} (character {min(self.at, len(self.pattern)) + 1})")


def _quoted(char: str) -> str:
    """A character that means itself, inside and outside of a class."""
    return char if char.isalnum() else f"\\U{ord(char):08x}"


def _plain(quoted: str) -> int:
    return ord(quoted) if len(quoted) == 1 else int(quoted[2:], 16)


def _reference(group: int) -> str:
    """What a group matched; the empty text where it took no part."""
    return f"(?({group})\\{group}|)"
