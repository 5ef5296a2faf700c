"""What feedback is worth: agreement between annotators, each one's habits, drift, coverage and duplicates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from instructrec_rl.core import nearest
from instructrec_rl.feedback.agreement import LEVELS, krippendorff_alpha
from instructrec_rl.feedback.learned.annotators import RANDOM_AT
from instructrec_rl.feedback.schema import Correction, Preference, Ranking, Rating, Record, Thumbs
from instructrec_rl.feedback.store import Entry

DRIFT_P = 0.001  # of Welch's t-test between an annotator's first and second half
DRIFT_RATINGS = 20  # fewer say nothing about drift


@dataclass(frozen=True)
class Annotator:
    """name; count of records; ratings: how many, mean and deviation of their share of the scale, None for none;
    agreement: Pearson's correlation of their ratings with the mean of others' on the same pair, over `shared` pairs;
    drift: how far the mean moved from the first half in time to the second, where that is more than chance; honest:
    the probability that they do not answer at random, None where too little was judged."""

    name: str
    count: int
    ratings: int
    mean: float | None
    deviation: float | None
    agreement: float | None
    shared: int
    drift: float | None
    honest: float | None

    @property
    def likely_random(self) -> bool:
        """Whether the others' judgements say that these are no better than chance."""
        return self.honest is not None and self.honest < 1 - RANDOM_AT


def alphas(records: Sequence[Record]) -> dict[str, float | None]:
    """Krippendorff's alpha by name: of ratings at each level, of thumbs, and of comparisons (rankings as pairs)."""
    found: dict[str, float | None] = {}
    ratings = [r for r in records if isinstance(r, Rating)]
    units = _numbers([(r.instruction, r.response) for r in ratings])
    for level in LEVELS:
        found[f"ratings, {level}"] = krippendorff_alpha(units, np.array([r.share for r in ratings]), level)
    thumbs = [r for r in records if isinstance(r, Thumbs)]
    units = _numbers([(r.instruction, r.response) for r in thumbs])
    found["thumbs, nominal"] = krippendorff_alpha(units, np.array([r.up for r in thumbs]), "nominal")
    compared = list(_comparisons(records))
    units = _numbers([(asked, *sorted((better, worse))) for asked, better, worse, _ in compared])
    choices = np.array([0 if tie else 1 if better < worse else 2 for _, better, worse, tie in compared], dtype=np.int64)
    found["comparisons, nominal"] = krippendorff_alpha(units, choices, "nominal")
    return {name: alpha for name, alpha in found.items() if alpha is not None}


def _comparisons(records: Sequence[Record]) -> list[tuple[str, str, str, bool]]:
    found = []
    for r in records:
        if isinstance(r, Preference):
            found.append((r.instruction, r.chosen, r.rejected, r.tie))
        elif isinstance(r, Correction):
            found.append((r.instruction, r.corrected, r.response, False))
        elif isinstance(r, Ranking):
            texts = r.responses
            found += [(r.instruction, a, b, False) for k, a in enumerate(texts) for b in texts[k + 1 :]]
    return found


def _numbers(keys: Sequence[tuple[str, ...]]) -> np.ndarray:
    known: dict[tuple[str, ...], int] = {}
    return np.array([known.setdefault(key, len(known)) for key in keys], dtype=np.int64)


def annotators(entries: Sequence[Entry], honest: Mapping[str, float]) -> list[Annotator]:
    """Each annotator of the entries that count, by name. honest: what the learned reward says of them."""
    rated = sorted((e for e in entries if isinstance(e.record, Rating)), key=lambda e: e.order)
    name = np.array([e.record.annotator for e in rated], dtype=object)
    share = np.array([e.record.share for e in rated if isinstance(e.record, Rating)])
    pair = _numbers([(e.record.instruction, e.record.response) for e in rated if isinstance(e.record, Rating)])
    size = int(pair.max(initial=-1)) + 1
    total, count = np.bincount(pair, share, size), np.bincount(pair, minlength=size)
    counts = Counter(e.record.annotator for e in entries)
    found = []
    for who in sorted(counts):
        own = name == who
        mine, others = share[own], count[pair[own]] - 1
        both = others > 0
        rest = (total[pair[own]][both] - mine[both]) / others[both]
        varied = both.sum() > 2 and np.ptp(rest) > 0 and np.ptp(mine[both]) > 0
        found.append(
            Annotator(
                name=who,
                count=counts[who],
                ratings=len(mine),
                mean=float(mine.mean()) if len(mine) else None,
                deviation=float(mine.std()) if len(mine) else None,
                agreement=float(np.corrcoef(mine[both], rest)[0, 1]) if varied else None,
                shared=int(both.sum()),
                drift=_drift(mine),
                honest=honest.get(who),
            )
        )
    return found


def _drift(shares: np.ndarray) -> float | None:
    """The second half's mean less the first's, of ratings in order of time, where it is significant."""
    from scipy.stats import ttest_ind

    half = len(shares) // 2
    if len(shares) < DRIFT_RATINGS or np.ptp(shares) == 0:
        return None
    p = float(ttest_ind(shares[:half], shares[half:], equal_var=False).pvalue)
    return float(shares[half:].mean() - shares[:half].mean()) if p < DRIFT_P else None


def coverage(records: Sequence[Record], splits: Mapping[str, Sequence[str]]) -> dict[str, tuple[int, int]]:
    """For each split, how many of its instructions have feedback, and how many there are."""
    asked = {record.instruction for record in records}
    return {name: (sum(text in asked for text in texts), len(texts)) for name, texts in splits.items()}


def of_unknown_envs(records: Sequence[Record], known: Iterable[str]) -> list[str]:
    """A line for each environment that records name and that is not among the known ones: these count nowhere."""
    names = set(known)
    counts = Counter(record.env for record in records if record.env and record.env not in names)
    return [
        f'{count:,} {"record is" if count == 1 else "records are"} of the environment "{name}", which does not exist '
        f"here: counts nowhere.{nearest(name, names)}"
        for name, count in sorted(counts.items())
    ]


def near_duplicates(records: Sequence[Record], fold: Callable[[str], str]) -> int:
    """How many records say the same of the same as another by the same annotator, but for case and white space."""
    keys = Counter(
        (r.kind, r.annotator, fold(r.instruction), fold(r.response))
        for r in records
        if isinstance(r, Rating | Thumbs | Correction)
    )
    return sum(count - 1 for count in keys.values())
