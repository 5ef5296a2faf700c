"""The weighted mean of other rewards, each part scored and logged by its name."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from instructrec_rl.core import Batch, InputError, nearest
from instructrec_rl.reward_parts import Parts, on_error_option, weighted_mean
from instructrec_rl.rewards import RewardContext


@dataclass
class Config:
    """parts: a reward's name to its weight; weights are scaled to sum to 1. options: a part's name to its options."""

    parts: dict[str, float] = field(default_factory=dict, metadata={"help": "weight of each reward, by name"})
    options: dict[str, dict[str, Any]] = field(default_factory=dict, metadata={"help": "options of a part, by name"})
    on_error: str = on_error_option()

    def __post_init__(self) -> None:
        for name, weight in self.parts.items():
            if not (math.isfinite(weight) and weight >= 0):
                raise ValueError(f"parts.{name}: a weight is a number of at least 0, got {weight}")
        for name in self.options:
            if name not in self.parts:
                raise InputError(f'options for "{name}", which is not among the parts.{nearest(name, self.parts)}')


class Reward:
    """sum_i w_i r_i / sum_i w_i over the parts that can score a row. A part of weight 0 is scored and logged only."""

    def __init__(self, config: Config, context: RewardContext):
        total = sum(config.parts.values())
        if not total > 0:
            raise InputError(
                "needs parts with a weight above 0, such as reward.parts.constraints=1 or parts: {rouge: 1}"
            )
        self.weights = {name: weight / total for name, weight in config.parts.items()}
        self._parts = Parts(list(config.parts), config.options, config.on_error, context)

    @property
    def version(self) -> str:
        """The versions of the parts that have one."""
        return self._parts.version

    @property
    def masked(self) -> dict[str, int]:
        """How many rows of each part were masked so far."""
        return self._parts.masked

    def at(self, step: int) -> None:
        """Tell the parts how many steps of training are done."""
        self._parts.at(step)

    def attach(self, recorder: Any) -> None:
        """Give the parts the run's recorder."""
        self._parts.attach(recorder)

    def score(self, batch: Batch) -> np.ndarray:
        """Scores (B,)."""
        return self.combine(self.parts(batch))

    def parts(self, batch: Batch) -> dict[str, np.ndarray]:
        """The scores (B,) of each part, before its weight, and with on_error=mask where it is masked."""
        return self._parts.weighted(batch, self.weights)

    def combine(self, parts: dict[str, np.ndarray]) -> np.ndarray:
        """The weighted mean (B,) of parts' scores."""
        return weighted_mean(self.weights, parts)
