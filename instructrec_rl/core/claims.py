"""A folder that one process has for itself: made by it or found empty, and locked for as long as the process lives.

What others put there is never taken for ours: a folder counts as ours by the lock file that a killed process left,
which is only ever made in a folder that was empty, or by what its owner recognises. The system lets go of the lock when
its holder dies, also by kill -9.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from instructrec_rl.core import InputError
from instructrec_rl.core.files import reading, writing
from instructrec_rl.core.locks import LOOK_EVERY_S, HeldError, try_lock

FOREIGN = "this folder is not empty, and what is in it is not of {kind}; give another out=DIR"


@dataclass
class Claim:
    """A folder that is held. made: the folders that were made for it, outermost first."""

    folder: Path
    lock: Path
    file: IO[bytes]
    made: list[Path] = field(default_factory=list)

    def release(self) -> None:
        """Let others have the folder."""
        with contextlib.suppress(OSError):  # what cannot be removed stays, and the first error is the one to show
            self.lock.unlink()
        self.file.close()

    def withdraw(self) -> None:
        """Let others have the folder, and remove the folders that were made here, where nothing is in them."""
        self.release()
        for folder in reversed(self.made):
            with contextlib.suppress(OSError):  # not empty
                folder.rmdir()

    def __enter__(self) -> Claim:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def claim(folder: Path, name: str, kind: str, is_ours: Callable[[Path], bool], held: str, wait_s: float = 0) -> Claim:
    """Hold a folder by the lock file `name` in it, and make it where it is missing.

    kind: what it is to be, as "a run"; is_ours: whether a folder without a lock file is one from before there were
    any; wait_s: seconds to wait for another holder. Raises HeldError with the words of `held` where another process has
    it, InputError where it holds what is not ours or cannot be made.
    """
    made: list[Path] = []
    lock = folder / name
    try:
        _make(folder, made)
        if folder not in made and not os.path.exists(lock) and not _is_empty(folder) and not is_ours(folder):
            raise InputError(FOREIGN.format(kind=kind), folder)
        return Claim(folder, lock, _hold(lock, held, wait_s), made)
    except InputError:
        for path in reversed(made):
            with contextlib.suppress(OSError):  # another process was faster, or the disk is full
                path.rmdir()
        raise


def _make(folder: Path, made: list[Path]) -> None:
    """Make a folder and those above it, and add each that was missing to `made`. `mkdir` decides who made it."""
    with writing(folder):
        for path in reversed([folder, *folder.parents]):
            if not os.path.isdir(path):
                with contextlib.suppress(FileExistsError):
                    path.mkdir()
                    made.append(path)
    if not os.path.isdir(folder):
        raise InputError("cannot write: there is a file of this name; give another out=DIR", folder)


def _is_empty(folder: Path) -> bool:
    with reading(folder):
        return next(os.scandir(folder), None) is None


def _hold(lock: Path, held: str, wait_s: float) -> IO[bytes]:
    """The lock file, open and locked. One that its holder removed meanwhile is not the one to hold."""
    end = time.monotonic() + wait_s
    while True:
        with writing(lock):
            file = lock.open("ab")
        try:
            if try_lock(file, lock):
                with contextlib.suppress(FileNotFoundError):
                    if os.path.samestat(os.fstat(file.fileno()), lock.stat()):
                        return file
            elif time.monotonic() >= end:
                raise HeldError(held, lock.parent)
            else:
                time.sleep(LOOK_EVERY_S)
        except BaseException:
            file.close()
            raise
        file.close()
