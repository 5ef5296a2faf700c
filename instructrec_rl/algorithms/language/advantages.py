"""Advantage estimators and what goes with them, as plain functions of tensors.

Notation: B episodes of at most T tokens; a mask (B, T) is 1 on the tokens that the policy wrote and 0 on what stood
between its answers and on padding; r_t the reward paid at token t, V_t the value of the state before token t.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from instructrec_rl.config.schema import PPOConfig

Reduce = Callable[[Tensor], Tensor]


def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation (Schulman et al. 2016, equation 16), and the returns that fit the values to.

        delta_t = r_t + gamma V_{t+1} - V_t,   A_t = delta_t + gamma lambda A_{t+1},   R_t = A_t + V_t

    over the policy's own tokens: t + 1 is the next one, also where another's tokens stand between. Behind the last
    one V and A are 0. rewards, values, mask: (B, T). Returns (A, R), both (B, T), 0 where the mask is.
    """
    advantages = torch.zeros_like(values)
    ahead = values.new_zeros(len(values))  # A_{t+1}
    value_ahead = values.new_zeros(len(values))
    own = mask.bool()
    for t in range(values.shape[1] - 1, -1, -1):
        delta = rewards[:, t] + gamma * value_ahead - values[:, t]
        now = delta + gamma * lam * ahead
        advantages[:, t] = torch.where(own[:, t], now, advantages[:, t])
        ahead = torch.where(own[:, t], now, ahead)
        value_ahead = torch.where(own[:, t], values[:, t], value_ahead)
    return advantages, (advantages + values) * mask


def leave_one_out(returns: Tensor, samples: int) -> Tensor:
    """RLOO (Ahmadian et al. 2024): A_i = R_i - mean of the other answers' R. returns: (B,), `samples` in a row each."""
    grouped = returns.view(-1, samples)
    return ((grouped - grouped.mean(1, keepdim=True)) * samples / (samples - 1)).flatten()


def group_relative(returns: Tensor, samples: int) -> Tensor:
    """GRPO (Shao et al. 2024): A_i = (R_i - mean) / (std + 1e-4) over the answers to one instruction."""
    grouped = returns.view(-1, samples)
    return ((grouped - grouped.mean(1, keepdim=True)) / (grouped.std(1, keepdim=True) + 1e-4)).flatten()


def whiten(values: Tensor, mask: Tensor, total: Reduce = lambda sums: sums) -> Tensor:
    """(x - mean) / std over the masked entries, 0 elsewhere. total: adds a tensor up over all processes."""
    masked = values * mask
    count, first, second = total(torch.stack([mask.sum().float(), masked.sum(), (masked * values).sum()]))
    mean = first / count
    spread = (second / count - mean**2).clamp(min=0).sqrt()
    return (values - mean) / (spread + 1e-8) * mask


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """The mean over the masked entries, a scalar."""
    return (values * mask).sum() / mask.sum().clamp(min=1)


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """1 - Var(R - V) / Var(R) over the masked entries: 1 is a perfect critic, 0 one that knows only the mean."""
    own = mask.bool()
    spread = returns[own].var()
    return 1 - (returns - values)[own].var() / spread if spread > 0 else spread.new_tensor(float("nan"))


def value_loss(values: Tensor, old: Tensor, returns: Tensor, mask: Tensor, clip: float) -> Tensor:
    """A critic's squared error, clipped about its values when the answers were given; all of them (B, T)."""
    near = old + (values - old).clamp(-clip, clip)
    errors = torch.maximum((values - returns) ** 2, (near - returns) ** 2)
    return 0.5 * masked_mean(errors, mask)


def adapt_kl(coefficient: float, kl: float, target: float, episodes: int, horizon: int) -> float:
    """The next KL coefficient of Ziegler et al. 2019, equation 3.

        e = clip(KL / target - 1, -0.2, 0.2),   c' = c (1 + e n / horizon)

    kl: nats an episode, the mean over the n `episodes` just played.
    """
    error = min(max(kl / target - 1, -0.2), 0.2)
    return coefficient * (1 + error * episodes / horizon)


def next_kl(config: PPOConfig, coefficient: float, kl: float, interactions: int) -> float:
    """The KL coefficient of the next iteration: constant, falling to a tenth, or adapted to its target.

    kl: nats an episode in the iteration just played; interactions: the answers given so far.
    """
    if config.kl_control == "adaptive":
        return adapt_kl(coefficient, kl, config.kl_target, config.batch_size, config.kl_horizon)
    if config.kl_control == "annealed":
        return config.kl * (1 - 0.9 * min(1.0, interactions / config.interactions))
    return coefficient
