"""What processes that were killed left half written, and how it is known."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
from pathlib import Path

ABANDONED = re.compile(r"(?=\.|.*\.part$).+\.(?P<pid>\d{1,9})\.(?:tmp|part)")  # of `replacing`
SHARED_AFTER_S = 600.0  # in a folder that several machines may share


def remove_abandoned(folder: Path, after_s: float = 0) -> None:
    """Remove what processes that are gone left half written in a folder, under the names that `replacing` gives.

    after_s: how long such a file must be untouched; a folder that several machines share needs minutes, as the process
    may be one of another machine.
    """
    with contextlib.suppress(OSError):  # not there or not ours to tidy: what is wrong with it shows where it is used
        for entry in list(os.scandir(folder)):
            named = ABANDONED.fullmatch(entry.name)
            if named is None or _is_alive(int(named["pid"]), own=after_s > 0):
                continue
            if time.time() - entry.stat().st_mtime >= after_s:
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path, ignore_errors=True)
                else:
                    os.unlink(entry.path)


def _is_alive(pid: int, own: bool) -> bool:
    """own: whether this process counts. At its start it does not: in a container all processes have one number."""
    if pid == os.getpid():
        return own
    if os.name == "nt":  # where os.kill(pid, 0) ends the process: what was left there stays
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return True
