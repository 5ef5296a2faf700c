"""Chance: a uniformly random item of the menu."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import Field

from instructrec_rl.core.files import write_json_atomic
from instructrec_rl.core.forms import Form, read_form

if TYPE_CHECKING:
    from instructrec_rl.algorithms.loop.recorder import Recorder
    from instructrec_rl.config.schema import BaselineConfig
    from instructrec_rl.core import Item
    from instructrec_rl.encoders.states import Asked
    from instructrec_rl.env.environment import Environment

FILE = "random.json"


class About(Form):
    """random.json."""

    seed: Annotated[int, Field(ge=-(1 << 63), lt=1 << 63)]


@dataclass(frozen=True)
class RandomPolicy:
    """Draws by a hash of the seed, the instruction and the context.

    So the answer to a text depends neither on the texts beside it nor on how often the policy was asked, while
    another seed, or another turn of the same episode, draws anew.
    """

    seed: int

    def act(self, asked: Asked, menu: np.ndarray, context: np.ndarray | None = None) -> np.ndarray:
        """See `Policy.act`."""
        salt = self.seed.to_bytes(16, "little", signed=True)
        digests = [
            hashlib.blake2b(
                text.encode("utf-8", "replace") + (b"" if context is None else context[row].tobytes()),
                digest_size=8,
                salt=salt,
            ).digest()
            for row, text in enumerate(asked.texts)
        ]
        numbers = np.frombuffer(b"".join(digests), dtype=np.uint64)
        return menu[(numbers % np.uint64(len(menu))).astype(np.int64)]

    def save(self, folder: Path) -> None:
        """See `Policy.save`."""
        write_json_atomic(folder / FILE, {"seed": self.seed})


def learn(env: Environment, config: BaselineConfig, recorder: Recorder) -> RandomPolicy:
    """Learns nothing; takes the run's seed."""
    return RandomPolicy(recorder.seed)


def load(folder: Path, items: list[Item], dim: int | None = None) -> RandomPolicy:
    """Read what `save` wrote."""
    return RandomPolicy(read_form(folder / FILE, About).seed)
