"""What a policy would have earned, estimated from what another one logged (off-policy evaluation of a bandit).

Notation, for round i of N: x what was asked, a the action logged, r its reward, p its logged propensity mu(a | x), and
pi(a | x) the probability that the policy to judge has of it; w = pi / p; q(x, a) a model of the reward fitted on other
rounds; q_a = q(x, a) of the action logged; v = sum_b pi(b | x) q(x, b) what the model expects of the policy.

    IPS        mean(w r)                                  Horvitz and Thompson 1952
    SNIPS      sum(w r) / sum(w)                          Hajek 1971; Swaminathan and Joachims 2015
    DM         mean(v)
    DR         mean(v + w (r - q_a))                      Dudik, Langford and Li 2011
    SWITCH-DR  mean(v + w (r - q_a) [w <= tau])           Wang, Agarwal and Dudik 2017, section 3

Intervals are estimate +- 1.96 standard errors of the mean of the influence values, rounds of the same group summed
first: one instruction that was asked many times is one draw from the world, not many. The DM's own interval would know
nothing of its bias, so it is widened to hold DR's, which corrects it.

Weights above HEAVIEST are taken as that, so that no square is infinite: with such a weight the effective sample or the
mean weight is far off whatever the others are, and nothing is identified. Rewards that are huge or tiny are divided by
a power of two, and the figures multiplied by it; a figure that is then no number is withheld.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from instructrec_rl.commands.ope.regression import magnitude

Z = 1.959964  # of a 95 % interval
MIN_EFFECTIVE = 10.0  # an effective sample of fewer rounds identifies nothing
SURE = 3.0  # standard errors by which the mean weight must fall short of 1 before that is taken to mean something
FEW_EFFECTIVE = 100.0  # below this the normal approximation is doubtful
MAX_OUT_OF_REACH = 0.1  # share of the policy's actions that the logs may never show before nothing is identified
MAX_EXCESS = 0.1  # by which the mean weight may exceed 1
WHY_EXCESS = "the policy learned from these very answers, or the propensities are too low"
HEAVIEST = 1e100
TOO_LARGE = "outside the range of numbers"
THRESHOLD_QUANTILES = (0.5, 0.75, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999)


@dataclass(frozen=True)
class Estimate:
    """value with its 95 % interval low to high; all None where it is not identified, or needs what the logs lack. note:
    what to know when reading it."""

    name: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Evaluation:
    """estimates: by name. num_rounds: N; effective: (sum w)^2 / sum w^2, None without propensities; largest_weight;
    out_of_reach: the share of the policy's actions that the logs could not have shown, as estimated; threshold: tau of
    SWITCH-DR; reason: why nothing is identified, or empty; warnings: what speaks against trusting the figures."""

    estimates: dict[str, Estimate]
    num_rounds: int
    effective: float | None
    largest_weight: float | None
    out_of_reach: float
    threshold: float | None
    reason: str
    warnings: tuple[str, ...]


def estimate(
    rewards: np.ndarray,
    target: np.ndarray,
    propensities: np.ndarray | None = None,
    q_logged: np.ndarray | None = None,
    q_target: np.ndarray | None = None,
    groups: np.ndarray | None = None,
    never_logged: float = 0.0,
) -> Evaluation:
    """All estimates that the arrays allow, (N,) each, and what speaks against them.

    rewards: r; target: pi(a | x) in [0, 1]; propensities: p in (0, 1], None where nobody knows them (then DM alone);
    q_logged, q_target: q_a and v, fitted without the round's own group (`regression.cross_fit`); groups: which rounds
    belong together (default: each is its own); never_logged: the mean share of pi on actions that no round has. Raises
    ValueError for N = 0, different lengths, and numbers out of range.
    """
    _check(rewards, target, propensities, q_logged, q_target)
    groups = np.arange(len(rewards)) if groups is None else np.unique(groups, return_inverse=True)[1]
    if propensities is None:
        return _model_only(rewards, q_target, groups, never_logged)
    # weigh each round by how much likelier the policy is to act so
    with np.errstate(over="ignore"):
        w = np.minimum(target / propensities, HEAVIEST)
    # see how much the logs can say
    share = w / max(float(w.max()), 1e-300)
    effective = float(share.sum() ** 2 / (share**2).sum()) if w.any() else 0.0
    # w has the mean 1 where the logs can show all that the policy does, and less where they cannot
    missing, error = max(float(1 - w.mean()), 0.0), _standard_error(w - w.mean(), groups)
    out_of_reach = max(never_logged, missing if missing > SURE * error else 0.0)
    excess = float(w.mean()) - 1 if w.mean() - 1 > SURE * error else 0.0
    reason = _reason(effective, max(never_logged, missing - SURE * error), excess - SURE * error, int(groups.max()) + 1)
    # estimate in units of the rewards
    tau = None
    if reason:
        estimates = [Estimate(name, note="not identified") for name in ("IPS", "SNIPS", "DM", "DR", "SWITCH-DR")]
    else:
        unit = max(magnitude(values) for values in (rewards, q_logged, q_target) if values is not None)
        estimates = [_around("IPS", w * (rewards / unit), groups), _snips(w, rewards / unit, groups)]
        if q_logged is not None and q_target is not None:
            more, tau = _with_model(w, rewards / unit, q_logged / unit, q_target / unit, groups, unit)
            estimates += more
        estimates = [_in_units(single, unit) for single in estimates]
    warnings = _warnings(w, effective, out_of_reach, excess) if not reason else []
    by_name = {single.name: single for single in estimates}
    heaviest = float(w.max())
    return Evaluation(by_name, len(rewards), effective, heaviest, out_of_reach, tau, reason, tuple(warnings))


def _check(
    rewards: np.ndarray, target: np.ndarray, propensities: np.ndarray | None, *models: np.ndarray | None
) -> None:
    if not len(rewards):
        raise ValueError("there are no rounds")
    given = [each for each in (rewards, target, propensities, *models) if each is not None]
    if any(each.shape != rewards.shape or not np.isfinite(each).all() for each in given):
        raise ValueError("expected arrays of the same length without NaN or infinity")
    if target.min() < 0 or target.max() > 1 + 1e-6:
        raise ValueError("target: expected probabilities in [0, 1]")
    if propensities is not None and (propensities.min() <= 0 or propensities.max() > 1 + 1e-6):
        raise ValueError("propensities: expected probabilities in (0, 1]")


def _in_units(each: Estimate, unit: float) -> Estimate:
    """An estimate times the unit of the rewards, withheld where that is no number."""
    if each.value is None or each.low is None or each.high is None:
        return each
    figures = [each.value * unit, each.low * unit, each.high * unit]
    if not all(map(math.isfinite, figures)):
        return Estimate(each.name, note=TOO_LARGE)
    return replace(each, value=figures[0], low=figures[1], high=figures[2])


def _standard_error(influence: np.ndarray, groups: np.ndarray) -> float:
    """Of the mean of influence (N,), which has mean 0, with the rounds of a group (N,) summed first."""
    sums = np.bincount(groups, weights=influence)
    return float(np.sqrt((sums**2).sum() * len(sums) / max(len(sums) - 1, 1)) / len(influence))


def _mean(values: np.ndarray, groups: np.ndarray) -> tuple[float, float]:
    """The mean of values (N,) and half of its interval."""
    mean = float(values.mean())
    return mean, Z * _standard_error(values - mean, groups)


def _around(name: str, values: np.ndarray, groups: np.ndarray, note: str = "") -> Estimate:
    value, half = _mean(values, groups)
    return Estimate(name, value, value - half, value + half, note)


def _snips(w: np.ndarray, rewards: np.ndarray, groups: np.ndarray) -> Estimate:
    value = float((w * rewards).sum() / w.sum())
    half = Z * _standard_error(w * (rewards - value) / w.mean(), groups)
    return Estimate("SNIPS", value, value - half, value + half)


def _with_model(
    w: np.ndarray,
    rewards: np.ndarray,
    q_logged: np.ndarray,
    q_target: np.ndarray,
    groups: np.ndarray,
    unit: float,
) -> tuple[list[Estimate], float]:
    """DM, DR and SWITCH-DR in units of `unit`, and the threshold."""
    correction = w * (rewards - q_logged)
    model, half = _mean(q_target, groups)
    robust, robust_half = _mean(q_target + correction, groups)
    low, high = min(model - half, robust - robust_half), max(model + half, robust + robust_half)
    bias, bias_half = _mean(-correction, groups)
    measured = f"{figure(bias * unit, 3, '+')} ± {figure(bias_half * unit, 3)}"
    about = f"its bias is {measured} by the logs; the interval reaches over DR's"
    tau, bound = _threshold(w, rewards, correction, q_target)
    kept = np.where(w <= tau, correction, 0.0)
    most = figure(bound * unit, 3)
    limit = f"weights above {tau:.3g} left to the model: a bias of at most {most} that the interval leaves out"
    said = limit if (w > tau).any() else "no weight is above the threshold: the same as DR"
    return [
        Estimate("DM", model, low, high, about),
        Estimate("DR", robust, robust - robust_half, robust + robust_half),
        _around("SWITCH-DR", q_target + kept, groups, said),
    ], tau


def _threshold(w: np.ndarray, rewards: np.ndarray, correction: np.ndarray, q_target: np.ndarray) -> tuple[float, float]:
    """tau with the least estimated variance + squared bias bound, and its bound (Wang et al. 2017, section 4).

    Their bound is mean_x E_pi[R_max 1(w > tau)]; as logs have the weight of the logged action only, it is estimated by
    R_max mean(w 1(w > tau)), which has the same expectation. R_max: the largest |r|.
    """
    highest = float(np.abs(rewards).max())
    best = (np.inf, 0.0, 0.0)
    for tau in (float(w.max()), *np.quantile(w, THRESHOLD_QUANTILES[::-1]).tolist()):
        values = q_target + np.where(w <= tau, correction, 0.0)
        bound = highest * float((w * (w > tau)).mean())
        best = min(best, (float(values.var()) / len(w) + bound**2, tau, bound), key=lambda each: each[0])
    return best[1], best[2]


def _model_only(
    rewards: np.ndarray, q_target: np.ndarray | None, groups: np.ndarray, never_logged: float
) -> Evaluation:
    reason = _reason(None, never_logged, num_groups=int(groups.max()) + 1)
    found = {name: Estimate(name, note="needs propensities") for name in ("IPS", "SNIPS", "DR", "SWITCH-DR")}
    if reason or q_target is None:
        found["DM"] = Estimate("DM", note="not identified")
    else:
        unit, note = magnitude(q_target), "sampling error only; without propensities its bias is unknown"
        found["DM"] = _in_units(_around("DM", q_target / unit, groups, note), unit)
    warnings = ("no propensities: the model's bias can be neither measured nor corrected",)
    return Evaluation(found, len(rewards), None, None, never_logged, None, reason, warnings)


def figure(value: float, decimals: int, sign: str = "") -> str:
    """A figure with so many decimals, in short where it is huge."""
    return f"{value:{sign}.{decimals}f}" if abs(value) < 1e9 else f"{value:{sign}.3g}"


def _reason(effective: float | None, out_of_reach: float, excess: float = 0.0, num_groups: int = 2) -> str:
    """Why nothing is identified, or an empty text."""
    if effective == 0:
        return "no overlap: the policy would have given none of the answers that were logged"
    if out_of_reach > MAX_OUT_OF_REACH:
        share = f"at least {100 * out_of_reach:.0f} %"
        return f"too little overlap: {share} of what the policy does was out of the logs' reach"
    if excess > MAX_EXCESS:
        return f"the mean weight is {figure(1 + excess, 2)} or more and not 1: {WHY_EXCESS}"
    if effective is not None and effective < MIN_EFFECTIVE:
        return f"too little overlap: the weights leave {effective:.1f} effective rounds"
    if num_groups < 2:
        return "all rounds are of one instruction: nothing tells how far a figure is off"
    return ""


def _warnings(w: np.ndarray, effective: float, out_of_reach: float, excess: float) -> list[str]:
    found = []
    if excess > 0:
        found.append(f"the mean weight is {figure(1 + excess, 2)} and not 1: {WHY_EXCESS}")
    if out_of_reach > 0:
        found.append(f"about {100 * out_of_reach:.1f} % of what the policy does was out of the logs' reach: IPS misses "
                     "it, SNIPS takes it to be like the rest, the others trust the model there")  # fmt: skip
    if effective < FEW_EFFECTIVE:
        found.append(f"only {effective:.0f} effective rounds: intervals may be too narrow")
    elif effective < 0.01 * len(w):
        found.append(f"{effective:.0f} effective rounds of {len(w):,}: the policies differ a lot")
    if w.max() > 0.05 * w.sum():
        found.append(f"one round has {100 * w.max() / w.sum():.0f} % of all weight")
    return found
