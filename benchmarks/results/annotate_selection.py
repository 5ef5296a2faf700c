"""Does choosing the questions help? The learned reward from n ratings of pizza_rec, of chosen, even or random pairs.

    python -m benchmarks.results.annotate_selection [--seeds 5]

A simulated annotator rates by the share of hidden constraints that an item satisfies, with noise of half a step. The
figure is Spearman's rank correlation of the learned reward with that share on 3,000 random pairs of validation.
"""

from __future__ import annotations

import argparse

import numpy as np
from scipy.stats import spearmanr

from instructrec_rl import load_env
from instructrec_rl.annotate.learner import Learner
from instructrec_rl.annotate.pool import Pool, make_pool
from instructrec_rl.annotate.selection import Question, Selector, Tally
from instructrec_rl.annotate.session import record_of
from instructrec_rl.env.constraints import satisfies
from instructrec_rl.env.environment import Environment
from instructrec_rl.feedback.learned.judgements import collect
from instructrec_rl.feedback.learned.model import learn
from instructrec_rl.feedback.schema import Record, make_record

COUNTS = (50, 100, 200)
HELD_OUT = 3000
WAYS = ("random", "even", "chosen")  # even: as before anything is learned, so the fewest answers first


def truth(env: Environment, row: int) -> np.ndarray:
    """(A,) the share of a row's constraints that each item satisfies."""
    return np.mean([satisfies(constraint, env.items) for constraint in env.examples[row].row["constraints"]], axis=0)


def question_at_random(pool: Pool, rng: np.random.Generator) -> Question:
    row = rng.integers(len(pool.instructions))
    place = pool.candidates[row, rng.integers(pool.candidates.shape[1])]
    return Question("rate", pool.instructions[row], (pool.responses[place],))


def ratings(env: Environment, pool: Pool, way: str, seed: int) -> list[Record]:
    rng, tally, records = np.random.default_rng(seed), Tally(), []
    selector = Selector(pool, overlap=0.0, seed=seed)
    learner = Learner(pool, env.encoder, env.spec.name, env.items)
    row_of = {text: row for row, text in enumerate(env.instructions)}
    place_of = {item.text: place for place, item in enumerate(env.items)}
    for i in range(max(COUNTS)):
        if way == "random":
            question = question_at_random(pool, rng)
        else:
            found = selector.choose("rate", "simulated", tally, set(), learner.belief if way == "chosen" else None)
            assert found is not None
            question = found
        share = truth(env, row_of[question.instruction])[place_of[question.responses[0]]]
        value = int(np.clip(round(1 + 4 * share + rng.normal(0, 0.5)), 1, 5))
        fields = {"id": f"{i:06d}", "annotator": "simulated", "env": env.spec.name}
        records.append(make_record(record_of(question, value) | fields))
        tally.add(records[-1])
        if way == "chosen":
            learner.see(records)
            learner.wait()
    return records


def correlation(env: Environment, records: list[Record], rows: np.ndarray, items: np.ndarray) -> float:
    learned = learn(collect(records, env.spec.name, env.items), env.encoder, env.items, interaction="never")
    scores = learned.predict(list(env.instructions[rows]), list(env.item_texts[items])).score
    return float(spearmanr(scores, [truth(env, row)[item] for row, item in zip(rows, items)]).statistic)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    seeds = range(parser.parse_args().seeds)
    env, rng = load_env("pizza_rec"), np.random.default_rng(0)
    rows = rng.choice(env.spec.rows("validation"), HELD_OUT)
    items = rng.choice(env.spec.menu("validation"), HELD_OUT)
    found: dict[str, list[list[float]]] = {way: [] for way in WAYS}
    for seed in seeds:
        pool = make_pool(env, [], None, "train", 1000, 8, seed)
        for way in WAYS:
            records = ratings(env, pool, way, seed)
            found[way].append([correlation(env, records[:count], rows, items) for count in COUNTS])
            print(seed, way, *(f"{value:.3f}" for value in found[way][-1]), flush=True)
    print(f"\n| questions | {' | '.join(f'{count} ratings' for count in COUNTS)} |")
    print(f"|---|{'---|' * len(COUNTS)}")
    for way, values in found.items():
        table = np.array(values)
        half = 1.96 * table.std(axis=0, ddof=1) / np.sqrt(len(table)) if len(table) > 1 else np.zeros(len(COUNTS))
        cells = (f"{mean:.3f} ± {width:.3f}" for mean, width in zip(table.mean(axis=0), half))
        print(f"| {way} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
