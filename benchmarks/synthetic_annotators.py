"""Eight synthetic annotators, for the benchmarks of feedback: what they say of answers whose worth is known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

NUM_ANNOTATORS = 8


@dataclass(frozen=True)
class Ratings:
    """who: (n,) annotator; rating: (n,) 1 to 5; at_random: the annotators who answer at random."""

    who: np.ndarray
    rating: np.ndarray
    at_random: set[int]


def rate(worth: np.ndarray, rng: np.random.Generator, num_random: int = 1) -> Ratings:
    """Ratings of n answers of standardised worth (n,), shared out evenly.

    round(3 + bias + scale * worth + noise) cut to 1..5, with bias N(0, .5), scale U(.6, 1.4) and noise N(0, .5);
    those at random draw uniformly from 1 to 5.
    """
    size = len(worth)
    bias, scale = rng.normal(0, 0.5, NUM_ANNOTATORS), rng.uniform(0.6, 1.4, NUM_ANNOTATORS)
    who = rng.permutation(np.arange(size) % NUM_ANNOTATORS)
    at_random = rng.choice(NUM_ANNOTATORS, num_random, replace=False)
    rating = (3 + bias[who] + scale[who] * worth + rng.normal(0, 0.5, size)).round().clip(1, 5)
    drawn = np.isin(who, at_random)
    rating[drawn] = rng.integers(1, 6, int(drawn.sum()))
    return Ratings(who, rating, set(at_random.tolist()))
