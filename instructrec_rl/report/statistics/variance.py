"""Where the error of a mean over seeds and items comes from: the variance of crossed seeds and items, in two parts.

Notation: S seeds, N test items, score[s, i] of seed s on item i. Every seed answers the same items, so the two are
crossed: score[s, i] = mu + a_s + b_i + e_si. docs/explanation/statistics.md has the formulas and the sources.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from scipy.special import stdtrit

Of = Literal["mean", "iqm"]
Items = Literal["random", "fixed"]

MIN_SEEDS = 3  # with fewer there is no interval
WIDE_BELOW = 5  # with fewer an interval says little
WINSORISED_FROM = 9  # seeds: with fewer, the IQM keeps too few run means to show their own spread
ROUNDING = 1e-12  # a spread no larger than this share of the scores is what adding floats leaves
TRIMMING_COST = 1.195  # the variance of a quarter-trimmed mean over that of the mean, of normal run means


class Spread(NamedTuple):
    """An estimate and what its error is made of: the variance due to the seeds drawn and due to the items drawn.

    The degrees of freedom are those of each part's Student t; skewness is that of each part's error, 0 for the seeds'
    part of an IQM. The seeds' part holds the residual too.
    """

    value: float
    of_seeds: float
    seeds_df: float
    seeds_skewness: float
    of_items: float
    items_df: float
    items_skewness: float

    @property
    def skewness(self) -> float:
        """The skewness of the error as a whole."""
        third = self.seeds_skewness * self.of_seeds**1.5 + self.items_skewness * self.of_items**1.5
        return third / self.error**3 if self.error else 0.0

    @property
    def error(self) -> float:
        """The standard error."""
        return math.sqrt(self.of_seeds + self.of_items)

    def half(self, level: float) -> float:
        """Half the width of the interval at a level: the two parts' half widths as the legs of a right triangle.

        That is MOVER (Zou and Donner 2008, Construction of confidence limits about effect measures). One t with
        Satterthwaite's degrees of freedom, which come from the same few seeds, covered less at 3 to 5 seeds.
        """
        seeds, items = stdtrit([self.seeds_df, self.items_df], (1 + level) / 2)
        return math.hypot(seeds * math.sqrt(self.of_seeds), items * math.sqrt(self.of_items))


def too_few_seeds(num_seeds: int) -> str:
    """The sentence that a report prints about so many seeds; empty from 5 on."""
    if num_seeds < MIN_SEEDS:
        return f"{num_seeds} seed{'s' if num_seeds != 1 else ''}: too few for an interval, which takes {MIN_SEEDS}."
    if num_seeds < WIDE_BELOW:
        return f"{num_seeds} seeds: the intervals are wide, and a difference they do not show may still be there."
    return ""


def run_means(scores: Sequence[float] | np.ndarray) -> np.ndarray:
    """Each run's mean (S,) of scores (S, N); run means (S,) stay as they are. ValueError on any other shape."""
    values = checked(scores)
    return values if values.ndim == 1 else values.mean(axis=1)


def spread(
    scores: Sequence[float] | np.ndarray,
    of: Of = "mean",
    *,
    items: Items = "random",
    splits: Sequence[str] | np.ndarray | None = None,
) -> Spread:
    """The estimate and the two parts of its variance, from 3 or more seeds; arguments and errors as `interval`'s.

    of_items = sum over splits of w^2 max(0, MS_items - MS_residual) / (S n), w a split's share of the items and n how
    many it has. The spread of the seeds holds the residual already, so the items' part must not: resampling both
    counts it twice (Owen 2007, The pigeonhole bootstrap).
    """
    values = checked(scores)
    if len(values) < MIN_SEEDS:
        raise ValueError(f"scores: {too_few_seeds(len(values))}")
    return spread_of(run_means(values), of, strata(values, items, splits))


class Stratum(NamedTuple):
    """The items of one split: their means over seeds (n,), the split's share of all items, its part of the variance."""

    means: np.ndarray
    share: float
    variance: float
    cumulants: tuple[float, float]  # the second and the third of the split's part of the items' mean, residual included
    shrink: float  # makes the resampled item means vary as much as the items do, without the residual


