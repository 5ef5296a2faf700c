"""Texts out of a causal language model: sampled with their log-probabilities, greedy, or ranked by likelihood."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, PreTrainedModel

Ids = list[int]


class Completions(NamedTuple):
    """B completions, padded on the right to the longest. ids, mask (the end-of-text token included): (B, T) int64;
    logprobs: (B, T) float32, of each token when it was sampled, 0 behind the end; empty where they were not kept.
    """

    ids: Tensor
    mask: Tensor
    logprobs: Tensor


class _Draw(LogitsProcessor):
    """Draws each token itself and keeps its log-probability: all but the token drawn gets a score of -inf.

    transformers would take the softmax a second time, and torch.multinomial takes longer than the inverse of the
    distribution function at one uniform number a row.
    """

    def __init__(self, temperature: float) -> None:
        self.temperature = temperature
        self.logprobs: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        logprobs = (scores.float() / self.temperature).log_softmax(-1)
        upto = logprobs.exp().cumsum(-1)
        at = torch.rand(len(scores), 1, device=scores.device) * upto[:, -1:]
        drawn = torch.searchsorted(upto, at, right=True).clamp(max=scores.shape[1] - 1)
        self.logprobs.append(logprobs.gather(1, drawn)[:, 0])
        return torch.full_like(scores, -torch.inf).scatter_(1, drawn, 0.0)


def left_pad(rows: Sequence[Ids], pad: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Ids and mask, (B, L) int64, with the rows pushed to the right end."""
    width = max(map(len, rows))
    ids = torch.tensor([[pad] * (width - len(row)) + list(row) for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    return ids.to(device), mask.to(device)


def right_pad(rows: Sequence[Sequence[float]], fill: float, dtype: torch.dtype) -> Tensor:
    """Rows (B, T) padded on the right with `fill`."""
    width = max(map(len, rows))
    return torch.tensor([[*row, *[fill] * (width - len(row))] for row in rows], dtype=dtype)


@torch.no_grad()
def complete(
    model: PreTrainedModel,
    prompts: tuple[Tensor, Tensor],
    max_tokens: int,
    eos: Sequence[int],
    pad: int,
    sample: bool = False,
    temperature: float = 1.0,
) -> Completions:
    """Continue B prompts (ids and mask, (B, P), padded on the left) until the end of text or `max_tokens` tokens.

    sample: draw from the model's own distribution at `temperature` (no top-k, no top-p), and keep the
    log-probabilities; otherwise take the likeliest token each time. Draws come from torch's global generator.
    """
    draw = _Draw(temperature)
    was_training = model.training
    model.eval()
    # continue the prompts
    whole = model.generate(
        input_ids=prompts[0],
        attention_mask=prompts[1],
        max_new_tokens=max_tokens,
        do_sample=False,
        num_beams=1,  # whatever the model's own settings say: one answer for each prompt
        num_return_sequences=1,
        eos_token_id=list(eos),
        pad_token_id=pad,
        logits_processor=LogitsProcessorList([draw] if sample else []),
    )
    model.train(was_training)
    # cut the texts at their ends
    ids = whole[:, prompts[0].shape[1] :]
    ended = torch.isin(ids, torch.tensor(list(eos), device=ids.device))
    mask = (ended.cumsum(1) - ended.long() == 0).long()
    if not sample:
        return Completions(ids, mask, torch.zeros(len(ids), 0, device=ids.device))
    return Completions(ids, mask, torch.stack(draw.logprobs, dim=1) * mask)


def log_distributions(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Log-probabilities of all tokens at a temperature, (B, T, V) float32, from logits (B, T, V)."""
    logits = logits.float()
    return (logits if temperature == 1 else logits / temperature).log_softmax(-1)


def token_logprobs(logits: Tensor, ids: Tensor, temperature: float = 1.0) -> Tensor:
    """Log-probabilities of ids (B, T), float32, from logits (B, T, V)."""
    return log_distributions(logits, temperature).gather(2, ids[..., None])[..., 0]


def entropy(logprobs: Tensor) -> Tensor:
    """Entropies in nats, (B, T), of distributions given by their log-probabilities (B, T, V).

    The probabilities carry gradients too: without theirs, the entropy's gradient would be that of their sum, zero.
    """
    return -(logprobs.exp() * logprobs).sum(-1)
