"""How well a policy answers: task metrics apart from the training reward, on every held-out split, beside baselines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from instructrec_rl.core import InputError
from instructrec_rl.encoders.states import row_blocks
from instructrec_rl.env.constraints import satisfies
from instructrec_rl.env.environment import Dynamics, Environment
from instructrec_rl.policies.contracts import Policy, Writer
from instructrec_rl.rewards import Reward, load_reward

Summary = dict[str, Any]
DRAWS = 16  # random answers to each instruction
MAX_DRAWN = 80_000  # random answers in all, where that leaves each instruction at least one
MAX_WATCHED = 10_000  # validation instructions that are answered each time during learning
BLOCK = 32_768  # answers scored at once, with their records


@dataclass(frozen=True)
class Answers:
    """What a policy answered on a split: rows (B,) and items (B,), positions in the examples and the catalog.

    texts: what it wrote, where it writes; its item is then -1 where the text names none. None where it chose items.
    """

    rows: np.ndarray
    items: np.ndarray
    texts: tuple[str, ...] | None = None

    def responses(self, env: Environment) -> list[str]:
        """The answers' texts (B,)."""
        return list(env.item_texts[self.items]) if self.texts is None else list(self.texts)

    def blocks(self) -> Iterator[Answers]:
        """The same in parts of at most `BLOCK`, at least one."""
        for i in range(0, max(len(self.rows), 1), BLOCK):
            here = slice(i, i + BLOCK)
            yield Answers(self.rows[here], self.items[here], None if self.texts is None else self.texts[here])


class Scorer:
    """Scores answers of one environment: its task metrics, the training reward, and the share that is valid."""

    def __init__(self, env: Environment):
        self.env = env
        self.metrics: dict[str, Reward] = {name: _load_metric(name, env) for name in env.spec.metrics}

    def per_row(self, answers: Answers) -> dict[str, np.ndarray]:
        """Each metric's score of each answer, (B,), with the training reward under `reward`."""
        return _joined([self._per_row(part) for part in answers.blocks()])

    def _per_row(self, answers: Answers) -> dict[str, np.ndarray]:
        batch = self.env.batch(answers.rows, answers.responses(self.env))
        scores = {name: metric.score_batch(batch) for name, metric in self.metrics.items()}
        scores["valid"] = (answers.items >= 0).astype(np.float64)
        if answers.texts is not None:
            return scores | {"reward": self.env.reward.score_batch(batch)}
        return scores | {"reward": self.env.reward_table(answers.rows, answers.items)}

    def parts(self, answers: Answers) -> dict[str, np.ndarray]:
        """The parts of a composed training reward, (B,) each."""
        found = (self.env.batch(part.rows, part.responses(self.env)) for part in answers.blocks())
        return _joined([self.env.reward.parts(batch) for batch in found])


def _load_metric(name: str, env: Environment) -> Reward:
    try:
        return load_reward(name, env=env)
    except InputError as error:
        if error.path is not None:
            raise
        raise InputError(f'the field "metrics": {error.reason}', env.spec.files[0]) from error


