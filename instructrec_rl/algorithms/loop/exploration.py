"""How likely an answer was when it was chosen: greedily, or by Boltzmann, with a uniform share epsilon."""

from __future__ import annotations

import numpy as np

NEAR_TIE = 1e-6  # learners that break ties at random add at most this to a value


def boltzmann_weights(values: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """exp(Q / T) of values (B, M), each row over its largest, so that no number is too large; not yet of sum 1."""
    behind = values - values.max(1, keepdims=True)  # first, so that the tiniest temperature is greedy and not 0 / 0
    with np.errstate(over="ignore"):
        return np.exp(behind if temperature == 1 else behind / temperature)


def boltzmann_propensity(scaled: np.ndarray, chosen: np.ndarray, epsilon: float) -> np.ndarray:
    """The probability (B,) of choosing as was chosen: softmax of Q / T (B, M), mixed with a uniform share epsilon."""
    weights = boltzmann_weights(scaled)
    return (1 - epsilon) * weights[np.arange(len(chosen)), chosen] / weights.sum(1) + epsilon / scaled.shape[1]


def greedy_propensity(values: np.ndarray, chosen: np.ndarray, epsilon: float = 0.0) -> np.ndarray:
    """The probability (B,) that an epsilon-greedy choice on values (B, M), ties broken at random, had."""
    highest = values >= values.max(1, keepdims=True) - NEAR_TIE
    greedy = highest[np.arange(len(chosen)), chosen] / highest.sum(1)
    return (1 - epsilon) * greedy + epsilon / values.shape[1]
