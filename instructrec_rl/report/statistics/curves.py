"""Curves over several seeds: scores against interactions, performance profiles, and the cost of reaching a score.

All intervals here are of new seeds on these test items. docs/explanation/statistics.md has formulas and sources.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import bdtr, ndtri

from instructrec_rl.report.statistics.intervals import interval
from instructrec_rl.report.statistics.variance import MIN_SEEDS, Of, checked, too_few_seeds

Curve = tuple[Sequence[float] | np.ndarray, Sequence[float] | np.ndarray]

MAX_GRID = 200  # points of a common grid: more than a figure shows
MIN_LEVEL = 0.92  # what an interval of order statistics must reach to pass for one of 95 %


@dataclass(frozen=True)
class Band:
    """A line (G,) over x (G,) with the ends of its interval at each point alone, nan where there are too few seeds.

    level: the coverage aimed at, of one point and not of the line as a whole.
    """

    x: np.ndarray
    value: np.ndarray
    low: np.ndarray
    high: np.ndarray
    level: float
    num_seeds: int
    note: str = ""


@dataclass(frozen=True)
class Cost:
    """What it cost the seeds to reach a score.

    costs (S,): each seed's, inf where it never did; median: inf where half or more never did; low, high: an interval
    of the median; level: the coverage that this interval has; covers: whether that passes for 95 %.
    """

    threshold: float
    costs: np.ndarray
    median: float
    low: float
    high: float
    level: float
    covers: bool
    note: str = ""

    @property
    def num_reached(self) -> int:
        """How many seeds reached the score."""
        return int(np.isfinite(self.costs).sum())


def sample_efficiency(
    curves: Sequence[Curve],
    of: Of = "mean",
    *,
    grid: Sequence[float] | np.ndarray | None = None,
    level: float = 0.95,
) -> Band:
    """The mean or IQM of the seeds' curves on a common grid, with a pointwise band.

    curves: for each seed its steps, rising, and its values, one a step; a value between two steps is on the straight
    line between them. grid: where to look; left out, the steps that any seed has within what all seeds cover, at most
    200 of them. Raises ValueError on wrong shapes, where steps do not rise, and where the grid leaves what a seed
    covers, as nothing is known there.
    """
    seeds = [_curve(curve, number) for number, curve in enumerate(curves)]
    if not seeds:
        raise ValueError("curves: expected one or more seeds")
    first, last = max(steps[0] for steps, _ in seeds), min(steps[-1] for steps, _ in seeds)
    if first > last:
        raise ValueError(f"curves: no step is covered by every seed (one starts at {first:g}, one ends at {last:g})")
    points = _common_grid([steps for steps, _ in seeds], first, last) if grid is None else np.asarray(grid, np.float64)
    if points.ndim != 1 or not len(points) or points.min() < first or points.max() > last:
        raise ValueError(f"grid: expected a list of steps from {first:g} to {last:g}, which every seed covers")
    values = np.stack([np.interp(points, steps, seen) for steps, seen in seeds])
    found = [interval(column, of, level=level, method="t") for column in values.T]
    value, low, high = (np.array([getattr(each, name) for each in found]) for name in ("value", "low", "high"))
    return Band(points, value, low, high, level, len(seeds), too_few_seeds(len(seeds)))


def performance_profile(
    scores: Sequence[float] | np.ndarray,
    thresholds: Sequence[float] | np.ndarray | None = None,
    *,
    level: float = 0.95,
) -> Band:
    """The share of runs whose score is above each threshold tau (rliable's run-score distribution), with a band.

    scores: run means (S,), or (S, K) over K tasks; thresholds (G,): left out, 101 from the lowest to the highest score.
    The band is Wilson's (1927) for a share of S runs: with K tasks a run counts once, not K times, which is on the
    safe side. Raises ValueError on wrong shapes or numbers that are not finite.
    """
    values = checked(scores)
    runs = values.reshape(len(values), -1)
    tau = np.linspace(runs.min(), runs.max(), 101) if thresholds is None else np.asarray(thresholds, np.float64)
    if tau.ndim != 1 or not np.isfinite(tau).all():
        raise ValueError("thresholds: expected a list of finite numbers")
    # Sorted, so that memory does not grow with scores times thresholds.
    share = 1 - np.searchsorted(np.sort(runs, axis=None), tau, side="right") / runs.size
    n = len(runs)
    if n < MIN_SEEDS:
        return Band(
            tau, share, np.full_like(share, math.nan), np.full_like(share, math.nan), level, n, too_few_seeds(n)
        )
    z = float(ndtri((1 + level) / 2))
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    low, high = np.maximum(middle - half, 0), np.minimum(middle + half, 1)
    return Band(tau, share, np.minimum(low, share), np.maximum(high, share), level, n, too_few_seeds(n))


def cost_to_score(curves: Sequence[Curve], threshold: float, *, level: float = 0.95) -> Cost:
    """What each seed had spent (CPU seconds, or interactions) when it first scored `threshold` or more, and the median.

    curves: for each seed its costs, rising, and its values, one a cost. A score counts from the evaluation that shows
    it. A seed that never reaches it costs inf, whatever its budget: more than was spent, by how much is not known. The
    interval is of order statistics (distribution-free: it takes no shape for granted and bears inf); its lower end
    takes a seed that never did at what it spent, the least it can cost. 6 seeds are the fewest that give 95 %;
    5 give 93.8 %. Raises ValueError on wrong shapes and where costs do not rise.
    """
    seeds = [_curve(curve, number) for number, curve in enumerate(curves)]
    if not seeds:
        raise ValueError("curves: expected one or more seeds")
    reached = [costs[np.flatnonzero(values >= threshold)[:1]] for costs, values in seeds]
    spent = np.array([float(first[0]) if len(first) else math.inf for first in reached])
    least = np.sort([min(cost, float(costs[-1])) for cost, (costs, _) in zip(spent, seeds)])
    n = len(spent)
    if n < MIN_SEEDS:
        return Cost(threshold, spent, float(np.median(spent)), math.nan, math.nan, math.nan, False, too_few_seeds(n))
    # The median lies between the r-th smallest and the r-th largest cost with probability 1 - 2 P(Bin(n, 1/2) < r).
    reaches = [1 - 2 * float(bdtr(r - 1, n, 0.5)) for r in range(1, n // 2 + 1)]
    rank = max([r for r, reach in enumerate(reaches, 1) if reach >= level], default=1)
    covers = reaches[rank - 1] >= min(level, MIN_LEVEL)
    note = too_few_seeds(n)
    if missing := int(np.isinf(spent).sum()):
        note = f"{missing} of {n} seeds never scored {threshold:g}. {note}".strip()
    low, high = float(least[rank - 1]), float(np.sort(spent)[n - rank])
    return Cost(threshold, spent, float(np.median(spent)), low, high, reaches[rank - 1], covers, note)


def _curve(curve: Curve, number: int) -> tuple[np.ndarray, np.ndarray]:
    steps, values = (np.asarray(each, dtype=np.float64) for each in curve)
    where = f"curves: seed {number}"
    if steps.ndim != 1 or steps.shape != values.shape or not len(steps):
        raise ValueError(f"{where}: expected as many values as steps, got {values.shape} and {steps.shape}")
    if not (np.isfinite(steps).all() and np.isfinite(values).all()):
        raise ValueError(f"{where}: one step or value is not a finite number")
    if (np.diff(steps) <= 0).any():
        raise ValueError(f"{where}: the steps do not rise")
    return steps, values


def _common_grid(steps: list[np.ndarray], first: float, last: float) -> np.ndarray:
    grid = np.unique(np.concatenate([*steps, [first, last]]))
    grid = grid[(grid >= first) & (grid <= last)]
    if len(grid) <= MAX_GRID:
        return grid
    return grid[np.linspace(0, len(grid) - 1, MAX_GRID).round().astype(int)]
