"""Figures over seeds: numbers worked by hand, properties, what is said, what is refused, and that intervals cover."""

from __future__ import annotations

import math
import re
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import expit, ndtri

from instructrec_rl.report.statistics.comparisons import (
    Difference,
    comparison_sentence,
    holm,
    holm_corrected,
    paired_difference,
    probability_of_improvement,
)
from instructrec_rl.report.statistics.curves import cost_to_score, performance_profile, sample_efficiency
from instructrec_rl.report.statistics.intervals import interval, iqm
from instructrec_rl.report.statistics.variance import run_means, spread, too_few_seeds

FLOATS = st.floats(-1, 1, width=16)
RUNS = arrays(np.float64, st.integers(3, 12), elements=FLOATS)
SCORES = arrays(np.float64, st.tuples(st.integers(3, 6), st.integers(2, 6)), elements=FLOATS)
UNIT = st.floats(0, 1, width=16)


def test_iqm_by_hand() -> None:
    assert iqm([8, 1, 7, 2, 6, 3, 5, 4]) == 4.5  # 1, 2 and 7, 8 are cut; (3 + 4 + 5 + 6) / 4
    assert iqm([0, 0, 2, 10]) == 1  # 0 and 10 are cut; (0 + 2) / 2
    assert iqm([1, 2, 9]) == 4  # floor(3 / 4) = 0 are cut
    assert iqm([1] * 6 + [0] * 2) == 1  # why it is not taken of 0/1 scores: the middle half of 3/4 solved is all 1


def test_t_interval_by_hand() -> None:
    # mean .5, s = .1, se = .1 / sqrt 3 = .057735, t with 2 degrees of freedom 4.302653: half .248414; skewness 0.
    found = interval([0.4, 0.5, 0.6])
    assert found.value == pytest.approx(0.5)
    assert (found.low, found.high) == pytest.approx((0.5 - 0.248414, 0.5 + 0.248414), abs=1e-5)
    assert found.method == "t"
    assert not found.covers


def test_two_way_variance_by_hand() -> None:
    # Run means 1.5, 3.5, 5.5: variance 4, over 3 seeds 4/3. Item means 2, 5: MS 3 * 4.5 = 13.5. The residuals are
    # +-1, 0, -+1: squares 4, over (3 - 1)(2 - 1) degrees 2. Items: (13.5 - 2) / (3 * 2) = 23 / 12.
    found = spread([[1, 2], [2, 5], [3, 8]])
    assert found[:3] == pytest.approx((3.5, 4 / 3, 2))
    assert found.of_items == pytest.approx(23 / 12)
    assert spread([[1, 2], [2, 5], [3, 8]], items="fixed").of_items == 0


def test_splits_are_strata_by_hand() -> None:
    # Two splits that differ by 10 and within which items differ by 2, no residual: each split's items have variance 2,
    # its mean 2 / 2 = 1, and with half the items each (1/2)^2 (1 + 1) = 1/2. Without splits the 10 would count.
    seeds = np.array([[0.0], [1.0], [2.0]])
    scores = seeds + np.array([0.0, 2.0, 10.0, 12.0])
    assert spread(scores, splits=["iid", "iid", "new", "new"]).of_items == pytest.approx(0.5)
    assert spread(scores).of_items == pytest.approx(np.var([0, 2, 10, 12], ddof=1) / 4)


def test_iqm_interval_of_nine_seeds_by_hand() -> None:
    # 2 are cut at each end; Winsorised 3 3 3 4 5 6 7 7 7: squares 24 + 2 = 26, over 5 * 4; df 4, t = 2.776445.
    found = interval(np.arange(1, 10), "iqm")
    half = 2.776445 * math.sqrt(26 / 20)
    assert (found.value, found.low, found.high) == pytest.approx((5, 5 - half, 5 + half), abs=1e-5)


def test_a_long_tail_moves_the_interval_towards_itself() -> None:
    found = interval([0.9, 0.91, 0.92, 0.93, 0.5])
    assert found.value - found.low > found.high - found.value
    mirrored = interval([-0.9, -0.91, -0.92, -0.93, -0.5])
    assert (mirrored.low, mirrored.high) == pytest.approx((-found.high, -found.low))


def test_improvement_by_hand() -> None:
    # 1 beats none of 2, 3, 4; 3 beats 2 and ties 3; 5 beats all: (0 + 1.5 + 3) / 9.
    found = probability_of_improvement([1, 3, 5], [2, 3, 4])
    assert found.value == 0.5
    assert found.low == pytest.approx(1 - found.high)


