"""Q-learning where an episode is one answer: every instruction is learned with all of its answers so far at once.

There is nothing to bootstrap from: Q(s, a) is the mean reward of answering s with a, and the loss of a batch R of
instructions is a least-squares fit to what was seen,

    L = 1/n sum_{s in R} sum_{a answered to s} (w(s) . x(a) - mean reward of (s, a))^2,   n the number of terms,

whose slope on w(s) is 2/n sum_a (w(s) . x(a) - r) x(a). A state is read once for all its answers, and the pass that
chooses the new answers is also the one that learns from them: a step is `num_envs` new instructions and `batch_size`
earlier ones. Early steps are smaller, since learning is bound by the number of steps and not by their size.
docs: explanation/dqn.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from instructrec_rl.algorithms.loop.item_search import ItemSearch
from instructrec_rl.algorithms.q_learning import BY_ANSWERS, take_means
from instructrec_rl.algorithms.q_learning.set_gradients import FlatSetNetwork, MemberReader
from instructrec_rl.core.hardware import pick_device
from instructrec_rl.encoders.item_features import item_features

if TYPE_CHECKING:
    from instructrec_rl.algorithms.loop.recorder import Recorder
    from instructrec_rl.config.schema import DQNConfig
    from instructrec_rl.env.environment import Environment

MAX_GRADIENT = 1.0  # norm at which gradients are clipped
WARMUP = 20  # steps over which the learning rate rises
FIRST_STEP = 64  # new answers of a step at the start; a step grows by one for each so many answers
FEWEST_STEPS = 320  # a budget is spent in at least so many steps, where they are not below FIRST_STEP
DENSE_MENU = 1_024  # items up to which all of a menu's Q are computed for a batch


class Answers:
    """What every training instruction was answered with, and the mean reward of each answer.

    items: (N, K) int32 positions on the menu, the first `size[row]` of a row are in use; counts, sums: (N, K) float32
    how often, and the sum of the rewards; size: (N,). K is how often an instruction can come at all, so this takes as
    much memory as there will be answers, whatever the number of items.
    """

    def __init__(self, rows: int, interactions: int):
        width = -(-interactions // rows)
        self.items = np.zeros((rows, width), dtype=np.int32)
        self.counts, self.sums = np.zeros((rows, width), np.float32), np.zeros((rows, width), np.float32)
        self.size = np.zeros(rows, dtype=np.int32)
        self.version = np.zeros(rows, dtype=np.int32)  # of the reward, which the sums are of

    def add(self, rows: np.ndarray, items: np.ndarray, rewards: np.ndarray, version: int) -> None:
        """Keep an answer to each of distinct rows (B,); one that was given before counts towards its mean."""
        same = (self.items[rows] == items[:, None]) & (np.arange(self.items.shape[1]) < self.size[rows, None])
        known = same.any(1)
        slots = np.where(known, same.argmax(1), self.size[rows])
        self.items[rows, slots] = items
        self.counts[rows, slots] += 1
        self.sums[rows, slots] += rewards
        self.size[rows] += ~known
        self.version[rows] = version

    def of(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Every answer to rows (B,), one after the other: where in `rows` (n,), the item (n,), its mean reward (n,)."""
        width = int(self.size[rows].max(initial=0))
        where, slots = np.nonzero(np.arange(width) < self.size[rows, None])
        picked = rows[where], slots
        return where, self.items[picked], self.sums[picked] / self.counts[picked]


