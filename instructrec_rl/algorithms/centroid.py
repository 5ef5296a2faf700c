"""Nearest centroid (Rocchio): each item is the mean embedding of the training instructions that it is right for."""

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

FILE = "centroid.safetensors"


@dataclass(frozen=True)
class CentroidPolicy:
    """centroids: (A, D) float32, of length 1; known: (A,) uint8, 0 for items that are right for no instruction."""

    centroids: np.ndarray
    known: np.ndarray

    def act(self, asked: Asked, menu: np.ndarray, context: np.ndarray | None = None) -> np.ndarray:
        """See `Policy.act`. An item without a centroid is chosen only where the menu has no other."""
        return menu[self.scores(asked, menu, context).argmax(1)]

    def scores(self, asked: Asked, menu: np.ndarray, context: np.ndarray | None = None) -> np.ndarray:
        """The score of each item on the menu, (B, M)."""
        states = asked.states("sentence")
        cosines = states.vectors[states.index[:, 0]] @ self.centroids[menu].T
        return np.where(self.known[menu], cosines, -np.inf)

    def save(self, folder: Path) -> None:
        """See `Policy.save`."""
        write_bytes_atomic(folder / FILE, save({"centroids": self.centroids, "known": self.known}))


def learn(env: Environment, config: BaselineConfig, recorder: Recorder) -> CentroidPolicy:
    """Average the training instructions' vectors by right item; one with several right items counts for each."""
    rows = env.spec.rows("train")
    states = env.states("sentence").take(rows)
    best = [env.examples[row].best for row in rows]
    owners = np.repeat(np.arange(len(rows)), [len(each) for each in best])
    items = np.concatenate(best)
    centroids = np.zeros((len(env.items), states.vectors.shape[1]), dtype=np.float32)
    np.add.at(centroids, items, states.vectors[states.index[owners, 0]])
    known = np.bincount(items, minlength=len(env.items)) > 0
    lengths = np.linalg.norm(centroids, axis=1, keepdims=True)
    return CentroidPolicy(centroids / np.maximum(lengths, 1e-12), known.astype(np.uint8))


def load(folder: Path, items: list[Item], dim: int | None = None) -> CentroidPolicy:
    """Read what `save` wrote."""
    expected = {"centroids": ("F32", "A", "D"), "known": ("U8", "A")}
    return CentroidPolicy(**read_tensors(folder / FILE, expected, A=len(items), D=dim))