def test_improvement_of_all_pairs_reaches_one_and_no_further_down_than_its_formula() -> None:
    found = probability_of_improvement([6, 7, 8, 9, 10], [1, 2, 3, 4, 5])
    theta, z = found.low, float(ndtri(0.975))
    variance = theta * (1 - theta) / 25 * (1 + 4 * ((1 - theta) / (2 - theta) + theta / (1 + theta)))
    assert (found.value, found.high) == (1, 1)
    assert 1 - theta == pytest.approx(z * math.sqrt(variance))
    assert found.covers
    assert not probability_of_improvement([1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5]).covers


def test_paired_difference_by_hand() -> None:
    # Differences .1, .2, .3: mean .2, se .057735, t = 3.4641; with 2 degrees p = 1 - t / sqrt(2 + t^2) = .074180.
    found = paired_difference([0.6, 0.7, 0.8], [0.5, 0.5, 0.5])
    assert found.interval.value == pytest.approx(0.2)
    assert (found.interval.low, found.interval.high) == pytest.approx((0.2 - 0.248414, 0.2 + 0.248414), abs=1e-5)
    assert found.p == pytest.approx(0.074180, abs=1e-6)
    assert found.verdict == "unclear"


def test_holm_by_hand() -> None:
    # In order .01 * 3 = .03, .03 * 2 = .06, .04 * 1 = .04 raised to .06.
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == pytest.approx([1, 1])
    assert holm([0.02, math.nan]) == pytest.approx([0.02, math.nan], nan_ok=True)
    assert holm([]).shape == (0,)


def differences() -> list[Difference]:
    rng = np.random.default_rng(3)
    base = rng.normal(size=(6, 40)) * 0.1
    return [paired_difference(base + gain + 0.05 * rng.normal(size=(6, 40)), base) for gain in (0.02, 0.012, 0.0)]


def test_better_is_said_only_where_the_corrected_interval_excludes_zero() -> None:
    for many in (1, 3, 40):
        for each in holm_corrected(differences() * many):
            assert (each.p_adjusted <= 0.05) == each.corrected.excludes_zero == (each.verdict != "unclear")
            said = comparison_sentence(each, "ppo", "dqn")
            assert ("better" in said) == each.better
    alone, together = differences()[1], holm_corrected(differences() * 40)[1]
    assert alone.better
    assert not together.better


def test_the_sentences() -> None:
    clear, close, _ = holm_corrected(differences())
    assert comparison_sentence(clear, "ppo", "dqn", "reward").startswith("ppo is better than dqn: reward +0.0")
    # The second smallest p, .00095, is raised to 3 times the smallest, .0025: 2.62 times its own.
    assert "98.1 % interval" in comparison_sentence(clear, "ppo", "dqn")  # 1 - .05 / 2.62
    assert "p = 0.002 after Holm's correction." in comparison_sentence(clear, "ppo", "dqn")
    few = paired_difference([[1, 0], [1, 1]], [[0, 0], [0, 0]])
    said = "ppo against dqn: score +0.750; 2 seeds: too few for an interval, which takes 3."
    assert comparison_sentence(few, "ppo", "dqn") == said
    assert not few.better
    assert close.p_adjusted >= close.p


@pytest.mark.parametrize(
    ("n", "start"), [(1, "1 seed: too few"), (2, "2 seeds: too few"), (4, "4 seeds: the intervals are wide")]
)
def test_few_seeds_are_named(n: int, start: str) -> None:
    assert too_few_seeds(n).startswith(start)
    found = interval(np.arange(2.0 * n).reshape(n, 2))
    assert found.note == too_few_seeds(n)
    assert math.isnan(found.low) == (n < 3)
    assert not found.covers
    assert not found.excludes_zero or n >= 3


def test_five_seeds_need_no_word() -> None:
    assert too_few_seeds(5) == ""


def test_identical_scores_are_not_passed_off_as_certain() -> None:
    found = interval(np.full((5, 30), 0.7))
    assert (found.low, found.high) == pytest.approx((0.7, 0.7))
    assert not found.covers
    assert "no spread" in found.note
    same = paired_difference(np.full((5, 30), 0.7), np.full((5, 30), 0.2))
    assert math.isnan(same.p)
    assert same.verdict == "unclear"
    assert "Every difference is the same" in comparison_sentence(same, "ppo", "dqn")
    assert holm_corrected([same, *differences()[:1]])[1].p_adjusted == differences()[0].p


