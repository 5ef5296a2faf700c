"""Q-learning with linear values (Watkins 1989; Sutton & Barto 2018, ch. 10 and 11), on the sentence state.

    Q(s, a) = w_a . phi(s),   w_a += lr * delta * phi(s),   delta = r + gamma max_a' Q(s', a') - Q(s, a)

phi(s) is the instruction's embedding, centred and scaled; with turns also the context so far and the last score; and a
constant. Behaviour is epsilon-greedy, steps are scaled by AdaGrad (Duchi et al. 2011), and the rate falls linearly to
zero. Values start at `initial_value`: above the reward of a wrong answer, so that every item gets tried.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.numpy import save

from instructrec_rl.algorithms.loop.bandits import take_report, train
from instructrec_rl.algorithms.loop.exploration import NEAR_TIE, greedy_propensity
from instructrec_rl.core import DivergedError, InputError
from instructrec_rl.core.files import write_bytes_atomic
from instructrec_rl.core.tensor_files import read_tensors
from instructrec_rl.env.environment import Turn

if TYPE_CHECKING:
    from instructrec_rl.algorithms.loop.recorder import Recorder
    from instructrec_rl.config.schema import LinearQConfig
    from instructrec_rl.core import Item
    from instructrec_rl.encoders.states import Asked, States
    from instructrec_rl.env.environment import Environment

FILE = "linear_q.safetensors"


@dataclass(frozen=True)
class LinearQPolicy:
    """Greedy on Q.

    mean: (D,) and scale: (1,) of the training instructions' vectors; weights: (A, F), F = D + 1, or 2 D + 2 with turns;
    known: (A,) uint8, 0 for items that were not on offer in training. All float32 but `known`.
    """

    mean: np.ndarray
    scale: np.ndarray
    weights: np.ndarray
    known: np.ndarray

    def features(self, states: States, context: np.ndarray | None = None) -> np.ndarray:
        """phi of B sentence states and contexts (B, D + 1): (B, F) float32. The last column is constant."""
        vectors = states.vectors[states.index[:, 0]]
        parts = [(vectors - self.mean) / self.scale]
        if context is not None:
            parts += [context[:, :-1] / self.scale, context[:, -1:]]
        return np.concatenate([*parts, np.ones((len(vectors), 1), dtype=np.float32)], axis=1)

    def act(self, asked: Asked, menu: np.ndarray, context: np.ndarray | None = None) -> np.ndarray:
        """See `Policy.act`. Items never on offer in training come last."""
        return menu[self.scores(asked, menu, context).argmax(1)]

    def scores(self, asked: Asked, menu: np.ndarray, context: np.ndarray | None = None) -> np.ndarray:
        """The score of each item on the menu, (B, M)."""
        states = asked.states("sentence")
        if context is None and self.weights.shape[1] > len(self.mean) + 1:  # plain text: the first turn of an episode
            context = np.zeros((len(states), len(self.mean) + 1), dtype=np.float32)
        values = self.features(states, context) @ self.weights[menu].T
        return np.where(self.known[menu], values, -np.inf)

    def save(self, folder: Path) -> None:
        """See `Policy.save`."""
        write_bytes_atomic(folder / FILE, save(vars(self)))


class Learner:
    """Everything that training changes, and so everything that a checkpoint holds."""

    def __init__(self, env: Environment, config: LinearQConfig, seed: int):
        self.config, self.seed = config, seed
        self.dynamics, self.states = env.dynamics("train"), env.states("sentence")
        train = self.states.vectors[self.states.index[self.dynamics.rows, 0]]
        mean = train.mean(0)
        scale = np.maximum((train - mean).std(), 1e-6).astype(np.float32).reshape(1)
        dim = len(mean)
        weights = np.zeros((len(env.items), dim + 1 if self.dynamics.turns == 1 else 2 * dim + 2), dtype=np.float32)
        weights[:, -1] = config.initial_value
        known = np.zeros(len(env.items), dtype=np.uint8)
        known[self.dynamics.menu] = 1
        self.policy = LinearQPolicy(mean, scale, weights, known)
        self.squares = np.full_like(weights, 1e-8)  # AdaGrad's sums of squared gradients
        self.state: dict[str, Any] = {"step": 0, "reward_sum": 0.0, "answers": 0}
        rng = np.random.default_rng((seed, config.interactions))
        self.turn = self.dynamics.start(self._draw(rng, config.num_envs))

    def _draw(self, rng: np.random.Generator, size: int) -> np.ndarray:
        return self.dynamics.rows[rng.integers(len(self.dynamics.rows), size=size)]

    def _features(self, turn: Turn) -> np.ndarray:
        return self.policy.features(self.states.take(turn.rows), self.dynamics.context(turn.tried, turn.last_score))

    def answer(self, recorder: Recorder) -> None:
        """Answer once in every environment and learn from what happened."""
        config, dynamics, turn, step = self.config, self.dynamics, self.turn, self.state["step"]
        rng = np.random.default_rng((self.seed, step))  # of the step alone, so resuming needs no generator's state
        weights = self.policy.weights[dynamics.menu]
        features = self._features(turn)
        values = features @ weights.T
        chosen = (values + NEAR_TIE * rng.random(values.shape)).argmax(1)  # ties at random
        at_random = rng.random(len(chosen)) < config.epsilon
        chosen = np.where(at_random, rng.integers(len(dynamics.menu), size=len(chosen)), chosen)
        items = dynamics.menu[chosen]
        outcome = dynamics.step(turn, items)
        likely, turns = greedy_propensity(values, chosen, config.epsilon), turn.turn if dynamics.turns > 1 else None
        ids, names = dynamics.env.row_ids[turn.rows], dynamics.env.item_ids[items]
        recorder.rollouts.add_items(step, ids, names, likely, outcome.rewards, turns)
        target = outcome.rewards
        if dynamics.turns > 1:
            ahead = (self._features(outcome.turn) @ weights.T).max(1)
            target = target + config.gamma * ~outcome.terminated * ahead
        delta = target - values[np.arange(len(chosen)), chosen]
        if not np.isfinite(delta).all():
            raise DivergedError(step, "the error of a value", "algo.learning_rate", config.learning_rate)
        self._update(features, items, delta)
        ended = outcome.terminated | outcome.truncated
        self.turn = outcome.turn.replace(ended, dynamics.start(self._draw(rng, int(ended.sum()))))
        self.state = {
            "step": step + len(items),
            "reward_sum": self.state["reward_sum"] + float(outcome.rewards.sum()),
            "answers": self.state["answers"] + len(items),
        }

    def _update(self, features: np.ndarray, items: np.ndarray, delta: np.ndarray) -> None:
        """One AdaGrad step on the sum of delta * phi of each item chosen."""
        order = np.argsort(items, kind="stable")
        touched, starts = np.unique(items[order], return_index=True)
        gradient = np.add.reduceat((delta[:, None] * features)[order], starts).astype(np.float32)
        self.squares[touched] += gradient**2
        rate = self.config.learning_rate * max(0.0, 1 - self.state["step"] / self.config.interactions)
        self.policy.weights[touched] += np.float32(rate) * gradient / np.sqrt(self.squares[touched])

    def report(self) -> dict[str, float]:
        """The mean reward of the answers since the last report."""
        return take_report(self.state)

    def checkpoint(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """All of this as tensors and JSON."""
        turn = {f"turn.{name}": value for name, value in asdict(self.turn).items()}
        arrays = {**vars(self.policy), "squares": self.squares, **turn}
        return {name: torch.from_numpy(value) for name, value in arrays.items()}, self.state

    def restore(self, tensors: dict[str, torch.Tensor], state: dict[str, Any]) -> None:
        """Become what `checkpoint` saw."""
        arrays = {name: value.numpy() for name, value in tensors.items()}
        turn = {name.removeprefix("turn."): arrays.pop(name) for name in list(arrays) if name.startswith("turn.")}
        self.turn, self.squares, self.state = Turn(**turn), arrays.pop("squares"), state
        self.policy = LinearQPolicy(**arrays)


def learn(env: Environment, config: LinearQConfig, recorder: Recorder) -> LinearQPolicy:
    """Train for `config.interactions` answers, rounded up to whole steps of `config.num_envs` environments.

    The same seed gives the same run bit for bit, also when it is stopped and resumed.
    """
    learner = Learner(env, config, recorder.seed)
    train(learner, env, config, recorder)
    return learner.policy


def load(folder: Path, items: list[Item], dim: int | None = None) -> LinearQPolicy:
    """Read what `save` wrote."""
    expected: dict[str, tuple[str | int, ...]] = {"mean": ("F32", "D"), "scale": ("F32", 1)}
    expected |= {"weights": ("F32", "A", "F"), "known": ("U8", "A")}
    policy = LinearQPolicy(**read_tensors(folder / FILE, expected, A=len(items), D=dim))
    numbers = len(policy.mean)
    if policy.weights.shape[1] not in (numbers + 1, 2 * numbers + 2) or policy.scale[0] <= 0:
        raise InputError("the tensors do not fit each other", folder / FILE)
    return policy
