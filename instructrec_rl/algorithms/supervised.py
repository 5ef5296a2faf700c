"""Supervised learning with full information: the reward of every item is known for every training instruction.

The ceiling for what can be learned from the state. The network is the DQN's: Deep Sets (Zaheer et al. 2017) over the
members of the state, for a sentence an MLP, and the items' features on the action side,

    p(a | s) = softmax over the menu of w(s) . x(a)
    loss = cross-entropy of p with q(a | s) = softmax of r(s, a) / T

which is least where w(s) . x(a) is r(s, a) / T up to a constant, and minds the best items most. Where one
item has the reward 1 and all others 0, it is ordinary classification with a little label smoothing.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor, nn

from instructrec_rl.core import DivergedError
from instructrec_rl.core.files import write_bytes_atomic, write_json_atomic
from instructrec_rl.core.forms import read_form
from instructrec_rl.core.hardware import pick_device
from instructrec_rl.encoders.item_features import item_features
from instructrec_rl.encoders.set_network import NetworkForm, SetNetwork, StateReader, read_network

if TYPE_CHECKING:
    from instructrec_rl.algorithms.loop.recorder import Recorder
    from instructrec_rl.config.schema import SupervisedConfig
    from instructrec_rl.core import Item
    from instructrec_rl.encoders.states import Asked
    from instructrec_rl.env.environment import Environment

FILES = "supervised.safetensors", "supervised.json"
TEMPERATURE = 0.2  # T above; chosen on validation
CHUNK = 4096  # instructions answered at once


class SupervisedPolicy:
    """The item of the highest probability. features: (A, F); shape: the arguments of `SetNetwork`."""

    def __init__(self, network: SetNetwork, features: Tensor, state: str, shape: dict[str, Any]):
        self.network, self.features, self.state, self.shape = network, features, state, shape

    def act(self, asked: Asked, menu: np.ndarray, context: np.ndarray | None = None) -> np.ndarray:
        """See `Policy.act`. It was never shown an earlier turn, and ignores them."""
        return menu[self.scores(asked, menu, context).argmax(1)]

    def scores(self, asked: Asked, menu: np.ndarray, context: np.ndarray | None = None) -> np.ndarray:
        """The logarithm of each item's probability, but for a constant, times the temperature: (B, M)."""
        self.network.eval()
        read = StateReader(asked.states(self.state), self.features.device)
        offered = self.features[torch.from_numpy(menu).to(self.features.device)]
        scores = [np.zeros((0, len(menu)), dtype=np.float32)]
        with torch.inference_mode():
            for start in range(0, len(asked), CHUNK):
                rows = np.arange(start, min(start + CHUNK, len(asked)))
                scores.append((self.network(read(rows)) @ offered.T).cpu().numpy())
        return np.concatenate(scores)

    def save(self, folder: Path) -> None:
        """See `Policy.save`."""
        tensors = {"features": self.features, **{f"network.{k}": v for k, v in self.network.state_dict().items()}}
        write_bytes_atomic(folder / FILES[0], save({name: value.cpu().contiguous() for name, value in tensors.items()}))
        write_json_atomic(folder / FILES[1], {"state": self.state, "shape": self.shape})


def load(folder: Path, items: list[Item], dim: int | None = None) -> SupervisedPolicy:
    """Read what `save` wrote."""
    about = read_form(folder / FILES[1], NetworkForm)
    network, features = read_network(folder / FILES[0], about.shape, len(items), dim)
    return SupervisedPolicy(network, features, about.state, about.shape.model_dump())


def learn(env: Environment, config: SupervisedConfig, recorder: Recorder) -> SupervisedPolicy:
    """Train for `config.epochs` passes and keep the epoch that is best on validation by the first task metric.

    The same seed gives the same policy. It writes no checkpoint: a run that is resumed learns again from the start.
    """
    # make the network
    recorder.load_checkpoint()  # there is none; what a stopped run logged is dropped
    torch.manual_seed(recorder.seed)
    device = pick_device(config.device)[0]
    features = torch.from_numpy(item_features(env.items, config.item_features, lambda: env.item_vectors)[0]).to(device)
    shape: dict[str, Any] = {
        "dim": env.encoder.dim,
        "hidden": config.hidden,
        "outputs": features.shape[1],
        "dropout": config.dropout,
    }
    network = SetNetwork(**shape).to(device)
    policy = SupervisedPolicy(network, features, env.spec.state, shape)
    # read the training split
    rows, goals = env.spec.rows("train"), _goals(env).to(device)
    offered = features[torch.from_numpy(env.spec.menu("train")).to(device)]
    read = StateReader(env.states(), device)
    # set up the updates
    optimizer = torch.optim.AdamW(network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    batches = -(-len(rows) // config.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.learning_rate, total_steps=config.epochs * batches)
    best, kept = -math.inf, {name: value.clone() for name, value in network.state_dict().items()}
    metric = env.spec.metrics[0]
    for epoch in range(config.epochs):
        network.train()
        total = 0.0
        order = np.random.default_rng((recorder.seed, epoch)).permutation(len(rows))
        # pass over the split in a random order
        for start in range(0, len(rows), config.batch_size):
            chosen = order[start : start + config.batch_size]
            logits = network(read(rows[chosen])) @ offered.T
            loss = nn.functional.cross_entropy(logits, goals[torch.from_numpy(chosen).to(device)])
            if not math.isfinite(error := loss.item()):
                step = epoch * len(rows) + start
                raise DivergedError(step, "the loss", "algo.learning_rate", config.learning_rate)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            total += error * len(chosen)
        # evaluate and log
        scores = recorder.validate(policy)
        if scores[metric] > best:
            best, kept = scores[metric], {name: value.clone() for name, value in network.state_dict().items()}
        seen = (epoch + 1) * len(rows)
        recorder.log(seen, loss=total / len(rows), **{f"validation/{name}": value for name, value in scores.items()})
        recorder.progress(seen, config.epochs * len(rows), f"validation {metric} {best:.3f}")
        if recorder.stopping and epoch + 1 < config.epochs:
            raise KeyboardInterrupt
    network.load_state_dict(kept)
    return policy


def _goals(env: Environment) -> Tensor:
    """q(a | s) over the training menu for each training row, (N, M) float32."""
    rows, menu = env.spec.rows("train"), env.spec.menu("train")
    chunks = []
    for start in range(0, len(rows), CHUNK):
        part = rows[start : start + CHUNK]
        rewards = env.reward_table(np.repeat(part, len(menu)), np.tile(menu, len(part)))
        chunks.append(torch.from_numpy(rewards.reshape(len(part), len(menu))))
    return torch.softmax(torch.cat(chunks) / TEMPERATURE, dim=1).float()
