"""One file an algorithm; the file name is `algo=NAME`. Each defines two functions:

    learn(env: Environment, config, recorder: Recorder) -> Policy | Writer
    load(folder: Path, items: list[Item], dim: int | None = None) -> Policy | Writer

`load` reads what the policy's `save` wrote, and trusts none of it: it raises InputError where the files do not fit each
other, the items, or the encoder, whose vectors have `dim` numbers (None: whatever the files say).

`learn` of a language model's algorithm (config.LANGUAGE_ALGORITHMS) also takes the run's PolicyConfig.

The files do not import each other.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from instructrec_rl.encoders.states import Asked


@runtime_checkable
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


@runtime_checkable
class Writer(Protocol):
    """Answers instructions with texts of its own."""

    def write(self, asked: Asked, menu: np.ndarray, past: Sequence[Sequence[tuple[str, float]]] = ()) -> list[str]:
        """Write greedily.

        asked: B instructions; menu: positions in the catalog of what is on offer; past: for each instruction the
        answers given so far with what they scored, in environments with turns. Returns B texts.
        """
        ...

    def save(self, folder: Path) -> None:
        """Write everything that `load` needs into an existing folder, as safetensors and JSON only."""
        ...
