"""The named parts of a composed reward: scored together, with the rows that a part cannot score masked where asked.

A row is masked only where the part says that it cannot score it (an InputError: no reference, no number). A bug in a
part, or a score outside [0, 1], is never masked.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from instructrec_rl.core import Batch, InputError, nearest
from instructrec_rl.core.options import option
from instructrec_rl.rewards import Reward, RewardContext, RewardError

MASKED = ".masked"  # ends the name of a part's flags, (B,) of 0 and 1, among the parts that are logged
ON_ERROR = ("raise", "mask")

Scores = dict[str, np.ndarray]


def on_error_option() -> Any:
    """The option `on_error`, the same in every composed reward."""
    help = "a part that cannot score a row: raise, or mask it (left out of that row's score, and counted)"
    return option("raise", help, choices=ON_ERROR)


class Parts:
    """Rewards by name. `masked` counts the rows of each part that were masked so far, {name: count}."""

    def __init__(
        self, names: list[str], options: Mapping[str, Mapping[str, Any]], on_error: str, context: RewardContext
    ):
        self.rewards: dict[str, Reward] = {name: context.load(name, **options.get(name, {})) for name in names}
        self.mask = on_error == "mask"
        self.masked = dict.fromkeys(self.rewards, 0)

    @property
    def version(self) -> str:
        """The versions of the parts that have one."""
        return ",".join(f"{name}={part.version}" for name, part in self.rewards.items() if part.version)

    def at(self, step: int) -> None:
        """Tell the parts how many steps of training are done."""
        for part in self.rewards.values():
            if hasattr(part.scorer, "at"):
                part.scorer.at(step)

    def attach(self, recorder: Any) -> None:
        """Give the parts the run's recorder."""
        for part in self.rewards.values():
            part.attach(recorder)

    def score(self, batch: Batch) -> tuple[Scores, Scores]:
        """Scores (B,) of each part and where it is masked, (B,) bool; a masked score is a placeholder to replace.

        Raises RewardError, with the row, where a part cannot score a row and `on_error` is raise.
        """
        values: Scores = {}
        masked: Scores = {}
        for name, part in self.rewards.items():
            if self.mask:
                values[name], masked[name] = _score_or_mask(part, batch)
            else:
                values[name], masked[name] = part.score_batch(batch), np.zeros(len(batch), dtype=bool)
            self.masked[name] += int(masked[name].sum())
        return values, masked

    def logged(self, values: Scores, masked: Scores) -> Scores:
        """What to log: the parts' scores and, where rows may be masked, the flags as `<part>.masked`."""
        flags = {name + MASKED: where.astype(np.float64) for name, where in masked.items()}
        return values | (flags if self.mask else {})

    def weighted(self, batch: Batch, weights: Mapping[str, float]) -> Scores:
        """The parts to log under weights that sum to 1.

        A masked score is replaced by the weighted mean of the row's other parts, so that the weighted mean over all
        parts is the mean over those that could be scored, with their weights scaled to sum to 1.
        """
        values, masked = self.score(batch)
        if any(where.any() for where in masked.values()):
            total = np.sum([weights[name] * ~masked[name] for name in values], axis=0)
            self.refuse(total <= 0, batch)
            known = np.sum([weights[name] * np.where(masked[name], 0.0, values[name]) for name in values], axis=0)
            values = {name: np.where(masked[name], known / total, values[name]).clip(0.0, 1.0) for name in values}
        return self.logged(values, masked)

    def refuse(self, unscored: np.ndarray, batch: Batch) -> None:
        """Raise InputError for the first row that no part could score, where `unscored` (B,) has one."""
        if not unscored.any():
            return
        row = int(unscored.argmax())
        alone = take(batch, row, row + 1)
        reasons = []
        for part in self.rewards.values():
            try:
                part.score_batch(alone)
            except RewardError as error:
                reasons.append(re.sub(r"\brow 0\b", f"row {row}", error.reason))
        raise InputError(f"row {row}: no part that counts can score it: {'; '.join(reasons)}")


class Composed(ABC):
    """What every composed reward is: `parts` and `combine` are its own, and its Parts are in `_parts`."""

    _parts: Parts

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

    @abstractmethod
    def parts(self, batch: Batch) -> Scores:
        """The scores (B,) of each part, and with on_error=mask where it is masked."""

    @abstractmethod
    def combine(self, parts: Scores) -> np.ndarray:
        """The scores (B,) from those of the parts."""


class WeightedMean(Composed):
    """sum_i w_i r_i over the parts that can score a row, for `weights` that sum to 1."""

    weights: dict[str, float]

    def parts(self, batch: Batch) -> Scores:
        """The scores (B,) of each part, before its weight, and with on_error=mask where it is masked."""
        return self._parts.weighted(batch, self.weights)

    def combine(self, parts: Scores) -> np.ndarray:
        """The weighted mean (B,) of parts' scores; flags of masked rows are no parts."""
        return np.sum([weight * parts[name] for name, weight in self.weights.items()], axis=0)


def refuse_other_options(options: Mapping[str, Any], parts: Collection[str]) -> None:
    """Raise InputError for options of what is not among the parts."""
    for name in options:
        if name not in parts:
            raise InputError(f'options for "{name}", which is not among the parts.{nearest(name, parts)}')


def take(batch: Batch, start: int, end: int) -> Batch:
    """The rows [start, end) of a batch."""
    cut = slice(start, end)
    rows = None if batch.rows is None else batch.rows[cut]
    return Batch(batch.instructions[cut], batch.responses[cut], batch.references[cut], rows)


def _score_or_mask(part: Reward, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
    """Scores (B,) and where the part could not score, (B,) bool: found by halving, as such rows are few."""
    try:
        return part.score_batch(batch), np.zeros(len(batch), dtype=bool)
    except RewardError as error:
        if not isinstance(error.__cause__, InputError):  # a fault, not a row that cannot be scored
            raise
        if len(batch) == 1:
            return np.zeros(1), np.ones(1, dtype=bool)
    half = len(batch) // 2
    halves = [_score_or_mask(part, take(batch, *cut)) for cut in ((0, half), (half, len(batch)))]
    return np.concatenate([values for values, _ in halves]), np.concatenate([where for _, where in halves])
