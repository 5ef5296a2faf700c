"""Zero-shot nearest neighbour: the item whose text's embedding is nearest to the instruction's. Nothing is trained."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from safetensors.numpy import save

from instructrec_rl.core.files import write_bytes_atomic
from instructrec_rl.core.tensor_files import read_tensors

if TYPE_CHECKING:
    from instructrec_rl.algorithms.loop.recorder import Recorder
    from instructrec_rl.config.schema import BaselineConfig
    from instructrec_rl.core import Item
    from instructrec_rl.encoders.states import Asked
    from instructrec_rl.env.environment import Environment

FILE = "neighbour.safetensors"


@dataclass(frozen=True)
class NeighbourPolicy:
    """vectors: (A, D) float32, the items' sentence embeddings, of length 1."""

    vectors: np.ndarray

    def act(self, asked: Asked, menu: np.ndarray, context: np.ndarray | None = None) -> np.ndarray:
        """See `Policy.act`. The instruction's length does not change which cosine is highest."""
        return menu[self.scores(asked, menu, context).argmax(1)]

    def scores(self, asked: Asked, menu: np.ndarray, context: np.ndarray | None = None) -> np.ndarray:
        """The score of each item on the menu, (B, M)."""
        states = asked.states("sentence")
        return states.vectors[states.index[:, 0]] @ self.vectors[menu].T

    def save(self, folder: Path) -> None:
        """See `Policy.save`."""
        write_bytes_atomic(folder / FILE, save({"vectors": self.vectors}))


def learn(env: Environment, config: BaselineConfig, recorder: Recorder) -> NeighbourPolicy:
    """Embed the items' texts."""
    vectors = env.item_vectors
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return NeighbourPolicy((vectors / np.maximum(lengths, 1e-12)).astype(np.float32))


def load(folder: Path, items: list[Item], dim: int | None = None) -> NeighbourPolicy:
    """Read what `save` wrote."""
    return NeighbourPolicy(**read_tensors(folder / FILE, {"vectors": ("F32", "A", "D")}, A=len(items), D=dim))
