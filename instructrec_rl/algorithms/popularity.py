"""Popularity: the same item for every instruction, the one that is most often right in the training split."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import Field

from instructrec_rl.core import InputError
from instructrec_rl.core.files import write_json_atomic
from instructrec_rl.core.forms import Form, read_form

if TYPE_CHECKING:
    from instructrec_rl.algorithms.loop.recorder import Recorder
    from instructrec_rl.config.schema import BaselineConfig
    from instructrec_rl.core import Item
    from instructrec_rl.encoders.states import Asked
    from instructrec_rl.env.environment import Environment

FILE = "popularity.json"


class About(Form):
    """popularity.json."""

    counts: list[Annotated[int, Field(ge=0, lt=1 << 62)]]


@dataclass(frozen=True)
class PopularityPolicy:
    """counts: (A,) int64, for how many training instructions each item is among the best."""

    counts: np.ndarray

    def act(self, asked: Asked, menu: np.ndarray, context: np.ndarray | None = None) -> np.ndarray:
        """See `Policy.act`. Of items that are equally popular, the first on the menu."""
        return np.full(len(asked), menu[self.counts[menu].argmax()], dtype=np.int64)

    def scores(self, asked: Asked, menu: np.ndarray, context: np.ndarray | None = None) -> np.ndarray:
        """How often each item on the menu was right in training, (B, M)."""
        return np.broadcast_to(self.counts[menu].astype(np.float64), (len(asked), len(menu)))

    def save(self, folder: Path) -> None:
        """See `Policy.save`."""
        write_json_atomic(folder / FILE, {"counts": self.counts.tolist()})


def learn(env: Environment, config: BaselineConfig, recorder: Recorder) -> PopularityPolicy:
    """Count the best items of the training split."""
    best, starts = env.examples.best
    trained = np.zeros(len(env.examples), dtype=bool)
    trained[env.spec.rows("train")] = True
    return PopularityPolicy(np.bincount(best[trained.repeat(np.diff(starts))], minlength=len(env.items)))


def load(folder: Path, items: list[Item], dim: int | None = None) -> PopularityPolicy:
    """Read what `save` wrote."""
    counts = read_form(folder / FILE, About).counts
    if len(counts) != len(items):
        raise InputError(f'"counts": expected {len(items)}, one an item, found {len(counts)}', folder / FILE)
    return PopularityPolicy(np.array(counts, dtype=np.int64))
