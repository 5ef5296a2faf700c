"""An environment ready to use: its data, its states, its reward, and the batched dynamics that everything shares.

The world is written once, batched: `Dynamics.start` and `Dynamics.step` take rows and give rows. The Gymnasium `Env`
and `VectorEnv`, the DQN loop and a language model's rollouts are thin shells over it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from instructrec_rl.config.schema import EnvConfig
from instructrec_rl.core import Batch, InputError, nearest
from instructrec_rl.core.files import read_jsonl
from instructrec_rl.encoders.states import Asked, States, encode_states, stored_states
from instructrec_rl.env.examples import ExampleTable
from instructrec_rl.env.item_finder import ItemFinder
from instructrec_rl.env.spec import Spec, load_spec

if TYPE_CHECKING:
    from instructrec_rl.encoders.bert import Encoder
    from instructrec_rl.rewards import Reward

MAX_CACHED_REWARDS = 32_000_000  # cells of the (rows, items) table: 256 MB; past that, scores are computed each time


@dataclass(repr=False)
class Environment:
    """A spec with its encoder and reward. Everything costly is computed at first use and kept."""

    spec: Spec
    encoder: Encoder
    reward_name: str
    reward_options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.items = self.spec.items
        self.examples = self.spec.examples
        self.splits = self.spec.splits
        self.instructions, self.row_ids = self.spec.examples.instructions, self.spec.examples.ids
        self.item_texts = np.array([item.text for item in self.items], dtype=object)
        self.item_ids = np.array([item.id for item in self.items], dtype=object)
        self._states: dict[str, States] = {}

    @cached_property
    def reward(self) -> Reward:
        """The training reward, loaded with this environment as its context."""
        from instructrec_rl.rewards import load_reward, refuse_unpaid

        reward = load_reward(self.reward_name, env=self, **self.reward_options)
        refuse_unpaid(reward, self.examples, self.spec.rows("train").tolist(), self.spec.files[-1])
        return reward

    @cached_property
    def reward_table(self) -> RewardTable:
        """The training reward of (row, item) pairs, each computed once."""
        return RewardTable(self)

    def __repr__(self) -> str:
        spec = self.spec
        sizes = f"{len(self.examples):,} instructions, {len(self.items):,} items"
        return f"<Environment {spec.name}: {sizes}, {spec.state} states, reward {self.reward_name}>"

    def states(self, kind: str = "") -> States:
        """The states of all instructions (N rows), at the environment's granularity or another."""
        kind = kind or self.spec.state
        if kind not in self._states:
            if isinstance(self.examples, ExampleTable):
                self._states[kind] = stored_states(self.instructions, self.encoder, kind, self.examples.key)
            else:
                self._states[kind] = encode_states(list(self.instructions), self.encoder, kind)
        return self._states[kind]

    @cached_property
    def finder(self) -> ItemFinder:
        """Which item a text names."""
        return ItemFinder(self.items)

    @cached_property
    def characters(self) -> frozenset[str]:
        """Every character of the items' texts, the instructions, and the references that a written answer may give."""
        references = (text for example in self.examples for text in example.references)
        return frozenset().union(*self.item_texts, *self.instructions, *references)

    @cached_property
    def item_vectors(self) -> np.ndarray:
        """Sentence embeddings of the items' texts, (A, D) float32."""
        return self.encoder.encode(list(self.item_texts))

    def locate(self, row_id: str) -> tuple[Path, int] | None:
        """The file and the line of an instruction, None where its file has no ids. Reads the file: for errors alone."""
        path = self.spec.files[-1]
        if path.suffix != ".jsonl" or self.spec.format != "catalog":
            return None
        return next(((path, line) for line, record in read_jsonl(path) if record.get("id") == row_id), None)

    def asked(self, rows: np.ndarray) -> Asked:
        """Rows' instructions as a policy sees them."""
        return Asked(self.instructions[rows], lambda kind: self.states(kind).take(rows), rows)

    def batch(self, rows: np.ndarray, responses: Sequence[str]) -> Batch:
        """Pair rows' instructions, references and records with B responses, ready to score."""
        chosen = [self.examples[row] for row in rows]
        return Batch(
            [example.instruction for example in chosen],
            responses,
            [example.references for example in chosen],
            [example.row for example in chosen],
        )

    def dynamics(self, split: str = "train") -> Dynamics:
        """The world over one split's instructions and the items on offer there."""
        return Dynamics(self, self.spec.rows(split), self.spec.menu(split))


