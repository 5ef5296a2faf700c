"""What the runs of a bench scored, instruction by instruction, and the file that keeps it: report.json.

report.json holds all that the report of several runs is made of, so that a bench can be kept, compared and shown again
without its run folders. It is data alone and is checked when it is read.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal

import numpy as np

from instructrec_rl.core import InputError
from instructrec_rl.core.files import write_text_atomic

REPORT = "report.json"
VALIDATION = "validation"
NEAR = 1e-9  # random and oracle this near: there is nothing to normalise by

Means = dict[str, dict[str, float]]  # split -> metric -> mean


@dataclass(frozen=True)
class Task:
    """The test instructions that some runs share. key: a hash of their ids, so that only like is compared with like.

    sizes: test split -> how many instructions; random, oracle: the two ends of the normalised scale, split (validation
    too, where there is one) -> metric -> raw mean, over the runs.
    """

    env: str
    metric: str
    key: str
    sizes: dict[str, int]
    random: Means
    oracle: Means

    @property
    def splits(self) -> list[str]:
        """The splits on which the main metric can be normalised."""
        return [s for s in self.sizes if abs(self.scale(s)) > NEAR]

    def scale(self, split: str, metric: str = "") -> float:
        """The distance from random to oracle; 0 where a split or metric is not known."""
        name = metric or self.metric
        return self.oracle.get(split, {}).get(name, 0.0) - self.random.get(split, {}).get(name, 0.0)

    def normalize(self, split: str, raw: Any, metric: str = "") -> Any:
        """(raw - random) / (oracle - random)."""
        return (raw - self.random[split][metric or self.metric]) / self.scale(split, metric)


@dataclass(frozen=True)
class RunScores:
    """One finished run. scores: test split -> the main metric of each instruction (N,), raw; means: every metric.

    kinds: kind of constraint -> [how many hold, how many were asked] over the test splits; curve: (interactions, CPU
    seconds, the main metric on validation, raw), rising; cpu_s, wall_s: of learning with every stage,
    also one that another run did for it.
    """

    variant: str
    seed: int
    task: str
    algo: str
    reward: str
    cpu_s: float
    wall_s: float
    scores: dict[str, list[float]]
    means: Means
    kinds: dict[str, list[int]] = field(default_factory=dict)
    curve: list[tuple[float, float, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Sample:
    """An instruction to which the leading variants answered differently.

    answers: variant -> {response (of its first seed), score (the mean over its seeds), missed (kinds of constraint)}.
    """

    task: str
    split: str
    id: str
    instruction: str
    answers: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Results:
    """All runs of a report. about: what bench.json says of the bench; made: versions, commit, device and hashes of the
    data, each as the list of the values that its runs had; failed: runs without a result, as bench.json has them.
    """

    name: str
    about: dict[str, Any]
    made: dict[str, list[str]]
    tasks: list[Task]
    runs: list[RunScores]
    samples: list[Sample] = field(default_factory=list)
    failed: list[dict[str, Any]] = field(default_factory=list)
    format: Literal[1] = 1

    def variants(self, task: Task) -> dict[str, list[RunScores]]:
        """The runs of each variant on a task, by seed."""
        found: dict[str, list[RunScores]] = {}
        for run in sorted(self.runs, key=lambda run: run.seed):
            if run.task == task.key:
                found.setdefault(run.variant, []).append(run)
        return {name: found[name] for name in dict.fromkeys(run.variant for run in self.runs) if name in found}


def write_results(path: Path, results: Results) -> None:
    """Write report.json."""
    write_text_atomic(path, json.dumps(asdict(results), ensure_ascii=False, separators=(",", ":")) + "\n")


def read_results(path: Path) -> Results:
    """Read a report.json. Raises InputError where it is none of ours or a value is missing or of a wrong type."""
    from pydantic import TypeAdapter, ValidationError

    try:
        found = TypeAdapter(Results).validate_json(path.read_bytes())
    except OSError as error:
        raise InputError(f"cannot read: {error.strerror}", path) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise InputError(f"not a report.json of instructrec-rl: {where}: {first['msg']}", path) from error
    sizes = {task.key: task.sizes for task in found.tasks}
    for run in found.runs:
        if {split: len(scores) for split, scores in run.scores.items()} != sizes.get(run.task):
            raise InputError(f"{run.variant}, seed {run.seed}: its scores are not those of a task of the file", path)
    return found


def merge(results: Sequence[Results]) -> Results:
    """Several reports as one: a variant is then called `<report>: <variant>`, without the beginning that all reports'
    names share. Tasks that are the same become one.
    """
    names = [each.name for each in results]
    parts = [name.split("-") for name in names]
    shared = list(takewhile(lambda same: len(set(same)) == 1, zip(*(each[:-1] for each in parts))))
    short = ["-".join(each[len(shared) :]) for each in parts]
    called = [name if short.count(name) == 1 else f"{name} ({k + 1})" for k, name in enumerate(short)]
    tasks: dict[str, list[Task]] = {}
    made: dict[str, list[str]] = {}
    for each in results:
        for task in each.tasks:
            tasks.setdefault(task.key, []).append(task)
        for key, values in each.made.items():
            made[key] = list(dict.fromkeys([*made.get(key, []), *values]))
    return Results(
        " and ".join(names),
        {},
        made,
        [merged_task(same) for same in tasks.values()],
        [replace(run, variant=f"{name}: {run.variant}") for name, each in zip(called, results) for run in each.runs],
        failed=[
            {**run, "variant": f"{name}: {run['variant']}"} for name, r in zip(called, results) for run in r.failed
        ],
    )


def merged_task(tasks: Sequence[Task]) -> Task:
    """The task of several runs, its two ends as their means: a random policy's score is itself a draw."""

    def mean(of: Callable[[Task], Means]) -> Means:
        first = of(tasks[0])
        return {s: {m: float(np.mean([of(task)[s][m] for task in tasks])) for m in first[s]} for s in first}

    return replace(tasks[0], random=mean(lambda task: task.random), oracle=mean(lambda task: task.oracle))
