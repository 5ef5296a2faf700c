"""What several seeds say: the mean or the interquartile mean of their scores, with intervals that cover at few seeds.

Notation: S seeds, N test items, score[s, i] of seed s on item i. Every seed answers the same items, so the two are
crossed: score[s, i] = mu + a_s + b_i + e_si. What is estimated is the score that a new seed earns on new items of the
same kind; with items="fixed" it is what a new seed earns on these very items.
docs/explanation/intervals.md has the formulas, the sources and the measured coverage.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import ndtr, ndtri, stdtrit

from instructrec_rl.report.statistics.variance import (
    MIN_SEEDS,
    WIDE_BELOW,
    Items,
    Of,
    Spread,
    Stratum,
    center,
    centers,
    checked,
    run_means,
    spread_of,
    strata,
    too_few_seeds,
)

Method = Literal["auto", "t", "bootstrap"]

BOOTSTRAP_FROM = 20  # seeds: with fewer, resampling them shows too little of their spread
CHUNK = 2_000_000  # numbers drawn at once: 16 MB


@dataclass(frozen=True)
class Interval:
    """An estimate and the ends of its interval; both ends are nan where there are too few seeds for one.

    level: the coverage aimed at, in (0, 1); method: what made the interval ("t", "bootstrap", "rank"); covers: whether
    coverage within 92 to 98 % was measured at this number of seeds (explanation/intervals); note: a sentence for the
    report, empty where there is nothing to add.
    """

    value: float
    low: float
    high: float
    level: float
    method: str
    covers: bool
    note: str = ""

    @property
    def excludes_zero(self) -> bool:
        """Whether the whole interval lies on one side of 0; never where there is none."""
        return self.low > 0 or self.high < 0


def iqm(scores: Sequence[float] | np.ndarray) -> float:
    """The interquartile mean: the mean of what is left without the lowest and the highest quarter, as in rliable.

    scores: an array of any shape, taken as one list of n; floor(n / 4) are cut at each end, so none below 4. Pass the
    run means (S,), or (S, K) over K tasks: of 0/1 scores of single items it is only another way to write the mean,
    and 1 from a share of 3/4 on. Raises ValueError where there are none or one is not finite.
    """
    values = np.asarray(scores, dtype=np.float64)
    if values.size == 0 or not np.isfinite(values).all():
        raise ValueError("scores: expected one or more finite numbers")
    return center(values.ravel(), "iqm")


def interval(
    scores: Sequence[float] | np.ndarray,
    of: Of = "mean",
    *,
    items: Items = "random",
    splits: Sequence[str] | np.ndarray | None = None,
    level: float = 0.95,
    method: Method = "auto",
    rng: int | np.random.Generator = 0,
    draws: int = 2000,
) -> Interval:
    """The mean, or the IQM over run means, with its interval for a new seed on new items.

    scores: (S, N), or run means (S,), which can say nothing of new items; items: "fixed" for these items only; splits:
    a label for each item (N,) where several splits are pooled: each split then keeps its share of the items, and only
    the spread of items within a split counts. method: "auto" is "t" below 20 seeds, Student's t with Hall's
    correction for skewness, and from 20 on a bootstrap over seeds and, within each split, over items.
    rng: a seed or a generator of the bootstrap's draws.
    Raises ValueError on wrong shapes, on scores that are not finite, and where items are random but fewer than 2.
    """
    # check what is given
    values = checked(scores)
    if not 0 < level < 1:
        raise ValueError(f"level: expected a number between 0 and 1, got {level}")
    if method not in ("auto", "t", "bootstrap"):
        raise ValueError(f"method: expected auto, t or bootstrap, got {method}")
    # choose a method
    num_seeds, runs = len(values), run_means(values)
    chosen = method if method != "auto" else "bootstrap" if num_seeds >= BOOTSTRAP_FROM else "t"
    if num_seeds < MIN_SEEDS:
        return Interval(center(runs, of), math.nan, math.nan, level, chosen, False, too_few_seeds(num_seeds))
    # measure the spread
    parts = strata(values, items, splits)
    spread = spread_of(runs, of, parts)
    if spread.error == 0:
        note = "The runs that count scored the same: there is no spread to judge by."
        return Interval(spread.value, spread.value, spread.value, level, chosen, False, note)
    # put an interval about the value
    if chosen == "bootstrap":
        low, high = _bootstrap(runs, of, parts, spread, level, np.random.default_rng(rng), draws)
    else:
        low, high = _student(spread, level)
    covers = num_seeds >= WIDE_BELOW
    return Interval(spread.value, low, high, level, chosen, covers, too_few_seeds(num_seeds))


def _student(found: Spread, level: float) -> tuple[float, float]:
    """The interval's ends from Student's t, each part through Hall's cubic, which takes its skewness out."""
    quantile = (1 + level) / 2
    seeds_t, items_t = float(stdtrit(found.seeds_df, quantile)), float(stdtrit(found.items_df, quantile))
    seeds, items = math.sqrt(found.of_seeds), math.sqrt(found.of_items)
    down, up = (
        math.hypot(
            seeds * _unskewed(seeds_t, side * found.seeds_skewness),
            items * _unskewed(items_t, side * found.items_skewness),
        )
        for side in (1, -1)
    )
    return found.value - down, found.value + up


