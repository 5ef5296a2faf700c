"""A model of the reward, fitted on the rounds of other groups: what the doubly robust estimates correct.

    q(x, a) = phi(x)' C psi(a),   C by ridge regression on the products of phi's and psi's columns

phi: contexts (N, D); psi: features of the actions, F columns. With psi an indicator of the action it is a ridge
regression an action. As q is linear in psi, what it expects of a policy needs the policy's mean psi only.
"""

from __future__ import annotations

import numpy as np

PENALTIES = (1.0, 10.0, 100.0, 1000.0)
NUM_FOLDS = 5
CHUNK = 8192  # rounds whose products are held at a time


def magnitude(values: np.ndarray) -> float:
    """What to divide values by before they are squared: 1, or where they are huge or tiny a power of two near them."""
    most = float(np.abs(values).max(initial=0.0))
    return 1.0 if most == 0 or 1e-100 < most < 1e100 else 2.0 ** max(int(np.frexp(most)[1]) - 1, -1020)


def mean_of(values: np.ndarray) -> float:
    """The mean of values (N,) whose sum may be no number."""
    unit = magnitude(values)
    return float((values / unit).mean() * unit)


def cross_fit(
    contexts: np.ndarray,
    logged: np.ndarray,
    expected: np.ndarray,
    rewards: np.ndarray,
    groups: np.ndarray | None = None,
    num_folds: int = NUM_FOLDS,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """q of the logged action and of the policy, (N,) each, from models that saw no round of the same fold.

    contexts: phi (N, D); logged: psi of the logged actions (N, F), zeros where it has none (q is then the mean reward
    of the other folds); expected: the mean of psi under the policy (N, F); rewards: (N,); groups: (N,) rounds that stay
    in one fold (default: each its own). The penalty of C is the one of PENALTIES with the least error on held-out
    folds, the same for all. Source: Chernozhukov et al. 2018, Double/debiased machine learning.
    """
    # scale the rewards
    unit = magnitude(rewards)
    rewards = rewards / unit
    # make the folds
    groups = np.arange(len(rewards)) if groups is None else np.unique(groups, return_inverse=True)[1]
    num_groups = int(groups.max()) + 1
    num_folds = max(2, min(num_folds, num_groups))
    fold_of = (np.random.default_rng(seed).permutation(num_groups) % num_folds)[groups]
    folds = [np.flatnonzero(fold_of == fold) for fold in range(num_folds)]
    # fit a model without each fold, for every penalty
    sums = [_moments(contexts[rows], logged[rows], rewards[rows]) for rows in folds]
    total = [sum(parts) for parts in zip(*sums)]
    fits = [_fit(*(whole - held_out for whole, held_out in zip(total, parts))) for parts in sums]
    # keep the penalty that predicts held-out folds best
    best, q_logged, q_target = np.inf, np.zeros(len(rewards)), np.zeros(len(rewards))
    for penalty in range(len(PENALTIES)):
        guess, of_policy = np.zeros(len(rewards)), np.zeros(len(rewards))
        for rows, (mean, coefficients) in zip(folds, fits):
            weights = contexts[rows] @ coefficients[penalty]
            guess[rows] = mean + (weights * logged[rows]).sum(1)
            of_policy[rows] = mean + (weights * expected[rows]).sum(1)
        error = float(((guess - rewards) ** 2).mean())
        if error < best:
            best, q_logged, q_target = error, guess, of_policy
    with np.errstate(over="ignore"):  # a model that expects more than any number is given the largest
        return np.nan_to_num(q_logged * unit), np.nan_to_num(q_target * unit)


def _moments(contexts: np.ndarray, features: np.ndarray, rewards: np.ndarray) -> tuple[np.ndarray, ...]:
    """X'X, X'r and X'1 with X (n, D F) the products of columns, as they add up; X'r is (D, F). The sum of r, and n."""
    size = contexts.shape[1] * features.shape[1]
    gram, moment, column = np.zeros((size, size)), np.zeros(size), np.zeros(size)
    for start in range(0, len(rewards), CHUNK):
        some = slice(start, start + CHUNK)
        products = (contexts[some][:, :, None] * features[some][:, None, :]).reshape(-1, size)
        gram += products.T @ products
        moment += products.T @ rewards[some]
        column += products.sum(0)
    return gram, moment.reshape(-1, features.shape[1]), column, np.array(rewards.sum()), np.array(len(rewards))


def _fit(
    gram: np.ndarray, moment: np.ndarray, column: np.ndarray, total: np.ndarray, count: np.ndarray
) -> tuple[float, list[np.ndarray]]:
    """The mean reward, and for each penalty the C (D, F) of what is above it."""
    mean = float(total) / max(int(count), 1)
    values, vectors = np.linalg.eigh(gram)
    rotated = vectors.T @ (moment.ravel() - mean * column)
    return mean, [(vectors @ (rotated / (values.clip(0) + p))).reshape(moment.shape) for p in PENALTIES]
