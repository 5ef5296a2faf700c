"""The coverage tables of docs/explanation/intervals.md: how often 95 % intervals hold the true value, at 3 to 20 seeds.

    OMP_NUM_THREADS=1 python -m benchmarks.coverage [--simulations 1000]
        [--markdown docs/explanation/intervals.md docs/explanation/statistics.md]

Each simulation draws seeds and items anew and asks `interval` and its like with their defaults. The true values are
computed by quadrature, those of the collapsing runs in closed form. Figures outside 92 to 98 % bear a star; with 1,000
simulations a figure has a standard error of 0.7.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.special import expit, ndtri

from benchmarks.common.tables import markdown_table, write_between_markers
from instructrec_rl.report.statistics.comparisons import paired_difference, probability_of_improvement
from instructrec_rl.report.statistics.intervals import Interval, interval

SEEDS = (3, 5, 10, 20)
ITEMS = (50, 500)
SMALL, LARGE = 0.1, 1.0  # the deviation of the seeds' skill; on the scale of the scores a tenth of it, about
QUANTILES = ndtri((np.arange(2000) + 0.5) / 2000)  # of a normal variable: the middle of each of 2000 equal shares
COLLAPSED = 0.2  # the share of runs that collapse


@dataclass(frozen=True)
class Kind:
    """A kind of score: how it is drawn from skill (S, 1) and ease (1, N), and what a skill earns on average."""

    name: str
    draw: Callable[[np.ndarray, np.ndarray, np.random.Generator], np.ndarray]
    expected: Callable[[np.ndarray], np.ndarray]

    def truth(self, spread: float, shift: float = 0.0) -> tuple[float, float]:
        """The mean and the IQM over seeds of the expected score of a run."""
        runs = np.sort(self.expected(shift + spread * QUANTILES))
        quarter = len(runs) // 4
        return float(runs.mean()), float(runs[quarter:-quarter].mean())


def solved(shift: float) -> Kind:
    """Items that are solved or not: 0/1 with a logistic chance."""

    def chance(skill: np.ndarray, ease: np.ndarray) -> np.ndarray:
        return expit(shift + skill + 1.5 * ease)

    def draw(skill: np.ndarray, ease: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return (rng.random(np.broadcast_shapes(skill.shape, ease.shape)) < chance(skill, ease)) * 1.0

    def expected(skill: np.ndarray) -> np.ndarray:
        return chance(skill[:, None], QUANTILES).mean(axis=1)

    return Kind(f"0/1, {100 * float(expected(np.zeros(1))[0]):.0f} % solved", draw, expected)


def noise(skill: np.ndarray, ease: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return rng.normal(size=np.broadcast_shapes(skill.shape, ease.shape))


KINDS = [
    Kind("normal", lambda skill, ease, rng: 0.5 + 0.1 * skill + 0.2 * ease + 0.2 * noise(skill, ease, rng),
         lambda skill: 0.5 + 0.1 * skill),
    solved(1.0),
    solved(3.0),
    Kind("in [0, 1], skewed", lambda skill, ease, rng: expit(2 + skill + ease + noise(skill, ease, rng)),
         lambda skill: expit(2 + skill[:, None] + np.sqrt(2) * QUANTILES).mean(axis=1)),
]  # fmt: skip


def holds(found: Interval, truth: float) -> bool:
    return found.low <= truth <= found.high


def words(held: list[bool]) -> str:
    percent = 100 * float(np.mean(held))
    return f"{percent:.1f}{'' if 92 <= percent <= 98 else '*'}"


def means(simulations: int) -> str:
    """Mean and IQM for new seeds and new items."""
    rows = []
    for kind in KINDS:
        for spread in (SMALL, LARGE):
            truths = dict(zip(("mean", "iqm"), kind.truth(spread)))
            for num_items in ITEMS:
                cells = {of: [] for of in truths}
                for num_seeds in SEEDS:
                    held = {of: [] for of in truths}
                    rng = np.random.default_rng([num_seeds, num_items, KINDS.index(kind)])
                    for number in range(simulations):
                        skill, ease = spread * rng.normal(size=(num_seeds, 1)), rng.normal(size=(1, num_items))
                        scores = kind.draw(skill, ease, rng)
                        for of, truth in truths.items():
                            held[of].append(holds(interval(scores, of, rng=number), truth))
                    for of in truths:
                        cells[of].append(words(held[of]))
                rows.append([kind.name, "small" if spread == SMALL else "large", str(num_items)])
                rows[-1] += [*cells["mean"], *cells["iqm"]]
                print(rows[-1], flush=True)
    header = ["scores", "seeds differ", "items", *(f"{of}, {n}" for of in ("mean", "IQM") for n in SEEDS)]
    return markdown_table(header, rows)


def collapses(simulations: int) -> str:
    """Runs that collapse from .8 to .2 one time in five, and seeds of 90 % that differ much: not to be trusted."""
    rows = []
    shapes = {
        "one run in five collapses": (
            lambda n, rng: np.where(rng.random(n) < COLLAPSED, 0.2, 0.8) + 0.03 * rng.normal(size=n),
            0.8 - 0.6 * COLLAPSED,
        ),
        "runs .3 to .999 around .95": (
            lambda n, rng: expit(3 + 1.3 * rng.normal(size=n)),
            float(expit(3 + 1.3 * QUANTILES).mean()),
        ),
    }
    for name, (draw, truth) in shapes.items():
        cells = []
        for num_seeds in SEEDS:
            rng = np.random.default_rng(num_seeds)
            cells.append(words([holds(interval(draw(num_seeds, rng), rng=k), truth) for k in range(simulations)]))
        rows.append([name, *cells])
        print(rows[-1], flush=True)
    return markdown_table(["the mean where", *map(str, SEEDS)], rows)


def comparisons(simulations: int) -> str:
    """Paired differences (variants half a skill apart, own skill for each seed), and probability of improvement."""
    rows = []
    for kind in KINDS:
        for spread in (SMALL, LARGE):
            truth = kind.truth(spread, 0.5)[0] - kind.truth(spread)[0]
            cells = []
            for num_seeds in SEEDS:
                held, rng = [], np.random.default_rng([num_seeds, 7])
                for _ in range(simulations):
                    ease = rng.normal(size=(1, 200))
                    ours, theirs = (
                        kind.draw(shift + spread * rng.normal(size=(num_seeds, 1)), ease, rng) for shift in (0.5, 0.0)
                    )
                    held.append(holds(paired_difference(ours, theirs).interval, truth))
                cells.append(words(held))
            differ = "small" if spread == SMALL else "large"
            rows.append([f"paired difference, {kind.name}, seeds differ: {differ}", *cells])
            print(rows[-1], flush=True)
    for wider in (1, 2, 5):
        for truth in (0.5, 0.7, 0.9):
            cells = []
            for num_seeds in SEEDS:
                rng = np.random.default_rng([num_seeds, 8])
                apart = ndtri(truth) * np.hypot(1, wider)
                pairs = ((apart + rng.normal(size=num_seeds), wider * rng.normal(size=num_seeds))
                         for _ in range(simulations))  # fmt: skip
                cells.append(words([holds(probability_of_improvement(ours, theirs), truth) for ours, theirs in pairs]))
            rows.append([f"improvement, P = {truth}, spreads 1 : {wider}", *cells])
            print(rows[-1], flush=True)
    return markdown_table(["interval of", *map(str, SEEDS)], rows)


def main() -> None:
    """Simulate, print, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=1000)
    parser.add_argument("--markdown", type=Path, nargs="+", default=[], help="the pages that hold the tables' markers")
    arguments = parser.parse_args()
    for name, table in (("coverage", means), ("comparisons", comparisons), ("collapses", collapses)):
        text = table(arguments.simulations)
        print(text)
        for page in arguments.markdown:
            if f"<!-- {name} -->" in page.read_text(encoding="utf-8"):
                write_between_markers(page, name, text)


if __name__ == "__main__":
    main()
