"""The network that reads a state: a set of frozen embeddings in, one vector of weights out.

Every member goes through the same small MLP (Deep Sets, Zaheer et al. 2017), learned attention weighs the results into
one vector, and a linear map gives the output. A member may be a whole sentence, a clause, or a token in its context.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from instructrec_rl.core import InputError
from instructrec_rl.core.forms import Form, Number, Size
from instructrec_rl.core.tensor_files import read_tensors
from instructrec_rl.encoders.states import States


class Sets(NamedTuple):
    """B sets with M members in all of them together, of which U are distinct: each of those is computed once.

    vectors: (U, D) float32, of length 1; which: (M,) positions in `vectors`, set after set; starts: (B,) where in
    `which` each set begins.
    """

    vectors: Tensor
    which: Tensor
    starts: Tensor


class SetNetwork(nn.Module):
    """f(set) = W z + b + S m, where z = sum_k a_k phi(x_k), m = sum_k a_k x_k and a = softmax_k(g . phi(x_k)).

    phi = Linear, GELU, Linear, GELU on the members scaled to unit variance. Attention pooling (Ilse et al. 2018) and
    not a sum: a reward that is a share (of the constraints satisfied) is a mean over what matters, and most of a
    natural sentence's clauses do not matter.

    Shapes: see `Sets`; D the embedding, H hidden, F outputs. The linear path S (F, D)
    begins at `prior`, W at zero, so the untrained network is the prior. With a context (D + 1 numbers: the mean
    embedding of the answers so far and the last score), its own linear map is added to z.
    """

    def __init__(self, dim: int, hidden: int, outputs: int, dropout: float = 0.0, context: bool = False):
        super().__init__()
        self.scale = dim**0.5  # members have length 1
        self.phi = nn.Sequential(
            nn.Linear(dim, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, hidden), nn.GELU()
        )
        self.gate = nn.Linear(hidden, 1)
        nn.init.zeros_(self.gate.weight)
        self.context = nn.Sequential(nn.Linear(dim + 1, hidden), nn.GELU()) if context else None
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(hidden, outputs)
        self.linear = nn.Linear(dim, outputs, bias=False)
        for weights in (self.head.weight, self.head.bias, self.linear.weight):
            nn.init.zeros_(weights)

    def start_from(self, prior: Tensor) -> None:
        """Make the untrained network the linear map `prior`, (F, D)."""
        with torch.no_grad():
            self.linear.weight.copy_(prior)

    def forward(self, sets: Sets, context: Tensor | None = None) -> Tensor:
        """The outputs (B, F) of B sets; context: (B, D + 1), None at the first turn."""
        each = self.phi(sets.vectors * self.scale)
        # softmax over each set without padding; the clamp stands for the usual subtraction of the maximum
        weight = self.gate(each).float().clamp(-10, 10).exp()
        weighted = torch.cat([weight * each, weight * sets.vectors, weight], 1)
        summed = nn.functional.embedding_bag(sets.which, weighted, sets.starts, mode="sum")
        averaged = summed[:, :-1] / summed[:, -1:].clamp(min=1e-9)  # an empty text has no tokens: zeros
        pooled, mean = averaged.split([each.shape[1], sets.vectors.shape[1]], 1)
        if self.context is not None:
            first_turn = torch.zeros(1, sets.vectors.shape[1] + 1, device=pooled.device)
            pooled = pooled + self.context(first_turn if context is None else context)
        return self.head(self.dropout(pooled)) + self.linear(mean)


class Shape(Form):
    """The arguments of `SetNetwork`, as a policy's JSON has them."""

    dim: Size
    hidden: Size
    outputs: Size
    dropout: Annotated[Number, Field(ge=0, lt=1)] = 0.0
    context: bool = False


class NetworkForm(Form):
    """The JSON beside a network's weights."""

    state: Literal["sentence", "clauses", "tokens"]
    shape: Shape


def read_network(path: Path, shape: Shape, num_items: int, dim: int | None) -> tuple[SetNetwork, Tensor]:
    """A network, and the features (A, F) of the items beside it, out of a safetensors file.

    The shape is held against the file's header before any memory is taken. Raises InputError where they do not fit each
    other, the items, or the encoder's `dim`.
    """
    if dim is not None and shape.dim != dim:
        raise InputError(f'"shape.dim" is {shape.dim}; the encoder\'s vectors have {dim} numbers', path)
    with torch.device("meta"):  # shapes alone
        network = SetNetwork(**shape.model_dump())
    expected: dict[str, tuple[str | int, ...]] = {
        f"network.{name}": ("F32", *weights.shape) for name, weights in network.state_dict().items()
    }
    tensors = read_tensors(path, expected | {"features": ("F32", num_items, shape.outputs)}, framework="pt")
    features = tensors.pop("features")
    network.load_state_dict({name.removeprefix("network."): value for name, value in tensors.items()}, assign=True)
    return network, features


class StateReader:
    """States on a device, ready to feed a `SetNetwork`: gathers the members of some rows, without padding."""

    def __init__(self, states: States, device: torch.device):
        self.vectors = torch.from_numpy(np.ascontiguousarray(states.vectors)).to(device)
        lengths = (states.index >= 0).sum(1)
        self.starts = np.concatenate([[0], np.cumsum(lengths)])
        self.flat = states.index[states.index >= 0].astype(np.int64)
        self.device = device

    def __call__(self, rows: np.ndarray) -> Sets:
        """The sets of B rows. A clause that many of them share is there once."""
        lengths = self.starts[rows + 1] - self.starts[rows]
        begins = np.cumsum(lengths) - lengths
        members = self.flat[np.arange(lengths.sum()) + np.repeat(self.starts[rows] - begins, lengths)]
        distinct, which = np.unique(members, return_inverse=True)
        vectors = self.vectors[self._on_device(distinct)].float()
        return Sets(vectors, self._on_device(which), self._on_device(begins))

    def _on_device(self, positions: np.ndarray) -> Tensor:
        return torch.from_numpy(positions).to(self.device)
