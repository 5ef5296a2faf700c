"""Rewards against the reference implementations called the usual way: CPU-seconds, one run, one thread.

python benchmarks/rewards.py [--json FILE] [--repeats N]
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"  # before NumPy is imported

import numpy as np  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from instructrec_rl import load_reward  # noqa: E402
from instructrec_rl.files import write_json_atomic  # noqa: E402
from instructrec_rl.tokens import porter  # noqa: E402

LENGTHS = ((8, 24), (16, 32), (32, 64))  # words a text: the dearer ROUGE's reference (its LCS is quadratic), the longer
PACKAGES = ("rouge-score", "sacrebleu", "nltk", "rapidfuzz", "numpy")
PairScore = Callable[[str, str], float]


@dataclass(frozen=True)
class Case:
    """A reward with its options, and the reference implementation called the usual way: an object, pair by pair."""

    name: str
    reward: str
    options: dict[str, Any]
    reference: Callable[[], PairScore]
    tolerance: float = 1e-9
    lengths: tuple[tuple[int, int], ...] = LENGTHS[1:2]


def rouge_score(types: list[str], stemmer: bool) -> PairScore:
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(types, use_stemmer=stemmer)

    def score(response: str, reference: str) -> float:
        found = scorer.score(reference, response)
        return float(np.mean([found[kind].fmeasure for kind in types]))

    return score


def sacrebleu_score(name: str, **options: Any) -> PairScore:
    from sacrebleu import metrics
    from sacrebleu.tokenizers import tokenizer_13a, tokenizer_re

    tokenizer_13a.Tokenizer13a.__call__.cache_clear()  # it keeps the texts of an earlier round
    tokenizer_re.TokenizerRegexp.__call__.cache_clear()
    metric = getattr(metrics, name)(**options)
    return lambda response, reference: metric.sentence_score(response, [reference]).score / 100


def nltk_meteor() -> PairScore:
    from nltk.tokenize import wordpunct_tokenize
    from nltk.translate.meteor_score import meteor_score

    class NoSynonyms:
        def synsets(self, word: str) -> list[str]:
            return []

    def score(response: str, reference: str) -> float:
        return meteor_score([wordpunct_tokenize(reference)], wordpunct_tokenize(response), wordnet=NoSynonyms())

    return score


ALL_ROUGE = ["rouge1", "rouge2", "rougeL"]
CASES = (
    Case("ROUGE-L", "rouge", {}, lambda: rouge_score(["rougeL"], False), lengths=LENGTHS),
    Case("ROUGE-1+2+L", "rouge", {"variant": "mean"}, lambda: rouge_score(ALL_ROUGE, False), lengths=LENGTHS),
    Case("with stemming", "rouge", {"variant": "mean", "stemmer": True}, lambda: rouge_score(ALL_ROUGE, True)),
    Case("BLEU", "bleu", {}, lambda: sacrebleu_score("BLEU", effective_order=True), 1e-12),
    Case("chrF", "chrf", {}, lambda: sacrebleu_score("CHRF"), 1e-12),
    Case("chrF++", "chrf", {"word_order": 2}, lambda: sacrebleu_score("CHRF", word_order=2), 1e-12),
    Case("METEOR", "meteor", {}, nltk_meteor),
)


def texts(count: int, words_each: tuple[int, int], rng: random.Random) -> list[str]:
    """Distinct sentences with case, numbers and punctuation; 4,000 words of falling frequency, 2 to 9 letters."""
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 9))) for _ in range(4000)]
    weights = [1 / (rank + 10) for rank in range(len(words))]
    made: dict[str, None] = {}
    while len(made) < count:
        chosen = rng.choices(words, weights, k=rng.randint(*words_each))
        made[f"{chosen[0].capitalize()} {' '.join(chosen[1:])}, ${rng.randint(5, 30)}."] = None
    return list(made)


def cpu_s(runs: Sequence[Callable[[], object]], repeats: int) -> list[float]:
    """The least CPU time of each over some rounds, taken in turns: what the work costs, not what neighbours add. What
    takes less than half a second runs again until it has had that in a round.
    """
    spent: list[list[float]] = [[] for _ in runs]
    for _ in range(repeats):
        for run, times in zip(runs, spent):
            begin = time.process_time()
            while (start := time.process_time()) < begin + 0.5:
                run()
                times.append(time.process_time() - start)
    return [min(times) for times in spent]


def measure(case: Case, words_each: tuple[int, int], pairs: int, repeats: int) -> list[dict[str, object]]:
    """A row for all pairs in one batch and one for batches of 64, against the same run of the reference."""
    made = texts(2 * pairs, words_each, random.Random(7))
    responses, references = made[:pairs], made[pairs:]
    theirs: list[float] = []
    ours: list[np.ndarray] = []

    def run_theirs() -> None:
        score = case.reference()
        theirs[:] = [score(response, reference) for response, reference in zip(responses, references)]

    def run_ours(batch: int) -> None:
        ours.clear()
        porter().cache_clear()
        reward = load_reward(case.reward, **case.options)  # fresh: no text is remembered from an earlier run
        for start in range(0, pairs, batch):
            right = [[reference] for reference in references[start : start + batch]]
            ours.append(reward.score([""] * len(right), responses[start : start + batch], right))

    slow, whole, small = cpu_s((run_theirs, lambda: run_ours(pairs), lambda: run_ours(64)), repeats)
    gap = float(np.abs(np.concatenate(ours) - theirs).max())
    if gap > case.tolerance:
        raise SystemExit(f"{case.name}: our scores differ from the reference's by {gap}")
    return [
        {"metric": case.name, "words": f"{words_each[0]}-{words_each[1]}", "pairs": pairs, "batch": batch}
        | {"reference_cpu_s": slow, "ours_cpu_s": fast}
        | {"reference_pairs_per_s": pairs / slow, "ours_pairs_per_s": pairs / fast, "ratio": slow / fast}
        | {"max_difference": gap}
        for batch, fast in ((pairs, whole), (64, small))
    ]


def measure_constraints(pairs: int, repeats: int) -> dict[str, object]:
    """No reference implementation exists; the figure is for the record."""
    from types import SimpleNamespace

    from instructrec_rl.core import Item

    rng = random.Random(7)
    names = [f"topping {k}" for k in range(20)]
    items = [
        Item(str(k), f"item {k}", f"item {k} text", {"toppings": rng.sample(names, 4), "price": float(k)})
        for k in range(75)
    ]
    kinds = [
        {"kind": "topping", "attribute": "toppings", "op": op, "value": t} for op in ("has", "lacks") for t in names
    ]
    kinds += [{"kind": "price", "attribute": "price", "op": "at_most", "value": k} for k in range(5, 60)]
    rows = [{"id": str(k), "constraints": rng.choices(kinds, k=rng.randint(1, 4))} for k in range(pairs)]
    responses = [rng.choice(items).text for _ in rows]
    reward = load_reward("constraints", env=SimpleNamespace(items=items, encoder=None))
    [spent] = cpu_s([lambda: reward.score([""] * pairs, responses, [[]] * pairs, rows)], repeats)
    return {
        "metric": "constraints",
        "pairs": pairs,
        "batch": pairs,
        "ours_cpu_s": spent,
        "ours_pairs_per_s": pairs / spent,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--pairs", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    porter()("imports NLTK")
    rows = [
        row
        for case in CASES
        for words_each in case.lengths
        for row in measure(case, words_each, args.pairs, args.repeats)
    ]
    rows.append(measure_constraints(10 * args.pairs, args.repeats))
    versions = {name: version(name) for name in PACKAGES}
    versions["python"] = platform.python_version()

    table = Table(
        title="Rewards, one thread, distinct texts", caption=", ".join(f"{k} {v}" for k, v in versions.items())
    )
    for column in ("metric", "words", "pairs", "batch", "theirs/CPU-s", "ours/CPU-s", "ratio", "max diff"):
        table.add_column(column, justify="left" if column == "metric" else "right")
    for row in rows:
        ratio = f"{row['ratio']:.1f}x" if "ratio" in row else "-"
        reference = f"{row['reference_pairs_per_s']:,.0f}" if "ratio" in row else "-"
        gap = f"{row['max_difference']:.0e}" if "ratio" in row else "-"
        cells = (
            row["metric"],
            row.get("words", "-"),
            row["pairs"],
            row["batch"],
            reference,
            f"{row['ours_pairs_per_s']:,.0f}",
            ratio,
            gap,
        )
        table.add_row(*map(str, cells))
    Console(width=110).print(table)
    if args.json:
        write_json_atomic(args.json, {"versions": versions, "rows": rows})


if __name__ == "__main__":
    main()
