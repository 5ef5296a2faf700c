"""The figures of docs/results/clinc150.md: 150 intents of real users, DQN with bandit feedback beside its baselines.

    python -m benchmarks.results.clinc150 --data FILE --out DIR [--seeds 0 1 2] [--markdown docs/results/clinc150.md]

FILE is data_small.json of clinc/oos-eval, which is not part of this project. Its `val` split is what is reported;
settings and checkpoints are chosen on a tenth of its train split. Intervals are 95 % t-intervals over the seeds.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.common.tables import markdown_table, write_between_markers
from benchmarks.common.whole_runs import finished, interval

BASELINES = ("random", "popularity", "tfidf", "neighbour", "linear_q", "ngrams", "centroid", "linucb", "supervised")


def main() -> None:
    """Run what is missing, then print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="where the runs are kept")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--markdown", type=Path, help="rewrite the table between the markers of this page")
    arguments = parser.parse_args()
    fixed = ["experiment=clinc150", f"env.path={arguments.data.resolve()}", "baselines=all"]
    runs = [finished(arguments.out / f"dqn-{seed}", [*fixed, f"seed={seed}"]) for seed in arguments.seeds]
    scores = {"dqn": [run["splits"]["test"]["metrics"]["exact_match"] for run in runs]}
    for name in BASELINES:
        scores[name] = [run["baselines"][name]["splits"]["test"]["metrics"]["exact_match"] for run in runs]
    rows = [
        [name, interval(values), interval([100 * a / b for a, b in zip(values, scores["supervised"])], 1)]
        for name, values in scores.items()
    ]
    text = markdown_table(["policy", "accuracy on val", "% of supervised"], rows)
    seconds = interval([run["cpu_s"] for run in runs], 1)
    n, interactions = runs[0]["splits"]["test"]["n"], runs[0]["interactions"]
    text += f"\n\n{n:,} sentences; dqn: {interactions:,} interactions, {seconds} CPU-s of learning, one thread."
    print(text)
    if arguments.markdown:
        write_between_markers(arguments.markdown, "clinc150", text)


if __name__ == "__main__":
    main()
