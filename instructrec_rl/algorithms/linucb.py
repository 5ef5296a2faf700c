"""LinUCB with disjoint models (Li et al. 2010, algorithm 1): one ridge regression an item, on the sentence state.

Notation: x the context, (d,); for each item a: A_a = ridge I + sum x x^T, b_a = sum r x, theta_a = A_a^-1 b_a, over the
times that a was chosen. Exploring, it chooses the highest theta_a . x + alpha sqrt(x^T A_a^-1 x). It sees the reward
of its own choice only. Deviations from the paper: the models are updated once for each batch of answers, ties are
broken at random, and the context is the instruction's embedding in fewer dimensions (principal components of the
training instructions, scaled alike so that |x|^2 is d on average) and a constant.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.numpy import save

from instructrec_rl.algorithms.loop.bandits import take_report, train
from instructrec_rl.algorithms.loop.exploration import NEAR_TIE, greedy_propensity
from instructrec_rl.core import InputError
from instructrec_rl.core.files import write_bytes_atomic
from instructrec_rl.core.tensor_files import read_tensors

if TYPE_CHECKING:
    from instructrec_rl.algorithms.loop.recorder import Recorder
    from instructrec_rl.config.schema import LinUCBConfig
    from instructrec_rl.core import Item
    from instructrec_rl.encoders.states import Asked, States
    from instructrec_rl.env.environment import Environment

FILE = "linucb.safetensors"
MIN_VARIANCE = 1e-6  # components with a smaller share of the largest one's variance are rounding


@dataclass(frozen=True)
class LinUCBPolicy:
    """Greedy on theta_a . x.

    mean: (D,) and basis: (D, d - 1) make the context; theta: (A, d); known: (A,) uint8, 0 for items that were on offer
    in no training split. All float32 but `known`.
    """

    mean: np.ndarray
    basis: np.ndarray
    theta: np.ndarray
    known: np.ndarray

    def context(self, states: States) -> np.ndarray:
        """The contexts of B sentence states, (B, d) float32; the last column is constant."""
        reduced = (states.vectors[states.index[:, 0]] - self.mean) @ self.basis
        return np.concatenate([reduced, np.ones((len(reduced), 1), dtype=np.float32)], axis=1)

    def act(self, asked: Asked, menu: np.ndarray, context: np.ndarray | None = None) -> np.ndarray:
        """See `Policy.act`. Items never on offer in training come last. A bandit: it ignores earlier turns."""
        return menu[self.scores(asked, menu, context).argmax(1)]

    def scores(self, asked: Asked, menu: np.ndarray, context: np.ndarray | None = None) -> np.ndarray:
        """The score of each item on the menu, (B, M)."""
        values = self.context(asked.states("sentence")) @ self.theta[menu].T
        return np.where(self.known[menu], values, -np.inf)

    def save(self, folder: Path) -> None:
        """See `Policy.save`."""
        write_bytes_atomic(folder / FILE, save(vars(self)))


class Learner:
    """The models of the items on the training menu, and everything else that a checkpoint holds."""

    def __init__(self, env: Environment, config: LinUCBConfig, seed: int):
        self.env, self.config, self.seed = env, config, seed
        self.rows, self.menu = env.spec.rows("train"), env.spec.menu("train")
        states = env.states("sentence").take(self.rows)
        mean, basis = principal_components(states.vectors[states.index[:, 0]], config.components)
        theta = np.zeros((len(env.items), basis.shape[1] + 1), dtype=np.float32)
        known = np.zeros(len(env.items), dtype=np.uint8)
        known[self.menu] = 1
        self.policy = LinUCBPolicy(mean, basis, theta, known)
        size, dim = len(self.menu), theta.shape[1]
        self.precision = np.tile(config.ridge * np.eye(dim), (size, 1, 1))  # A_a, (M, d, d) float64
        self.moment = np.zeros((size, dim))  # b_a, (M, d) float64
        self.state: dict[str, Any] = {"step": 0, "reward_sum": 0.0, "answers": 0}
        self._prepare()

    def _prepare(self) -> None:
        self.contexts = self.policy.context(self.env.states("sentence").take(self.rows))
        self.inverse = np.linalg.inv(self.precision).astype(np.float32)  # scoring needs no more

    def answer(self, recorder: Recorder) -> None:
        """Choose for one batch of instructions, see the rewards, and update the models of the items chosen."""
        step, config = self.state["step"], self.config
        size = min(config.num_envs, config.interactions - step)
        rng = np.random.default_rng((self.seed, step))  # of the step alone, so resuming needs no generator's state
        drawn = rng.integers(len(self.rows), size=size)
        x = self.contexts[drawn]
        variance = (np.matmul(self.inverse, x.T) * x.T).sum(1)
        bound = self.policy.theta[self.menu] @ x.T + config.alpha * np.sqrt(np.maximum(variance, 0))
        chosen = (bound + NEAR_TIE * rng.random(bound.shape)).argmax(0)
        rows, items = self.rows[drawn], self.menu[chosen]
        rewards = self.env.reward_table(rows, items)
        likely = greedy_propensity(bound.T, chosen)
        recorder.rollouts.add_items(step, self.env.row_ids[rows], self.env.item_ids[items], likely, rewards)
        self._update(x.astype(np.float64), chosen, rewards)
        self.state = {
            "step": step + size,
            "reward_sum": self.state["reward_sum"] + float(rewards.sum()),
            "answers": self.state["answers"] + size,
        }

    def _update(self, x: np.ndarray, chosen: np.ndarray, rewards: np.ndarray) -> None:
        order = np.argsort(chosen, kind="stable")
        touched, starts = np.unique(chosen[order], return_index=True)
        x, rewards = x[order], rewards[order]
        self.precision[touched] += np.add.reduceat(x[:, :, None] * x[:, None, :], starts)
        self.moment[touched] += np.add.reduceat(x * rewards[:, None], starts)
        inverse = np.linalg.inv(self.precision[touched])
        self.inverse[touched] = inverse
        self.policy.theta[self.menu[touched]] = np.matmul(inverse, self.moment[touched][:, :, None])[:, :, 0]

    def report(self) -> dict[str, float]:
        """The mean reward of the answers since the last report."""
        return take_report(self.state)

    def checkpoint(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """All of this as tensors and JSON."""
        arrays = {**vars(self.policy), "precision": self.precision, "moment": self.moment}
        return {name: torch.from_numpy(value) for name, value in arrays.items()}, self.state

    def restore(self, tensors: dict[str, torch.Tensor], state: dict[str, Any]) -> None:
        """Become what `checkpoint` saw."""
        arrays = {name: value.numpy() for name, value in tensors.items()}
        self.precision, self.moment, self.state = arrays.pop("precision"), arrays.pop("moment"), state
        self.policy = LinUCBPolicy(**arrays)
        self._prepare()


def principal_components(vectors: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The mean (D,) and a basis (D, d), d <= count, such that |(v - mean) @ basis|^2 is d on average. Float32."""
    mean = vectors.mean(0, dtype=np.float64)
    centred = vectors - mean
    variances, directions = np.linalg.eigh(centred.T @ centred / len(centred))
    kept = np.flatnonzero(variances > MIN_VARIANCE * max(variances[-1], 1e-12))[::-1][:count]
    scale = np.sqrt(len(kept) / variances[kept].sum()) if len(kept) else 1.0
    return mean.astype(np.float32), np.ascontiguousarray(directions[:, kept] * scale, dtype=np.float32)


def learn(env: Environment, config: LinUCBConfig, recorder: Recorder) -> LinUCBPolicy:
    """Answer `config.interactions` training instructions, drawn with replacement, `config.num_envs` at a time.

    The same seed gives the same run bit for bit, also when it is stopped and resumed.
    """
    learner = Learner(env, config, recorder.seed)
    train(learner, env, config, recorder)
    return learner.policy


def load(folder: Path, items: list[Item], dim: int | None = None) -> LinUCBPolicy:
    """Read what `save` wrote."""
    expected = {"mean": ("F32", "D"), "basis": ("F32", "D", "K"), "theta": ("F32", "A", "d"), "known": ("U8", "A")}
    policy = LinUCBPolicy(**read_tensors(folder / FILE, expected, A=len(items), D=dim))
    if policy.theta.shape[1] != policy.basis.shape[1] + 1:
        raise InputError("the tensors do not fit each other", folder / FILE)
    return policy
