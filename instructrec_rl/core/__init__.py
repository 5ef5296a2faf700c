"""The contracts that everything else meets on: a batch to score, an item, an example, an error. No torch here."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MOST_CHARACTERS = 600  # of a reason: a field's whole value may be megabytes


class InputError(Exception):
    """Wrong input: one line that says what, where and what was expected. Commands print it and exit with 2.

    row: the place in a batch of what is wrong, where a reward names one; who knows the file adds path and line to it.
    """

    def __init__(self, reason: str, path: str | Path | None = None, line: int | None = None, *, row: int | None = None):
        reason = reason if len(reason) <= MOST_CHARACTERS else f"{reason[:MOST_CHARACTERS]}..."
        self.reason, self.path, self.line, self.row = reason, path, line, row
        where = "" if path is None else f"{path}:{line}: " if line is not None else f"{path}: "
        super().__init__(where + " ".join(reason.split()))


class DivergedError(Exception):
    """Learning went astray: its loss, or what it learns, is no finite number. Commands print it and exit with 1."""

    def __init__(self, step: int, what: str, lower: str = "algo.learning_rate", value: float | None = None):
        now = "" if value is None else f" (it is {value:g})"
        super().__init__(f"diverged at step {step}: {what} is not a finite number; lower {lower}{now}")
        self.step = step


class Stopped(KeyboardInterrupt):
    """The system asked the process to end (SIGTERM, SIGHUP): what Ctrl-C does, and 128 + the signal as exit code."""

    def __init__(self, signum: int):
        super().__init__(signum)
        self.signum = signum


def nearest(word: str, known: Iterable[str]) -> str:
    """A phrase for the end of an error: ` Did you mean "x"?`, and the known names where there are few."""
    names = sorted(set(known))
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    hint = f' Did you mean "{close[0]}"?' if close else ""
    listed = f" Known: {', '.join(names)}." if names and len(names) <= 20 else ""
    return hint + listed


@dataclass(frozen=True)
class Batch:
    """B responses to score: parallel sequences of length B.

    instructions: what was asked; responses: what was answered; references: the right answers, a list for each row
    (possibly empty); rows: the example records as read from the data (dicts), or None where there are none.
    """

    instructions: Sequence[str]
    responses: Sequence[str]
    references: Sequence[Sequence[str]]
    rows: Sequence[dict[str, Any]] | None = None

    def __len__(self) -> int:
        return len(self.responses)


@dataclass(frozen=True)
class Item:
    """An entry of a catalog. `attributes` holds everything beside id, name and text, as read from the data."""

    id: str
    name: str
    text: str
    attributes: dict[str, Any]


@dataclass(frozen=True)
class Example:
    """An instruction with its right answers. `best` are positions in the catalog; `row` is the record as read."""

    id: str
    instruction: str
    best: tuple[int, ...]
    references: tuple[str, ...]
    row: dict[str, Any]