def test_curves_meet_on_a_common_grid() -> None:
    # On 10 to 30: seed 0 is 0, 1, 2; seed 1, asked at 0 and 40, is 1, 2, 3; seed 2 is 2, 3, 4.
    found = sample_efficiency([([10, 20, 30], [0, 1, 2]), ([0, 40], [0, 4]), ([5, 30], [1.5, 4])])
    assert found.x == pytest.approx([10, 20, 30])
    assert found.value == pytest.approx([1, 2, 3])
    assert found.high - found.value == pytest.approx([2.484138] * 3, abs=1e-5)  # s = 1: 4.302653 / sqrt 3
    assert found.num_seeds == 3
    assert len(sample_efficiency([(np.arange(900), np.zeros(900))] * 3).x) == 200


def test_profile_by_hand() -> None:
    # Wilson, 1 of 3, z^2 = 3.841459: middle (.333333 + .640243) / 2.280486, half .859449 * sqrt(.074074 + .106707).
    found = performance_profile([0.2, 0.4, 0.6], [0, 0.4, 0.6])
    assert found.value == pytest.approx([1, 1 / 3, 0])  # above, so .4 itself does not count
    assert (found.low[1], found.high[1]) == pytest.approx((0.426916 - 0.365423, 0.426916 + 0.365423), abs=1e-4)
    assert (found.high[0], found.low[2]) == (1, 0)


def test_cost_by_hand() -> None:
    # Costs 10, 10, 20, 20, 30 and never. Median (20 + 20) / 2; smallest to largest holds it 1 - 2 / 2^6 times.
    def curve(first: int) -> tuple[list[float], list[float]]:
        return [10, 20, 30], [0.9 if step >= first else 0.1 for step in (10, 20, 30)]

    found = cost_to_score([curve(first) for first in (10, 20, 30, 99, 10, 20)], 0.5)
    assert found.costs.tolist() == [10, 20, 30, math.inf, 10, 20]
    assert (found.median, found.low, found.high, found.level) == (20, 10, math.inf, 1 - 2 / 64)
    assert found.covers
    assert found.num_reached == 5
    assert found.note == "1 of 6 seeds never scored 0.5."
    five = cost_to_score([curve(first) for first in (10, 99, 99, 99, 10)], 0.5)
    assert (five.median, five.level, five.low) == (math.inf, 1 - 2 / 32, 10)
    never = cost_to_score([curve(99)] * 4, 0.5)
    assert (never.median, never.low, never.high, never.covers) == (math.inf, 30, math.inf, False)  # 30 was spent


@given(RUNS, st.randoms())
def test_iqm_lies_within_and_forgets_the_order(runs: np.ndarray, random) -> None:
    shuffled = runs.tolist()
    random.shuffle(shuffled)
    assert runs.min() - 1e-12 <= iqm(runs) <= runs.max() + 1e-12
    assert iqm(shuffled) == pytest.approx(iqm(runs), abs=1e-12)


@settings(deadline=None)
@given(SCORES, st.sampled_from(["mean", "iqm"]), st.sampled_from(["random", "fixed"]), st.integers(0, 99))
def test_intervals_hold_their_value_forget_the_order_and_scale(scores: np.ndarray, of, items, seed: int) -> None:
    rng = np.random.default_rng(seed)
    found = interval(scores, of, items=items)
    shuffled = interval(rng.permutation(rng.permutation(scores, axis=0), axis=1), of, items=items)
    scaled = interval(3 + 2 * scores, of, items=items)
    ends = np.array([found.low, found.value, found.high])
    assert ends[0] <= ends[1] + 1e-9
    assert ends[1] <= ends[2] + 1e-9
    assert [shuffled.low, shuffled.value, shuffled.high] == pytest.approx(ends, abs=1e-6)
    assert [scaled.low, scaled.value, scaled.high] == pytest.approx(3 + 2 * ends, abs=1e-6)


@settings(deadline=None)
@given(RUNS, RUNS)
def test_improvement_is_a_share_and_its_own_mirror(ours: np.ndarray, theirs: np.ndarray) -> None:
    found, other = probability_of_improvement(ours, theirs), probability_of_improvement(theirs, ours)
    assert 0 <= found.low <= found.value + 1e-9
    assert found.value <= found.high + 1e-9
    assert found.high <= 1
    assert (found.value, found.low) == pytest.approx((1 - other.value, 1 - other.high), abs=1e-6)


@given(st.lists(UNIT, max_size=8))
def test_holm_only_raises_and_keeps_the_order(p_values: list[float]) -> None:
    adjusted, order = holm(p_values), np.argsort(p_values)
    assert (adjusted >= np.array(p_values)).all()
    assert (adjusted <= 1).all()
    assert (np.diff(adjusted[order]) >= 0).all()


