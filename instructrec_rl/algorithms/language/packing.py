"""Rows of prompt and answer moved to the left and cut to the longest: a forward pass spends nothing on padding between.

A batch has its prompts padded on the left and its answers on the right, to the longest of each. Most rows have neither
the longest prompt nor the longest answer, and padding costs as much as text.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Shape(NamedTuple):
    """Of a batch: the tokens of its longest row, and of its shortest prompt."""

    width: int
    shortest: int


class Packed(NamedTuple):
    """ids, mask: (B, W), each row from the left; prompts: (B,) the tokens of each prompt; answers: (B, T) the mask of
    the answers as they stood; shape: W, and the shortest prompt that is to be counted on.
    """

    ids: Tensor
    mask: Tensor
    prompts: Tensor
    answers: Tensor
    shape: Shape

    @property
    def ahead(self) -> int:
        """The columns from the end of the shortest prompt on."""
        return self.shape.width - self.shape.shortest

    def answered(self, values: Tensor, start: int = 0) -> Tensor:
        """What stands at the answers' tokens, (B, T), of values (B, W - start) at the columns from `start` on."""
        columns = self.prompts[:, None] - start + torch.arange(self.answers.shape[1], device=values.device)
        return values.gather(1, columns.clamp(max=values.shape[1] - 1)) * self.answers

    def logprobs(self, distributions: Tensor) -> Tensor:
        """Log-probabilities (B, T) of the answers' tokens, of those of all tokens (B, W - shortest, V)."""
        start = self.shape.shortest
        tokens = self.ids[:, start:].clamp(max=distributions.shape[2] - 1)  # a prompt's soft tokens are no words
        return self.answered(distributions.gather(2, tokens[..., None])[..., 0], start)


def shape_of(mask: Tensor, keep: int) -> Shape:
    """The Shape of a batch by its mask (B, L), whose last `keep` columns are the answers'."""
    return Shape(int(mask.sum(1).max()), int(mask[:, :-keep].sum(1).min()))


def pack(ids: Tensor, mask: Tensor, keep: int, shape: Shape | None = None) -> Packed:
    """Pack rows (B, L) whose last `keep` columns are the answers'; without `shape`, as tightly as these rows allow."""
    shape = shape or shape_of(mask, keep)
    prompts = mask[:, :-keep].sum(1)
    columns = torch.arange(shape.width, device=ids.device)
    from_left = (ids.shape[1] - keep - prompts)[:, None] + columns
    packed = ids.gather(1, from_left.clamp(max=ids.shape[1] - 1))
    real = (columns < mask.sum(1)[:, None]).to(mask.dtype)
    return Packed(packed, real, prompts, mask[:, -keep:], shape)


def in_minibatches(score: Callable[[Tensor], Tensor], mask: Tensor, size: int) -> Tensor:
    """`score` on the rows of minibatches of like lengths by their mask (B, L), put together in the rows' own order."""
    order = mask.sum(1).argsort(stable=True)
    return torch.cat([score(rows) for rows in order.split(size)])[order.argsort()]


def joined(parts: list[dict[str, Tensor]]) -> dict[str, Any]:
    """Minibatches as one batch; what is one number for all of them stays one."""
    return {
        name: value if value.dim() == 0 else torch.cat([part[name] for part in parts])
        for name, value in parts[0].items()
    }
