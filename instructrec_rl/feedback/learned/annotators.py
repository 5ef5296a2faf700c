"""What is known of each annotator: the bias and spread of their ratings, and how likely they answer at random."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from instructrec_rl.feedback.learned.judgements import Judgements

SHRINK = 5.0  # ratings' worth of the pooled mean and deviation in each annotator's own
LEAST_DEVIATION = 0.05  # of ratings in [0, 1]: where all are the same, there is nothing to divide by
PRIOR_RANDOM = 0.1  # the share of annotators thought to answer at random, before anything is seen
RANDOM_AT = 0.95  # posterior from which an annotator is called likely random
RATED_AT = 0.1  # trusted weight from which a pair counts as rated


@dataclass(frozen=True)
class Standardised:
    """Ratings as z-scores.

    z: (R,) each in its annotator's own mean and deviation on that scale, which are shrunk to those of all; mean,
    deviation: pooled, of the ratings in [0, 1] (of the thumbs where there are only thumbs): what a z-score of 0 and a
    step of 1 mean.
    """

    z: np.ndarray
    mean: float
    deviation: float

    def to_share(self, z: np.ndarray) -> np.ndarray:
        """z-scores as scores in [0, 1]."""
        return (self.mean + self.deviation * z).clip(0.0, 1.0)


def standardise(judged: Judgements) -> Standardised:
    """z = (v - m_a) / s_a with m_a = (n m'_a + k m) / (n + k) and s_a^2 = (n d_a^2 + k s^2) / (n + k).

    m'_a is annotator a's mean of n ratings, d_a^2 their mean squared distance from m_a, m and s are pooled over all
    annotators, k is SHRINK. Where there are no ratings at all, scores are centred on 0.5 with a deviation of 0.2.
    """
    z, pooled = np.zeros(len(judged.value)), (0.5, 0.2)
    for scale in (1, 0):  # ratings last: where there are any, a score is on their scale
        on_scale = judged.scale == scale
        if not on_scale.any():
            continue
        values = judged.value[on_scale]
        mean, deviation = float(values.mean()), max(float(values.std()), LEAST_DEVIATION)
        pooled = (mean, deviation)
        for annotator in np.unique(judged.who[on_scale]):
            own = on_scale & (judged.who == annotator)
            value, n = judged.value[own], int(own.sum())
            centre = (value.sum() + SHRINK * mean) / (n + SHRINK)
            spread = (((value - centre) ** 2).sum() + SHRINK * deviation**2) / (n + SHRINK)
            z[own] = (value - centre) / np.sqrt(spread)
    return Standardised(z, *pooled)


def honesty(
    judged: Judgements, z: np.ndarray, predicted: np.ndarray, margins: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """The posterior probability (N,) that an annotator does not answer at random.

    predicted: (R,) what the others' judgements say of each rating, margins: (C,) of how much better the better one is;
    both without that judgement; weights: (N,) the trust so far. Under honesty a standardised rating is
    N(rho f, 1 - rho^2) with f the standardised prediction and rho the correlation over all trusted annotators, and a
    comparison comes out as it did with probability logistic(2 m / s), s the deviation of the margins; at random it is
    N(0, 1), and one half. With little data the two are alike and everyone keeps the prior's trust.
    """
    log_ratio = np.zeros(len(judged.annotators))
    if len(z) > 2:
        trust = weights[judged.who] + 1e-9
        f = predicted - np.average(predicted, weights=trust)
        f = f / (np.sqrt(np.average(f**2, weights=trust)) + 1e-9)
        own = np.zeros(len(z))
        for annotator in np.unique(judged.who):
            mine = judged.who == annotator
            own[mine] = (z[mine] - z[mine].mean()) / max(float(z[mine].std()), 0.3)
        rho = float(np.clip(np.average(f * own, weights=trust), 0.05, 0.95))
        each = -0.5 * np.log(1 - rho**2) - 0.5 * ((own - rho * f) ** 2 / (1 - rho**2) - own**2)
        log_ratio += np.bincount(judged.who, each, len(log_ratio))
    clear = judged.margin > 0
    if clear.sum() > 2:
        judge, margin = judged.judge[clear], margins[clear]
        slope = 2.0 / max(float(np.std(margin)), 1e-9) * min(1.0, max(0.0, float(np.mean(margin > 0)) - 0.5) * 2)
        log_ratio += np.bincount(judge, np.log(2) - np.logaddexp(0, -slope * margin), len(log_ratio))
    odds = np.log(PRIOR_RANDOM / (1 - PRIOR_RANDOM)) - log_ratio.clip(-50, 50)
    return 1 / (1 + np.exp(odds))


@dataclass(frozen=True)
class Rated:
    """Pairs that were rated, one entry each. pair: (U,); score: (U,) in [0, 1], the weighted mean of the annotators'
    ratings; spread: (U,) their weighted standard deviation, 0 for one annotator; count: (U,) how many."""

    pair: np.ndarray
    score: np.ndarray
    spread: np.ndarray
    count: np.ndarray


def aggregate(judged: Judgements, standardised: Standardised, trust: np.ndarray) -> Rated:
    """Conflicting ratings of a pair as one score, in which bias is taken out and annotators count by their trust (N,).

    A pair that only likely random annotators rated is left out.
    """
    weight = trust[judged.who] * judged.weight
    score, size = standardised.to_share(standardised.z), len(judged.responses)
    total = np.bincount(judged.pair, weight, size)
    pair = np.flatnonzero(total >= RATED_AT)
    safe = np.maximum(total, 1e-12)
    mean = np.bincount(judged.pair, weight * score, size) / safe
    square = np.bincount(judged.pair, weight * (score - mean[judged.pair]) ** 2, size) / safe
    count = np.bincount(judged.pair, minlength=size)
    return Rated(pair, mean[pair].clip(0, 1), np.sqrt(square)[pair], count[pair])