class RewardTable:
    """Training rewards of (row, item) pairs, computed in batches at first use.

    When the reward's version changes (new feedback), everything computed under the old one is forgotten.
    """

    def __init__(self, env: Environment):
        self.env = env
        self.version = env.reward.version
        cells = len(env.examples) * len(env.items)
        self.table = np.full((len(env.examples), len(env.items)), np.nan) if cells <= MAX_CACHED_REWARDS else None

    def __call__(self, rows: np.ndarray, items: np.ndarray) -> np.ndarray:
        """Rewards (B,) float64 in [0, 1] of answering rows (B,) with items (B,)."""
        if self.env.reward.version != self.version:
            self.version = self.env.reward.version
            if self.table is not None:
                self.table[:] = np.nan
        if self.table is None:
            return self._score(rows, items)
        values = self.table.ravel().take(rows * len(self.env.items) + items)
        if math.isnan(values.sum()):  # one number to look at where all are known, as they mostly are
            missing = np.isnan(values)
            pairs = np.unique(rows[missing] * len(self.env.items) + items[missing])
            new_rows, new_items = np.divmod(pairs, len(self.env.items))
            self.table[new_rows, new_items] = self._score(new_rows, new_items)
            values = self.table[rows, items]
        return values

    def _score(self, rows: np.ndarray, items: np.ndarray) -> np.ndarray:
        return self.env.reward.score_batch(self.env.batch(rows, list(self.env.item_texts[items])))


@dataclass(frozen=True)
class Turn:
    """Where B episodes stand.

    rows: (B,) which instruction; turn: (B,) how many answers were given; tried: (B, turns - 1) the answers so far as
    positions in `Dynamics.response_vectors`, -1 where none; last_score, best_score: (B,) the reward module's score of
    the last and of the best answer so far (0 before the first).
    """

    rows: np.ndarray
    turn: np.ndarray
    tried: np.ndarray
    last_score: np.ndarray
    best_score: np.ndarray

    def select(self, which: np.ndarray | slice) -> Turn:
        """Some of the episodes: `which` is a mask, positions, or a slice."""
        return Turn(**{name: getattr(self, name)[which] for name in Turn.__dataclass_fields__})

    def replace(self, ended: np.ndarray, fresh: Turn) -> Turn:
        """This with the episodes where `ended` (B,) is true replaced by those of `fresh`, in order."""
        if len(fresh.rows) == len(self.rows):
            return fresh
        merged = {name: getattr(self, name).copy() for name in Turn.__dataclass_fields__}
        for name, values in merged.items():
            values[ended] = getattr(fresh, name)
        return Turn(**merged)


@dataclass(frozen=True)
class Step:
    """The outcome of B answers: the next state, the rewards (B,), and which episodes ended (B,) bool, and why."""

    turn: Turn
    rewards: np.ndarray
    scores: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray


