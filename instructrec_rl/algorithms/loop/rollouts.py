"""rollouts.jsonl: every answer of learning and the probability that it had, so that other policies can be judged by it.

A line: {"step", "id", "item" or "text", "propensity", "reward"}, and "turn" where episodes have several. Lines are made
in bulk and written by the megabyte, as a run gives thousands of answers a second; with `rollouts=gzip` each megabyte is
a member of rollouts.jsonl.gz, which any reader of gzip joins.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Sequence
from json.encoder import encode_basestring as quoted
from pathlib import Path

import numpy as np

from instructrec_rl.algorithms.loop.append_log import AppendLog

FILE = "rollouts.jsonl"
GZIP_LEVEL = 6
BUFFERED = 1 << 20  # characters kept before they are written


class RolloutLog:
    """Appends to a run folder's rollouts.jsonl; what is buffered is written by `flush`, so also at each checkpoint.

    kind: gzip, plain or none; a run that began with a plain file goes on with it. writes: false in the further
    processes of a run, whose answers the first one writes.
    """

    def __init__(self, folder: Path, kind: str = "plain", writes: bool = True):
        self.gzipped = kind == "gzip" and not (folder / FILE).exists()
        self.writes = writes and kind != "none"
        self.path = folder / (f"{FILE}.gz" if self.gzipped else FILE)
        self.log = AppendLog(self.path) if self.writes else None
        self._lines: list[str] = []
        self._size = 0

    def add_items(
        self,
        step: int,
        ids: Iterable[str],
        items: Iterable[str],
        propensities: np.ndarray,
        rewards: np.ndarray,
        turns: np.ndarray | None = None,
    ) -> None:
        """B answers with items. step: interactions before them, so that the first is number step + 1; ids, items: of
        the instructions and the items; propensities in (0, 1]; turns: answers given before in the episode, from 0."""
        if not self.writes:
            return
        numbers = range(step + 1, step + 1 + len(rewards))
        ends = ["}\n"] * len(rewards) if turns is None else [f', "turn": {turn}}}\n' for turn in turns]
        self._keep(
            [
                f'{{"step": {k}, "id": {quoted(i)}, "item": {quoted(a)}, "propensity": {p:.6g}, "reward": {r:.6g}{end}'
                for k, i, a, p, r, end in zip(numbers, ids, items, propensities, rewards, ends)
            ]
        )

    def add_texts(self, step: int, answers: Sequence[dict[str, object]]) -> None:
        """Answers as dicts of what a line holds beside the step. A long text's propensity is below what a float can
        hold, so they have `log_propensity`."""
        if not self.writes:
            return
        numbered = enumerate(answers, start=step + 1)
        self._keep([json.dumps({"step": k, **answer}, ensure_ascii=False) + "\n" for k, answer in numbered])

    def _keep(self, lines: list[str]) -> None:
        self._lines += lines
        self._size += sum(map(len, lines))
        if self._size > BUFFERED:
            self.flush()

    def flush(self) -> None:
        """Write what is buffered. Raises InputError where the disk refuses."""
        if self.log is None or not self._lines:
            return
        data = "".join(self._lines).encode(errors="replace")  # half of a surrogate pair is no UTF-8
        self.forget()
        self.log.add(gzip.compress(data, GZIP_LEVEL, mtime=0) if self.gzipped else data)

    def forget(self) -> None:
        """Drop what is buffered."""
        self._lines, self._size = [], 0
