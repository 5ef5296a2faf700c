"""A file that only grows while a run goes on, and is cut back to where the checkpoint stood that a resume begins at."""

from __future__ import annotations

import contextlib
import os
import zlib
from pathlib import Path
from typing import NamedTuple

from instructrec_rl.core import InputError
from instructrec_rl.core.files import append_bytes, open_regular, reading, writing

BLOCK = 1 << 20  # bytes read at once


class Mark(NamedTuple):
    """How long a file was, in bytes, and the CRC-32 of what it held. A checkpoint keeps it."""

    size: int
    crc: int


class AppendLog:
    """Whole lines, or whole members of gzip, at the end of a file. The folder is made with the first of them."""

    def __init__(self, path: Path):
        self.path = path
        self._mark: Mark | None = None  # of what the file holds now; None until it was read

    def add(self, data: bytes) -> None:
        """Write all of the data or nothing. Raises InputError where the disk refuses."""
        before = self.mark()
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            append_bytes(self.path, data)
        except InputError:
            with contextlib.suppress(OSError):  # the first error is the one to show
                os.truncate(self.path, before.size)
            raise
        self._mark = Mark(before.size + len(data), zlib.crc32(data, before.crc))

    def mark(self) -> Mark:
        """Where the file stands."""
        if self._mark is None:
            size = self.path.stat().st_size if self.path.exists() else 0
            self._mark = self._read(size)
        return self._mark

    def sync(self) -> None:
        """Bring what was added to the disk. Raises InputError where the disk refuses."""
        if self.path.exists():
            with writing(self.path), self.path.open("rb+") as file:
                os.fsync(file.fileno())

    def check(self, mark: Mark) -> None:
        """Raise InputError where the file no longer begins with what it held at the mark."""
        size = self.path.stat().st_size if self.path.exists() else 0
        if size < mark.size:
            reason = f"{size:,} bytes, and {mark.size:,} when the checkpoint was written: a part is lost"
            raise InputError(reason, self.path)
        if self._read(mark.size) != mark:
            raise InputError("damaged: not what it was when the checkpoint was written (CRC-32)", self.path)

    def cut(self, size: int) -> None:
        """Forget what comes after a length."""
        if self.path.exists() and self.path.stat().st_size > size:
            with writing(self.path):
                os.truncate(self.path, size)
        self._mark = None

    def _read(self, size: int) -> Mark:
        """The mark of the first bytes of the file."""
        crc, left = 0, size
        if size:
            with open_regular(self.path) as file, reading(self.path):
                while left and (block := file.read(min(BLOCK, left))):
                    crc, left = zlib.crc32(block, crc), left - len(block)
        return Mark(size - left, crc)