class Dynamics:
    """The world's rules, batched.

    One turn (the default): the episode ends with the answer and the reward is the reward module's score in [0, 1].
    Several turns: the policy may answer again while it is not fully right. An answer earns how much it improves on
    the best score so far, and every answer after the first costs `turn_cost`; so the return is the best score less the
    price of the extra turns. The episode terminates when an answer scores 1 and is truncated after `turns` answers.
    """

    def __init__(self, env: Environment, rows: np.ndarray, menu: np.ndarray):
        self.env, self.rows, self.menu = env, rows, menu
        self.turns, self.turn_cost = env.spec.turns, env.spec.turn_cost
        self._text_ids: dict[str, int] = {}
        self._text_vectors: list[np.ndarray] = []

    def __repr__(self) -> str:
        return f"<Dynamics of {self.env!r}: {len(self.rows):,} instructions, {len(self.menu):,} items on offer>"

    def start(self, rows: np.ndarray) -> Turn:
        """Begin an episode for each of rows (B,), positions in the environment's examples."""
        size = len(rows)
        tried = np.full((size, self.turns - 1), -1, dtype=np.int64)
        return Turn(rows, np.zeros(size, dtype=np.int64), tried, np.zeros(size), np.zeros(size))

    def step(self, turn: Turn, items: np.ndarray) -> Step:
        """Answer with items (B,), positions in the catalog."""
        return self._advance(turn, self.env.reward_table(turn.rows, items), items)

    def step_texts(self, turn: Turn, texts: Sequence[str]) -> Step:
        """Answer with B texts of the policy's own."""
        scores = self.env.reward.score_batch(self.env.batch(turn.rows, texts))
        answers = self._remember(texts) if self.turns > 1 else np.full(len(texts), -1)
        return self._advance(turn, scores, answers)

    def _advance(self, turn: Turn, scores: np.ndarray, answers: np.ndarray) -> Step:
        count = turn.turn + 1
        if self.turns == 1:
            ended = np.ones(len(scores), dtype=bool)
            following = Turn(turn.rows, count, turn.tried, scores, scores)
            return Step(following, scores, scores, ended, np.zeros(len(scores), dtype=bool))
        best = np.maximum(turn.best_score, scores)
        rewards = best - turn.best_score - self.turn_cost * (turn.turn > 0)
        terminated = scores >= 1 - 1e-9
        truncated = ~terminated & (count >= self.turns)
        tried = turn.tried.copy()
        going_on = np.flatnonzero(turn.turn < self.turns - 1)
        tried[going_on, turn.turn[going_on]] = answers[going_on]
        return Step(Turn(turn.rows, count, tried, scores, best), rewards, scores, terminated, truncated)

    def _remember(self, texts: Sequence[str]) -> np.ndarray:
        for text in texts:
            self._text_ids.setdefault(text, len(self._text_ids))
        return np.array([self._text_ids[text] for text in texts], dtype=np.int64) + len(self.env.items)

    @property
    def response_vectors(self) -> np.ndarray:
        """Embeddings (R, D) of everything that `Turn.tried` may point to: the items, then texts answered so far.

        Encoded here and not when they are answered: who reads its own answers as text needs none, and a language model
        that explores writes much that the encoder would refuse.
        """
        if new := list(self._text_ids)[len(self._text_vectors) :]:
            self._text_vectors.extend(self.env.encoder.encode(new))
        if not self._text_vectors:
            return self.env.item_vectors
        return np.concatenate([self.env.item_vectors, np.stack(self._text_vectors)])

    def context(self, tried: np.ndarray, last_score: np.ndarray) -> np.ndarray | None:
        """The context so far, (B, D + 1) float32, or None where episodes have one turn.

        The mean embedding of the answers given (zeros before the first), then the last answer's score.
        """
        if self.turns == 1:
            return None
        mask = tried >= 0
        vectors = self.response_vectors[np.where(mask, tried, 0)] * mask[..., None]
        mean = vectors.sum(1) / np.maximum(mask.sum(1, keepdims=True), 1)
        return np.concatenate([mean, last_score[:, None]], axis=1).astype(np.float32)


def load_env(name: str, *, reward: str = "", encoder: str | Encoder = "minilm", **options: Any) -> Environment:
    """Load an environment by name: its spec, splits and dynamics.

    reward: a reward's name (default: see `About.default_reward`);
    options: the fields of `EnvConfig` (path, state, catalog, turns, ...). Raises InputError for anything unknown.
    """
    known = [f.name for f in fields(EnvConfig) if f.name != "name"]
    for key in options:
        if key not in known:
            raise InputError(f'load_env has no option "{key}".{nearest(key, known)}')
    return make_environment(load_spec(EnvConfig(name=name, **options)), encoder, reward)


def make_environment(
    spec: Spec, encoder: str | Encoder = "minilm", reward: str = "", reward_options: Mapping[str, Any] | None = None
) -> Environment:
    """Join a spec with an encoder (a name, or one already loaded) and a reward."""
    if isinstance(encoder, str):
        from instructrec_rl.encoders.bert import EncoderConfig
        from instructrec_rl.encoders.loading import load_encoder

        encoder = load_encoder(EncoderConfig(name=encoder))
    return Environment(spec, encoder, reward or spec.reward, reward_options or {})