def strata(values: np.ndarray, items: Items, splits: Sequence[str] | np.ndarray | None) -> list[Stratum]:
    """The items' part of the variance, split by split; none where the items are fixed or not given."""
    if items not in ("random", "fixed"):
        raise ValueError(f"items: expected random or fixed, got {items}")
    if splits is not None and (values.ndim != 2 or np.shape(splits) != (values.shape[1],)):
        raise ValueError(f"splits: expected a label for each item of scores {values.shape}, got {np.shape(splits)}")
    if items == "fixed" or values.ndim == 1:
        return []
    labels = np.zeros(values.shape[1], dtype=np.int64) if splits is None else np.asarray(splits)
    return [stratum_of(values[:, labels == label], values.shape[1]) for label in np.unique(labels)]


def stratum_of(part: np.ndarray, num_items: int) -> Stratum:
    """The two-way analysis of variance of one split's scores (S, n): what of the items' spread is not the residual."""
    num_seeds, n = part.shape
    if n < 2:
        raise ValueError("scores: new items need 2 or more items in a split; items='fixed' speaks of these items only")
    means, share = part.mean(axis=0), n / num_items
    residual = part - part.mean(axis=1, keepdims=True) - means + means.mean()
    of_items = num_seeds * float(means.var(ddof=1))
    of_residual = float((residual**2).sum()) / ((num_seeds - 1) * (n - 1))
    cumulants = share**2 * float(means.var(ddof=1)) / n, share**3 * third_cumulant(means) / n**2
    if of_items <= of_residual:
        return Stratum(means, share, 0.0, cumulants, 0.0)
    # Means of n resampled items spread (n - 1) / n times too little.
    shrink = math.sqrt((1 - of_residual / of_items) * n / (n - 1))
    return Stratum(means, share, share**2 * (of_items - of_residual) / (num_seeds * n), cumulants, shrink)


def spread_of(runs: np.ndarray, of: Of, parts: list[Stratum]) -> Spread:
    """The spread of the mean or the IQM of run means (S,), with the items' parts added."""
    n = len(runs)
    skewness = 0.0
    if of == "mean" or n < WINSORISED_FROM:
        cost = 1.0 if of == "mean" or n < 4 else TRIMMING_COST
        seeds, seeds_df = cost * float(runs.var(ddof=1)) / n, n - 1
        if of == "mean":
            skewness = _skewness(seeds, third_cumulant(runs) / n**2)
    else:  # the trimmed mean's variance (Tukey and McLaughlin 1963): what is cut counts as the outermost that is kept
        cut = n // 4
        kept, ordered = n - 2 * cut, np.sort(runs)
        winsorised = np.clip(runs, ordered[cut], ordered[n - cut - 1])
        seeds, seeds_df = float(winsorised.var()) * n / (kept * (kept - 1)), kept - 1
    items = sum(part.variance for part in parts)
    items_df = max(1, sum(len(part.means) - 1 for part in parts))
    of_items = _skewness(sum(part.cumulants[0] for part in parts), sum(part.cumulants[1] for part in parts))
    rounding = (ROUNDING * max(1.0, float(np.abs(runs).max()))) ** 2
    seeds, items = (variance if variance > rounding else 0.0 for variance in (seeds, items))
    return Spread(center(runs, of), seeds, seeds_df, skewness, items, items_df, of_items)


def third_cumulant(values: np.ndarray) -> float:
    """The unbiased third cumulant of values (n,); 0 of fewer than 3, which have none."""
    n = len(values)
    if n < 3:
        return 0.0
    return n * float(((values - values.mean()) ** 3).sum()) / ((n - 1) * (n - 2))


def _skewness(second: float, third: float) -> float:
    return third / second**1.5 if second > 0 else 0.0


def center(runs: np.ndarray, of: Of) -> float:
    """The mean or the IQM of run means (S,)."""
    return float(centers(runs[None], of)[0])


def centers(runs: np.ndarray, of: Of) -> np.ndarray:
    """The mean or the IQM of each row: (rows, n) -> (rows,)."""
    if of not in ("mean", "iqm"):
        raise ValueError(f"of: expected mean or iqm, got {of}")
    n = runs.shape[1]
    return runs.mean(axis=1) if of == "mean" else np.sort(runs, axis=1)[:, n // 4 : n - n // 4].mean(axis=1)


def checked(scores: Sequence[float] | np.ndarray) -> np.ndarray:
    """The scores as floats, (S, N) or (S,); ValueError where they are neither, or one is not finite."""
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim not in (1, 2) or values.size == 0:
        raise ValueError(f"scores: expected (seeds, items) or run means (seeds,), got the shape {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError("scores: one is not a finite number")
    return values
