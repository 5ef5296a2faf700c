"""Krippendorff's alpha: how far annotators agree beyond chance, for any number of them and with values missing.

    alpha = 1 - D_o / D_e,   D_o = sum_ck o_ck d_ck / n,   D_e = sum_ck n_c n_k d_ck / (n (n - 1))

o (V, V): the coincidences of values within units, n_c their sums, n their total (Krippendorff 2011, Computing
Krippendorff's Alpha-Reliability).
"""

from __future__ import annotations

import numpy as np

LEVELS = ("nominal", "ordinal", "interval")


def krippendorff_alpha(units: np.ndarray, values: np.ndarray, level: str = "interval") -> float | None:
    """Alpha of values (R,) that annotators gave to units (R,); None where no unit has two, or all values are the same.

    level: nominal (d_ck = 1 for different values), ordinal (the square of how many values lie between, the ends by
    half) or interval (the squared difference). 1 is agreement, 0 chance, below 0 worse. Raises ValueError for another.
    """
    from scipy.sparse import csr_matrix

    if level not in LEVELS:
        raise ValueError(f"{level} is not one of {', '.join(LEVELS)}")
    # keep the units that several annotators judged
    _, unit, sizes = np.unique(units, return_inverse=True, return_counts=True)
    paired = sizes[unit] > 1
    if not paired.any():
        return None
    _, unit = np.unique(unit[paired], return_inverse=True)
    kinds, value = np.unique(np.asarray(values)[paired], return_inverse=True)
    # count which values stand together
    counts = csr_matrix((np.ones(len(unit)), (unit, value)))
    share = 1 / (np.asarray(counts.sum(1)).ravel() - 1)
    weighted = counts.multiply(share[:, None])
    coincidences = (counts.T @ weighted).toarray() - np.diag(np.asarray(weighted.sum(0)).ravel())
    totals = coincidences.sum(1)
    # measure how far apart values are
    if level == "nominal":
        distance = 1.0 - np.eye(len(kinds))
    elif level == "interval":
        distance = np.subtract.outer(kinds.astype(float), kinds.astype(float)) ** 2
    else:
        middle = np.cumsum(totals) - totals / 2
        distance = np.subtract.outer(middle, middle) ** 2
    n = totals.sum()
    expected = float(totals @ distance @ totals) / (n - 1)
    return None if expected == 0 else 1 - float((coincidences * distance).sum()) / expected
