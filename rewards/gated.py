"""A reward behind a gate: it counts only where another one reaches a threshold, else a floor is paid."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from instructrec_rl.core import Batch, InputError
from instructrec_rl.core.options import option
from instructrec_rl.rewards import RewardContext
from instructrec_rl.rewards.parts import MASKED, Composed, Parts, on_error_option, refuse_other_options


@dataclass
class Config:
    """gate: the reward that must reach the threshold; then: the reward that is paid where it does."""

    gate: str = option("", "name of the reward that must reach the threshold")
    then: str = option("", "name of the reward that is paid where it does")
    threshold: float = option(0.5, "what the gate must reach, in [0, 1]", low=0.0, high=1.0)
    floor: float = option(0.0, "what is paid where it does not, in [0, 1]", low=0.0, high=1.0)
    options: dict[str, dict[str, Any]] = field(default_factory=dict, metadata={"help": "options of a part, by name"})
    on_error: str = on_error_option()

    def __post_init__(self) -> None:
        refuse_other_options(self.options, (self.gate, self.then))


class Reward(Composed):
    """then(x) where gate(x) >= threshold, else the floor."""

    def __init__(self, config: Config, context: RewardContext):
        if not (config.gate and config.then):
            raise InputError("needs two rewards, such as reward.gate=constraints reward.then=rouge")
        self.config = config
        names = list(dict.fromkeys((config.gate, config.then)))
        self._parts = Parts(names, config.options, config.on_error, context)

    def parts(self, batch: Batch) -> dict[str, np.ndarray]:
        """The scores (B,) of gate and then; a masked one shows the other's, which then decides alone."""
        values, masked = self._parts.score(batch)
        gate, then = self.config.gate, self.config.then
        self._parts.refuse(masked[gate] & masked[then], batch)
        shown = {gate: np.where(masked[gate], values[then], values[gate])}
        shown[then] = np.where(masked[then], values[gate], values[then])
        return self._parts.logged(shown, masked)

    def combine(self, parts: dict[str, np.ndarray]) -> np.ndarray:
        """The scores (B,) from those of gate and then; a masked gate stands open."""
        gate = parts[self.config.gate]
        is_open = (gate >= self.config.threshold) | (parts.get(self.config.gate + MASKED, np.zeros(len(gate))) > 0)
        return np.where(is_open, parts[self.config.then], self.config.floor)
