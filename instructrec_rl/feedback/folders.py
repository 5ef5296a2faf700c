"""Where feedback lies: every *.jsonl of a folder at any depth, and what could not be looked into."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MOST_FOLDERS = 10_000  # looked into: a link may lead anywhere, as to /


@dataclass(frozen=True)
class Problem:
    """A line that is set aside, or (line 0) a file that cannot be read."""

    path: Path
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.reason}" if self.line else f"{self.path}: {self.reason}"


def jsonl_under(top: str, unseen: list[Problem]) -> Iterator[tuple[str, os.stat_result]]:
    """Every *.jsonl in a folder at any depth, also through links, with what the system says of it.

    A folder that several links lead to is looked into once, so that a loop of links ends. What cannot be looked into is
    added to `unseen`; a folder that is not there has nothing in it.
    """
    waiting, visited = [top], set[tuple[int, int]]()
    while waiting:
        folder = waiting.pop()
        try:
            about = os.stat(folder)
            if (about.st_dev, about.st_ino) in visited:
                continue
            visited.add((about.st_dev, about.st_ino))
            if len(visited) > MOST_FOLDERS:
                unseen.append(Problem(Path(top), 0, f"more than {MOST_FOLDERS:,} folders; the others were not read"))
                return
            with os.scandir(folder) as listing:
                entries = sorted((entry for entry in listing if entry.name[0] != "."), key=lambda entry: entry.name)
        except OSError as error:
            if not isinstance(error, FileNotFoundError):
                unseen.append(Problem(Path(folder), 0, f"cannot read: {(error.strerror or str(error)).lower()}"))
            continue
        inner: list[str] = []
        for entry in entries:
            yield from _looked_at(entry, inner, unseen)
        waiting += reversed(inner)


def _looked_at(
    entry: os.DirEntry[str], inner: list[str], unseen: list[Problem]
) -> Iterator[tuple[str, os.stat_result]]:
    """An entry of a folder where it is a file of feedback; a folder is added to `inner`."""
    try:
        if entry.is_dir():
            inner.append(entry.path)
        elif entry.name.endswith(".jsonl"):
            about = entry.stat()
            if stat.S_ISREG(about.st_mode):
                yield entry.path, about
            else:
                unseen.append(Problem(Path(entry.path), 0, "cannot read: not a regular file"))
    except OSError as error:
        if entry.is_symlink() or not isinstance(error, FileNotFoundError):  # else it was removed meanwhile
            unseen.append(Problem(Path(entry.path), 0, f"cannot read: {(error.strerror or str(error)).lower()}"))