@settings(deadline=None)
@given(SCORES)
def test_p_is_small_exactly_where_the_interval_excludes_zero(scores: np.ndarray) -> None:
    found = paired_difference(scores, np.zeros_like(scores))
    if math.isnan(found.p):
        assert not found.interval.excludes_zero
    elif abs(found.p - 0.05) > 1e-6:
        assert 0 < found.p <= 1
        assert (found.p < 0.05) == found.interval.excludes_zero


def test_the_bootstrap_is_repeatable_close_to_t_and_bounded_in_memory() -> None:
    rng = np.random.default_rng(0)
    scores = 0.1 * rng.normal(size=(20, 1)) + rng.normal(size=5000) + rng.normal(size=(20, 5000))
    tracemalloc.start()
    found = interval(scores)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    again, t = interval(scores, rng=np.random.default_rng(0)), interval(scores, method="t")
    assert found.method == "bootstrap"
    assert found == again
    assert (found.low, found.high) == pytest.approx((t.low, t.high), abs=0.3 * (t.high - t.value))
    assert peak < 100e6


@pytest.mark.parametrize(("of", "num_seeds"), [("mean", 5), ("iqm", 5), ("mean", 10), ("iqm", 10), ("mean", 20)])
def test_the_intervals_cover(of, num_seeds: int) -> None:
    quantiles = ndtri((np.arange(1000) + 0.5) / 1000)
    runs = np.sort(expit(1 + 0.5 * quantiles[:, None] + 1.5 * quantiles).mean(axis=1))
    truth = runs.mean() if of == "mean" else runs[250:750].mean()
    rng = np.random.default_rng(num_seeds)
    held = []
    for number in range(400):
        chance = expit(1 + 0.5 * rng.normal(size=(num_seeds, 1)) + 1.5 * rng.normal(size=50))
        found = interval(rng.random(chance.shape) < chance, of, rng=number, draws=500)
        held.append(found.low <= truth <= found.high)
    assert 0.915 < np.mean(held) < 0.985  # of 400: within 3 standard errors of 95 %


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: interval(np.zeros((2, 3, 4))),
            "expected (seeds, items) or run means (seeds,), got the shape (2, 3, 4)",
        ),
        (lambda: interval([]), "got the shape (0,)"),
        (lambda: interval([0.1, math.nan, 0.2]), "not a finite number"),
        (lambda: interval(np.zeros((3, 1))), "new items need 2 or more items in a split"),
        (lambda: interval(np.zeros((3, 2)), splits=["a"]), "a label for each item of scores (3, 2), got (1,)"),
        (lambda: interval([1, 2, 3], level=95), "level: expected a number between 0 and 1, got 95"),
        (lambda: interval([1, 2, 3], "median"), "of: expected mean or iqm, got median"),
        (lambda: interval([1, 2, 3], items="new"), "items: expected random or fixed, got new"),
        (lambda: interval([1, 2, 3], method="normal"), "method: expected auto, t or bootstrap, got normal"),
        (lambda: iqm([]), "one or more finite numbers"),
        (lambda: spread([1, 2]), "2 seeds: too few"),
        (lambda: run_means(3.0), "got the shape ()"),
        (lambda: paired_difference([1, 2, 3], [1, 2]), "the same seeds and items of both, got (3,) and (2,)"),
        (lambda: holm([0.2, 1.2]), "numbers in [0, 1], got [0.2 1.2]"),
        (lambda: performance_profile([1, 2, 3], [[1.0]]), "thresholds: expected a list"),
        (lambda: sample_efficiency([]), "one or more seeds"),
        (lambda: sample_efficiency([([1, 2], [0, 0]), ([3, 4], [0, 0])]), "no step is covered by every seed"),
        (lambda: sample_efficiency([([1, 2], [0, 0])], grid=[0, 1]), "a list of steps from 1 to 2"),
        (lambda: cost_to_score([([1, 2], [0])], 0.5), "seed 0: expected as many values as steps, got (1,) and (2,)"),
        (lambda: cost_to_score([([2, 1], [0, 1])], 0.5), "seed 0: the steps do not rise"),
        (lambda: cost_to_score([([1, math.inf], [0, 1])], 0.5), "seed 0: one step or value is not a finite number"),
    ],
)
def test_wrong_input_is_named_in_one_line(call, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        call()
    assert "\n" not in str(caught.value)
