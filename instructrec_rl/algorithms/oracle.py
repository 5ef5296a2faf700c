"""The upper bound: an item that is right, looked up in the data. Every other figure is read against it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from instructrec_rl.core import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from instructrec_rl.algorithms.loop.recorder import Recorder
    from instructrec_rl.config.schema import BaselineConfig
    from instructrec_rl.core import Example, Item
    from instructrec_rl.encoders.states import Asked
    from instructrec_rl.env.environment import Environment

NO_TEXT = "an oracle cannot answer plain text: it looks the right items up in the environment's data"


@dataclass(frozen=True)
class OraclePolicy:
    """examples: all of the environment's, as `Asked.rows` points into them."""

    examples: Sequence[Example]

    def act(self, asked: Asked, menu: np.ndarray, context: np.ndarray | None = None) -> np.ndarray:
        """The first of each row's best items that is on the menu, else the menu's first item.

        Raises InputError for instructions that are no rows of an environment.
        """
        if asked.rows is None:
            raise InputError(NO_TEXT)
        offered = set(menu.tolist())
        best = (self.examples[row].best for row in asked.rows)
        return np.array([next((item for item in each if item in offered), menu[0]) for each in best], dtype=np.int64)

    def save(self, folder: Path) -> None:
        """Nothing to write: without its environment an oracle knows nothing."""


def learn(env: Environment, config: BaselineConfig, recorder: Recorder) -> OraclePolicy:
    """Learns nothing; holds the answers."""
    return OraclePolicy(env.examples)


def load(folder: Path, items: list[Item], dim: int | None = None) -> OraclePolicy:
    """Raises InputError: an oracle lives inside its environment only."""
    raise InputError(NO_TEXT, folder)
