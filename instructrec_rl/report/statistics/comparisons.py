"""Comparing two variants, or many: probability of improvement, paired differences, Holm's correction, and the words.

"Better" is said only where noise does not explain it: where the interval, corrected for the number of comparisons,
excludes 0. docs/explanation/statistics.md has the formulas, the sources and the measured coverage.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtri

from instructrec_rl.report.statistics.intervals import Interval
from instructrec_rl.report.statistics.variance import (
    MIN_SEEDS,
    WIDE_BELOW,
    Items,
    Spread,
    checked,
    run_means,
    spread,
    too_few_seeds,
)

LEAST_P = 1e-12  # a smaller p-value is written as this one: no such tail is known from a few seeds


@dataclass(frozen=True)
class Difference:
    """The mean difference of two variants on the same seeds and test items, theirs taken from ours.

    interval: as if it were the only comparison; p: two-sided, in [0, 1]; p_adjusted: after
    Holm's correction, as p where there was none; corrected: the interval at the level at which Holm judges this
    comparison, so that it excludes 0 exactly where p_adjusted is at most 1 - level. With too few seeds, or where all
    differences are the same, there is nothing to judge by: p and the ends are nan, and `spread` is None.
    """

    interval: Interval
    p: float
    p_adjusted: float
    corrected: Interval
    spread: Spread | None
    num_seeds: int

    @property
    def verdict(self) -> Literal["better", "worse", "unclear"]:
        """What may be said of ours against theirs."""
        if not self.corrected.excludes_zero:
            return "unclear"
        return "better" if self.corrected.value > 0 else "worse"

    @property
    def better(self) -> bool:
        """Whether the corrected interval lies above 0."""
        return self.verdict == "better"


def paired_difference(
    ours: Sequence[float] | np.ndarray,
    theirs: Sequence[float] | np.ndarray,
    *,
    items: Items = "random",
    splits: Sequence[str] | np.ndarray | None = None,
    level: float = 0.95,
) -> Difference:
    """Ours minus theirs, seed by seed and item by item, with interval and p-value for new seeds and new items.

    ours, theirs: (S, N) with the same seeds and items in the same order, or run means (S,); items and splits as
    `interval`'s. Student's t at any number of seeds, so that interval and p-value always agree.
    Raises ValueError where the shapes differ, and as `interval`.
    """
    first, second = checked(ours), checked(theirs)
    if first.shape != second.shape:
        raise ValueError(f"scores: expected the same seeds and items of both, got {first.shape} and {second.shape}")
    gained, num_seeds = first - second, len(first)
    note = too_few_seeds(num_seeds)
    found = spread(gained, items=items, splits=splits) if num_seeds >= MIN_SEEDS else None
    if found is None or found.error == 0:
        note = note if found is None else "Every difference is the same: there is no spread to judge by."
        none = Interval(float(gained.mean()), math.nan, math.nan, level, "t", False, note)
        return Difference(none, math.nan, math.nan, none, None, num_seeds)
    alone = _at(found, level, num_seeds)
    p = _p_value(found)
    return Difference(alone, p, p, alone, found, num_seeds)


def holm(p_values: Sequence[float] | np.ndarray) -> np.ndarray:
    """Holm's (1979) adjusted p-values (m,), in the order given: the k-th smallest times m - k + 1, never falling.

    p_values: (m,) in [0, 1]; a nan is a comparison that was not made: it stays nan and does not count.
    Raises ValueError on another shape or a value outside [0, 1].
    """
    return np.minimum(_stepped(p_values), 1.0)


def holm_corrected(differences: Sequence[Difference]) -> list[Difference]:
    """The same differences with `p_adjusted` and `corrected` for being looked at together."""
    stepped = _stepped([each.p for each in differences])
    found = []
    for each, adjusted in zip(differences, stepped.tolist()):
        if each.spread is None:
            found.append(each)
            continue
        # Holm multiplies p by this; the interval at alpha over the same excludes 0 exactly where Holm rejects.
        times = adjusted / each.p
        level = 1 - (1 - each.interval.level) / times
        corrected = _at(each.spread, level, each.num_seeds)
        found.append(replace(each, p_adjusted=min(adjusted, 1.0), corrected=corrected))
    return found


def probability_of_improvement(
    ours: Sequence[float] | np.ndarray, theirs: Sequence[float] | np.ndarray, *, level: float = 0.95
) -> Interval:
    """P(X > Y) + P(X = Y) / 2 for a new seed of each, on these test items: the share of pairs of runs that ours wins.

    ours (n,), theirs (m,): run means, or (n, N), (m, N), of which the run means are taken. This is Mann and Whitney's
    U / (n m), as in rliable. The interval, which ignores that seeds may be paired, holds every theta with
    |estimate - theta| <= z sqrt(V(theta)): Newcombe's (2006) method 5,
    V(theta) = theta (1 - theta) / (n m) * (1 + ((n + m) / 2 - 1) ((1 - theta) / (2 - theta) + theta / (1 + theta))),
    times by how much DeLong's (1988) estimate exceeds V at the estimate, as V takes both to spread alike, but never
    above theta (1 - theta) / min(n, m), the most it can be. Raises ValueError on wrong shapes or numbers not finite.
    """
    # count the pairs that ours wins
    x, y = run_means(ours), run_means(theirs)
    n, m = len(x), len(y)
    wins = (x[:, None] > y) + 0.5 * (x[:, None] == y)
    share = float(wins.mean())
    fewest = min(n, m)
    if fewest < MIN_SEEDS:
        return Interval(share, math.nan, math.nan, level, "rank", False, too_few_seeds(fewest))
    # widen the variance where one side spreads far more
    more = 1.0
    if 0 < share < 1:
        placed = float(wins.mean(axis=1).var(ddof=1)) / n + float(wins.mean(axis=0).var(ddof=1)) / m
        more = max(1.0, placed / _rank_variance(share, n, m))
    z = float(ndtri((1 + level) / 2))

    def gap(theta: float, reached: float) -> float:
        variance = min(more * _rank_variance(theta, n, m), theta * (1 - theta) / fewest)
        return reached - theta - z * math.sqrt(variance)

    def lower_end(reached: float) -> float:
        below_one = min(reached, 1 - 1e-12)  # at 1 the gap is 0 again, as there is no variance
        return float(brentq(gap, 0, below_one, (reached,))) if reached > 0 else 0.0

    # The variance is the same at theta and 1 - theta, so the upper end is the lower one of the others' share.
    low, high = lower_end(share), 1 - lower_end(1 - share)
    covers = fewest >= WIDE_BELOW and n == m
    note = too_few_seeds(fewest)
    if n != m and not note:
        note = f"{n} runs against {m}: the interval holds less often where one side's runs spread far more."
    return Interval(share, low, high, level, "rank", covers, note)


def comparison_sentence(difference: Difference, ours: str, theirs: str, metric: str = "score") -> str:
    """One sentence on two variants; it says "better" or "worse" only where the corrected interval excludes 0."""
    gain, span = difference.interval.value, difference.corrected
    if math.isnan(span.low):
        return f"{ours} against {theirs}: {metric} {gain:+.3f}; {difference.interval.note}"
    level = f"{100 * span.level:.3g} %"
    figures = f"{metric} {gain:+.3f}, {level} interval {span.low:+.3f} to {span.high:+.3f}, {_p_words(difference)}"
    if difference.verdict == "unclear":
        said = f"No difference between {ours} and {theirs} is shown: {figures}."
    else:
        said = f"{ours} is {difference.verdict} than {theirs}: {figures}."
    return f"{said} {span.note}".strip()


def _p_words(difference: Difference) -> str:
    p = difference.p_adjusted
    corrected = " after Holm's correction" if difference.corrected != difference.interval else ""
    return ("p < 0.001" if p < 0.001 else f"p = {p:.3f}") + corrected


def _at(found: Spread, level: float, num_seeds: int) -> Interval:
    half = found.half(level)
    covers = num_seeds >= WIDE_BELOW
    return Interval(found.value, found.value - half, found.value + half, level, "t", covers, too_few_seeds(num_seeds))


def _p_value(found: Spread) -> float:
    """The p at which the interval of level 1 - p ends at 0."""
    if found.value == 0:
        return 1.0
    reached = abs(found.value)
    if found.half(1 - LEAST_P) <= reached:
        return LEAST_P
    return float(brentq(lambda p: found.half(1 - p) - reached, LEAST_P, 1.0, xtol=1e-14, rtol=1e-12))


def _stepped(p_values: Sequence[float] | np.ndarray) -> np.ndarray:
    """Holm's adjusted p-values before they are cut at 1."""
    p = np.asarray(p_values, dtype=np.float64)
    if p.ndim != 1 or ((p < 0) | (p > 1)).any():
        raise ValueError(f"p_values: expected a list of numbers in [0, 1], got {np.array2string(p, threshold=8)}")
    order = np.argsort(p)[: int(np.isfinite(p).sum())]  # nan sorts last
    stepped = np.full(len(p), math.nan)
    stepped[order] = np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1))
    return stepped


def _rank_variance(theta: float, n: int, m: int) -> float:
    others = (n + m) / 2 - 1
    return theta * (1 - theta) / (n * m) * (1 + others * ((1 - theta) / (2 - theta) + theta / (1 + theta)))
