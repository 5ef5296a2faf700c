"""The network that reads a state: a set of frozen embeddings in, one vector of weights out.

Every member goes through the same small MLP (Deep Sets, Zaheer et al. 2017), learned attention weighs the results into
one vector, and a linear map gives the output. A member may be a whole sentence, a clause, or a token in its context.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from instructrec_rl.core import InputError
from instructrec_rl.env.states import States


class SetNetwork(nn.Module):
    """f(set) = W z + b + S m, where z = sum_k a_k phi(x_k), m = sum_k a_k x_k and a = softmax_k(g . phi(x_k)).

    phi = Linear, GELU, Linear, GELU on the members scaled to unit variance. Attention pooling (Ilse et al. 2018) and
    not a sum: a reward that is a share (of the constraints satisfied) is a mean over what matters, and most of a
    natural sentence's clauses do not matter.

    Shapes: B sets, M members in all of them together, D the embedding, H hidden, F outputs. The linear path S (F, D)
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

    def forward(self, members: Tensor, owners: Tensor, size: int, context: Tensor | None = None) -> Tensor:
        """members: (M, D); owners: (M,) which of the `size` sets each belongs to; context: (B, D + 1). Gives (B, F)."""
        each = self.phi(members * self.scale)
        # softmax over each set without padding; the clamp stands for the usual subtraction of the maximum
        weight = self.gate(each).float().clamp(-10, 10).exp()

        def pool(values: Tensor) -> Tensor:
            return torch.zeros(size, values.shape[1], device=values.device).index_add(0, owners, values)

        total = pool(weight)
        pooled = pool(weight * each) / total
        if self.context is not None and context is not None:
            pooled = pooled + self.context(context)
        return self.head(self.dropout(pooled)) + self.linear(pool(weight * members) / total)


class StateReader:
    """States on a device, ready to feed a `SetNetwork`: gathers the members of some rows, without padding."""

    def __init__(self, states: States, device: torch.device):
        self.vectors = torch.from_numpy(np.ascontiguousarray(states.vectors)).to(device)
        lengths = (states.index >= 0).sum(1)
        self.starts = np.concatenate([[0], np.cumsum(lengths)])
        self.flat = states.index[states.index >= 0].astype(np.int64)
        self.device = device

    def __call__(self, rows: np.ndarray) -> tuple[Tensor, Tensor, int]:
        """Members (M, D), their owners (M,) and the number of sets B, for `SetNetwork.forward`."""
        lengths = self.starts[rows + 1] - self.starts[rows]
        owners = np.repeat(np.arange(len(rows)), lengths)
        within = np.arange(len(owners)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        positions = self.flat[self.starts[rows][owners] + within]
        members = self.vectors[torch.from_numpy(positions).to(self.device)].float()
        return members, torch.from_numpy(owners).to(self.device), len(rows)


def pick_device(name: str = "auto") -> tuple[torch.device, bool]:
    """The device to learn on (a GPU where there is one), and whether it multiplies bfloat16 in hardware.

    name: auto, cpu, mps, cuda or cuda:N. Raises InputError for another one, and for one that is not there.
    """
    try:
        device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
    except RuntimeError as error:
        raise InputError(f"algo.device={name}: expected auto, cpu, mps, cuda or cuda:N") from error
    there = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if (device.index or 0) >= there.get(device.type, 0):
        raise InputError(f"algo.device={name}: torch finds no such device here; auto takes the best there is")
    if device.type == "cuda":
        return device, torch.cuda.is_bf16_supported()
    return device, bool(torch.cpu._is_avx512_bf16_supported()) if device.type == "cpu" else False
