"""The pizza_rec table of docs/explanation/learned_reward.md: a DQN on ratings, beside popularity and the true reward.

    python -m benchmarks.results.feedback_pizza --out DIR [--seeds 0 1 2] [--sizes 500 5000 50000]
        [--markdown docs/explanation/learned_reward.md]

Eight synthetic annotators (one at random) rate pairs of a training instruction and an item by the hidden share of
constraints satisfied; the DQN sees nothing but their ratings. Runs that DIR already holds are used again.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from benchmarks.common.tables import markdown_table, write_between_markers
from benchmarks.common.whole_runs import Result, finished, interval
from instructrec_rl import load_env
from instructrec_rl.core.files import write_jsonl_atomic
from instructrec_rl.feedback.simulate import simulate

SPLITS = ("iid", "frame", "combo", "cold", "phrase", "both")


def main() -> None:
    """Run what is missing, then print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="where the runs are kept")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--sizes", type=int, nargs="+", default=[500, 5000, 50_000])
    parser.add_argument("--markdown", type=Path, help="rewrite the table between the markers of this page")
    arguments = parser.parse_args()
    runs: dict[str, list[Result]] = {}
    for size in arguments.sizes:
        for seed in arguments.seeds:
            home = (arguments.out / f"ratings-{size}-{seed}").resolve()
            if not (home / "ratings.jsonl").exists():
                lines = simulate(load_env("pizza_rec", reward="constraints"), size, seed)
                home.mkdir(parents=True, exist_ok=True)
                write_jsonl_atomic(home / "ratings.jsonl", lines)
            options = ["env=pizza_rec", "reward=human_feedback", f"reward.folder={home}", f"seed={seed}"]
            runs.setdefault(f"dqn on {size:,} ratings", []).append(
                finished(arguments.out / f"run-{size}-{seed}", options)
            )
    true = [
        finished(arguments.out / f"true-{s}", ["env=pizza_rec", "reward=constraints", f"seed={s}"])
        for s in arguments.seeds
    ]
    runs["dqn on the true reward"] = true
    values = {
        name: {s: [r["splits"][s]["normalized"]["constraints"] for r in found] for s in SPLITS}
        for name, found in runs.items()
    }
    values["popularity"] = {
        s: [r["baselines"]["popularity"]["splits"][s]["normalized"]["constraints"] for r in true] for s in SPLITS
    }
    top = float(np.mean(values["dqn on the true reward"]["iid"]))
    rows = [
        [name, *(interval(found[s]) for s in SPLITS), f"{100 * float(np.mean(found['iid'])) / top:.1f} %"]
        for name, found in values.items()
    ]
    text = markdown_table(["constraints, normalised", *SPLITS, "iid, of the true reward's"], rows)
    print(text)
    if arguments.markdown:
        write_between_markers(arguments.markdown, "pizza", text)


if __name__ == "__main__":
    main()
