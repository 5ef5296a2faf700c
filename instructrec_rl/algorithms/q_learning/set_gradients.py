"""`SetNetwork` as the DQN learns it: the same function, computed so that a gradient step is cheap.

Notation: U distinct members x_u (U, D) of unit variance, B sets, H hidden units, F outputs, g = gelu. The network is

    h = g(g(x W1 + b1) W2 + b2)      y = h W + s x S        gate = clamp(h G, -10, 10)        e = exp(gate)
    w_i = b + sum_k e_k y_k / sum_k e_k,   k over the members of set i

Pooling is linear, so each distinct member is carried to its F outputs *before* it is pooled: F numbers are summed for
each member of a set, and not H + D. With d_i = dL/dw_i, n_i = sum_k e_k and m_i = w_i - b, the chain rule gives

    dL/d(e_k y_k) = sum_{i with k} d_i / n_i                 dL/de_k = -sum_{i with k} (d_i . m_i) / n_i
    dL/dy_k = e_k dL/d(e_k y_k)        dL/dgate_k = e_k (y_k . dL/d(e_k y_k) + dL/de_k), 0 where the gate is clamped

and from there on it is a plain MLP. Sums over "the sets that have member k" are one `embedding_bag` over the incidence
turned round. tests/algorithms/test_q_learning.py holds every gradient against autograd's on `SetNetwork`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from instructrec_rl.encoders.states import States

GATE_LIMIT = 10.0
MOST_REDUCED = 200_000  # members up to which all of them are projected once; more are read as they are
MEMBERS_A_COMPONENT = 4  # fewer tell too little of where the variance lies


class Incidence(NamedTuple):
    """B sets over U distinct members, both ways round.

    vectors: (U, D); which: (M,) the members, set after set; starts: (B,) where each set begins in `which`; owners: (M,)
    the sets, member after member; owner_starts: (U,) where each member begins in `owners`.
    """

    vectors: Tensor
    which: Tensor
    starts: Tensor
    owners: Tensor
    owner_starts: Tensor


class Projection(NamedTuple):
    """x = (v - mean) basis: mean (D,), basis (D, C) orthonormal columns; the identity where nothing is left out."""

    mean: Tensor
    basis: Tensor


class MemberReader:
    """The sets of some rows, their members scaled to unit variance and, where it pays, on their principal components.

    rows: those whose members the components are of; components: at most so many, 0 for none.
    """

    def __init__(self, states: States, rows: np.ndarray, components: int, device: torch.device):
        vectors = states.vectors
        self.scale = float(vectors.shape[1]) ** 0.5
        self.projection = _principal_components(states, rows, components)
        if self.projection is not None:
            mean, basis = (value.numpy() for value in self.projection)
            vectors = (np.asarray(vectors, dtype=np.float32) - mean) @ (basis * self.scale)
        self.vectors = torch.from_numpy(np.ascontiguousarray(vectors)).to(device)
        self.dim, self.device = vectors.shape[1], device
        self.lengths = (states.index >= 0).sum(1)
        self.starts = np.concatenate([[0], np.cumsum(self.lengths)])
        self.flat = states.index[states.index >= 0].astype(np.int64)

    def __call__(self, rows: np.ndarray) -> Incidence:
        """The sets of B rows."""
        lengths = self.lengths[rows]
        starts = np.cumsum(lengths) - lengths
        members = self.flat[np.arange(lengths.sum()) + np.repeat(self.starts[rows] - starts, lengths)]
        order = np.argsort(members, kind="stable")
        ordered = members[order]
        new = np.ones(len(members), dtype=bool)
        new[1:] = ordered[1:] != ordered[:-1]
        which = np.empty(len(members), dtype=np.int64)
        which[order] = np.cumsum(new) - 1
        owners = np.repeat(np.arange(len(rows)), lengths)[order]
        vectors = self.vectors[self._on_device(ordered[new])]
        if self.projection is None:
            vectors = vectors.float() * self.scale
        arrays = (which, starts, owners, np.flatnonzero(new))
        return Incidence(vectors, *(self._on_device(array) for array in arrays))

    def _on_device(self, positions: np.ndarray) -> Tensor:
        return torch.from_numpy(positions).to(self.device)


def _principal_components(states: States, rows: np.ndarray, components: int) -> Projection | None:
    """The components of the rows' members with the most variance, or None where all of the vectors are kept."""
    if not 0 < components < states.vectors.shape[1] or len(states.vectors) > MOST_REDUCED:
        return None
    members = np.unique(states.index[rows])
    members = members[members >= 0]
    if len(members) < MEMBERS_A_COMPONENT * components:
        return None
    vectors = np.asarray(states.vectors[members], dtype=np.float32)
    mean = vectors.mean(0)
    centred = vectors - mean
    _, directions = np.linalg.eigh(centred.T @ centred / (len(members) - 1))
    basis = np.ascontiguousarray(directions[:, ::-1][:, :components])
    return Projection(torch.from_numpy(mean), torch.from_numpy(basis))


