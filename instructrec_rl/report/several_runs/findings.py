"""What the runs of a bench say, in figures: a leaderboard, comparisons, curves, costs. Statistics only, no page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from instructrec_rl.report.several_runs.results import VALIDATION, Results, RunScores, Task
from instructrec_rl.report.statistics.comparisons import (
    Difference,
    holm_corrected,
    paired_difference,
    probability_of_improvement,
)
from instructrec_rl.report.statistics.curves import Band, Cost, cost_to_score, performance_profile, sample_efficiency
from instructrec_rl.report.statistics.intervals import Interval, interval

SHARES = (0.5, 0.8)  # of the way from random to oracle on validation, for the cost of getting there


@dataclass(frozen=True)
class Standing:
    """A variant's place. mean, iqm: normalised, every test split counting alike; splits: each split's mean;
    metrics: every task metric's normalised mean over the splits (nan where it cannot be normalised); kinds: kind of
    constraint -> how many hold, of how many, over seeds and test splits.
    """

    variant: str
    runs: list[RunScores]
    mean: Interval
    iqm: Interval
    splits: dict[str, Interval]
    metrics: dict[str, Interval]
    kinds: dict[str, tuple[int, int]]

    @property
    def cpu_s(self) -> float:
        """CPU seconds of learning, the mean over the seeds."""
        return float(np.mean([run.cpu_s for run in self.runs]))

    @property
    def tries(self) -> int | None:
        """The answers that a run tried in learning, or was shown; None where it logged no learning."""
        curve = self.runs[0].curve
        return round(curve[-1][0]) if curve else None

    @property
    def seeds(self) -> list[int]:
        """The seeds of its runs."""
        return [run.seed for run in self.runs]


@dataclass(frozen=True)
class Comparison:
    """Two variants on the seeds that both have. improvement: P(a new run of ours scores more than one of theirs)."""

    ours: str
    theirs: str
    difference: Difference
    improvement: Interval


def matrix(task: Task, runs: Sequence[RunScores], splits: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Normalised scores (S, N) of runs on the items of some splits, and each item's split (N,).

    Scores are scaled so that their plain mean is the mean of the splits' means, each split counting alike.
    """
    total = sum(task.sizes[split] for split in splits)
    weights = {split: total / (len(splits) * task.sizes[split]) for split in splits}
    rows = [
        np.concatenate([task.normalize(split, np.asarray(run.scores[split])) * weights[split] for split in splits])
        for run in runs
    ]
    return np.stack(rows), np.repeat(list(splits), [task.sizes[split] for split in splits])


def standings(results: Results, task: Task) -> list[Standing]:
    """The variants of a task, the highest mean first. Empty where no split can be normalised."""
    if not task.splits:
        return []
    found = [_standing(task, name, runs) for name, runs in results.variants(task).items()]
    return sorted(found, key=lambda each: -each.mean.value)


def _standing(task: Task, name: str, runs: list[RunScores]) -> Standing:
    scores, labels = matrix(task, runs, task.splits)
    kinds: dict[str, tuple[int, int]] = {}
    for run in runs:
        for kind, (hold, asked) in run.kinds.items():
            before = kinds.get(kind, (0, 0))
            kinds[kind] = (before[0] + hold, before[1] + asked)
    return Standing(
        variant=name,
        runs=runs,
        mean=interval(scores, splits=labels),
        iqm=interval(scores, "iqm", splits=labels),
        splits={split: interval(matrix(task, runs, [split])[0]) for split in task.splits},
        metrics={metric: _metric(task, runs, metric) for metric in runs[0].means[task.splits[0]]},
        kinds=kinds,
    )


def _metric(task: Task, runs: list[RunScores], metric: str) -> Interval:
    """A metric's mean over splits and seeds, with an interval for new seeds on these items."""
    known = [split for split in task.splits if task.scale(split, metric)]
    if not known:
        none = math.nan
        return Interval(none, none, none, 0.95, "t", False, "random and oracle score alike")
    return interval([float(np.mean([task.normalize(s, run.means[s][metric], metric) for s in known])) for run in runs])