class AnswerLearner:
    """Everything that training changes, and so everything that a checkpoint holds."""

    def __init__(self, env: Environment, config: DQNConfig, seed: int):
        device, _ = pick_device(config.device)
        self.env, self.config, self.device = env, config, device
        self.sizes = BY_ANSWERS.given(config)
        self.dynamics = env.dynamics("train")
        self.rng = np.random.default_rng(seed)
        features, prior = item_features(env.items, config.item_features, lambda: env.item_vectors)
        self.features = torch.from_numpy(features).to(device)
        self.offered = self.features[torch.from_numpy(self.dynamics.menu).to(device)]
        self.search = ItemSearch(self.features, config.item_search)
        self.reader = MemberReader(env.states(), self.dynamics.rows, config.components, device)
        outputs = features.shape[1]
        self.network = FlatSetNetwork(self.reader.dim, self.sizes.hidden, outputs, self.reader.scale, seed, device)
        if prior is not None:
            self.network.start_from(torch.from_numpy(prior), self.reader.projection)
        self.shape = {
            "dim": env.encoder.dim,
            "hidden": self.sizes.hidden,
            "outputs": outputs,
            "dropout": 0.0,
            "context": False,
        }
        self.answers = Answers(len(self.dynamics.rows), config.interactions)
        self.on_menu = np.zeros(len(env.items), dtype=np.int64)
        self.on_menu[self.dynamics.menu] = np.arange(len(self.dynamics.menu))
        self.order = self.rng.permutation(len(self.dynamics.rows))
        self.count = {"step": 0, "updates": 0, "drawn": 0, "best_step": 0, "version": 0}
        self.reward_version = env.reward.version
        self.best_score, self.best = -math.inf, self.network.flat.clone()
        self.sums = dict.fromkeys(("reward", "answers", "loss", "q", "losses"), 0.0)

    @property
    def progress(self) -> float:
        """The share of the interactions that is done, 0 to 1."""
        return self.count["step"] / self.config.interactions

    def advance(self, recorder: Recorder) -> None:
        """Answer new instructions, and learn from them and from earlier ones in the same pass."""
        self._follow_the_reward()
        new = self._draw()
        earlier = self._earlier(self.sizes.batch_size, len(new))
        both = np.concatenate([new, earlier])
        rows = self.dynamics.rows[both]
        weights, seen = self.network.forward(self.reader(rows))
        self._relabel(both)
        self._answer(new, rows[: len(new)], weights[: len(new)], recorder)
        self._learn(both, weights, seen)
        for _ in range(self.sizes.updates_per_step - 1):
            again = self._earlier(len(both))
            self._relabel(again)
            self._learn(again, *self.network.forward(self.reader(self.dynamics.rows[again])))

    def _follow_the_reward(self) -> None:
        if self.env.reward.version != self.reward_version:
            self.reward_version = self.env.reward.version
            self.count["version"] += 1

    def _draw(self) -> np.ndarray:
        """The next instructions, every one once before any comes again: a step never has one of them twice."""
        config, done = self.config, self.count["drawn"] % len(self.order)
        most = min(config.num_envs, config.interactions // FEWEST_STEPS)
        size = min(config.num_envs, max(FIRST_STEP, min(most, self.count["step"] // FIRST_STEP)))
        if done == 0 and self.count["drawn"]:
            self.order = self.rng.permutation(len(self.order))
        new = self.order[done : done + min(size, config.interactions - self.count["step"])]
        self.count["drawn"] += len(new)
        return new

    def _earlier(self, size: int, new: int = 0) -> np.ndarray:
        """Instructions that were answered, at random; the last `new` of those that were drawn are not yet."""
        answered = min(self.count["drawn"] - new, len(self.order))
        if not answered:
            return self.order[:0]
        chosen = self.rng.integers(answered, size=size)
        return self.order[chosen] if answered < len(self.order) else chosen

    def _answer(self, new: np.ndarray, rows: np.ndarray, weights: Tensor, recorder: Recorder) -> None:
        config, dynamics = self.config, self.dynamics
        # choose: Boltzmann over Q at an annealed temperature, with a little uniform noise
        ratio = config.temperature_end / config.temperature_start
        temperature = config.temperature_start * ratio**self.progress
        items, likely = self.search.on(dynamics.menu).explore(weights, temperature, config.epsilon, self.rng)
        rewards = self.env.reward_table(rows, items)
        # keep: for the log, and as what is known of the instruction
        ids, names = self.env.row_ids[rows], self.env.item_ids[items]
        recorder.rollouts.add_items(self.count["step"], ids, names, likely, rewards, None)
        self.answers.add(new, self.on_menu[items].astype(np.int32), rewards, self.count["version"])
        self.sums["reward"] += float(rewards.sum())
        self.sums["answers"] += len(items)
        self.count["step"] += len(items)

    def _relabel(self, which: np.ndarray) -> None:
        """Score answers again that were scored before the reward changed (Lee et al. 2021, PEBBLE)."""
        old = which[self.answers.version[which] != self.count["version"]]
        if not len(old):
            return
        old = np.unique(old)
        where, items, _ = self.answers.of(old)
        if len(where):
            scores = self.env.reward_table(self.dynamics.rows[old[where]], self.dynamics.menu[items])
            slots = np.arange(len(where)) - np.searchsorted(where, where)
            self.answers.sums[old[where], slots] = scores * self.answers.counts[old[where], slots]
        self.answers.version[old] = self.count["version"]

    def _learn(self, which: np.ndarray, weights: Tensor, seen: Any) -> None:
        """One gradient step on the mean squared error over all answers to the instructions `which`."""
        config = self.config
        where, items, means = (torch.from_numpy(array).to(self.device) for array in self.answers.of(which))
        n = max(len(where), 1)
        if len(self.offered) <= DENSE_MENU:
            flat = where * len(self.offered) + items
            values = (weights @ self.offered.T).flatten()
            error = values[flat] - means
            errors = torch.zeros_like(values).index_add_(0, flat, error)
            slope = (errors.view(len(which), -1) @ self.offered) * (2 / n)
        else:
            features = self.offered[items.long()]
            error = (weights[where] * features).sum(1) - means
            slope = torch.zeros_like(weights).index_add_(0, where, features * (error[:, None] * (2 / n)))
        self.network.backward(slope, seen)
        # constant after the warm-up, then linearly to zero over the last half
        rate = self.sizes.learning_rate * min(1.0, 2 * max(0.0, 1 - self.progress) + 1e-3)
        rate *= min(1.0, (self.count["updates"] + 1) / WARMUP)
        self.network.step(rate, config.weight_decay, MAX_GRADIENT)
        self.count["updates"] += 1
        self.sums["loss"] += float(error.square().sum()) / n
        self.sums["q"] += float((error + means).sum()) / n
        self.sums["losses"] += 1

    def report(self) -> dict[str, float]:
        """Means since the last report."""
        return take_means(self.sums)

    def weights_now(self, best: bool = False) -> dict[str, Tensor]:
        """The state of a `SetNetwork` as it is now, or as it was when it was best on validation."""
        return self.network.as_set_network(self.best if best else self.network.flat, self.reader.projection)

    def keep_if_best(self, score: float) -> None:
        """Remember the weights when the validation score is the highest so far."""
        if score > self.best_score:
            self.best_score, self.count["best_step"] = score, self.count["step"]
            self.best = self.network.flat.clone()

    def checkpoint(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All of this as tensors and JSON."""
        network, (mean, square) = self.network, self.network.moments
        tensors = {"flat": network.flat, "mean": mean, "square": square, "best": self.best}
        tensors |= {name: torch.from_numpy(array) for name, array in vars(self.answers).items()}
        tensors["order"] = torch.from_numpy(self.order)
        state = {"rng": self.rng.bit_generator.state, "count": self.count, "sums": self.sums}
        return tensors, state | {"best_score": self.best_score, "reward_version": self.reward_version}

    def restore(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Become what `checkpoint` saw."""
        network, (mean, square) = self.network, self.network.moments
        for own, name in ((network.flat, "flat"), (mean, "mean"), (square, "square"), (self.best, "best")):
            own.copy_(tensors[name])
        for name, array in vars(self.answers).items():
            array[:] = tensors[name].numpy()
        self.order, self.count, self.sums = tensors["order"].numpy(), state["count"], state["sums"]
        network.updates = self.count["updates"]
        self.best_score, self.reward_version = state["best_score"], state["reward_version"]
        self.rng.bit_generator.state = state["rng"]
