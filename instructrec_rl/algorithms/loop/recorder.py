"""What a learning loop writes into its run's folder while it runs, so that a run can be read, resumed and repeated."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from instructrec_rl.algorithms.loop.checkpoints import Checkpoints, first_whole, read_checkpoint
from instructrec_rl.algorithms.loop.journal import Journal
from instructrec_rl.algorithms.loop.rollouts import RolloutLog
from instructrec_rl.core import DivergedError, InputError
from instructrec_rl.core.files import read_json, write_text_atomic

if TYPE_CHECKING:
    import torch

    from instructrec_rl.algorithms.loop.monitor import Monitor


class Clock:
    """Seconds of wall clock and of CPU that learning took so far, resumed parts included."""

    def __init__(self) -> None:
        self.go_on_from({})

    def go_on_from(self, spent: Mapping[str, float]) -> None:
        """Begin to count, from what was spent before."""
        self._started = (time.perf_counter(), time.process_time())
        self._before = {"wall_s": spent.get("wall_s", 0.0), "cpu_s": spent.get("cpu_s", 0.0)}

    @property
    def spent(self) -> dict[str, float]:
        """`wall_s` and `cpu_s`."""
        wall, cpu = time.perf_counter() - self._started[0], time.process_time() - self._started[1]
        return {"wall_s": self._before["wall_s"] + wall, "cpu_s": self._before["cpu_s"] + cpu}


class Recorder:
    """A learning loop's journal, checkpoints and clock, and how it learns that it is to stop.

    folder: the run's folder; seed: the run's seed; validate: scores a policy on the validation split, greedily
    (metric -> mean); progress: called with (step, total, words) for the screen; tracker: called with (step, metrics);
    monitor: sees every logged line, may mark it, and may end learning; score: a policy's summary on every split;
    writes: false in the second and further processes of one run, which learn along and leave the folder to the first;
    rollouts: how answers are kept (gzip, plain or none).
    """

    def __init__(
        self,
        folder: Path,
        seed: int,
        validate: Callable[[Any], dict[str, float]],
        progress: Callable[[int, int, str], None] = lambda step, total, words: None,
        tracker: Callable[[int, dict[str, float]], None] = lambda step, metrics: None,
        monitor: Monitor | None = None,
        score: Callable[[Any], dict[str, Any]] = lambda policy: {},
        writes: bool = True,
        rollouts: str = "plain",
    ):
        self.folder, self.seed, self.validate = folder, seed, validate
        self.score, self.writes = score, writes
        self.journal, self.clock, self.saved = Journal(folder, rollouts, writes), Clock(), Checkpoints(self.checkpoints)
        self.stages: dict[str, Any] = {}  # what stages before learning came to, by name, as result.json has it
        self.best_step: int | None = None  # where the policy that is kept stood, for algorithms that keep the best
        self.stopping = False  # set by a signal: the loop then writes a checkpoint where its state is whole, and stops
        self.progress, self.tracker, self.monitor = progress, tracker, monitor
        self.also_log: list[Callable[[], dict[str, float]]] = []  # asked at each line for more to log

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.folder / "checkpoints"

    @property
    def rollouts(self) -> RolloutLog:
        """Where answers are logged."""
        return self.journal.rollouts

    @property
    def spent(self) -> dict[str, float]:
        """Seconds of wall clock and of CPU that learning took so far, resumed parts included."""
        return self.clock.spent

    @property
    def stop_learning(self) -> bool:
        """Whether the monitor ends learning: the loop then writes a checkpoint and returns its policy."""
        return self.monitor is not None and self.monitor.stopped

    def log(self, step: int, **metrics: float | str) -> None:
        """Append one line to metrics.jsonl: the step (interactions so far), the seconds spent, and the metrics.

        A text (the version of what changed) goes there only, not to the tracker. Raises DivergedError for a number that
        is not finite.
        """
        for more in self.also_log:
            metrics |= more()
        for name, value in metrics.items():
            if not isinstance(value, str) and not math.isfinite(value):
                raise DivergedError(step, name)
        line: dict[str, Any] = {"step": step, **self._rounded(), **metrics}
        if self.monitor is not None:
            line |= self.monitor.see(line)
        if self.writes:
            self.journal.add(line)
            self.tracker(step, {key: value for key, value in metrics.items() if not isinstance(value, str)})

    def _rounded(self) -> dict[str, float]:
        return {key: round(value, 3) for key, value in self.spent.items()}

    def stage(self, name: str, policy: Any, interactions: int = 0, reused: Mapping[str, float] | None = None) -> None:
        """Score the policy as a stage before learning left it, and keep that in the folder.

        reused: where another run did the stage, the seconds that it took there.
        """
        if not self.writes:
            return
        taken = {"reused": dict(reused)} if reused else {}
        self.stages[name] = {"interactions": interactions, **self._rounded(), **taken, "splits": self.score(policy)}
        write_text_atomic(self.checkpoints / f"stage-{name}.json", json.dumps(self.stages[name]))

    def load_stage(self, name: str) -> bool:
        """Take in what an earlier part of this run made of a stage; whether it did. A damaged file counts as none."""
        path = self.checkpoints / f"stage-{name}.json"
        try:
            self.stages[name] = read_json(path)
        except InputError:
            return False
        return True

    def save_checkpoint(self, step: int, tensors: dict[str, torch.Tensor], state: dict[str, Any]) -> None:
        """Write a checkpoint; `state` must be JSON. Older ones are removed once this one is complete."""
        self.saved.save(step, tensors, {**self.vouched(), **state})

    def vouched(self) -> dict[str, Any]:
        """What a checkpoint says of the run beside the learner's state: seconds spent, and how long the files are."""
        return {"logs": self.journal.marks(), "spent": self.spent}

    def load_checkpoint(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
        """The newest whole checkpoint (tensors, state), or None; what was logged after it is dropped, to be logged
        anew. Raises InputError where what was logged before it is damaged."""
        self.saved.tidy()
        loaded = first_whole(
            self.saved.newest_first(), read_checkpoint, lambda content: self.journal.check(content[1].get("logs"))
        )
        if loaded is None:
            self.go_on_from(-1, {})
            return None
        self.go_on_from(loaded[1]["step"], loaded[1].pop("spent"), loaded[1].pop("logs", None))
        return loaded

    def go_on_from(self, step: int, spent: Mapping[str, float], logs: Any = None) -> None:
        """Be where a checkpoint was: its time spent, and no lines from after it. A step of -1 is the start."""
        self.clock.go_on_from(spent)
        lines = self.journal.go_back(step, logs)
        if self.monitor is not None and self.writes:
            self.monitor.restart(lines)


def is_due(every: int, before: int, now: int) -> bool:
    """Whether a multiple of `every` interactions was reached after `before`, by `now`."""
    return now // every > before // every