@dataclass(frozen=True)
class Findings:
    """A task's leaderboard, and its comparisons, corrected together: of all pairs, or of reports put side by side."""

    task: Task
    places: list[Standing]
    comparisons: list[Comparison]


def find(results: Results, side_by_side: bool) -> list[Findings]:
    """What the results say of each task. side_by_side: each variant is compared with itself in an earlier report."""
    found = []
    for task in results.tasks:
        places = standings(results, task)
        pairs = same_variants(results, places) if side_by_side else list(combinations(places, 2))
        found.append(Findings(task, places, compare(task, pairs)))
    return found


def compare(task: Task, pairs: Sequence[tuple[Standing, Standing]]) -> list[Comparison]:
    """Pairs of variants on the seeds and items that both have, corrected together by Holm's method."""
    found = []
    for ours, theirs in pairs:
        seeds = sorted(set(ours.seeds) & set(theirs.seeds))
        sides = [[run for run in side.runs if run.seed in seeds] for side in (ours, theirs)]
        if not seeds:
            continue
        (first, labels), (second, _) = (matrix(task, runs, task.splits) for runs in sides)
        difference = paired_difference(first, second, splits=labels)
        found.append((ours.variant, theirs.variant, difference, probability_of_improvement(first, second)))
    corrected = holm_corrected([difference for _, _, difference, _ in found])
    return [Comparison(ours, theirs, each, p) for (ours, theirs, _, p), each in zip(found, corrected)]


def same_variants(results: Results, places: Sequence[Standing]) -> list[tuple[Standing, Standing]]:
    """Of reports put together by `merge`, each variant that several have: a later report's against an earlier one's."""
    order = list(dict.fromkeys(run.variant.partition(": ")[0] for run in results.runs))
    by_name: dict[str, list[Standing]] = {}
    for place in sorted(places, key=lambda place: order.index(place.variant.partition(": ")[0])):
        by_name.setdefault(place.variant.partition(": ")[2], []).append(place)
    return [(later, earlier) for same in by_name.values() for earlier, later in combinations(same, 2)]


def learning_curve(task: Task, place: Standing, against: int) -> Band | None:
    """The main metric on validation against interactions (0) or CPU seconds (1), normalised where it can be.

    None where a run logged fewer than two points, or no step is covered by every run.
    """
    curves = [_rising(task, run, against) for run in place.runs]
    if any(len(steps) < 2 for steps, _ in curves) or max(s[0] for s, _ in curves) > min(s[-1] for s, _ in curves):
        return None
    return sample_efficiency(curves)


def cost_to(task: Task, place: Standing, threshold: float) -> Cost | None:
    """CPU seconds until the main metric on validation first reached a threshold; None where a run logged nothing."""
    curves = [_rising(task, run, 1) for run in place.runs]
    return None if any(not len(steps) for steps, _ in curves) else cost_to_score(curves, threshold)


def _rising(task: Task, run: RunScores, against: int) -> tuple[np.ndarray, np.ndarray]:
    points = np.array(run.curve, dtype=float).reshape(-1, 3)
    values = task.normalize(VALIDATION, points[:, 2]) if task.scale(VALIDATION) else points[:, 2]
    steps = points[:, against]
    before = np.maximum.accumulate(np.concatenate([[-np.inf], steps[:-1]]))[: len(steps)]
    return steps[steps > before], values[steps > before]


def profile(task: Task, place: Standing) -> Band:
    """The share of (run, split) scores above each threshold from 0 to 1."""
    scores = [[float(np.mean(task.normalize(s, np.asarray(r.scores[s])))) for s in task.splits] for r in place.runs]
    return performance_profile(np.array(scores), np.linspace(0, 1, 101))