def _joined(blocks: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def watched(env: Environment, split: str = "validation", most: int | None = None) -> np.ndarray:
    """A split's instructions that are answered where all would take long: `most` evenly spread ones where more.

    most: `MAX_WATCHED` where it is not given, as during learning.
    """
    rows, most = env.spec.rows(split), MAX_WATCHED if most is None else most
    return rows[np.arange(most) * len(rows) // most] if len(rows) > most else rows


def play(policy: Policy | Writer, env: Environment, split: str, rows: np.ndarray | None = None) -> Answers:
    """Answer a split's instructions (all, or those of `rows`) greedily; with turns, the last answer counts."""
    dynamics, rows = env.dynamics(split), env.spec.rows(split) if rows is None else rows
    if not isinstance(policy, Policy):
        return _play_writer(policy, dynamics, rows)
    blocks = row_blocks(rows, len(dynamics.menu))
    return Answers(rows, np.concatenate([_choose(policy, dynamics, block) for block in blocks]))


def _choose(policy: Policy, dynamics: Dynamics, rows: np.ndarray) -> np.ndarray:
    """The items (B,) that a policy answers with."""
    env = dynamics.env
    if dynamics.turns == 1:
        return policy.act(env.asked(rows), dynamics.menu)
    items = np.zeros(len(rows), dtype=np.int64)
    going, turn = np.arange(len(rows)), dynamics.start(rows)
    while len(going):
        context = dynamics.context(turn.tried, turn.last_score)
        items[going] = policy.act(env.asked(rows[going]), dynamics.menu, context)
        outcome = dynamics.step(turn, items[going])
        open_still = ~(outcome.terminated | outcome.truncated)
        going, turn = going[open_still], outcome.turn.select(open_still)
    return items


def _play_writer(policy: Writer, dynamics: Dynamics, rows: np.ndarray) -> Answers:
    env = dynamics.env
    texts: list[str] = [""] * len(rows)
    past: list[list[tuple[str, float]]] = [[] for _ in rows]
    going, turn = np.arange(len(rows)), dynamics.start(rows)
    while len(going):
        written = policy.write(env.asked(rows[going]), dynamics.menu, [past[i] for i in going])
        for i, text in zip(going, written):
            texts[i] = text
        if dynamics.turns == 1:
            break
        outcome = dynamics.step_texts(turn, written)
        for i, text, score in zip(going, written, outcome.scores.tolist()):
            past[i].append((text, score))
        open_still = ~(outcome.terminated | outcome.truncated)
        going, turn = going[open_still], outcome.turn.select(open_still)
    return Answers(rows, env.finder(texts), tuple(texts))


def summarise(scorer: Scorer, answers: Answers, scores: Mapping[str, np.ndarray] | None = None) -> Summary:
    """Means over a split, with the same by wording and by kind of constraint where the data has them.

    scores: what `scorer.per_row` found of these answers, where it was asked before.
    """
    scores, parts = scorer.per_row(answers) if scores is None else scores, scorer.parts(answers)
    summary: Summary = {"n": len(answers.rows), **_means(scores)}
    if parts:
        summary["reward_parts"] = {name: float(values.mean()) for name, values in parts.items()}
    wordings = np.array([str(scorer.env.examples[row].row.get("wording", "")) for row in answers.rows])
    groups = {name: wordings == name for name in np.unique(wordings) if name}
    by: dict[str, Any] = {}
    if groups:
        by["wording"] = {
            str(name): {"n": int(mask.sum()), **_means({key: values[mask] for key, values in scores.items()})}
            for name, mask in groups.items()
        }
    if kinds := satisfied_by_kind(scorer.env, answers):
        by["kind"] = kinds
    return summary | ({"by": by} if by else {})


def chance(scorer: Scorer, split: str, seed: int, rows: np.ndarray | None = None) -> Summary:
    """What uniformly random answers to a split (all of it, or `rows`) score: the mean of several draws, as this is what
    every figure is normalised by."""
    env, asked = scorer.env, scorer.env.spec.rows(split) if rows is None else rows
    draws = max(1, min(DRAWS, MAX_DRAWN // len(asked)))
    many = np.tile(asked, draws)
    items = np.random.default_rng(seed).choice(env.spec.menu(split), size=len(many))
    return _divide_counts(summarise(scorer, Answers(many, items)), draws)


def _divide_counts(summary: Any, draws: int) -> Any:
    """The summary of several draws with the counts of one."""
    if not isinstance(summary, dict):
        return summary
    return {key: value // draws if key == "n" else _divide_counts(value, draws) for key, value in summary.items()}


def _means(scores: Mapping[str, np.ndarray]) -> Summary:
    means = {name: float(values.mean()) for name, values in scores.items()}
    return {"reward": means.pop("reward"), "metrics": means}


def satisfied_by_kind(env: Environment, answers: Answers) -> dict[str, dict[str, float]]:
    """For each kind of constraint, how many there were and the share that the answers satisfy."""
    known: dict[str, np.ndarray] = {}
    counts: dict[str, list[int]] = {}
    for row, item in zip(answers.rows, answers.items):
        for constraint in env.examples[row].row.get("constraints", ()):
            key = str(constraint)
            if key not in known:
                known[key] = satisfies(constraint, env.items)
            total = counts.setdefault(str(constraint.get("kind", constraint["attribute"])), [0, 0])
            total[0] += 1
            total[1] += int(item >= 0 and known[key][item])
    return {kind: {"n": n, "satisfied": hits / n} for kind, (n, hits) in sorted(counts.items())}


def normalise(splits: dict[str, Summary], random: dict[str, Summary], oracle: dict[str, Summary]) -> None:
    """Add `normalized` to each split (and wording): (x - random) / (oracle - random); null where that is 0 / 0."""
    for name, summary in splits.items():
        low, high = random[name], oracle[name]
        _add_normalized(summary, low, high)
        for wording, part in summary.get("by", {}).get("wording", {}).items():
            _add_normalized(part, low["by"]["wording"][wording], high["by"]["wording"][wording])


def _add_normalized(summary: Summary, low: Summary, high: Summary) -> None:
    values = {"reward": summary["reward"], **summary["metrics"]}
    lows, highs = {"reward": low["reward"], **low["metrics"]}, {"reward": high["reward"], **high["metrics"]}
    summary["normalized"] = {
        key: (value - lows[key]) / (highs[key] - lows[key]) if abs(highs[key] - lows[key]) > 1e-9 else None
        for key, value in values.items()
    }
