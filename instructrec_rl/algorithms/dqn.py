"""Double DQN (van Hasselt et al. 2016) over frozen sentence embeddings, with the items' features on the action side.

    Q(s, a) = w(s) . x(a),   w(s) = SetNetwork(members of s)

so that what is learned about an attribute serves every item that has it, also one never tried. How it learns is in
`q_learning`; docs/explanation/dqn.md lists every logged metric and every deviation from the paper.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from instructrec_rl.algorithms.loop.item_search import ItemSearch
from instructrec_rl.algorithms.loop.recorder import is_due
from instructrec_rl.algorithms.q_learning import learns_by_answers
from instructrec_rl.algorithms.q_learning.answers import AnswerLearner
from instructrec_rl.core import DivergedError
from instructrec_rl.core.files import write_bytes_atomic, write_json_atomic
from instructrec_rl.core.forms import read_form
from instructrec_rl.encoders.set_network import NetworkForm, SetNetwork, StateReader, read_network
from instructrec_rl.encoders.states import Asked

if TYPE_CHECKING:
    from instructrec_rl.algorithms.loop.recorder import Recorder
    from instructrec_rl.algorithms.q_learning.transitions import TransitionLearner
    from instructrec_rl.config.schema import DQNConfig
    from instructrec_rl.core import Item
    from instructrec_rl.env.environment import Environment


FILES = "network.safetensors", "network.json"


class About(NetworkForm):
    """network.json."""

    search: Literal["exact", "index"] = "exact"


class DQNPolicy:
    """Greedy on Q. Holds the network, the search over the items' features (A, F) and the granularity of its state."""

    def __init__(self, network: SetNetwork, search: ItemSearch, state: str, shape: dict[str, Any]):
        self.network, self.search, self.features = network, search, search.features
        self.state, self.shape = state, shape

    def values(self, asked: Asked, context: np.ndarray | None = None) -> Tensor:
        """Q of every item of the catalog, (B, A)."""
        return self._weights(asked, context) @ self.features.T

    def scores(self, asked: Asked, menu: np.ndarray, context: np.ndarray | None = None) -> np.ndarray:
        """Q of each item on the menu, (B, M)."""
        return self.values(asked, context).cpu().numpy()[:, menu]

    def act(self, asked: Asked, menu: np.ndarray, context: np.ndarray | None = None) -> np.ndarray:
        """The item on the menu with the highest Q, (B,)."""
        return self.search.on(menu).best(self._weights(asked, context))

    def _weights(self, asked: Asked, context: np.ndarray | None) -> Tensor:
        """w(s) of B instructions, (B, F)."""
        self.network.eval()
        seen = None if context is None else torch.from_numpy(context).to(self.features.device)
        with torch.inference_mode():
            sets = StateReader(asked.states(self.state), self.features.device)(np.arange(len(asked)))
            return self.network(sets, seen)

    def save(self, folder: Path) -> None:
        """Write network.safetensors and network.json."""
        tensors = {"features": self.features, **{f"network.{k}": v for k, v in self.network.state_dict().items()}}
        write_bytes_atomic(folder / FILES[0], save({name: value.cpu().contiguous() for name, value in tensors.items()}))
        write_json_atomic(folder / FILES[1], {"state": self.state, "shape": self.shape, "search": self.search.kind})


def load(folder: Path, items: list[Item], dim: int | None = None) -> DQNPolicy:
    """Read what `DQNPolicy.save` wrote. An index is built anew when first searched."""
    about = read_form(folder / FILES[1], About)
    network, features = read_network(folder / FILES[0], about.shape, len(items), dim)
    return DQNPolicy(network, ItemSearch(features, about.search), about.state, about.shape.model_dump())


def make_learner(env: Environment, config: DQNConfig, seed: int) -> AnswerLearner | TransitionLearner:
    """The learner that suits the environment, or that the options ask for. Raises InputError where it cannot do it."""
    if learns_by_answers(config, env.spec.turns):
        return AnswerLearner(env, config, seed)
    from instructrec_rl.algorithms.q_learning.transitions import TransitionLearner  # brings accelerate, .3 s

    return TransitionLearner(env, config, seed)


def policy_of(learner: AnswerLearner | TransitionLearner, state: str, best: bool = False) -> DQNPolicy:
    """A policy of its own, in float32, as it is when it is loaded again: as learning stands, or stood at its best."""
    network = SetNetwork(**learner.shape).to(learner.device)
    network.load_state_dict(learner.weights_now(best))
    return DQNPolicy(network, learner.search, state, learner.shape)


def learn(env: Environment, config: DQNConfig, recorder: Recorder) -> DQNPolicy:
    """Train for `config.interactions` answers; returns the policy that was best on validation by the task metric.

    The same seed, thread count and kind of machine give the same run bit for bit, also when it is stopped and resumed.
    """
    # make the learner, as the newest checkpoint has it
    saved = recorder.load_checkpoint()
    if saved and "network.head.weight" in saved[0]:  # also where the options are of before there was another learner
        config = replace(config, learner="transitions")
    learner = make_learner(env, config, recorder.seed)
    if saved:
        learner.restore(*saved)
    metric = env.spec.metrics[0]
    while (step := learner.count["step"]) < config.interactions and not recorder.stop_learning:
        # answer once in every environment, and learn
        env.reward.at(step)
        learner.advance(recorder)
        now = learner.count["step"]
        if not math.isfinite(learner.sums["loss"] + learner.sums["q"]):
            raise DivergedError(now, "the loss", value=learner.sizes.learning_rate)
        # evaluate and log
        done = now >= config.interactions
        if done or is_due(config.eval_every, step, now):
            scores = recorder.validate(policy_of(learner, env.spec.state))
            learner.keep_if_best(scores[metric])
            recorder.log(now, **learner.report(), **{f"validation/{name}": value for name, value in scores.items()})
            done = done or recorder.stop_learning
        so_far = "" if math.isinf(learner.best_score) else f"validation {metric} {learner.best_score:.3f}"
        recorder.progress(now, config.interactions, so_far)
        # keep a checkpoint, and stop where asked
        if done or recorder.stopping or is_due(config.checkpoint_every, step, now):
            recorder.save_checkpoint(now, *learner.checkpoint())
        if recorder.stopping and not done:
            raise KeyboardInterrupt
    recorder.best_step = learner.count["best_step"]
    return policy_of(learner, env.spec.state, best=True)