class Forward(NamedTuple):
    """What a forward pass leaves for its gradients."""

    sets: Incidence
    before: tuple[Tensor, Tensor]  # of the two activations, (U, H)
    hidden: tuple[Tensor, Tensor]  # after them
    outputs: Tensor  # y, (U, F)
    gate: Tensor  # (U, 1)
    weight: Tensor  # e, (U, 1)
    mean: Tensor  # m, (B, F)
    total: Tensor  # n, (B, 1)


class FlatSetNetwork:
    """The network over one flat vector of parameters, with its gradients and its AdamW (Loshchilov & Hutter 2019).

    dim: D of what `MemberReader` gives; scale: its factor; seed: of the weights at the start.
    """

    def __init__(self, dim: int, hidden: int, outputs: int, scale: float, seed: int, device: torch.device):
        self.shapes = {
            "W1": (dim, hidden), "W2": (hidden, hidden), "WG": (hidden, outputs + 1), "S": (dim, outputs),
            "b1": (hidden,), "b2": (hidden,), "b": (outputs,),
        }  # fmt: skip
        self.scale = scale
        size = sum(math.prod(shape) for shape in self.shapes.values())
        self.flat = torch.zeros(size)
        parameters, draw = self.views(self.flat), torch.Generator().manual_seed(seed)
        for name, inputs in (("W1", dim), ("b1", dim), ("W2", hidden), ("b2", hidden)):  # as torch's nn.Linear begins
            parameters[name].uniform_(-(inputs**-0.5), inputs**-0.5, generator=draw)
        self.flat = self.flat.to(device)
        self.gradient = torch.zeros_like(self.flat)
        self.moments = torch.zeros_like(self.flat), torch.zeros_like(self.flat)
        self.updates = 0
        self.parameters, self.gradients = self.views(self.flat), self.views(self.gradient)

    def views(self, flat: Tensor) -> dict[str, Tensor]:
        """The parameters by name, all of them views of `flat`."""
        parts = flat.split([math.prod(shape) for shape in self.shapes.values()])
        return {name: part.view(shape) for (name, shape), part in zip(self.shapes.items(), parts)}

    def forward(self, sets: Incidence) -> tuple[Tensor, Forward]:
        """w (B, F) of B sets, and what `backward` needs."""
        p, x = self.parameters, sets.vectors
        # carry each distinct member to its outputs and its gate
        first = torch.addmm(p["b1"], x, p["W1"])
        hidden = functional.gelu(first)
        second = torch.addmm(p["b2"], hidden, p["W2"])
        top = functional.gelu(second)
        both = top @ p["WG"]
        outputs = torch.addmm(both[:, :-1], x, p["S"], alpha=1 / self.scale)
        gate = both[:, -1:].clamp(-GATE_LIMIT, GATE_LIMIT)
        weight = gate.exp()
        # pool the members of each set; an empty text has none, and its mean is zero
        summed = functional.embedding_bag(sets.which, torch.cat([outputs * weight, weight], 1), sets.starts, mode="sum")
        total = summed[:, -1:].clamp(min=1e-9)
        mean = summed[:, :-1] / total
        return mean + p["b"], Forward(sets, (first, second), (hidden, top), outputs, gate, weight, mean, total)

    def backward(self, slope: Tensor, seen: Forward) -> None:
        """Write the gradients for `slope` = dL/dw (B, F); those of the last call are written over."""
        p, g, sets, (first, second), (hidden, top) = self.parameters, self.gradients, *seen[:3]
        # through the pooling, back to each distinct member
        torch.sum(slope, 0, out=g["b"])
        through = torch.cat([slope, -(slope * seen.mean).sum(1, keepdim=True)], 1) / seen.total
        members = functional.embedding_bag(sets.owners, through, sets.owner_starts, mode="sum")
        to_outputs = members[:, :-1] * seen.weight
        to_gate = ((members[:, :-1] * seen.outputs).sum(1, keepdim=True) + members[:, -1:]) * seen.weight
        to_gate *= seen.gate.abs() < GATE_LIMIT
        # through the head and the linear path
        to_both = torch.cat([to_outputs, to_gate], 1)
        torch.mm(sets.vectors.T, to_outputs / self.scale, out=g["S"])
        torch.mm(top.T, to_both, out=g["WG"])
        # through the two hidden layers
        to_second = torch.ops.aten.gelu_backward(to_both @ p["WG"].T, second)
        torch.mm(hidden.T, to_second, out=g["W2"])
        torch.sum(to_second, 0, out=g["b2"])
        to_first = torch.ops.aten.gelu_backward(to_second @ p["W2"].T, first)
        torch.mm(sets.vectors.T, to_first, out=g["W1"])
        torch.sum(to_first, 0, out=g["b1"])

    def step(self, rate: float, decay: float, most: float, beta1: float = 0.9, beta2: float = 0.98) -> None:
        """One step of AdamW with the gradient's norm clipped at `most`, as torch.optim.AdamW has it (eps 1e-8)."""
        norm = float(torch.linalg.vector_norm(self.gradient))
        if norm > most:
            self.gradient.mul_(most / norm)
        self.updates += 1
        mean, square = self.moments
        mean.lerp_(self.gradient, 1 - beta1)
        square.mul_(beta2).addcmul_(self.gradient, self.gradient, value=1 - beta2)
        spread = square.sqrt().div_((1 - beta2**self.updates) ** 0.5).add_(1e-8)
        self.flat.mul_(1 - rate * decay).addcdiv_(mean, spread, value=-rate / (1 - beta1**self.updates))

    def start_from(self, prior: Tensor, projection: Projection | None) -> None:
        """Make the untrained network the linear map `prior` (F, D of the encoder), on the components that are read."""
        mapped = prior.T.to(self.flat.device)
        if projection is not None:
            mean, basis = (value.to(self.flat.device) for value in projection)
            self.parameters["b"].copy_(mean @ mapped)
            mapped = basis.T @ mapped
        self.parameters["S"].copy_(mapped)

    def as_set_network(self, flat: Tensor, projection: Projection | None) -> dict[str, Tensor]:
        """The state of the `SetNetwork` that reads the encoder's own vectors and is the same function as `flat` here.

        The projection goes into the first layer and the linear path, so a saved policy knows nothing of it.
        """
        p = self.views(flat)
        first, linear, bias1, bias = p["W1"], p["S"], p["b1"], p["b"]
        if projection is not None:
            mean, basis = (value.to(flat.device) for value in projection)
            first, linear = basis @ first, basis @ linear
            bias1, bias = bias1 - self.scale * (mean @ first), bias - mean @ linear
        state = {
            "phi.0.weight": first.T, "phi.0.bias": bias1, "phi.3.weight": p["W2"].T, "phi.3.bias": p["b2"],
            "gate.weight": p["WG"][:, -1:].T, "gate.bias": torch.zeros(1, device=flat.device),
            "head.weight": p["WG"][:, :-1].T, "head.bias": bias, "linear.weight": linear.T,
        }  # fmt: skip
        return {name: value.contiguous().clone() for name, value in state.items()}
