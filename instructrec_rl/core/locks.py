"""Locks between processes, by portalocker: the system lets go of them when their holder dies, also by kill -9."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from instructrec_rl.core import InputError
from instructrec_rl.core.files import writing

LOOK_EVERY_S = 0.1


class HeldError(InputError):
    """Another process holds the lock."""


@contextmanager
def locked(
    path: Path, wait_s: float | None = None, waiting: Callable[[], None] | None = None, held: str = "is in use"
) -> Iterator[IO[bytes]]:
    """Hold the lock file `path`, which is made where it is missing and stays; gives the open file.

    A child process that inherits the file's handle keeps the lock until it ends too. wait_s: seconds to wait for
    another holder (None: without end, 0: not at all); waiting is called before each further try. Raises HeldError, with
    the words of `held`, after that; InputError where the disk refuses the file or knows no locks.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("ab")
    with file:
        end = None if wait_s is None else time.monotonic() + wait_s
        while not try_lock(file, path):
            if end is not None and time.monotonic() >= end:
                raise HeldError(held, path)
            if waiting is not None:
                waiting()
            time.sleep(LOOK_EVERY_S)
        yield file


def try_lock(file: IO[Any] | int, path: Path) -> bool:
    """Lock an open file for this process alone, or False where another holds it; closing the file lets go.

    Raises InputError where the disk knows no locks.
    """
    import portalocker

    try:
        portalocker.lock(file, portalocker.LockFlags.EXCLUSIVE | portalocker.LockFlags.NON_BLOCKING)
    except portalocker.AlreadyLocked:
        return False
    except portalocker.LockException as error:
        raise InputError(f"this disk knows no locks: {error}", path) from error
    return True
