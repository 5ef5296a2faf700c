"""Q-learning by transitions, for episodes of several answers: double DQN (van Hasselt et al. 2016), a target network.

Exploration is Boltzmann with an annealed temperature and a little uniform noise; the replay holds integers (which
instruction, which items), never embeddings. One-turn episodes need no bootstrap: their target is the reward, and the
target network is not even run.
"""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn

from instructrec_rl.algorithms.loop.item_search import ItemSearch
from instructrec_rl.algorithms.q_learning import BY_TRANSITIONS, take_means
from instructrec_rl.core.hardware import pick_device
from instructrec_rl.encoders.item_features import item_features
from instructrec_rl.encoders.set_network import SetNetwork, StateReader
from instructrec_rl.env.environment import Environment, Step, Turn

if TYPE_CHECKING:
    from instructrec_rl.algorithms.loop.recorder import Recorder
    from instructrec_rl.config.schema import DQNConfig

MAX_GRADIENT = 1.0  # norm at which gradients are clipped


class Replay:
    """A ring of transitions as integers and scores; embeddings are looked up when a batch is drawn.

    For T turns a transition is: row, item, reward, whether the episode terminated, and for T > 1 the answers tried and
    the last score before and after it. Rows (capacity,), tried (capacity, T - 1).
    """

    def __init__(self, capacity: int, turns: int):
        self.size, self.head, self.turns = 0, 0, turns
        shapes: dict[str, tuple[Any, int]] = {"rows": (np.int64, 0), "items": (np.int64, 0), "rewards": (np.float32, 0)}
        if turns > 1:
            shapes |= {"terminated": (np.bool_, 0), "tried": (np.int64, turns - 1), "last_score": (np.float32, 0)}
            shapes |= {"next_tried": (np.int64, turns - 1), "next_last_score": (np.float32, 0)}
        self.columns = {
            name: np.zeros((capacity, width) if width else capacity, dtype) for name, (dtype, width) in shapes.items()
        }

    def add(self, turn: Turn, items: np.ndarray, outcome: Step) -> None:
        """Keep B transitions, over the oldest ones when full."""
        capacity = len(self.columns["rows"])
        where = (self.head + np.arange(len(items))) % capacity
        new = {"rows": turn.rows, "items": items, "rewards": outcome.rewards}
        if self.turns > 1:
            new |= {"terminated": outcome.terminated, "tried": turn.tried, "last_score": turn.last_score}
            new |= {"next_tried": outcome.turn.tried, "next_last_score": outcome.turn.last_score}
        for name, values in new.items():
            self.columns[name][where] = values
        self.head = int((self.head + len(items)) % capacity)
        self.size = min(self.size + len(items), capacity)

    def sample(self, rng: np.random.Generator, size: int) -> dict[str, np.ndarray]:
        """A uniform batch, with replacement."""
        chosen = rng.integers(self.size, size=size)
        return {name: column[chosen] for name, column in self.columns.items()}


