"""The weighted mean of other rewards with weights that change over training, linearly between given points."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from instructrec_rl.core import InputError
from instructrec_rl.rewards import RewardContext
from instructrec_rl.rewards.parts import Parts, WeightedMean, on_error_option, refuse_other_options

STAGES = 100  # the weights move in this many steps from the first point to the last: each one drops cached scores


@dataclass
class Config:
    """parts: a reward's name to its points [[step, weight], ...]; before the first and after the last it is constant.

    A step is an interaction, as `algo.interactions` counts them.
    """

    parts: dict[str, list[list[float]]] = field(
        default_factory=dict, metadata={"help": "points [[step, weight], ...] of each reward, by name"}
    )
    options: dict[str, dict[str, Any]] = field(default_factory=dict, metadata={"help": "options of a part, by name"})
    on_error: str = on_error_option()

    def __post_init__(self) -> None:
        for name, points in self.parts.items():
            if not points:
                raise ValueError(f"parts.{name}: expected points such as [[0, 1], [50000, 0]], got none")
            for point in points:
                if len(point) != 2 or not all(math.isfinite(number) and number >= 0 for number in point):
                    raise ValueError(f"parts.{name}: a point is [step, weight], both at least 0, got {point}")
            steps = [point[0] for point in points]
            if any(after <= before for before, after in pairwise(steps)):
                raise ValueError(f"parts.{name}: steps must rise, got {steps}")
        refuse_other_options(self.options, self.parts)


class Reward(WeightedMean):
    """sum_i w_i(t) r_i / sum_i w_i(t) at step t, 0 until `at` is called. `weights` are the current ones, sum 1."""

    def __init__(self, config: Config, context: RewardContext):
        largest = max((weight for points in config.parts.values() for _, weight in points), default=0.0) or 1.0
        self._points = {  # weights of 1e308 would sum to infinity
            name: np.array([[step, weight / largest] for step, weight in points])
            for name, points in config.parts.items()
        }
        self._steps = sorted({step for points in config.parts.values() for step, _ in points})
        for step in self._steps or [0.0]:
            # linear between neighbours, so a sum above 0 at every point is above 0 everywhere
            if not sum(self._raw(step).values()) > 0:
                raise InputError(
                    f"at step {step:g} every weight is 0; an example: parts: {{rouge: [[0, 1], [50000, 0]], "
                    "constraints: [[0, 0], [50000, 1]]}"
                )
        self._parts = Parts(list(config.parts), config.options, config.on_error, context)
        self.at(0)

    @property
    def version(self) -> str:
        """The current weights, so that scores cached under others are dropped, and the versions of the parts."""
        weights = ",".join(f"{name}:{weight:.6g}" for name, weight in self.weights.items())
        return f"{weights};{self._parts.version}" if self._parts.version else weights

    def at(self, step: int) -> None:
        """Set the weights of a step of training. Any order: a resumed run calls it with its own step."""
        first, last = self._steps[0], self._steps[-1]
        stage = 0 if last == first else math.floor(STAGES * (min(max(step, first), last) - first) / (last - first))
        raw = self._raw(first + stage * (last - first) / STAGES)
        total = sum(raw.values())
        self.weights = {name: weight / total for name, weight in raw.items()}
        self._parts.at(step)

    def _raw(self, step: float) -> dict[str, float]:
        return {name: float(np.interp(step, points[:, 0], points[:, 1])) for name, points in self._points.items()}
