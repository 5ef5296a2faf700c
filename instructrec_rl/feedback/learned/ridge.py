"""Bayesian ridge regression over blocks of features, its strengths averaged by their evidence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

PENALTIES = np.geomspace(0.01, 100.0, 13)


@dataclass(frozen=True)
class Ridge:
    """What was fitted. coefficients: (F,); left_out: (n,) each target's prediction by a fit without it; noise: the
    targets' variance given the features; scales: (F,) and covariance: (F, F) of the likeliest setting, from which
    `variance` follows; penalty: its lambda."""

    coefficients: np.ndarray
    left_out: np.ndarray
    noise: float
    scales: np.ndarray
    covariance: np.ndarray
    penalty: float

    def variance(self, features: np.ndarray, outside: np.ndarray) -> np.ndarray:
        """The variance (B,) of the predicted mean. outside: (B,) squared length of what the features leave out, which
        the data said nothing of, so that it counts with its whole prior variance."""
        scaled = features * self.scales
        return np.einsum("bf,fg,bg->b", scaled, self.covariance, scaled) + self.noise / self.penalty * outside

    def gain(self, features: np.ndarray) -> np.ndarray:
        """(B,) by how much one more target at each of the rows (B, F) lowers the mean variance over all of them.

        With the posterior covariance S of the coefficients and noise v, a target at x lowers the variance at z by
        (z'S x)^2 / (v + x'S x); its mean over z is x'S A S x / (v + x'S x), A the mean of z z' (Cohn, Ghahramani and
        Jordan 1996, Active learning with statistical models).
        """
        x = features * self.scales
        pulled = x @ self.covariance
        return ((pulled @ (x.T @ x / len(x))) * pulled).sum(1) / (self.noise + (pulled * x).sum(1))


def fit(features: np.ndarray, targets: np.ndarray, weights: np.ndarray, scalings: Sequence[np.ndarray]) -> Ridge:
    """Fit targets (n,) on features (n, F) with weights (n,), n >= 1.

    n in what follows is the sum of the weights. For each scaling s (F,) of the columns and each penalty l the
    posterior of y = X diag(s) b + e, b ~ N(0, v / l),
    e ~ N(0, v / w), has the log evidence -n/2 log v - 1/2 sum_j log(1 + d_j / l), d the eigenvalues of S X' W X S and
    v = (y'Wy - sum_j c_j^2 / (d_j + l)) / n at its maximum (MacKay 1992, Bayesian interpolation). Predictions are
    averaged over all of them by evidence. A left-out prediction is (f - h y) / (1 - h), h the leverage.
    """
    # sum up the data
    size = max(float(weights.sum()), 1e-300)  # where nothing weighs anything, nothing is learned
    weighted = features * weights[:, None]
    gram, moment = (features.T @ weighted).astype(np.float64), (weighted.T @ targets).astype(np.float64)
    energy = float((weights * targets**2).sum())
    # weigh every scaling and penalty by its evidence
    evidence, spectra = [], []
    for scale in scalings:
        values, vectors = np.linalg.eigh(gram * np.outer(scale, scale))
        values = values.clip(0)
        rotated = vectors.T @ (scale * moment)
        spectra.append((values, vectors, rotated))
        for penalty in PENALTIES:
            noise = max((energy - float((rotated**2 / (values + penalty)).sum())) / size, 1e-9)
            evidence.append(-0.5 * size * np.log(noise) - 0.5 * float(np.log1p(values / penalty).sum()))
    share = np.exp(np.array(evidence) - max(evidence)).reshape(len(scalings), len(PENALTIES))
    share /= share.sum()
    # average over them
    coefficients, leverage = np.zeros(features.shape[1]), np.zeros(len(targets))
    for scale, (values, vectors, rotated), shares in zip(scalings, spectra, share):
        if shares.sum() < 1e-3:
            continue
        inverse = (shares[:, None] / (values + PENALTIES[:, None])).sum(0)
        coefficients += scale * (vectors @ (inverse * rotated))
        leverage += ((features @ (scale[:, None] * vectors)) ** 2 @ inverse) * weights
    fitted = features @ coefficients
    safe = np.minimum(leverage, 0.999)
    # keep the likeliest one's covariance
    best, strength = divmod(int(share.argmax()), len(PENALTIES))
    values, vectors, rotated = spectra[best]
    penalty = float(PENALTIES[strength])
    noise = max((energy - float((rotated**2 / (values + penalty)).sum())) / size, 1e-9)
    covariance = noise * (vectors / (values + penalty)) @ vectors.T
    left_out = (fitted - safe * targets) / (1 - safe)
    return Ridge(coefficients, left_out, noise, np.asarray(scalings[best]), covariance, penalty)


def scalings(blocks: Mapping[str, slice], size: int, mixes: Sequence[Mapping[str, float]]) -> list[np.ndarray]:
    """Column scales (F,) for each mix: the share of the prior variance that each block gets."""
    found = []
    for mix in mixes:
        scale = np.zeros(size)
        for name, where in blocks.items():
            scale[where] = np.sqrt(mix.get(name, 0.0))
        found.append(scale)
    return found
