"""A bench's folder: one folder, log and record a run, what may be reused of them, and bench.json over all of them."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from instructrec_rl.core import InputError
from instructrec_rl.core.claims import claim
from instructrec_rl.core.files import write_json_atomic, writing
from instructrec_rl.core.leftovers import remove_abandoned
from instructrec_rl.run.screen import main_metric

if TYPE_CHECKING:
    from instructrec_rl.bench.plan import PlannedRun

BENCH, LOCK = "bench.json", ".lock"
OLD = "old"  # the folder, within the bench's, of what runs with another config, code or data left
LOCK_WAIT_S = 10.0  # the children of a bench that was killed are gone by then
LOG_LINES = 6  # of a failed run's log that are shown
FOREVER = 1_000


@dataclass
class State:
    """How far a run is. status: waiting, running, done, failed or stopped; reused: done by an earlier bench here.

    metric and score: the environment's first metric, and its normalised mean over the test splits, once it is done.
    """

    run: PlannedRun
    out: Path
    status: str = "waiting"
    reused: bool = False
    attempts: int = 0
    cpu_s: float = 0.0
    wall_s: float = 0.0
    metric: str = ""
    score: float | None = None
    resumed: bool = False  # whether the attempt at hand began with what another left
    began: float = 0.0  # on the monotonic clock

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self.out / self.run.name

    @property
    def log(self) -> Path:
        """What the run wrote to stdout and stderr, every attempt after the other."""
        return self.out / f"{self.run.name}.log"

    @property
    def record(self) -> Path:
        """Under what hash the folder was begun, and how it ended."""
        return self.out / f"{self.run.name}.json"

    @property
    def is_finished(self) -> bool:
        """Whether the folder holds a whole run: its report is what a run writes last."""
        return (self.folder / "result.json").is_file() and (self.folder / "report.html").is_file()

    def save(self) -> None:
        """Write the record, before the run starts and when it has ended."""
        kept = {"status": self.status, "attempts": self.attempts, "cpu_s": self.cpu_s, "wall_s": self.wall_s}
        write_json_atomic(self.record, {"hash": self.run.hash, "identity": self.run.identity, **kept})

    def take_result(self) -> None:
        """Be done, with the score of the run's result.json."""
        result = json.loads((self.folder / "result.json").read_text(encoding="utf-8"))
        self.status, self.metric = "done", main_metric(result)
        tests = {name: found for name, found in result["splits"].items() if name not in ("train", "validation")}
        values = [found["normalized"].get(self.metric) for found in tests.values()]
        known = [value for value in values if value is not None]
        self.score = sum(known) / len(known) if known else None
        if not self.wall_s:  # the bench was killed between the end of the run and its record
            self.cpu_s, self.wall_s = result["cpu_s"], result["wall_s"]

    def set_aside(self) -> Path:
        """Move folder, log and record to old/, under the next free name; returns the folder's new place."""
        names = (self.out / OLD / f"{self.run.name}-{n}" for n in range(1, FOREVER))
        place = next(name for name in names if not name.exists())
        with writing(place):
            place.mkdir(parents=True)
            for path in (self.folder, self.log, self.record):
                if path.exists():
                    path.rename(place / path.name)
        return place

    def last_words(self) -> list[str]:
        """The last lines of the log that are not blank."""
        with contextlib.suppress(OSError):
            lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
            return [line for line in lines if line.strip()][-LOG_LINES:]
        return []


def look(run: PlannedRun, out: Path, resume: bool) -> tuple[State, str]:
    """What an earlier bench left of a run, and a line to say about it (or none).

    A finished run with the same hash is done; a half-done one will be resumed; one with another hash, or any where
    `resume` is false, is set aside, so that nothing is lost and nothing old is taken for new.
    """
    state = State(run, out)
    if not state.folder.exists():
        return state, ""
    record = _read_record(state.record)
    if not resume:
        return state, f"{run.name}: begun anew; the earlier run is now in {state.set_aside()}"
    if record.get("hash") != run.hash:
        then = record.get("identity", {})
        changed = [key for key in ("config", "code", "data") if then.get(key) != run.identity[key]]
        words = f"its {' and '.join(changed)} changed" if then else "nothing tells how it was made"
        return state, f"{run.name}: runs again, as {words}; the earlier run is now in {state.set_aside()}"
    state.cpu_s, state.wall_s = record.get("cpu_s", 0.0), record.get("wall_s", 0.0)
    if state.is_finished:
        state.reused, state.attempts = True, record.get("attempts", 1)
        state.take_result()
    return state, ""


def _read_record(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # none, or not one of ours: then the run counts as unknown, and is kept aside
        return {}
    return record if isinstance(record, dict) else {}


@contextlib.contextmanager
def only_one(out: Path) -> Iterator[IO[bytes]]:
    """Hold a bench's folder. The runs inherit the open file, so it is held until the last of them is gone.

    Raises InputError where another bench is at work in it, and where it holds what no bench wrote.
    """
    held = "another bench is at work in this folder; wait for it, or give out=DIR"
    claimed = claim(out, LOCK, "a bench", lambda folder: (folder / BENCH).exists(), held, LOCK_WAIT_S)
    try:
        with claimed.file as lock:  # closed and not removed: a run that outlives a killed bench has it open too
            remove_abandoned(out)
            yield lock
    except InputError:
        if os.listdir(out) == [LOCK]:  # found before anything was begun
            claimed.withdraw()
        raise


def write_bench(path: Path, about: dict[str, Any], states: list[State]) -> None:
    """Write bench.json: `about` the bench, and every run with its folder, hash, status and what it took."""
    runs = []
    for state in states:
        line: dict[str, Any] = {
            "variant": state.run.variant,
            "seed": state.run.seed,
            "folder": state.folder.name,
            "log": state.log.name,
            "hash": state.run.hash,
            "status": state.status,
            "reused": state.reused,
            "attempts": state.attempts,
            "cpu_s": round(state.cpu_s, 3),
            "wall_s": round(state.wall_s, 3),
            "metric": state.metric,
            "score": state.score,
        }
        if state.status == "failed":
            line["last_words"] = state.last_words()
        runs.append(line)
    write_json_atomic(path, {**about, "runs": runs})
