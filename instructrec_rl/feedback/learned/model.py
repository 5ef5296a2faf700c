"""The learned reward: from ratings, thumbs, preferences, rankings and corrections to a score for any answer.

    z(i, r) = x(i, r) . b [+ w(i) . a(r)]

x are the features of pair_features.py, b a Bayesian ridge regression; with enough data, and where it predicts held-out
instructions better, a small network over the instruction's clauses is added (interaction.py). Annotators are
standardised and weighted by how likely they are honest (annotators.py). A response that resembles none that was judged
is not scored but reported as novel. It reads texts and item attributes, never an environment's constraints.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from instructrec_rl.core import InputError, Item
from instructrec_rl.feedback.learned import interaction as interactions
from instructrec_rl.feedback.learned import ridge
from instructrec_rl.feedback.learned.annotators import Standardised, honesty, standardise
from instructrec_rl.feedback.learned.judgements import Judgements
from instructrec_rl.feedback.learned.novelty import Novelty
from instructrec_rl.feedback.learned.pair_features import PairFeatures

if TYPE_CHECKING:
    from instructrec_rl.encoders.bert import Encoder

MIN_JUDGEMENTS = 10  # fewer say next to nothing
ROUNDS = 4  # of weighing annotators by what the others' judgements predict
COMPARISON_WEIGHT = 0.5  # of a comparison beside a rating: "better by 1" is a coarser statement
# Shares of the prior variance, averaged by evidence. With one instruction only the response's texts tell answers apart.
ALONE = [{"constant": 0.1, "form": 0.03, "words": words, "meaning": 1 - words} for words in (0.3, 0.6, 0.9)]
MIXES = [
    {"constant": 1.0, "form": form, "together": together, "words": words, "meaning": 1 - words}
    for words, together, form in product((0.2, 0.5, 0.8), (0.0, 0.3), (0.03, 0.3))
]


@dataclass(frozen=True)
class Prediction:
    """Of B answers. z: (B,) standardised score; score: (B,) in [0, 1]; deviation: (B,) the standard deviation of z, as
    far as it is known from the ridge; novel: (B,) bool, whether nothing like it was judged."""

    z: np.ndarray
    score: np.ndarray
    deviation: np.ndarray
    novel: np.ndarray


@dataclass
class LearnedReward:
    """Made by `learn`. trust: (N,) the probability that each annotator is honest; left_out_z: each judgement's
    prediction without it, ratings (R,) then comparisons' margins (C,)."""

    judged: Judgements
    standardised: Standardised
    features: PairFeatures
    ridge: ridge.Ridge
    novelty: Novelty
    trust: np.ndarray
    left_out_z: np.ndarray
    network: interactions.Interaction | None = None

    def predict(self, instructions: Sequence[str], responses: Sequence[str]) -> Prediction:
        """Scores of B answers. Raises InputError for an instruction that the encoder cannot read."""
        x, outside = self.features(instructions, responses)
        z = x @ self.ridge.coefficients
        if self.network is not None:
            z = z + self.network.predict(instructions, responses)
        deviation = np.sqrt(self.ridge.variance(x, outside).clip(0))
        return Prediction(z, self.standardised.to_share(z), deviation, self.novelty(responses))

    def gain(self, instructions: Sequence[str], responses: Sequence[str]) -> np.ndarray:
        """(B,) in [0, 1], the largest 1: how much a rating of each pair lowers the mean variance over all B pairs."""
        x, _ = self.features(instructions, responses)
        gain = self.ridge.gain(x)
        return gain / max(float(gain.max(initial=0.0)), 1e-12)


def learn(
    judged: Judgements, encoder: Encoder, items: Sequence[Item] = (), quantile: float = 0.01, interaction: str = "auto"
) -> LearnedReward:
    """Fit the learned reward.

    items: the environment's catalog, whose texts are never novel and whose attributes the network may read; quantile:
    of the judged responses' own nearest-neighbour cosines, below which a response is novel; interaction: auto, never or
    always. Raises InputError for fewer than 10 judgements.
    """
    if len(judged) < MIN_JUDGEMENTS:
        raise InputError(f"{len(judged)} judgements are too few to learn a reward from, at least {MIN_JUDGEMENTS}")
    # describe the answers
    standardised = standardise(judged)
    features = PairFeatures(encoder, judged.instructions, judged.responses)
    x, _ = features(judged.instructions, judged.responses)
    # put ratings and comparisons together
    rows = np.concatenate([x[judged.pair], x[judged.better] - x[judged.worse]])
    targets = np.concatenate([standardised.z, judged.margin])
    base = judged.information * np.where(np.arange(len(rows)) < len(judged.pair), 1.0, COMPARISON_WEIGHT)
    judge = np.concatenate([judged.who, judged.judge])
    scales = ridge.scalings(features.blocks, features.size, MIXES if features.several else ALONE)
    # weigh the annotators by what the others say
    trust = np.ones(len(judged.annotators))
    for _ in range(ROUNDS):
        fitted = ridge.fit(rows, targets, base * np.maximum(trust[judge], 1e-3), scales)
        predicted, margins = np.split(fitted.left_out, [len(judged.pair)])
        trust = honesty(judged, standardised.z, predicted, margins, trust)
    weights = base * np.maximum(trust[judge], 1e-3)
    fitted = ridge.fit(rows, targets, weights, scales)
    # learn what the ridge leaves
    network = None
    if interaction == "always" or (interaction == "auto" and features.several):
        left = targets - fitted.left_out
        network = interactions.learn(judged, left, weights, encoder, items, features, always=interaction == "always")
    # see what was judged at all
    novelty = Novelty(features.table, judged.responses, [item.text for item in items], quantile)
    return LearnedReward(judged, standardised, features, fitted, novelty, trust, fitted.left_out, network)
