"""Simulated annotators: ratings of an environment's items by what they truly earn, to plan how many one would need.

They are people with habits, not people: real ones are worse. Their lines say so (annotator `simulated-3`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from instructrec_rl.env.environment import Environment

NUM_ANNOTATORS = 8
SAMPLE = 50_000  # pairs, by which worth is standardised


@dataclass(frozen=True)
class Ratings:
    """who: (n,) annotator; rating: (n,) 1 to 5; at_random: the annotators who answer at random."""

    who: np.ndarray
    rating: np.ndarray
    at_random: set[int]


def rate(worth: np.ndarray, rng: np.random.Generator, num_random: int = 1) -> Ratings:
    """Ratings of n answers of standardised worth (n,) by eight annotators, shared out evenly.

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


def simulate(env: Environment, size: int, seed: int) -> list[dict[str, Any]]:
    """Lines of feedback: `size` distinct pairs of a training instruction and an item, drawn uniformly and rated.

    What a pair is worth is the environment's own training reward. Raises ValueError where there are not so many pairs.
    """
    rows, menu, rng = env.spec.rows("train"), env.spec.menu("train"), np.random.default_rng(seed)
    if not 0 < size <= len(rows) * len(menu):
        raise ValueError(f"expected 1 to {len(rows) * len(menu):,} ratings, one a pair of instruction and item")
    pairs = rng.choice(len(rows) * len(menu), size, replace=False)
    row, item = rows[pairs // len(menu)], menu[pairs % len(menu)]
    sample = env.reward_table(rng.choice(rows, SAMPLE), rng.choice(menu, SAMPLE))
    given = rate((env.reward_table(row, item) - sample.mean()) / sample.std(), rng)
    return [
        {
            "kind": "rating",
            "id": f"{k:06}",
            "annotator": f"simulated-{given.who[k]}",
            "env": env.spec.name,
            "instruction": str(env.instructions[row[k]]),
            "response": env.items[item[k]].name,
            "rating": float(given.rating[k]),
        }
        for k in range(size)
    ]
