"""The versions of feedback that a run saw, kept in its folder so that a resumed run sees them again at the same steps.

records.jsonl holds every record seen, in the order in which they came; versions.jsonl a line a version: the step, how
many of those lines were there, and which ids stopped counting.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from instructrec_rl.core.files import append_jsonl, read_jsonl, write_jsonl_atomic, write_text_atomic, writing
from instructrec_rl.feedback.schema import Record, dump, make_record


@dataclass(frozen=True)
class Version:
    """What counted from a step on. fitted: whether the learned reward was fitted anew on it."""

    step: int
    version: str
    fitted: bool
    records: int
    removed: list[str]


class Versions:
    """The history in a folder, empty where there is none; a version cut short by a kill is forgotten."""

    def __init__(self, folder: Path):
        self.lines, self.seen = folder / "versions.jsonl", folder / "records.jsonl"
        self.history: list[Version] = []
        self._records: list[Record] = []
        if self.lines.exists():
            self.history = [Version(**line) for _, line in read_jsonl(_whole(self.lines))]
            upto = self.history[-1].records if self.history else 0
            kept = [line for _, line in read_jsonl(_whole(self.seen))][:upto]
            write_jsonl_atomic(self.seen, kept)
            self._records = [make_record(line) for line in kept]
        self._last = {record.id: record for record in self.at(len(self.history) - 1)}

    def at(self, place: int) -> list[Record]:
        """The records that counted in the version at a place in `history`."""
        found: dict[str, Record] = {}
        start = 0
        for version in self.history[: place + 1]:
            for id in version.removed:
                found.pop(id, None)
            found |= {record.id: record for record in self._records[start : version.records]}
            start = version.records
        return list(found.values())

    def add(self, step: int, version: str, fitted: bool, records: Iterable[Record]) -> None:
        """Keep a new version. Raises InputError where the disk refuses."""
        now = {record.id: record for record in records}
        new = [record for id, record in sorted(now.items()) if self._last.get(id) != record]
        removed = sorted(id for id in self._last if id not in now)
        with writing(self.seen):
            self.seen.parent.mkdir(parents=True, exist_ok=True)
            with self.seen.open("a", encoding="utf-8") as stream:
                stream.writelines(json.dumps(dump(record), ensure_ascii=False) + "\n" for record in new)
        self._records += new
        self._last = now
        line = Version(step, version, fitted, len(self._records), removed)
        append_jsonl(self.lines, vars(line))  # last: until it is there, the records above are of no version
        self.history.append(line)


def _whole(path: Path) -> Path:
    """The path, after cutting off a last line that has no newline."""
    data = path.read_bytes()
    if not data.endswith(b"\n") and data:
        write_text_atomic(path, data[: data.rfind(b"\n") + 1].decode())
    return path