class TransitionLearner:
    """Everything that training changes, and so everything that a checkpoint holds."""

    def __init__(self, env: Environment, config: DQNConfig, seed: int):
        self.config, self.dynamics = config, env.dynamics("train")
        self.sizes = BY_TRANSITIONS.given(config)
        self.rng = np.random.default_rng(seed)
        torch.manual_seed(seed)
        self.accelerator = _accelerator(config)
        self.device = self.accelerator.device
        # read states and items
        self.reader = StateReader(env.states(), self.device)
        features, prior = item_features(env.items, config.item_features, lambda: env.item_vectors)
        self.features = torch.from_numpy(features).to(self.device)
        self.search = ItemSearch(self.features, config.item_search)
        self.shape = {
            "dim": env.encoder.dim,
            "hidden": self.sizes.hidden,
            "outputs": features.shape[1],
            "dropout": config.dropout,
            "context": self.dynamics.turns > 1,
        }
        # make the networks
        self.network, self.target = SetNetwork(**self.shape), SetNetwork(**self.shape).to(self.device)
        if prior is not None:
            self.network.start_from(torch.from_numpy(prior))
        optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=self.sizes.learning_rate, weight_decay=config.weight_decay, fused=True
        )
        self.network, self.optimizer = self.accelerator.prepare(self.network, optimizer)
        self.plain = self.accelerator.unwrap_model(self.network)
        self.target.load_state_dict(self.plain.state_dict())
        self.best = {name: value.clone() for name, value in self.plain.state_dict().items()}
        # begin to play
        self.replay = Replay(config.replay_size, self.dynamics.turns)
        self.order = self.rng.permutation(self.dynamics.rows)
        self.count = {"step": 0, "updates": 0, "drawn": 0, "best_step": 0}
        self.best_score = -math.inf
        self.sums = dict.fromkeys(("reward", "answers", "loss", "q", "losses"), 0.0)
        self.turn = self.dynamics.start(self.draw(config.num_envs))

    def weights_now(self, best: bool = False) -> dict[str, Tensor]:
        """The state of a `SetNetwork` as it is now, or as it was when it was best on validation."""
        return self.best if best else self.plain.state_dict()

    @property
    def progress(self) -> float:
        """The share of the interactions that is done, 0 to 1."""
        return self.count["step"] / self.config.interactions

    def draw(self, size: int) -> np.ndarray:
        """The next instructions: every one once before any comes again."""
        parts = []
        while size:
            first = self.count["drawn"] % len(self.order)
            if first == 0 and self.count["drawn"]:
                self.order = self.rng.permutation(self.dynamics.rows)
            parts.append(self.order[first : first + size])
            self.count["drawn"] += len(parts[-1])
            size -= len(parts[-1])
        return np.concatenate(parts) if parts else self.order[:0]

    def context(self, tried: np.ndarray, last_score: np.ndarray) -> Tensor | None:
        """The context of B turns on the device, (B, D + 1), or None where episodes have one turn."""
        seen = self.dynamics.context(tried, last_score)
        return None if seen is None else torch.from_numpy(seen).to(self.device)

    def weights(self, network: nn.Module, rows: np.ndarray, context: Tensor | None) -> Tensor:
        """w(s) of B instructions, (B, F) float32."""
        with self.accelerator.autocast():
            return network(self.reader(rows), context).float()

    def advance(self, recorder: Recorder) -> None:
        """Answer once in every environment, then learn."""
        self.explore(recorder)
        for _ in range(self.sizes.updates_per_step):
            self.update()

    def explore(self, recorder: Recorder) -> None:
        """Answer once in every environment (in fewer where the budget ends), and keep what happened."""
        config, dynamics = self.config, self.dynamics
        turn = self.turn.select(slice(config.interactions - self.count["step"]))
        ratio = config.temperature_end / config.temperature_start
        temperature = config.temperature_start * ratio**self.progress
        self.network.eval()
        with torch.inference_mode():
            weights = self.weights(self.network, turn.rows, self.context(turn.tried, turn.last_score))
        items, likely = self.search.on(dynamics.menu).explore(weights, temperature, config.epsilon, self.rng)
        outcome = dynamics.step(turn, items)
        ids, names = dynamics.env.row_ids[turn.rows], dynamics.env.item_ids[items]
        turns = turn.turn if dynamics.turns > 1 else None
        recorder.rollouts.add_items(self.count["step"], ids, names, likely, outcome.rewards, turns)
        self.replay.add(turn, items, outcome)
        self.sums["reward"] += float(outcome.rewards.sum())
        self.sums["answers"] += len(items)
        self.count["step"] += len(items)
        ended = outcome.terminated | outcome.truncated
        self.turn = outcome.turn.replace(ended, dynamics.start(self.draw(int(ended.sum()))))

    def update(self) -> None:
        """One gradient step on (r + gamma Q_target(s', argmax_a Q(s', a)) - Q(s, a))^2."""
        config, batch = self.config, self.replay.sample(self.rng, self.sizes.batch_size)
        goal = torch.from_numpy(batch["rewards"]).to(self.device)
        if self.dynamics.turns > 1:
            self.network.eval()
            with torch.no_grad():
                following = self.context(batch["next_tried"], batch["next_last_score"])
                online = self.weights(self.network, batch["rows"], following)
                target = self.weights(self.target, batch["rows"], following)
                ahead = self.search.on(self.dynamics.menu).value_of_best(online, target)
            goal = goal + config.gamma * torch.from_numpy(~batch["terminated"]).to(self.device) * ahead
        self.network.train()
        tried, last = batch.get("tried"), batch.get("last_score")
        context = None if tried is None or last is None else self.context(tried, last)
        items = self.features[torch.from_numpy(batch["items"]).to(self.device)]
        values = (self.weights(self.network, batch["rows"], context) * items).sum(1)
        loss = nn.functional.mse_loss(values, goal)
        self.optimizer.zero_grad(set_to_none=True)
        self.accelerator.backward(loss)
        self.accelerator.clip_grad_norm_(self.network.parameters(), MAX_GRADIENT)
        for group in self.optimizer.param_groups:  # constant, then linearly to zero over the last half
            group["lr"] = self.sizes.learning_rate * min(1.0, 2 * max(0.0, 1 - self.progress) + 1e-3)
        self.optimizer.step()
        self.count["updates"] += 1
        if self.dynamics.turns > 1 and self.count["updates"] % config.target_update == 0:
            self.target.load_state_dict(self.plain.state_dict())
        self.sums["loss"] += loss.item()
        self.sums["q"] += values.mean().item()
        self.sums["losses"] += 1

    def report(self) -> dict[str, float]:
        """Means since the last report."""
        return take_means(self.sums)

    def keep_if_best(self, score: float) -> None:
        """Remember the weights when the validation score is the highest so far."""
        if score > self.best_score:
            self.best_score, self.count["best_step"] = score, self.count["step"]
            self.best = {name: value.clone() for name, value in self.plain.state_dict().items()}

    def checkpoint(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All of this as tensors and JSON."""
        tensors = {"torch_rng": torch.get_rng_state(), "order": torch.from_numpy(self.order)}
        if self.device.type == "cuda":
            tensors["cuda_rng"] = torch.cuda.get_rng_state(self.device)
        for name, weights in (
            ("network", self.plain.state_dict()),
            ("target", self.target.state_dict()),
            ("best", self.best),
        ):
            tensors |= {f"{name}.{key}": value for key, value in weights.items()}
        for i, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{i}.{key}": value for key, value in moments.items()}
        tensors |= {f"replay.{k}": torch.from_numpy(v[: self.replay.size]) for k, v in self.replay.columns.items()}
        tensors |= {f"turn.{key}": torch.from_numpy(value) for key, value in asdict(self.turn).items()}
        state = {"rng": self.rng.bit_generator.state, "head": self.replay.head, "count": self.count, "sums": self.sums}
        return tensors, state | {"best_score": self.best_score}

    def restore(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Become what `checkpoint` saw."""

        def under(prefix: str) -> dict[str, Tensor]:
            return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

        self.plain.load_state_dict(under("network."))
        self.target.load_state_dict(under("target."))
        self.best = {name: value.to(self.device) for name, value in under("best.").items()}
        whole = self.optimizer.state_dict()
        moments: dict[int, dict[str, Tensor]] = {}
        for key, value in under("optimizer.").items():
            i, name = key.split(".")
            moments.setdefault(int(i), {})[name] = value
        self.optimizer.load_state_dict({"state": moments, "param_groups": whole["param_groups"]})
        for name, value in under("replay.").items():
            self.replay.columns[name][: len(value)] = value.numpy()
            self.replay.size = len(value)
        self.replay.head = state["head"]
        self.turn = Turn(**{name: value.numpy() for name, value in under("turn.").items()})
        self.order, self.count, self.sums = tensors["order"].numpy(), state["count"], state["sums"]
        self.best_score = state["best_score"]
        self.rng.bit_generator.state = state["rng"]
        torch.set_rng_state(tensors["torch_rng"])
        if "cuda_rng" in tensors:
            torch.cuda.set_rng_state(tensors["cuda_rng"], self.device)


def _accelerator(config: DQNConfig) -> Accelerator:
    """Device and precision: bfloat16 where the machine multiplies it in hardware, else float32."""
    AcceleratorState._reset_state(reset_partial_state=True)  # each run of a sweep chooses anew
    device, bfloat16 = pick_device(config.device)
    half = bfloat16 if config.dtype == "auto" else config.dtype == "bf16"
    return Accelerator(cpu=device.type == "cpu", mixed_precision="bf16" if half else "no")
