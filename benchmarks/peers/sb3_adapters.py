"""What Stable-Baselines3 is given of ours for sb3.py: our network as its policies, our environment as its own."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import MultiInputActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.dqn.policies import MultiInputPolicy, QNetwork

from instructrec_rl.algorithms.q_learning import BY_TRANSITIONS
from instructrec_rl.config.schema import DQNConfig
from instructrec_rl.encoders.item_features import item_features
from instructrec_rl.encoders.set_network import SetNetwork, Sets
from instructrec_rl.encoders.states import Asked
from instructrec_rl.env.environment import Environment

OURS = DQNConfig()
SIZES = BY_TRANSITIONS  # the sizes at which our replay was tuned; SB3 has the same


class SetExtractor(BaseFeaturesExtractor):
    """Our network as SB3's features extractor: Dict(clauses (B, K, D), mask (B, K)) -> w(s) (B, F)."""

    def __init__(self, observation_space: gymnasium.spaces.Dict, num_features: int, dropout: float):
        super().__init__(observation_space, features_dim=num_features)
        _, dim = observation_space["clauses"].shape  # type: ignore[misc]
        self.network = SetNetwork(dim, SIZES.hidden, num_features, dropout)

    def forward(self, observations: dict[str, torch.Tensor]) -> torch.Tensor:
        mask = observations["mask"].bool()
        members, lengths = observations["clauses"][mask], mask.sum(1)
        return self.network(Sets(members, torch.arange(len(members)), lengths.cumsum(0) - lengths))


class ItemValues(MultiInputPolicy):
    """SB3's policy whose last layer is the items' features, fixed: Q(s, a) = w(s) . x(a)."""

    def __init__(self, *args: Any, item_table: np.ndarray, **kwargs: Any):
        self.item_table = torch.from_numpy(item_table)
        super().__init__(*args, net_arch=[], **kwargs)

    def make_q_net(self) -> QNetwork:
        network = super().make_q_net()
        fix(network.q_net[0], self.item_table)
        return network


class ItemPreferences(MultiInputActorCriticPolicy):
    """SB3's actor and critic on one features extractor. The actor's logits are w(s) . x(a), the critic reads w(s)."""

    def __init__(self, *args: Any, item_table: np.ndarray, **kwargs: Any):
        self.item_table = torch.from_numpy(item_table)
        super().__init__(*args, net_arch=[], ortho_init=False, **kwargs)  # SetNetwork has a start of its own

    def _build(self, lr_schedule: Any) -> None:
        super()._build(lr_schedule)
        fix(self.action_net, self.item_table)


def fix(last: torch.nn.Linear, table: torch.Tensor) -> None:
    """Make a last layer the items' features, which are not learnt."""
    with torch.no_grad():
        last.weight.copy_(table)
        last.bias.zero_()
    last.requires_grad_(False)


class Answering:
    """SB3's network as a policy that our evaluator can play."""

    def __init__(self, model: BaseAlgorithm):
        self.model = model

    def act(self, asked: Asked, menu: np.ndarray, context: np.ndarray | None = None) -> np.ndarray:
        with_sets = isinstance(self.model.observation_space, gymnasium.spaces.Dict)
        members, mask = asked.states("clauses" if with_sets else "sentence").dense(np.arange(len(asked)))
        seen = {"clauses": members, "mask": mask} if with_sets else members[:, 0]
        return menu[self.model.predict(seen, deterministic=True)[0]]


def our_network(env: Environment, dropout: float = 0.0) -> dict[str, Any]:
    """SB3's `policy_kwargs` for our network over the items of the training menu."""
    table, _ = item_features(env.items, OURS.item_features, lambda: env.item_vectors)
    return {
        "features_extractor_class": SetExtractor,
        "features_extractor_kwargs": {"num_features": table.shape[1], "dropout": dropout},
        "item_table": table[env.spec.menu("train")],
    }
