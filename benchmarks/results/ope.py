"""The table of off-policy estimates in docs/results/ope.md: synthetic logged bandit data whose truth is known.

    python -m benchmarks.results.ope [--seeds 100] [--first 0] [--markdown docs/results/ope.md]

Each seed draws a world: contexts x ~ N(0, I_5), 10 actions, P(reward = 1 | x, a) = sigmoid(x . u_a + b_a). The logging
policy is softmax(x . l_a) with l of its own, the policy judged softmax(2 (x . u_a + b_a)), so it prefers what is
good. 10,000 rounds are logged; the truth is the mean over 200,000 further contexts.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from benchmarks.common.tables import markdown_table, write_between_markers
from instructrec_rl.commands.ope.estimators import Evaluation, estimate
from instructrec_rl.commands.ope.regression import cross_fit

NUM_ROUNDS, NUM_ACTIONS, DIM = 10_000, 10, 5


def softmax(scores: np.ndarray) -> np.ndarray:
    """Rows (n, A) as distributions."""
    weights = np.exp(scores - scores.max(1, keepdims=True))
    return weights / weights.sum(1, keepdims=True)


def world(seed: int, num_rounds: int = NUM_ROUNDS) -> tuple[Evaluation, float]:
    """The estimates of one seed, and the truth."""
    rng = np.random.default_rng(seed)
    worth = rng.normal(size=(DIM, NUM_ACTIONS)) / DIM**0.5
    offset = 0.5 * rng.normal(size=NUM_ACTIONS)
    logging = rng.normal(size=(DIM, NUM_ACTIONS)) / DIM**0.5
    many = rng.normal(size=(200_000, DIM))
    scores = many @ worth + offset
    truth = float((softmax(2 * scores) / (1 + np.exp(-scores))).sum(1).mean())
    x = rng.normal(size=(num_rounds, DIM))
    scores = x @ worth + offset
    behaviour, target = softmax(x @ logging), softmax(2 * scores)
    actions = (behaviour.cumsum(1) > rng.random((num_rounds, 1))).argmax(1)
    rounds = np.arange(num_rounds)
    rewards = (rng.random(num_rounds) < 1 / (1 + np.exp(-scores[rounds, actions]))).astype(float)
    contexts = np.concatenate([x, np.ones((num_rounds, 1))], axis=1)
    q_logged, q_target = cross_fit(contexts, np.eye(NUM_ACTIONS)[actions], target, rewards)
    found = estimate(rewards, target[rounds, actions], behaviour[rounds, actions], q_logged, q_target)
    return found, truth


def table(seeds: range) -> str:
    """The table over some seeds, and a line about the weights."""
    errors: dict[str, list[tuple[float, float, bool, float]]] = {}
    effective, withheld = [], 0
    for seed in seeds:
        found, truth = world(seed)
        effective.append(found.effective or 0.0)
        withheld += bool(found.reason)
        for name, each in found.estimates.items():
            if each.value is not None and each.low is not None and each.high is not None:
                error = (each.value - truth) / truth
                inside = each.low <= truth <= each.high
                errors.setdefault(name, []).append((abs(error), error, inside, (each.high - each.low) / truth))
    rows = []
    for name, results in errors.items():
        size, bias, inside, width = np.mean(results, axis=0)
        rows.append([name, f"{size:.4f}", f"{bias:+.4f}", f"{100 * inside:.1f} %", f"{width:.3f}"])
    header = ["estimate", "mean absolute relative error", "mean relative error", "truth inside the 95 % interval",
              "width of the interval / truth"]  # fmt: skip
    low, middle, high = np.quantile(effective, [0, 0.5, 1])
    said = (f"{len(seeds)} seeds from {seeds[0]} on; {withheld} of them withheld; effective sample size "
            f"{low:,.0f} to {high:,.0f}, median {middle:,.0f}, of {NUM_ROUNDS:,} rounds.")  # fmt: skip
    return f"{markdown_table(header, rows)}\n\n{said}"


def main() -> None:
    """Measure, print, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--markdown", type=Path, help="rewrite the table between the markers of this page")
    parser.add_argument("--marker", default="synthetic")
    arguments = parser.parse_args()
    text = table(range(arguments.first, arguments.first + arguments.seeds))
    print(text)
    if arguments.markdown:
        write_between_markers(arguments.markdown, arguments.marker, text)


if __name__ == "__main__":
    main()
