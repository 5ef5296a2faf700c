"""Advantage estimators against hand-worked numbers and naive references written from the papers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from instructrec_rl.algorithms.language import advantages as estimate


def naive_gae(rewards: list[float], values: list[float], gamma: float, lam: float) -> list[float]:
    """A_t = sum_k (gamma lambda)^k delta_{t+k}, the sum written out (Schulman et al. 2016, equation 16)."""
    values = [*values, 0.0]
    deltas = [r + gamma * values[t + 1] - values[t] for t, r in enumerate(rewards)]
    return [sum((gamma * lam) ** k * delta for k, delta in enumerate(deltas[t:])) for t in range(len(rewards))]


def test_gae_by_hand() -> None:
    # two tokens, gamma 0.5, lambda 0.5: delta_1 = 1 - 0.4 = 0.6; delta_0 = 0 + 0.5 * 0.4 - 0.2 = 0
    # A_1 = 0.6, A_0 = 0 + 0.25 * 0.6 = 0.15; R = A + V
    advantage, returns = estimate.gae(
        torch.tensor([[0.0, 1.0]]), torch.tensor([[0.2, 0.4]]), torch.ones(1, 2), gamma=0.5, lam=0.5
    )
    assert advantage[0].tolist() == pytest.approx([0.15, 0.6], abs=1e-6)
    assert returns[0].tolist() == pytest.approx([0.35, 1.0], abs=1e-6)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), gamma=st.floats(0, 1), lam=st.floats(0, 1))
def test_gae_equals_the_sum_over_the_policys_own_tokens(seed: int, gamma: float, lam: float) -> None:
    rng = np.random.default_rng(seed)
    rewards, values = rng.normal(size=(5, 9)), rng.normal(size=(5, 9))
    mask = rng.random((5, 9)) < 0.7  # others' tokens stand between, and behind
    found, returns = estimate.gae(
        torch.tensor(rewards * mask), torch.tensor(values * mask), torch.tensor(mask), gamma, lam
    )
    for row in range(5):
        own = mask[row]
        expected = naive_gae(list(rewards[row, own]), list(values[row, own]), gamma, lam)
        assert found[row, torch.tensor(own)].tolist() == pytest.approx(expected, abs=1e-6)
        assert found[row, torch.tensor(~own)].abs().sum() == 0
        assert (returns - found)[row, torch.tensor(own)].tolist() == pytest.approx(list(values[row, own]), abs=1e-6)


def test_a_reward_between_two_turns_reaches_back_over_the_context() -> None:
    # turn 1 is tokens 0 and 1, tokens 2 and 3 are the world's, turn 2 is token 4; gamma = lambda = 1, no critic
    mask = torch.tensor([[1, 1, 0, 0, 1]])
    rewards = torch.tensor([[0.0, 0.3, 0.0, 0.0, 0.5]])
    advantage, _ = estimate.gae(rewards, torch.zeros(1, 5), mask, 1.0, 1.0)
    assert advantage[0].tolist() == pytest.approx([0.8, 0.8, 0.0, 0.0, 0.5])


def test_leave_one_out_by_hand() -> None:
    # (1, 0, 0.5): 1 - 0.25, 0 - 0.75, 0.5 - 0.5
    found = estimate.leave_one_out(torch.tensor([1.0, 0.0, 0.5, 2.0, 2.0, 2.0]), 3)
    assert found.tolist() == pytest.approx([0.75, -0.75, 0.0, 0.0, 0.0, 0.0])


def test_group_relative_by_hand() -> None:
    found = estimate.group_relative(torch.tensor([1.0, 0.0, 3.0, 3.0]), 2)
    spread = math.sqrt(0.5)  # of (1, 0), unbiased
    assert found.tolist() == pytest.approx([0.5 / (spread + 1e-4), -0.5 / (spread + 1e-4), 0.0, 0.0])


def test_whitened_over_the_mask_only() -> None:
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    found = estimate.whiten(torch.tensor([[1.0, 2.0, 50.0], [3.0, 70.0, 0.0]]), mask)
    spread = math.sqrt(2 / 3)
    assert found.flatten().tolist() == pytest.approx([-1 / spread, 0, 0, 1 / spread, 0, 0], abs=1e-5)


def test_explained_variance() -> None:
    returns, mask = torch.tensor([[1.0, 2.0, 3.0, 9.0]]), torch.tensor([[1, 1, 1, 0]])
    assert estimate.explained_variance(returns, returns, mask) == pytest.approx(1.0)
    assert estimate.explained_variance(torch.full((1, 4), 2.0), returns, mask) == pytest.approx(0.0)
    assert math.isnan(estimate.explained_variance(returns, torch.ones(1, 4), mask))


@pytest.mark.parametrize(
    ("kl", "expected"),
    [
        (6.0, 0.1),  # on target
        (6.6, 0.1 * (1 + 0.1 * 256 / 10_000)),  # a tenth above
        (60.0, 0.1 * (1 + 0.2 * 256 / 10_000)),  # clipped
        (0.0, 0.1 * (1 - 0.2 * 256 / 10_000)),
    ],
)
def test_adaptive_kl_against_its_formula(kl: float, expected: float) -> None:
    assert estimate.adapt_kl(0.1, kl, target=6.0, episodes=256, horizon=10_000) == pytest.approx(expected, rel=1e-12)
