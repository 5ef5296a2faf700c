"""A run's folder: what is written while it runs, so that a run can be read, resumed and repeated.

A checkpoint is one safetensors file (tensors, and in its metadata the JSON state), written whole or not at all, so a
run killed at any moment leaves the last complete one.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from instructrec_rl.algorithms.loop.rollouts import RolloutLog
from instructrec_rl.core import InputError
from instructrec_rl.core.files import append_jsonl, read_jsonl, write_text_atomic, writing

if TYPE_CHECKING:
    import torch

    from instructrec_rl.algorithms.loop.monitor import Monitor

KEPT_CHECKPOINTS = 2  # the last, and the one before it in case the disk lost the last at a power cut


class Recorder:
    """Writes metrics.jsonl, rollouts.jsonl and checkpoints/ of a learning loop, and goes on from them in a resumed run.

    folder: the run's folder; seed: the run's seed; validate: scores a policy on the validation split, greedily
    (metric -> mean); progress: called with (step, total, words) for the screen; tracker: called with (step, metrics);
    monitor: sees every logged line, may mark it, and may end learning; score: a policy's summary on every split;
    writes: false in the second and further processes of one run, which learn along and leave the folder to the first.
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
    ):
        self.folder, self.seed, self.validate = folder, seed, validate
        self.score, self.writes = score, writes
        self.rollouts = RolloutLog(folder, writes)
        self.stages: dict[str, Any] = {}  # what stages before learning came to, by name, as result.json has it
        self.best_step: int | None = None  # where the policy that is kept stood, for algorithms that keep the best
        self.stopping = False  # set at Ctrl-C: the loop then writes a checkpoint where its state is whole, and stops
        self.progress, self.tracker, self.monitor = progress, tracker, monitor
        self.also_log: list[Callable[[], dict[str, float]]] = []  # asked at each line for more to log
        self.checkpoints = folder / "checkpoints"
        self._started = (time.perf_counter(), time.process_time())
        self._before = {"wall_s": 0.0, "cpu_s": 0.0}

    @property
    def spent(self) -> dict[str, float]:
        """Seconds of wall clock and of CPU that learning took so far, resumed parts included."""
        wall, cpu = time.perf_counter() - self._started[0], time.process_time() - self._started[1]
        return {"wall_s": self._before["wall_s"] + wall, "cpu_s": self._before["cpu_s"] + cpu}

    @property
    def stop_learning(self) -> bool:
        """Whether the monitor ends learning: the loop then writes a checkpoint and returns its policy."""
        return self.monitor is not None and self.monitor.stopped

    def log(self, step: int, **metrics: float | str) -> None:
        """Append one line to metrics.jsonl: the step (interactions so far), the seconds spent, and the metrics.

        A text (the version of what changed) goes there only, not to the tracker.
        """
        for more in self.also_log:
            metrics |= more()
        spent = {key: round(value, 3) for key, value in self.spent.items()}
        line: dict[str, Any] = {"step": step, **spent, **metrics}
        if self.monitor is not None:
            line |= self.monitor.see(line)
        if not self.writes:
            return
        with writing(self.folder):  # made here: an algorithm that logs nothing leaves no folder
            self.folder.mkdir(parents=True, exist_ok=True)
        self.rollouts.flush()
        append_jsonl(self.folder / "metrics.jsonl", line)
        self.tracker(step, {key: value for key, value in metrics.items() if not isinstance(value, str)})

    def stage(self, name: str, policy: Any, interactions: int = 0, reused: Mapping[str, float] | None = None) -> None:
        """Score the policy as a stage before learning left it, and keep that in the folder.

        reused: where another run did the stage, the seconds that it took there.
        """
        if not self.writes:
            return
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        spent = {key: round(value, 3) for key, value in self.spent.items()}
        taken = {"reused": dict(reused)} if reused else {}
        self.stages[name] = {"interactions": interactions, **spent, **taken, "splits": self.score(policy)}
        write_text_atomic(self.checkpoints / f"stage-{name}.json", json.dumps(self.stages[name]))

    def load_stage(self, name: str) -> bool:
        """Take in what an earlier part of this run found of a stage; whether it did."""
        path = self.checkpoints / f"stage-{name}.json"
        if path.is_file():
            self.stages[name] = json.loads(path.read_text(encoding="utf-8"))
        return path.is_file()

    def save_checkpoint(self, step: int, tensors: dict[str, torch.Tensor], state: dict[str, Any]) -> None:
        """Write a checkpoint; `state` must be JSON. Older ones are removed once this one is complete."""
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        self.rollouts.flush()  # before: a checkpoint vouches for the answers up to it
        text = json.dumps({"step": step, "spent": self.spent, **state})
        target = self.checkpoints / f"step-{step:012d}.safetensors"
        part = target.with_suffix(f".{os.getpid()}.part")
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            save_file({name: value.contiguous() for name, value in tensors.items()}, part, metadata={"state": text})
            with part.open("rb") as file:
                os.fsync(file.fileno())
            part.replace(target)
        except (OSError, SafetensorError) as error:  # safetensors wraps a full disk in its own exception
            part.unlink(missing_ok=True)
            raise InputError(f"the checkpoint cannot be written: {error}", target) from error
        for old in sorted(self.checkpoints.glob("step-*.safetensors"))[:-KEPT_CHECKPOINTS]:
            old.unlink()

    def load_checkpoint(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
        """The newest checkpoint (tensors, state), or None; what was logged after it is dropped, to be logged anew."""
        from safetensors import safe_open

        for part in self.checkpoints.glob("*.part"):
            part.unlink()
        found = sorted(self.checkpoints.glob("step-*.safetensors"))
        if not found:
            self._forget_after(-1)
            return None
        with safe_open(found[-1], framework="pt") as file:
            state = json.loads(file.metadata()["state"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        self.go_on_from(state["step"], state.pop("spent"))
        return tensors, state

    def go_on_from(self, step: int, spent: dict[str, float]) -> None:
        """Be where a checkpoint was: its time spent, and no lines from after it. A step of -1 is the start."""
        self._before = spent or self._before
        self._started = (time.perf_counter(), time.process_time())
        self._forget_after(step)

    def _forget_after(self, step: int) -> None:
        self.rollouts.forget_after(step)
        path = self.folder / "metrics.jsonl"
        if path.exists() and self.writes:
            data = path.read_bytes()
            whole = data[: data.rfind(b"\n") + 1]  # a line cut short by a kill is not a line
            if whole != data:
                write_text_atomic(path, whole.decode())
            kept = [record for _, record in read_jsonl(path) if record["step"] <= step]
            write_text_atomic(path, "".join(json.dumps(record) + "\n" for record in kept))
            if self.monitor is not None:
                self.monitor.restart(kept)


def is_due(every: int, before: int, now: int) -> bool:
    """Whether a multiple of `every` interactions was reached after `before`, by `now`."""
    return now // every > before // every
