"""What a policy answered, as files of its run: every answer with its scores, and twenty of them in full to look at."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from instructrec_rl.core.files import write_text_atomic
from instructrec_rl.env.constraints import satisfies
from instructrec_rl.env.environment import Environment
from instructrec_rl.run.evaluate import Answers, Scorer, Summary

NUM_SAMPLES = 20
DECIMALS = 6  # of scores in answers.jsonl: enough to tell any two apart, and a third of the bytes
Scored = dict[str, tuple[Answers, dict[str, np.ndarray]]]  # by split, with the score of each answer (B,) by metric


def write_answers(path: Path, env: Environment, scored: Scored) -> None:
    """One line an answer, in the order of the data, so that runs can be compared instruction by instruction.

    Each has `split, id, instruction, response, item` (the id of the item that the response is, or null), `reward` and
    `metrics`; where the data has them `wording`, and `kinds`: kind of constraint -> [how many hold, how many asked].
    """
    satisfied: dict[str, np.ndarray] = {}
    lines: list[str] = []
    for split, (answers, scores) in scored.items():
        rounded = {name: np.round(values, DECIMALS).tolist() for name, values in scores.items()}
        rewards = rounded.pop("reward")
        for j, (row, item, response) in enumerate(zip(answers.rows, answers.items, answers.responses(env))):
            example = env.examples[row]
            line = {
                "split": split,
                "id": example.id,
                "instruction": example.instruction,
                "response": response,
                "item": env.items[item].id if item >= 0 else None,
                "reward": rewards[j],
                "metrics": {name: values[j] for name, values in rounded.items()},
            }
            if "wording" in example.row:
                line["wording"] = example.row["wording"]
            if kinds := _kinds(env, int(row), int(item), satisfied):
                line["kinds"] = kinds
            lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    write_text_atomic(path, "".join(lines))


def _kinds(env: Environment, row: int, item: int, satisfied: dict[str, np.ndarray]) -> dict[str, list[int]]:
    """For each kind of constraint of a row, how many of them the item satisfies, and how many there are.

    satisfied: which items satisfy a constraint, kept from row to row, as few constraints are asked only once.
    """
    found: dict[str, list[int]] = {}
    for constraint in env.examples[row].row.get("constraints", ()):
        key = str(constraint)
        if key not in satisfied:
            satisfied[key] = satisfies(constraint, env.items)
        count = found.setdefault(str(constraint.get("kind", constraint["attribute"])), [0, 0])
        count[0] += int(item >= 0 and satisfied[key][item])
        count[1] += 1
    return found


def write_samples(path: Path, scorer: Scorer, scored: Scored) -> None:
    """Twenty answers spread evenly over the splits, each with what every reward and metric says of it."""
    lines: list[str] = []
    for k, (split, (answer, scores)) in enumerate(scored.items()):
        share = NUM_SAMPLES // len(scored) + (k < NUM_SAMPLES % len(scored))
        chosen = np.unique(np.linspace(0, len(answer.rows) - 1, min(share, len(answer.rows))).round().astype(int))
        texts = None if answer.texts is None else tuple(answer.texts[k] for k in chosen)
        few = Answers(answer.rows[chosen], answer.items[chosen], texts)
        parts, responses = scorer.parts(few), few.responses(scorer.env)
        for j, place in enumerate(chosen):
            sample = _sample(scorer.env, split, int(few.rows[j]), int(few.items[j]), responses[j]) | {
                "reward": float(scores["reward"][place]),
                "reward_parts": {name: float(values[j]) for name, values in parts.items()},
                "metrics": {name: float(values[place]) for name, values in scores.items() if name != "reward"},
            }
            lines.append(json.dumps(sample, ensure_ascii=False) + "\n")
    write_text_atomic(path, "".join(lines))


def _sample(env: Environment, split: str, row: int, item: int, response: str) -> Summary:
    example = env.examples[row]
    sample: Summary = {
        "split": split,
        "id": example.id,
        "instruction": example.instruction,
        "response": response,
        "references": list(example.references),
        "best_response": env.items[example.best[0]].text,
    }
    if constraints := example.row.get("constraints"):
        sample["constraints"] = [
            {**c, "satisfied": bool(item >= 0 and satisfies(c, env.items)[item])} for c in constraints
        ]
    return sample | ({"wording": example.row["wording"]} if "wording" in example.row else {})
