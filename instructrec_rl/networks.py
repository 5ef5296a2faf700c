"""The network that reads a state: a set of frozen embeddings in, one vector of weights out.

Deep Sets (Zaheer et al. 2017): every member goes through the same small MLP, the results are summed, and a linear map
gives the output. A member may be a whole sentence, a clause, or a token in its context.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from instructrec_rl.env.states import States


class SetNetwork(nn.Module):
    """f(set) = W sum_k phi(x_k) + b + S sum_k x_k, with phi = Linear, GELU, Linear, GELU.

    Shapes: B sets, M members in all of them together, D the embedding, H hidden, F outputs. The linear path S (F, D)
    begins at `prior`, W at zero, so the untrained network is the prior. With a context (D + 1 numbers: the mean
    embedding of the answers so far and the last score), its own linear map joins the sum of the phi.
    """

    def __init__(self, dim: int, hidden: int, outputs: int, dropout: float = 0.0, context: bool = False):
        super().__init__()
        self.phi = nn.Sequential(
            nn.Linear(dim, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, hidden), nn.GELU()
        )
        self.context = nn.Sequential(nn.Linear(dim + 1, hidden), nn.GELU()) if context else None
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(hidden, outputs)
        self.linear = nn.Linear(dim, outputs, bias=False)
        nn.init.zeros_(self.linear.weight)

    def start_from(self, prior: Tensor) -> None:
        """Make the untrained network the linear map `prior`, (F, D)."""
        with torch.no_grad():
            self.linear.weight.copy_(prior)
            self.head.weight.zero_()
            self.head.bias.zero_()

    def forward(self, members: Tensor, owners: Tensor, size: int, context: Tensor | None = None) -> Tensor:
        """members: (M, D); owners: (M,) which of the `size` sets each belongs to; context: (B, D + 1). Gives (B, F)."""
        each = self.phi(members)
        pooled = torch.zeros(size, each.shape[1], device=each.device, dtype=each.dtype).index_add(0, owners, each)
        if self.context is not None and context is not None:
            pooled = pooled + self.context(context)
        summed = torch.zeros(size, members.shape[1], device=each.device).index_add(0, owners, members.float())
        return self.head(self.dropout(pooled)) + self.linear(summed)


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
    """The device to learn on (a GPU where there is one), and whether it multiplies bfloat16 in hardware."""
    device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
    if device.type == "cuda":
        return device, torch.cuda.is_bf16_supported()
    return device, bool(torch.cpu._is_avx512_bf16_supported()) if device.type == "cpu" else False
