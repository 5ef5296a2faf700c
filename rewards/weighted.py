"""The weighted mean of other rewards, each part scored and logged by its name."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from instructrec_rl.core import Batch, InputError, nearest
from instructrec_rl.rewards import RewardContext


@dataclass
class Config:
    """parts: a reward's name to its weight; weights are scaled to sum to 1. options: a part's name to its options."""

    parts: dict[str, float] = field(default_factory=dict, metadata={"help": "weight of each reward, by name"})
    options: dict[str, dict[str, Any]] = field(default_factory=dict, metadata={"help": "options of a part, by name"})

    def __post_init__(self) -> None:
        for name, weight in self.parts.items():
            if not (math.isfinite(weight) and weight >= 0):
                raise ValueError(f"parts.{name}: a weight is a number of at least 0, got {weight}")
        for name in self.options:
            if name not in self.parts:
                raise InputError(f'options for "{name}", which is not among the parts.{nearest(name, self.parts)}')


class Reward:
    """sum_i w_i r_i / sum_i w_i. A part of weight 0 counts nothing but is still scored and logged."""

    def __init__(self, config: Config, context: RewardContext):
        total = sum(config.parts.values())
        if not total > 0:
            raise InputError(
                "needs parts with a weight above 0, such as reward.parts.constraints=1 or parts: {rouge: 1}"
            )
        self.weights = {name: weight / total for name, weight in config.parts.items()}
        self.rewards = {name: context.load(name, **config.options.get(name, {})) for name in config.parts}

    @property
    def version(self) -> str:
        """The versions of the parts that have one."""
        return ",".join(f"{name}={part.version}" for name, part in self.rewards.items() if part.version)

    def score(self, batch: Batch) -> np.ndarray:
        """Scores (B,)."""
        return self.combine(self.parts(batch))

    def parts(self, batch: Batch) -> dict[str, np.ndarray]:
        """The scores (B,) of each part, before its weight."""
        return {name: part.score_batch(batch) for name, part in self.rewards.items()}

    def combine(self, parts: dict[str, np.ndarray]) -> np.ndarray:
        """The weighted mean (B,) of parts' scores."""
        return np.sum([self.weights[name] * scores for name, scores in parts.items()], axis=0)
