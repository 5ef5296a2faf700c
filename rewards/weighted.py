"""The weighted mean of other rewards, each part scored and logged by its name."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from instructrec_rl.core import InputError
from instructrec_rl.rewards import RewardContext
from instructrec_rl.rewards.parts import Parts, WeightedMean, on_error_option, refuse_other_options


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
        refuse_other_options(self.options, self.parts)


class Reward(WeightedMean):
    """sum_i w_i r_i / sum_i w_i over the parts that can score a row. A part of weight 0 is scored and logged only."""

    def __init__(self, config: Config, context: RewardContext):
        largest = max(config.parts.values(), default=0.0)
        if not largest > 0:
            raise InputError(
                "needs parts with a weight above 0, such as reward.parts.constraints=1 or parts: {rouge: 1}"
            )
        raw = {name: weight / largest for name, weight in config.parts.items()}  # else two of 1e308 sum to infinity
        total = sum(raw.values())
        self.weights = {name: weight / total for name, weight in raw.items()}
        self._parts = Parts(list(config.parts), config.options, config.on_error, context)
