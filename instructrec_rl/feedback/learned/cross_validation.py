"""How far the learned reward can be trusted: cross-validated by instruction, beside "the longer one wins"."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from instructrec_rl.feedback.learned.judgements import Judgements
from instructrec_rl.feedback.learned.model import LearnedReward

FOLDS = 5
MOST_PAIRS = 20_000  # comparisons made of ratings
BINS = 10
RESAMPLES = 1000


@dataclass(frozen=True)
class Validation:
    """Held-out figures, each with the half width of its 95 % interval (bootstrap over what `by` names).

    accuracy: the share of held-out comparisons whose better response got the higher score; longer_wins: the same for
    the longer response; ece: expected calibration error of the predicted probabilities; correlation: Spearman's of
    held-out scores with ratings standardised per annotator, None where there are no ratings; by: instruction, or
    response where there are fewer than FOLDS instructions; num_comparisons, of_ratings: how many, and whether they were
    made of ratings as no one compared.
    """

    accuracy: tuple[float, float]
    longer_wins: tuple[float, float]
    ece: float
    correlation: tuple[float, float] | None
    by: str
    num_judgements: int
    num_comparisons: int
    of_ratings: bool

    def lines(self) -> list[str]:
        """As plain lines."""
        if not self.num_comparisons:
            return [f"learned reward: no two of the {self.num_judgements:,} judgements tell answers apart that were "
                    "held out together; its accuracy cannot be said"]  # fmt: skip
        made = " made of ratings" if self.of_ratings else ""
        found = [
            f"learned reward, {FOLDS}-fold cross-validation by {self.by}: {self.num_judgements:,} judgements, "
            f"{self.num_comparisons:,} held-out comparisons{made}",
            f"  accuracy         {self.accuracy[0]:.3f} ± {self.accuracy[1]:.3f}",
            f"  longer wins      {self.longer_wins[0]:.3f} ± {self.longer_wins[1]:.3f}  (baseline)",
            f"  calibration ECE  {self.ece:.3f}",
        ]
        if self.correlation is not None:
            found.append(f"  Spearman         {self.correlation[0]:.3f} ± {self.correlation[1]:.3f}  (with ratings)")
        if self.accuracy[0] < self.longer_wins[0]:
            found.append(f"  warning: {worse_than_length(self.accuracy[0], self.longer_wins[0])}")
        return found


def worse_than_length(accuracy: float, longer_wins: float) -> str:
    """What to say of a learned reward that a rule without any learning beats."""
    return (
        f'the learned reward tells the better of two answers {100 * accuracy:.0f} % of the time, "the longer one wins" '
        f"{100 * longer_wins:.0f} %: give more feedback, or reward.learned=false"
    )


def against_length(learned: LearnedReward) -> tuple[float, float, int]:
    """(accuracy, that of "the longer one wins", number) of comparisons, by predictions without the judgement itself.

    As `cross_validate` has it but for nothing, as it comes with the fit: other judgements of the same instruction were
    seen, so it flatters. NaN where there is nothing to compare.
    """
    judged, length = learned.judged, np.array([len(text) for text in learned.judged.responses])
    predicted, margins = np.split(learned.left_out_z, [len(judged.pair)])
    clear = judged.margin > 0
    if clear.any():
        better, worse, lead = judged.better[clear], judged.worse[clear], margins[clear]
    else:
        first, second = _of_ratings(judged, np.random.default_rng(0))
        better, worse, lead = judged.pair[first], judged.pair[second], predicted[first] - predicted[second]
    if not len(lead):
        return float("nan"), float("nan"), 0
    right = np.where(lead == 0, 0.5, lead > 0)
    longer = np.where(length[better] == length[worse], 0.5, length[better] > length[worse])
    return float(right.mean()), float(longer.mean()), len(lead)


def comparisons(judged: Judgements, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, bool]:
    """(better, worse) pairs (C,) of the clear comparisons; where no one compared, of ratings by one annotator on one
    scale that differ, within an instruction where there are such, else across; and whether they were so made."""
    if (judged.margin > 0).any():
        return judged.better[judged.margin > 0], judged.worse[judged.margin > 0], False
    first, second = _of_ratings(judged, rng)
    return judged.pair[first], judged.pair[second], True


def _of_ratings(judged: Judgements, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(better, worse) positions of ratings by one annotator on one scale that differ."""
    size = len(judged.pair)
    for within in (judged.groups[judged.pair], np.zeros(size, dtype=np.int64)):
        key = np.unique(np.stack([within, judged.who, judged.scale]), axis=1, return_inverse=True)[1].ravel()
        left, right = _partners(key, rng)
        differ = judged.value[left] != judged.value[right]
        left, right = left[differ], right[differ]
        if len(left) >= min(100, size):
            break
    if len(left) > MOST_PAIRS:
        kept = rng.choice(len(left), MOST_PAIRS, replace=False)
        left, right = left[kept], right[kept]
    swap = judged.value[left] < judged.value[right]
    return np.where(swap, right, left), np.where(swap, left, right)


