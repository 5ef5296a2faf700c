"""The figures of docs/results/pizza_rec.md: rewards x seeds on pizza_rec, each a whole run on one thread.

    python -m benchmarks.results.pizza_rec --out DIR [--seeds 0 1 2] [--markdown docs/results/pizza_rec.md]
        [--readme README.md]

Runs that DIR already holds are used again. Intervals are 95 % t-intervals over the seeds: they say how much training
varies, not how much the test items do.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.common.tables import markdown_table, write_between_markers
from benchmarks.common.whole_runs import Result, finished, interval

SPLITS = ("iid", "frame", "combo", "cold", "phrase", "both")
BASELINES = ("popularity", "neighbour", "tfidf", "centroid", "linucb", "linear_q", "ngrams", "supervised")


def row(name: str, parts: list[dict[str, Any]], metric: str, wording: str = "") -> list[str]:
    """One policy's line: a normalised metric on every split, over the seeds in `parts`."""
    cells = []
    for split in SPLITS:
        found = [p[split]["by"]["wording"][wording] if wording else p[split] for p in parts]
        cells.append(interval([f["normalized"][metric] for f in found]))
    return [name, *cells]


def table(runs: dict[str, list[Result]], metric: str, wording: str = "", baselines: Sequence[str] = BASELINES) -> str:
    """Our policies by reward, then the baselines of the constraints runs."""
    rows = [
        row(f"dqn on {reward}", [r["splits"] for r in results], metric, wording) for reward, results in runs.items()
    ]
    for name in baselines:
        rows.append(row(name, [r["baselines"][name]["splits"] for r in runs["constraints"]], metric, wording))
    return markdown_table([f"{metric}, normalised", *SPLITS], rows)


def main() -> None:
    """Run what is missing, then print and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="where the runs are kept")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--markdown", type=Path, help="rewrite the tables between the markers of this page")
    parser.add_argument("--readme", type=Path, help="rewrite the first row between the markers of this page")
    arguments = parser.parse_args()
    runs: dict[str, list[Result]] = {}
    for reward, baselines in (("constraints", "all"), ("exact_match", "default"), ("rouge", "default")):
        for seed in arguments.seeds:
            options = ["env=pizza_rec", f"reward={reward}", f"seed={seed}", f"baselines={baselines}"]
            runs.setdefault(reward, []).append(finished(arguments.out / f"{reward}-{seed}", options))
    large = [
        finished(
            arguments.out / f"large-{s}", ["env=pizza_rec", "reward=constraints", f"seed={s}", "env.catalog=large"]
        )
        for s in arguments.seeds
    ]
    seconds = [interval([r["cpu_s"] for r in results], 1) for results in (*runs.values(), large)]
    sections = {
        "all": table(runs, "constraints"),
        "simple": table(runs, "constraints", "simple"),
        "crossing": table(runs, "constraints", "crossing"),
        "exact": table(runs, "exact_match"),
        "large": markdown_table(
            ["large catalog (500 + 100 items), raw", *SPLITS],
            [
                [f"dqn on constraints: {metric}"]
                + [interval([r["splits"][split]["metrics"][metric] for r in large]) for split in SPLITS]
                for metric in ("exact_match", "constraints")
            ],
        ),
        "cost": markdown_table(
            ["run of 100,000 interactions, one thread", "CPU-s of learning"],
            [[name, value] for name, value in zip([*(f"dqn on {r}" for r in runs), "large catalog"], seconds)],
        ),
    }
    if arguments.readme:
        chosen = {name: results for name, results in runs.items() if name == "constraints"}
        write_between_markers(arguments.readme, "pizza_rec", table(chosen, "constraints", baselines=()))
    for name, text in sections.items():
        print(f"\n{name}\n{text}")
        if arguments.markdown:
            write_between_markers(arguments.markdown, name, text)


if __name__ == "__main__":
    main()
