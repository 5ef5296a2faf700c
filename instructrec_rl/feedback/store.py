"""The feedback store: appends whole lines, and reads all files under rewards/ again as they grow.

What counts is decided here: duplicates by id count once, retracted and superseded records do not, and of one
annotator's records of a kind on the same item the newest wins.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import os
import time
import uuid
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from instructrec_rl.core import InputError
from instructrec_rl.core.files import feedback_folders, open_regular, reading, writing
from instructrec_rl.core.locks import HeldError, try_lock
from instructrec_rl.feedback.folders import Problem, jsonl_under
from instructrec_rl.feedback.schema import Preference, Ranking, Record, Retract, dump, make_record, parse_line, when

CHUNK = 1 << 22  # bytes read at a time
LOCK_WAIT_S = 10.0  # for others who append; each holds the lock for one write
OLDEST = float("-inf")  # the time of a line that has none, and none before it in its file


class Entry(NamedTuple):
    """A record with where it stands in time: (time, its folder's rank, file, line); and the hash of its line."""

    record: Record
    order: tuple[float, int, str, int]
    digest: int


def append(path: str | Path, record: Mapping[str, Any], fsync: bool = False, wait_s: float | None = LOCK_WAIT_S) -> str:
    """Add a record to a file as one whole line and return its id; a missing id and time are given.

    One `os.write` in append mode under a lock on the file, so that several writers never mix, and a kill leaves the
    line whole or absent. fsync: return only when the disk has it. wait_s: seconds to wait for who holds the lock (None:
    without end). Raises InputError for a record that is not valid, for a disk that refuses and for a lock that is not
    let go; the file is then as it was.
    """
    path = Path(path)
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    made = make_record({"id": uuid.uuid4().hex, "ts": now, **record})
    try:
        line = json.dumps(dump(made), ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError as error:
        raise InputError("a text holds half of a surrogate pair (\\ud800 to \\udfff)") from error
    parse_line(line)  # it must be readable again, so also not too long
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o644)
        try:
            _wait_for_lock(handle, path, wait_s)  # let go when the handle is closed, also by a kill
            _write_line(handle, line)
            if fsync:
                os.fsync(handle)
        finally:
            os.close(handle)
    return made.id


def _wait_for_lock(handle: int, path: Path, wait_s: float | None) -> None:
    """Take the lock on an open file. Raises HeldError where another holds it for longer than `wait_s`."""
    end = None if wait_s is None else time.monotonic() + wait_s
    pause = 0.0002  # about what a write takes
    while not try_lock(handle, path):
        if end is not None and time.monotonic() >= end:
            raise HeldError(f"is in use by another process, waited for {wait_s:.1f} s; nothing was written", path)
        time.sleep(pause)
        pause = min(2 * pause, 0.02)


def _write_line(handle: int, line: bytes) -> None:
    """Write under the lock; a line that someone left without its newline is given one first."""
    size = os.fstat(handle).st_size
    if size:
        os.lseek(handle, size - 1, os.SEEK_SET)  # what is written goes to the end all the same
        if os.read(handle, 1) != b"\n":
            line = b"\n" + line
    written = os.write(handle, line)
    if written != len(line):
        os.ftruncate(handle, size)
        raise OSError(f"the disk took {written} of {len(line)} bytes")


@dataclass
class _File:
    """What was read of a file: up to `offset`, which is after a newline; `checksum` is of the bytes before it."""

    rank: int
    identity: tuple[int, int]
    offset: int = 0
    line: int = 0
    checksum: int = 0
    time: float = OLDEST
    seen: tuple[int, int] = (-1, -1)  # size and time of change at the last look
    waiting: bool = False
    problems: list[Problem] = field(default_factory=list)


class Store:
    """All feedback in some folders, kept up to date by `refresh`.

    folders: files, or where to look for *.jsonl at any depth (default: every rewards/ of the search path but the
    bundle's). Links are followed, each folder once. A file that only grew is read from where it ended; one that was
    changed, replaced or removed makes everything be read anew. Not for use by several threads at once.
    """

    def __init__(self, folders: Sequence[str | Path] | None = None):
        self.folders = [Path(folder) for folder in (feedback_folders() if folders is None else folders)]
        self._clear()
        self.refresh()

    def _clear(self) -> None:
        self._files: dict[str, _File] = {}
        self._unseen: list[Problem] = []  # what the last look could not look into
        self._entries: dict[str, Entry] = {}
        self._groups: dict[tuple[Any, ...], list[Entry]] = {}
        self._directives: list[Entry] = []  # records that retract or supersede
        self._dead: set[str] = set()
        self._live: dict[tuple[Any, ...], Entry] = {}
        self._sum = 0
        self.num_duplicates = 0

    @property
    def version(self) -> str:
        """A hash of what counts: 64 hexadecimal digits, "" while nothing does. Independent of files and their order."""
        return f"{self._sum:064x}" if self._live else ""

    @property
    def records(self) -> list[Record]:
        """The records that count, in no particular order; without retractions."""
        return [entry.record for entry in self._live.values()]

    @property
    def entries(self) -> list[Entry]:
        """All valid records, each id once, also those that no longer count."""
        return list(self._entries.values())

    def find(self, record_id: str) -> Record | None:
        """The valid record with this id, whether or not it still counts."""
        entry = self._entries.get(record_id)
        return None if entry is None else entry.record

    @property
    def problems(self) -> list[Problem]:
        """The lines set aside so far, file by file, and the folders and files that cannot be read."""
        return [*self._unseen, *(problem for file in self._files.values() for problem in file.problems)]

    @property
    def waiting(self) -> list[Path]:
        """Files whose last line has no newline yet; it is read when it has."""
        return [Path(path) for path, file in self._files.items() if file.waiting]

    @property
    def paths(self) -> list[Path]:
        """The files found."""
        return [Path(path) for path in self._files]

    def refresh(self) -> bool:
        """Read what was added. Returns whether the version changed."""
        before = self.version
        found = self._find()
        if not all(self._still_there(path, found.get(path)) for path in self._files):
            self._clear()
        added: list[Entry] = []
        for path, (rank, about) in found.items():
            added += self._read(path, rank, about)
        self._take_in(added)
        return self.version != before

    def _find(self) -> dict[str, tuple[int, os.stat_result]]:
        """The files with their folder's rank and what the system says of them. 100,000 of them take half a second."""
        found: dict[str, tuple[int, os.stat_result]] = {}
        self._unseen = []
        for rank, folder in enumerate(self.folders):
            if folder.is_file():
                with contextlib.suppress(OSError):  # removed meanwhile
                    found.setdefault(str(folder), (rank, folder.stat()))
                continue
            for path, about in jsonl_under(str(folder), self._unseen):
                found.setdefault(path, (rank, about))
        return found

    def _still_there(self, path: str, found: tuple[int, os.stat_result] | None) -> bool:
        """Whether the part of a file that was read before is unchanged."""
        file = self._files[path]
        if found is None or (found[1].st_dev, found[1].st_ino) != file.identity or found[1].st_size < file.offset:
            return False
        if (found[1].st_size, found[1].st_mtime_ns) == file.seen:
            return True
        checksum, left = 0, file.offset
        with contextlib.suppress(InputError, OSError), open_regular(Path(path)) as stream:
            while left and (data := stream.read(min(left, CHUNK))):
                checksum, left = zlib.crc32(data, checksum), left - len(data)
        return not left and checksum == file.checksum

    def _read(self, name: str, rank: int, about: os.stat_result) -> Iterator[Entry]:
        """The records on the whole lines that were added to a file."""
        file = self._files.setdefault(name, _File(rank, (about.st_dev, about.st_ino)))
        looked = (about.st_size, about.st_mtime_ns)
        if file.seen == looked:
            return
        path = Path(name)
        try:
            with open_regular(path) as stream, reading(path):
                stream.seek(file.offset)
                data = stream.read()
        except InputError as error:
            file.problems = [Problem(path, 0, error.reason)]
            return
        end = data.rfind(b"\n") + 1
        file.seen, file.waiting = looked, bool(data[end:].strip())
        file.checksum = zlib.crc32(data[:end], file.checksum)
        file.offset += end
        for line in data[:end].split(b"\n")[:-1]:
            file.line += 1
            if file.line == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            if line and not line.isspace():
                try:
                    yield self._entry(parse_line(line), line, file, path)
                except InputError as error:
                    file.problems.append(Problem(path, file.line, error.reason))

    def _entry(self, record: Record, line: bytes, file: _File, path: Path) -> Entry:
        if record.ts:
            file.time = when(record.ts)
        digest = int.from_bytes(hashlib.sha256(line.strip()).digest())
        return Entry(record, (file.time, file.rank, str(path), file.line), digest)

    def _take_in(self, added: Iterable[Entry]) -> None:
        """Add records, and decide anew what counts where they matter."""
        touched: set[tuple[Any, ...]] = set()
        directed = False
        for entry in added:
            record = entry.record
            if (known := self._entries.setdefault(record.id, entry)) is not entry:
                self._note_duplicate(entry, known)
                continue
            if record.kind == "retract" or record.supersedes:
                self._directives.append(entry)
                directed = True
            if record.kind != "retract":
                key = item_key(record)
                self._groups.setdefault(key, []).append(entry)
                touched.add(key)
        if directed:
            dead = self._taken_back()
            changed = (self._entries[id].record for id in dead ^ self._dead if id in self._entries)
            touched.update(item_key(record) for record in changed if record.kind != "retract")
            self._dead = dead
        for key in touched:
            self._choose(key)

    def _note_duplicate(self, entry: Entry, known: Entry) -> None:
        self.num_duplicates += 1
        if entry.record != known.record:
            _, _, path, line = entry.order
            said = f'the id "{entry.record.id}" is taken by another record, {known.order[2]}:{known.order[3]}'
            self._files[path].problems.append(Problem(Path(path), line, said))

    def _taken_back(self) -> set[str]:
        """Ids that no longer count. The newest is heard first, so that a retraction can itself be retracted."""
        dead: set[str] = set()
        for entry in sorted(self._directives, key=lambda entry: entry.order, reverse=True):
            record = entry.record
            if record.id not in dead:
                dead |= {record.supersedes, record.target if isinstance(record, Retract) else ""}
        return dead - {""}

    def _choose(self, key: tuple[Any, ...]) -> None:
        """Let the newest record of a group that was not taken back count."""
        candidates = [entry for entry in self._groups[key] if entry.record.id not in self._dead]
        newest = max(candidates, key=lambda entry: entry.order, default=None)
        old = self._live.pop(key, None)
        if newest is not None:
            self._live[key] = newest
        # a sum of hashes: the same for the same set in any order, and one line costs the same among a million
        self._sum += (newest.digest if newest else 0) - (old.digest if old else 0)
        self._sum %= 1 << 256


def item_key(record: Record) -> tuple[Any, ...]:
    """What a record is about: of those with the same key the newest counts. Not for retractions."""
    about: tuple[str, ...]
    if isinstance(record, Preference):
        about = (min(record.chosen, record.rejected), max(record.chosen, record.rejected))
    elif isinstance(record, Ranking):
        about = tuple(sorted(record.responses))
    elif isinstance(record, Retract):
        raise TypeError("a retraction is about no item")
    else:
        about = (record.response,)
    return (record.kind, record.annotator, record.env, record.instruction, *about)
