"""One file an algorithm; the file name is `algo=NAME`. Each defines two functions:

    learn(env: Environment, config, recorder: Recorder) -> Policy
    load(folder: Path, items: list[Item]) -> Policy        (reads what the policy's `save` wrote)

The files do not import each other.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from instructrec_rl.env.states import Asked


class Policy(Protocol):
    """Answers instructions with items of the catalog."""

    def act(self, asked: Asked, menu: np.ndarray, context: np.ndarray | None = None) -> np.ndarray:
        """Choose greedily.

        asked: B instructions; menu: positions in the catalog of what is on offer; context: (B, D + 1) float32, the
        mean embedding of the answers given so far and the last score, in environments with turns, else None.
        Returns positions in the catalog, (B,) int64, each of them in `menu`.
        """
        ...

    def save(self, folder: Path) -> None:
        """Write everything that `load` needs into an existing folder, as safetensors and JSON only."""
        ...
