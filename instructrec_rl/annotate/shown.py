"""Which questions each annotator was shown: an answer to any other is refused.

Kept in a file beside the feedback, `.NAME.jsonl.shown`, so that a server that was started anew still takes the answers
that were on their way. A line is a hash of a name and a question; the store reads no hidden files.
"""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path

from instructrec_rl.core.files import append_bytes, open_regular, reading, writing

LINE_BYTES = 33  # 32 hexadecimal digits and the newline


class Shown:
    """Safe for use by several threads; other servers may add to the same file."""

    def __init__(self, out: Path):
        self.path = out.with_name(f".{out.name}.shown")
        self._known: set[bytes] = set()
        self._read_to = 0
        self._lock = threading.Lock()
        self._read()

    def add(self, annotator: str, key: str) -> None:
        """Note a question, by its key. Raises InputError where the disk refuses."""
        line = _line(annotator, key)
        with self._lock:
            if line not in self._known:
                # a blank before: a line that a full disk cut short then spoils itself alone
                with writing(self.path):
                    self.path.parent.mkdir(parents=True, exist_ok=True)
                append_bytes(self.path, b"\n" + line + b"\n")
                self._known.add(line)

    def has(self, annotator: str, key: str) -> bool:
        """Whether this annotator was shown it, by this server or another."""
        line = _line(annotator, key)
        with self._lock:
            if line not in self._known:
                self._read()
            return line in self._known

    def _read(self) -> None:
        """Read what was added to the file since the last look."""
        if not self.path.exists():
            return
        with open_regular(self.path) as stream, reading(self.path):
            stream.seek(self._read_to)
            data = stream.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._read_to += len(whole)
        self._known.update(line for line in whole.split(b"\n") if len(line) == LINE_BYTES - 1)


def _line(annotator: str, key: str) -> bytes:
    return hashlib.blake2b(f"{annotator}\0{key}".encode("utf-8", "surrogatepass"), digest_size=16).hexdigest().encode()
