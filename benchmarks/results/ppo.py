"""The figures of docs/results/ppo.md: PPO on pizza_rec, each a whole run in its own process on one thread.

    python -m benchmarks.results.ppo --out DIR [--seeds 0 1 2] [--jobs 2] [--only quick long inputs]
                             [--markdown docs/results/ppo.md]

Runs that DIR already holds are used again. Intervals are 95 % t-intervals over the seeds: they say how much training
varies, not how much the test items do.
"""

from __future__ import annotations

import argparse
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common.tables import markdown_table, write_between_markers
from benchmarks.common.whole_runs import Result, finished, interval

SPLITS = ("iid", "frame", "combo", "phrase", "both", "cold")
REGULAR = ("iid", "frame", "combo")
LONG = ["reward=constraints", "algo.interactions=60000", "algo.eval_every=6000"]
INPUTS = ["reward=constraints", "algo.interactions=5120"]
RUNS = {
    "quick": {
        "ppo on rouge": ["reward=rouge"],
        "ppo on constraints": ["reward=constraints"],
    },
    "long": {
        "300 demonstrations": [*LONG, "algo.best_of_n=12"],
        "no demonstrations": [*LONG, "algo.demos=0", "algo.best_of_n=14"],
    },
    "inputs": {name: [*INPUTS, f"policy.input={name}"] for name in ("state", "text", "both")},
}

Splits = dict[str, Any]


def values(splits: list[Splits], split: str, kind: str = "normalized", metric: str = "constraints") -> list[float]:
    """A metric on one split, over the seeds."""
    return [each[split][kind][metric] for each in splits]


def row(name: str, splits: list[Splits]) -> list[str]:
    """One policy's line: constraints on every split, their mean over iid, frame and combo, and what is an item."""
    means = [float(np.mean([each[s]["normalized"]["constraints"] for s in REGULAR])) for each in splits]
    valid = [float(np.mean([each[s]["metrics"]["valid"] for s in SPLITS])) for each in splits]
    cells = [interval(values(splits, split)) for split in SPLITS]
    return [name, interval(means), *cells, f"{100 * np.mean(valid):.1f} %"]


def gain(name: str, results: list[Result]) -> list[str]:
    """What reinforcement adds to its own warm start, paired by seed."""
    pairs = [(r["splits"], r["warm_start"]["splits"]) for r in results]

    def difference(splits: tuple[str, ...]) -> str:
        def mean(side: Splits) -> float:
            return float(np.mean([side[s]["normalized"]["constraints"] for s in splits]))

        return interval([mean(after) - mean(before) for after, before in pairs])

    return [name, difference(REGULAR), *(difference((split,)) for split in SPLITS), ""]


def table(results: dict[str, list[Result]], stages: bool) -> str:
    """The policies, each below the stages that it came from."""
    rows = []
    for name, found in results.items():
        if stages:
            for stage in found[0]["stages"]:
                tried = found[0]["stages"][stage]["interactions"]
                label = f"{name}: {stage}" + (f" ({tried:,} answers)" if tried else "")
                rows.append(row(label, [r["stages"][stage]["splits"] for r in found]))
        else:
            rows.append(row(f"{name}: warm start", [r["warm_start"]["splits"] for r in found]))
        answers, cpu = found[0]["interactions"], interval([r["cpu_s"] for r in found], 0)
        rows.append(row(f"{name}: ppo ({answers:,} answers; {cpu} CPU-s)", [r["splits"] for r in found]))
        rows.append(gain(f"{name}: gained by ppo", found))
    return markdown_table(["constraints, normalised", "mean of iid, frame, combo", *SPLITS, "items"], rows)


def main() -> None:
    """Run what is missing, then print and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="where the runs are kept")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=2, help="runs at once")
    parser.add_argument("--only", nargs="+", default=list(RUNS), choices=list(RUNS), help="which tables")
    parser.add_argument("--markdown", type=Path, help="rewrite the tables between the markers of this page")
    arguments = parser.parse_args()
    jobs = {
        (group, name, seed): [f"env=pizza_rec algo=ppo seed={seed} baselines=none".split(), options]
        for group in arguments.only
        for seed in arguments.seeds
        for name, options in RUNS[group].items()
    }

    def do(key: tuple[str, str, int]) -> Result:
        group, name, seed = key
        common, options = jobs[key]
        folder = arguments.out / f"{group}-{name.replace(' ', '-')}-{seed}"
        started = time.perf_counter()
        result = finished(folder, [*common, *options])
        print(f"{folder.name}: {time.perf_counter() - started:.0f} s", flush=True)
        return result

    with ThreadPoolExecutor(arguments.jobs) as pool:
        done = dict(zip(jobs, pool.map(do, jobs)))
    for group in arguments.only:
        results = {name: [done[group, name, seed] for seed in arguments.seeds] for name in RUNS[group]}
        text = table(results, stages=group == "long")
        print(f"\n{group}\n{text}")
        if arguments.markdown:
            write_between_markers(arguments.markdown, group, text)


if __name__ == "__main__":
    main()
