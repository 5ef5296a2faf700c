"""What a run writes line by line: metrics.jsonl, and rollouts.jsonl."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from instructrec_rl.algorithms.loop.append_log import AppendLog, Mark
from instructrec_rl.algorithms.loop.rollouts import RolloutLog
from instructrec_rl.core import InputError
from instructrec_rl.core.files import read_jsonl

METRICS = "metrics.jsonl"


class Journal:
    """The lines of one run. rollouts: gzip, plain or none; writes: false where another process writes the folder."""

    def __init__(self, folder: Path, rollouts: str = "plain", writes: bool = True):
        self.folder, self.writes = folder, writes
        self.metrics = AppendLog(folder / METRICS)
        self.rollouts = RolloutLog(folder, rollouts, writes)

    def add(self, line: Mapping[str, Any]) -> None:
        """Append a line to metrics.jsonl, after the answers that it tells of."""
        if self.writes:
            self.rollouts.flush()
            self.metrics.add((json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n").encode())

    def marks(self) -> dict[str, Mark]:
        """How long the files are, by name, for a checkpoint, which vouches for what is in them up to it."""
        if not self.writes:
            return {}
        self.rollouts.flush()
        for log in self._logs():
            log.sync()
        return {log.path.name: log.mark() for log in self._logs()}

    def check(self, marks: Any) -> None:
        """Raise InputError where the files do not begin with what they held at the marks of a checkpoint."""
        for log in self._logs():
            if mark := _mark_of(marks, log):
                log.check(mark)

    def go_back(self, step: int, marks: Any = None) -> list[dict[str, Any]]:
        """Forget what came after a checkpoint's marks; returns the lines of metrics.jsonl that are left.

        Without marks (an older checkpoint, or none, where the step is -1) what came after the step.
        """
        if not self.writes:
            return []
        self.rollouts.forget()
        for log in self._logs():
            mark = _mark_of(marks, log)
            log.cut(mark.size if mark else _length_until(log.path, step))
        return [record for _, record in read_jsonl(self.metrics.path)] if self.metrics.path.exists() else []

    def _logs(self) -> Iterable[AppendLog]:
        return (self.metrics, *([self.rollouts.log] if self.rollouts.log else []))


def _mark_of(marks: Any, log: AppendLog) -> Mark | None:
    """The mark of a file among those of a checkpoint, which are JSON."""
    mark = marks.get(log.path.name) if isinstance(marks, dict) else None
    if mark is None:
        return None
    if not (isinstance(mark, list) and len(mark) == 2 and all(type(number) is int for number in mark)):
        raise InputError("the checkpoint does not say how long this file was", log.path)
    return Mark(*mark)


def _length_until(path: Path, step: int) -> int:
    """The length, in bytes, of the whole lines of a file up to a step."""
    if step < 0 or not path.exists():
        return 0
    length = 0
    with path.open("rb") as file:
        for line in file:
            try:
                record = json.loads(line) if line.endswith(b"\n") else {}
            except ValueError:
                break
            if not (isinstance(record, dict) and record.get("step", step + 1) <= step):
                break
            length += len(line)
    return length