def _partners(key: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Ratings of the same key beside each other, in several random orders."""
    lefts, rights = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for _ in range(4):
        order = rng.permutation(len(key))
        order = order[np.argsort(key[order], kind="stable")]
        same = key[order[1:]] == key[order[:-1]]
        lefts.append(order[:-1][same])
        rights.append(order[1:][same])
    return np.concatenate(lefts), np.concatenate(rights)


def slope_of(difference: np.ndarray) -> float:
    """s >= 0 for which logistic(s d) is likeliest, d (C,) the score by which the better one leads."""
    slopes = np.geomspace(0.01, 100, 81)
    if not len(difference):
        return 1.0
    return float(slopes[np.logaddexp(0, -slopes[:, None] * difference).mean(1).argmin()])


def cross_validate(
    judged: Judgements, learn: Callable[[Judgements], LearnedReward], seed: int = 0, folds: int = FOLDS
) -> Validation:
    """Fit on all but a fold, predict it, for each fold. learn: fits the learned reward on some judgements.

    Probabilities are logistic(s d), s for each fold from the held-out leads d in the others.
    """
    # make the folds
    rng = np.random.default_rng(seed)
    group, by = judged.groups, "instruction"
    if len(np.unique(group)) < folds:
        group, by = np.unique(np.asarray(judged.responses, dtype=object), return_inverse=True)[1], "response"
    fold = (rng.permutation(int(group.max()) + 1) % folds)[group]
    # predict each fold by a fit to the others
    scores = np.zeros(len(group))
    for k in range(folds):
        kept = judged.select(fold[judged.pair] != k, (fold[judged.better] != k) & (fold[judged.worse] != k))
        fitted = learn(kept)
        test = np.flatnonzero(fold == k)
        texts = [judged.instructions[p] for p in test], [judged.responses[p] for p in test]
        scores[test] = fitted.predict(*texts).z
    # compare what was held out together
    better, worse, made = comparisons(judged, rng)
    held = fold[better] == fold[worse]  # of two folds where folds are of responses: one was seen in training
    better, worse = better[held], worse[held]
    difference = scores[better] - scores[worse]
    right = np.where(difference == 0, 0.5, difference > 0)
    length = np.array([len(text) for text in judged.responses])
    longer = np.where(length[better] == length[worse], 0.5, length[better] > length[worse])
    # calibrate the probabilities
    slope = np.array([slope_of(difference[fold[better] != k]) for k in range(folds)])
    chance = 1 / (1 + np.exp(-slope[fold[better]] * difference))
    return Validation(
        accuracy=mean_with_interval(right, group[better], rng),
        longer_wins=mean_with_interval(longer, group[better], rng),
        ece=calibration_error(chance),
        correlation=_spearman(scores, judged, group, rng),
        by=by,
        num_judgements=len(judged),
        num_comparisons=len(better),
        of_ratings=made,
    )


def mean_with_interval(values: np.ndarray, group: np.ndarray, rng: np.random.Generator) -> tuple[float, float]:
    """The mean and half its 95 % bootstrap interval over groups."""
    if not len(values):
        return float("nan"), float("nan")
    _, place = np.unique(group, return_inverse=True)
    sums, counts = np.bincount(place, values), np.bincount(place)
    drawn = rng.integers(len(sums), size=(RESAMPLES, len(sums)))
    means = sums[drawn].sum(1) / counts[drawn].sum(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(values.mean()), float(high - low) / 2


def calibration_error(chance: np.ndarray) -> float:
    """Expected calibration error (Guo et al. 2017): over ten bins of confidence max(p, 1 - p) the weighted mean of
    |accuracy - confidence|. chance: (C,) the probability given to what came true."""
    confidence, right = np.maximum(chance, 1 - chance), np.where(chance == 0.5, 0.5, chance > 0.5)
    bins = np.minimum(((confidence - 0.5) * 2 * BINS).astype(int), BINS - 1)
    gap = np.bincount(bins, right - confidence, BINS)
    return float(np.abs(gap).sum() / max(1, len(chance)))


def _spearman(
    scores: np.ndarray, judged: Judgements, group: np.ndarray, rng: np.random.Generator
) -> tuple[float, float] | None:
    from instructrec_rl.feedback.learned.annotators import standardise

    if len(judged.pair) < 3:
        return None
    from scipy.stats import rankdata

    held, rated = rankdata(scores[judged.pair]), rankdata(standardise(judged).z)
    if np.ptp(held) == 0 or np.ptp(rated) == 0:
        return None
    held, rated = (held - held.mean()) / held.std(), (rated - rated.mean()) / rated.std()
    return mean_with_interval(held * rated, group[judged.pair], rng)