def _unskewed(reached: float, skewness: float) -> float:
    """The T for which T + g T^2 / 3 + g^2 T^3 / 27 + g / 6 is `reached`, with g the skewness of the estimate's error.

    Hall (1992), On the removal of skewness by transformation: that cubic of the studentised error T is nearer to
    Student's t than T is.
    """
    if abs(skewness) < 1e-9:
        return reached
    return float(3 / skewness * (np.cbrt(1 + skewness * (reached - skewness / 6)) - 1))


def _bootstrap(
    runs: np.ndarray,
    of: Of,
    parts: list[Stratum],
    found: Spread,
    level: float,
    rng: np.random.Generator,
    draws: int,
) -> tuple[float, float]:
    """Seeds and, within each split, items drawn with replacement; percentiles corrected for skewness and for few seeds.

    BCa (Efron 1987, Better bootstrap confidence intervals) with a sixth of the skewness as its acceleration. A plain
    percentile interval also is as if the spread were known: where BCa has the normal quantile stands Student's t
    (Hesterberg 2015, What teachers should know about the bootstrap).
    """
    n = len(runs)
    drawn = centers(runs[rng.integers(n, size=(draws, n))], of) - found.value
    drawn *= math.sqrt(n / (n - 1))  # as for the items: n resampled spread too little
    for stratum in parts:
        if stratum.shrink:
            moved = _resampled_means(stratum.means, rng, draws) - stratum.means.mean()
            drawn += stratum.share * stratum.shrink * moved
    widened = found._replace(seeds_df=n - 1)  # all n are resampled, not only those that the IQM keeps
    t = widened.half(level) / widened.error
    below = (np.mean(drawn < 0) + np.mean(drawn <= 0)) / 2
    bias = float(ndtri(np.clip(below, 1 / draws, 1 - 1 / draws)))
    # The divisor is near 1; the bound keeps it positive where a few seeds are all skewness.
    ends = [bias + (bias + z) / max(0.25, 1 - found.skewness / 6 * (bias + z)) for z in (-t, t)]
    low, high = np.quantile(drawn, ndtr(ends))
    return found.value + float(low), found.value + float(high)


def _resampled_means(values: np.ndarray, rng: np.random.Generator, draws: int) -> np.ndarray:
    """Means (draws,) of n values drawn with replacement from values (n,), in chunks of bounded memory."""
    n = len(values)
    rows = max(1, CHUNK // n)
    drawn = [
        values[rng.integers(n, size=(min(rows, draws - start), n), dtype=np.int32)].mean(axis=1)
        for start in range(0, draws, rows)
    ]
    return np.concatenate(drawn)
