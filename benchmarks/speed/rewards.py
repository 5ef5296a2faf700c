"""Rewards against the reference implementations called the usual way: CPU-seconds, one run, one thread.

python -m benchmarks.speed.rewards [--json FILE] [--markdown docs/results/rewards_speed.md] [--repeats N]
"""

from __future__ import annotations

import argparse
import functools
import os
import platform
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before NumPy is imported
os.environ["MKL_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.common.tables import markdown_table, write_between_markers
from instructrec_rl import load_reward
from instructrec_rl.core import Batch
from instructrec_rl.core.files import write_json_atomic
from instructrec_rl.rewards.tokens import porter

LENGTHS = ((8, 24), (16, 32), (32, 64))  # words a text: the dearer ROUGE's reference (its LCS is quadratic), the longer
PACKAGES = ("rouge-score", "sacrebleu", "nltk", "evaluate", "rapidfuzz", "numpy", "better-profanity", "vaderSentiment")
COLUMNS = ("metric", "words a text", "batch", "reference", "here", "ratio", "max difference")
Scores = Callable[[list[str], list[str]], np.ndarray]  # responses, references -> (B,), or (1,) of the corpus
PairScore = Callable[[str, str], float]


@dataclass(frozen=True)
class Case:
    """A reward with its options, and the reference implementation called the usual way: an object, pair by pair.

    corpus: compare the scores of the corpus. near: a response is its reference with a fifth of the words left out.
    """

    name: str
    reward: str
    options: dict[str, Any]
    reference: Callable[[], Scores]
    tolerance: float = 1e-9
    lengths: tuple[tuple[int, int], ...] = LENGTHS[1:2]
    corpus: bool = False
    near: bool = False


def pair_by_pair(score: PairScore) -> Scores:
    return lambda responses, references: np.array([score(*pair) for pair in zip(responses, references)])


def rouge_score(types: list[str], stemmer: bool) -> Scores:
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(types, use_stemmer=stemmer)

    def score(response: str, reference: str) -> float:
        found = scorer.score(reference, response)
        return float(np.mean([found[kind].fmeasure for kind in types]))

    return pair_by_pair(score)


def sacrebleu_score(name: str, **options: Any) -> Scores:
    from sacrebleu import metrics

    forget()
    metric = getattr(metrics, name)(**options)
    return pair_by_pair(lambda response, reference: metric.sentence_score(response, [reference]).score / 100)


def ter() -> Scores:
    rate = sacrebleu_score("TER")
    return lambda responses, references: np.maximum(0, 1 - rate(responses, references))


def forget() -> None:
    """sacrebleu keeps the texts of an earlier round."""
    from sacrebleu.tokenizers import tokenizer_13a, tokenizer_re, tokenizer_ter

    for tokenizer in (tokenizer_13a.Tokenizer13a, tokenizer_re.TokenizerRegexp, tokenizer_ter.TercomTokenizer):
        tokenizer.__call__.cache_clear()


@functools.cache
def evaluates_metric(config_name: str) -> Any:
    import evaluate

    return evaluate.load(
        str(Path(__file__).resolve().parents[1] / "peers" / "evaluate_metric.py"), config_name, keep_in_memory=True
    )


def evaluates(config_name: str, **options: Any) -> Scores:
    """What evaluate's script does, loaded by path; all rows in one call, as it is used."""
    forget()
    metric = evaluates_metric(config_name)

    def scores(responses: list[str], references: list[str]) -> np.ndarray:
        found = metric.compute(predictions=responses, references=references, **options)
        return np.mean(list(found.values()), axis=0) if config_name == "rouge" else np.array([found["score"] / 100])

    return scores


def nltk_meteor() -> Scores:
    from nltk.tokenize import wordpunct_tokenize
    from nltk.translate.meteor_score import meteor_score

    class NoSynonyms:
        def synsets(self, word: str) -> list[str]:
            return []

    def score(response: str, reference: str) -> float:
        return meteor_score([wordpunct_tokenize(reference)], wordpunct_tokenize(response), wordnet=NoSynonyms())

    return pair_by_pair(score)


ALL_ROUGE = ["rouge1", "rouge2", "rougeL"]
CASES = (
    Case("ROUGE-L", "rouge", {}, lambda: rouge_score(["rougeL"], False), lengths=LENGTHS),
    Case("ROUGE-1+2+L", "rouge", {"variant": "mean"}, lambda: rouge_score(ALL_ROUGE, False), lengths=LENGTHS),
    Case("with stemming", "rouge", {"variant": "mean", "stemmer": True}, lambda: rouge_score(ALL_ROUGE, True)),
    Case("BLEU", "bleu", {}, lambda: sacrebleu_score("BLEU", effective_order=True), 1e-12),
    Case("chrF", "chrf", {}, lambda: sacrebleu_score("CHRF"), 1e-12),
    Case("chrF++", "chrf", {"word_order": 2}, lambda: sacrebleu_score("CHRF", word_order=2), 1e-12),
    Case("METEOR", "meteor", {}, nltk_meteor),
    Case("TER", "ter", {}, ter),
    Case("TER, words left out", "ter", {}, ter, near=True),
    Case("evaluate's ROUGE-1+2+L", "rouge", {"variant": "mean"}, lambda: evaluates("rouge", rouge_types=ALL_ROUGE)),
    Case("evaluate's BLEU, corpus", "bleu", {}, lambda: evaluates("bleu"), 1e-12, corpus=True),
    Case("evaluate's chrF, corpus", "chrf", {}, lambda: evaluates("chrf"), 1e-12, corpus=True),
)
ALONE: dict[str, dict[str, Any]] = {  # without a reference implementation to compare with
    "exact_match": {},
    "fuzzy": {},
    "numeric": {},
    "format": {"min_words": 2, "max_words": 30, "no_repetition": 3},
    "profanity": {},
    "sentiment": {},
}


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
    if case.near:
        rng = random.Random(8)
        responses = [" ".join(word for word in text.split() if rng.random() < 0.8) for text in references]
    theirs: list[float] = []
    ours: list[np.ndarray] = []

    def run_theirs() -> None:
        theirs[:] = case.reference()(responses, references)

    def run_ours(batch: int) -> None:
        ours.clear()
        porter().cache_clear()
        reward = load_reward(case.reward, **case.options)  # fresh: no text is remembered from an earlier run
        for start in range(0, pairs, batch):
            right = [[reference] for reference in references[start : start + batch]]
            part = Batch([""] * len(right), responses[start : start + batch], right)
            ours.append(reward.score_with_statistics(part)[1] if case.corpus else reward.score_batch(part))
        if case.corpus:
            ours[:] = [np.array([reward.corpus_score(np.concatenate(ours).sum(axis=0))])]

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


def measure_alone(name: str, options: dict[str, Any], pairs: int, repeats: int) -> dict[str, object]:
    """A reward without a reference implementation; the figure is for the record."""
    made = texts(2 * pairs, LENGTHS[1], random.Random(7))
    batch = Batch([""] * pairs, made[:pairs], [[text] for text in made[pairs:]])
    [spent] = cpu_s([lambda: load_reward(name, **options).score_batch(batch)], repeats)
    return alone(name, f"{LENGTHS[1][0]}-{LENGTHS[1][1]}", pairs, spent)


def alone(name: str, words: str, pairs: int, spent: float) -> dict[str, object]:
    row: dict[str, object] = {"metric": name, "words": words, "pairs": pairs, "batch": pairs}
    return row | {"ours_cpu_s": spent, "ours_pairs_per_s": pairs / spent}


def measure_constraints(pairs: int, repeats: int) -> dict[str, object]:
    """On a made-up catalog of 75 items."""
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
    return alone("constraints", "", pairs, spent)


def cells(row: dict[str, Any]) -> list[str]:
    """A row of the table."""
    shown = [row["metric"], row["words"], f"{row['batch']:,}"]
    if "ratio" not in row:
        return [*shown, "", f"{row['ours_pairs_per_s']:,.0f}", "", ""]
    rates = [f"{row['reference_pairs_per_s']:,.0f}", f"{row['ours_pairs_per_s']:,.0f}", f"{row['ratio']:.1f}x"]
    return [*shown, *rates, f"{row['max_difference']:.0e}" if row["max_difference"] else "0"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--markdown", type=Path, help="rewrite the table of this page, between its markers")
    parser.add_argument("--pairs", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as modules:
        os.environ["HF_MODULES_CACHE"] = modules  # where evaluate copies a metric's script
        compare(args)


def compare(args: argparse.Namespace) -> None:
    """Measure every case, and print and write the table."""
    porter()("imports NLTK")
    load = [os.getloadavg()[0]]
    rows: list[dict[str, Any]] = []
    for case in CASES:
        for words_each in case.lengths:
            print(f"{case.name}, {words_each[0]} to {words_each[1]} words", file=sys.stderr, flush=True)
            rows += measure(case, words_each, args.pairs, args.repeats)
    rows += [measure_alone(name, options, args.pairs, args.repeats) for name, options in ALONE.items()]
    rows.append(measure_constraints(10 * args.pairs, args.repeats))
    load.append(os.getloadavg()[0])
    versions = {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}
    about = ", ".join(f"{name} {number}" for name, number in versions.items())
    cores, busy = os.cpu_count() or 1, max(load) > 1.5
    about += (
        f"; {cores} cores, {'busy with other work' if busy else 'idle'}: load average {load[0]:.1f}, then {load[1]:.1f}"
    )

    table = Table(title="Rewards: pairs a CPU-second, one thread, distinct texts", caption=about)
    for column in COLUMNS:
        table.add_column(column, justify="left" if column == "metric" else "right")
    for row in rows:
        table.add_row(*cells(row))
    Console(width=110).print(table)
    if args.json:
        write_json_atomic(args.json, {"versions": versions, "load": load, "rows": rows})
    if args.markdown:
        text = markdown_table(COLUMNS, [cells(row) for row in rows])
        write_between_markers(args.markdown, "rewards", f"With {about}.\n\n{text}")


if __name__ == "__main__":
    main()
