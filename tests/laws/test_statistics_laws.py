"""Intervals cover the truth as often as they say, tests keep their level, and both agree with SciPy."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable
from statistics import fmean, stdev
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tokenprior.statistics import (
    Interval,
    attempts_needed,
    bootstrap_mean,
    detectable_gain,
    holm,
    pass_at,
    sign_flip,
    t_quantile,
    tasks_needed,
)

law = settings(max_examples=60, deadline=None, derandomize=True, database=None)
task_differences = st.lists(st.builds(lambda a, k: a / k, st.integers(-4, 4), st.sampled_from([1, 4, 3])), max_size=25)
any_differences = st.lists(st.floats(-10, 10), max_size=25)
sides = st.sampled_from(["two", "greater"])


def arm(chances: list[float], k: int, rng: random.Random) -> list[float]:
    """Mean@k of tasks that differ in difficulty: the attempts at one task share its chance."""
    return [sum(rng.random() < chance for _ in range(k)) / k for chance in chances]


def gains(n: int, k: int, rng: random.Random, *, help_: float) -> list[float]:
    """Paired differences of two arms on the same tasks; the second solves `help_` of what the first misses."""
    chances = [rng.betavariate(0.5, 1.0) for _ in range(n)]
    helped = [chance + help_ * (1 - chance) for chance in chances]
    return [new - old for old, new in zip(arm(chances, k, rng), arm(helped, k, rng), strict=True)]


def arm_mean(n: int, k: int, rng: random.Random) -> list[float]:
    return arm([rng.betavariate(0.5, 1.0) for _ in range(n)], k, rng)


def paired_gain(n: int, k: int, rng: random.Random) -> list[float]:
    return gains(n, k, rng, help_=0.3)


@pytest.mark.parametrize(("n", "k"), [(30, 4), (50, 1), (80, 4)])
@pytest.mark.parametrize(("draw", "truth"), [(arm_mean, 1 / 3), (paired_gain, 0.2)])
def test_the_interval_covers_the_truth_as_often_as_it_says(
    draw: Callable[[int, int, random.Random], list[float]], truth: float, n: int, k: int
) -> None:
    rng = random.Random(f"{n}/{k}/{draw.__name__}")
    covered = 0
    for repetition in range(600):
        interval = bootstrap_mean(draw(n, k, rng), resamples=400, seed=repetition)
        assert interval.low is not None
        assert interval.high is not None
        covered += interval.low <= truth <= interval.high
    assert 0.93 <= covered / 600 <= 0.97


def test_it_agrees_with_scipy_but_for_the_stated_widening() -> None:
    rng = random.Random(3)
    values = [rng.gauss(1.0, 2.0) for _ in range(200)]
    ours = bootstrap_mean(values, resamples=5_000, seed=1)
    theirs = stats.bootstrap(
        (np.array(values),), np.mean, n_resamples=5_000, method="percentile", random_state=1
    ).confidence_interval
    width = theirs.high - theirs.low
    assert ours.mean == fmean(values)
    assert ours.low == pytest.approx(theirs.low, abs=0.06 * width)
    assert ours.high == pytest.approx(theirs.high, abs=0.06 * width)


def test_for_few_values_it_is_as_wide_as_the_interval_of_student() -> None:
    rng = random.Random(5)
    values = [rng.gauss(0.0, 1.0) for _ in range(8)]
    ours = bootstrap_mean(values, resamples=20_000, seed=1)
    half = stats.t.ppf(0.975, 7) * stats.sem(values)
    assert ours.low is not None
    assert ours.high is not None
    assert (ours.high - ours.low) / 2 == pytest.approx(half, rel=0.08)


@pytest.mark.parametrize("df", [1, 1.5, 2, 3, 5, 10, 29, 99, 1_000, 9_999, 10_001, 1e7, 1e15])
def test_the_quantile_of_student_is_that_of_scipy(df: float) -> None:
    for p in (1e-12, 1e-4, 0.025, 0.3, 0.5, 0.50001, 0.8, 0.975, 0.9999, 1 - 1e-9):
        assert t_quantile(p, df) == pytest.approx(stats.t.ppf(p, df), rel=1e-7, abs=1e-9)


@pytest.mark.parametrize(("p", "df"), [(0.0, 5), (1.0, 5), (0.5, 0.9), (math.nan, 5), (0.5, math.nan)])
def test_what_is_no_quantile_is_refused(p: float, df: float) -> None:
    with pytest.raises(ValueError, match="no quantile"):
        t_quantile(p, df)


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=20), st.integers(0, 5))
def test_an_interval_is_a_function_of_its_arguments_and_holds_its_mean(values: list[float], seed: int) -> None:
    first = bootstrap_mean(values, resamples=100, seed=seed)
    assert first == bootstrap_mean(values, resamples=100, seed=seed)
    assert first.n == len(values)
    if len(values) == 1:
        assert first.low is None
    else:
        assert first.low is not None
        assert first.high is not None
        assert first.low <= first.high


def test_one_task_has_no_interval_and_says_so() -> None:
    interval = bootstrap_mean([0.5], resamples=100, seed=0)
    assert interval == Interval(mean=0.5, low=None, high=None, n=1)
    assert "no interval" in str(interval)


def test_equal_values_have_an_interval_of_no_width() -> None:
    interval = bootstrap_mean([0.25] * 12, resamples=200, seed=0)
    assert (interval.low, interval.high) == (0.25, 0.25)
    assert str(interval) == "0.250 [0.250, 0.250]"


def by_enumeration(differences: list[float], side: str) -> float:
    """The share of all sign patterns, slowly, with room for rounding."""
    hits = patterns = 0
    observed = math.fsum(differences)
    for signs in itertools.product((-1, 1), repeat=len(differences)):
        found = math.fsum(sign * difference for sign, difference in zip(signs, differences, strict=True))
        patterns += 1
        hits += found >= observed - 1e-9 if side == "greater" else abs(found) >= abs(observed) - 1e-9
    return hits / patterns


@pytest.mark.parametrize("side", ["two", "greater"])
@pytest.mark.parametrize("kind", ["thirds", "tenths", "irrational"])
def test_the_sign_flip_test_is_that_of_scipy(side: Literal["two", "greater"], kind: str) -> None:
    rng = random.Random(f"{side}/{kind}")
    step = {"thirds": 1 / 3, "tenths": 0.1, "irrational": math.pi / 10}[kind]
    for n in (2, 5, 11):
        differences = [rng.randint(-3, 5) * step + (rng.random() if kind == "irrational" else 0) for _ in range(n)]
        theirs = stats.permutation_test(
            (np.array(differences),),
            np.mean,
            permutation_type="samples",
            n_resamples=np.inf,
            alternative={"two": "two-sided", "greater": "greater"}[side],
        )
        assert sign_flip(differences, side=side) == pytest.approx(theirs.pvalue)


def test_with_one_attempt_a_task_the_sign_flip_test_is_the_sign_test() -> None:
    differences = [1.0] * 210 + [-1.0] * 150 + [0.0] * 400
    assert sign_flip(differences) == pytest.approx(stats.binomtest(210, 360).pvalue, rel=1e-12)
    greater = stats.binomtest(210, 360, alternative="greater").pvalue
    assert sign_flip(differences, side="greater") == pytest.approx(greater, rel=1e-12)


@pytest.mark.parametrize("side", ["two", "greater"])
def test_random_patterns_come_near_the_exact_share(side: Literal["two", "greater"]) -> None:
    rng = random.Random(8)
    lattice = [rng.randint(-3, 4) / 4 for _ in range(43)]
    scaled = [difference * math.pi for difference in lattice]
    exact = sign_flip(lattice, side=side)
    drawn = sign_flip(scaled, side=side, seed=1)
    assert drawn != exact
    assert drawn == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / 20_000))
    assert drawn == sign_flip(scaled[::-1], side=side, seed=1)


@pytest.mark.parametrize(
    "differences", [[], [0.0], [0.0] * 40, [0.1 + 0.2 - 0.3] * 3 + [1.0, -1.0], [math.pi, -math.pi]]
)
def test_where_nothing_differs_on_the_whole_the_p_value_is_one(differences: list[float]) -> None:
    assert sign_flip(differences) == 1.0


def test_a_p_value_is_never_zero() -> None:
    assert sign_flip([1.0] * 1_200, side="greater") > 0
    assert sign_flip([math.pi + i * math.e for i in range(60)], flips=100) == 1 / 101


def test_a_difference_that_is_not_finite_is_refused() -> None:
    with pytest.raises(ValueError, match="not finite"):
        sign_flip([0.5, math.nan])


def test_a_polynomial_too_big_to_count_is_estimated_instead() -> None:
    rng = random.Random(1)
    differences = [rng.randint(-500, 500) / 500 for _ in range(700)]
    p = sign_flip(differences, flips=200)
    assert p * 201 == pytest.approx(round(p * 201))


@law
@given(task_differences, sides)
def test_a_p_value_is_a_probability_that_order_and_zeros_do_not_change(
    differences: list[float], side: Literal["two", "greater"]
) -> None:
    p = sign_flip(differences, side=side)
    assert 0 < p <= 1
    assert sign_flip(differences[::-1], side=side) == p
    assert sign_flip([*differences, 0.0], side=side) == p
    assert sign_flip([difference / 4 for difference in differences], side=side) == p


@law
@given(st.one_of(task_differences, any_differences))
def test_two_sided_a_gain_and_a_loss_weigh_the_same(differences: list[float]) -> None:
    p = sign_flip(differences, flips=200)
    assert 0 < p <= 1
    assert sign_flip([-difference for difference in differences], flips=200) == p


@law
@given(
    st.one_of(st.lists(st.sampled_from([-1.0, -0.5, 0.25, 1 / 3]), max_size=8), st.lists(st.floats(0.1, 9), max_size=8))
)
def test_it_is_the_share_of_all_sign_patterns(differences: list[float]) -> None:
    assert sign_flip(differences) == pytest.approx(by_enumeration(differences, "two"))
    assert sign_flip(differences, side="greater") == pytest.approx(by_enumeration(differences, "greater"))


@pytest.mark.parametrize(("n", "k"), [(30, 1), (60, 4)])
def test_the_paired_test_keeps_its_level_and_finds_what_is_there(n: int, k: int) -> None:
    rng = random.Random(f"level/{n}/{k}")
    nothing = [sign_flip(gains(n, k, rng, help_=0.0)) for _ in range(1_000)]
    something = [sign_flip(gains(n, k, rng, help_=0.4)) for _ in range(200)]
    for level in (0.01, 0.05, 0.2):
        noise = 3 * math.sqrt(level * (1 - level) / 1_000)
        assert fmean(p <= level for p in nothing) <= level + noise
    assert fmean(p <= 0.05 for p in something) > 0.5


@law
@given(st.lists(st.floats(0, 1), max_size=12))
def test_adjusted_p_values_are_no_smaller_in_the_same_order_and_at_most_one(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    assert all(p <= fit <= 1 for p, fit in zip(p_values, adjusted, strict=True))
    assert all(
        adjusted[i] <= adjusted[j]
        for i in range(len(p_values))
        for j in range(len(p_values))
        if p_values[i] < p_values[j]
    )
    assert all(fit <= len(p_values) * p or fit <= max(adjusted) for p, fit in zip(p_values, adjusted, strict=True))
    assert holm(p_values[::-1]) == adjusted[::-1]


def test_holm_adjusts_as_in_his_procedure() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx((0.03, 0.06, 0.06, 0.02))
    assert holm([]) == ()
    assert holm([0.3]) == (0.3,)


@law
@given(st.integers(1, 60).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))))
def test_pass_at_one_is_the_share_and_more_tries_never_pass_less(counts: tuple[int, int]) -> None:
    attempts, successes = counts
    chances = [pass_at(k, attempts=attempts, successes=successes) for k in range(1, attempts + 1)]
    assert chances[0] == successes / attempts
    assert chances == sorted(chances)
    assert chances[-1] == (successes > 0)


def test_pass_at_is_the_share_of_the_choices_that_hold_a_success() -> None:
    choices = list(itertools.combinations([1, 1, 0, 0, 0, 0, 0], 3))
    assert pass_at(3, attempts=7, successes=2) == fmean(any(choice) for choice in choices)


@pytest.mark.parametrize(("k", "attempts", "successes"), [(5, 4, 1), (0, 4, 1), (1, 4, 5), (1, 4, -1)])
def test_what_the_attempts_cannot_tell_is_refused(k: int, attempts: int, successes: int) -> None:
    with pytest.raises(ValueError, match="attempts"):
        pass_at(k, attempts=attempts, successes=successes)


@pytest.mark.parametrize("n", [8, 30, 100])
def test_the_detectable_gain_is_found_with_the_stated_power(n: int) -> None:
    rng = np.random.default_rng(n)
    gain = detectable_gain(_with_spread_one(n))
    assert gain is not None
    found = stats.ttest_1samp(rng.normal(gain, 1.0, (8_000, n)), 0.0, axis=1).pvalue <= 0.05
    assert found.mean() == pytest.approx(0.8, abs=0.02)


def test_the_tasks_needed_find_the_observed_gain_with_the_stated_power() -> None:
    rng = np.random.default_rng(2)
    needed = tasks_needed([value + 0.25 for value in _with_spread_one(40)])
    assert needed is not None
    found = stats.ttest_1samp(rng.normal(0.25, 1.0, (8_000, needed)), 0.0, axis=1).pvalue <= 0.05
    assert found.mean() == pytest.approx(0.8, abs=0.02)


def _with_spread_one(n: int) -> list[float]:
    raw = [math.sin(i) for i in range(n)]
    return [(value - fmean(raw)) / stdev(raw) for value in raw]


@settings(law, max_examples=30)
@given(st.lists(st.integers(-4, 4), min_size=2, max_size=12), st.sampled_from([0.5, 0.8]))
def test_the_tasks_needed_are_the_first_for_which_the_observed_gain_is_detectable(raw: list[int], power: float) -> None:
    differences = [value / 4 for value in raw]
    needed = tasks_needed(differences, power=power)
    gain = detectable_gain(differences, power=power)
    mean = abs(fmean(differences))
    if mean == 0:
        assert needed is None
        return
    assert needed is not None
    assert sign_flip([1.0] * needed) <= 0.05
    if gain is not None and gain <= mean:
        assert needed <= max(len(differences), 6)
    if gain is not None and gain > mean:
        assert needed > len(differences)


def test_what_never_varied_or_is_no_gain_plans_nothing() -> None:
    assert detectable_gain([]) is None
    assert detectable_gain([0.5]) is None
    assert detectable_gain([0.0] * 30) is None
    assert detectable_gain([0.1] * 30) is None
    assert tasks_needed([0.5]) is None
    assert tasks_needed([0.5, -0.5]) is None
    assert tasks_needed([0.1 + 0.2, -0.3, 0.0]) is None


def test_where_all_tasks_gain_the_same_six_are_needed_for_the_sign_flip_test_to_reach_its_level() -> None:
    assert tasks_needed([0.1] * 3) == 6
    assert sign_flip([0.1] * 6) <= 0.05 < sign_flip([0.1] * 5)


def test_a_hair_of_a_gain_needs_more_tasks_than_there_are_and_says_how_many() -> None:
    needed = tasks_needed([1.0, -1.0 + 2e-7])
    assert needed is not None
    assert needed > 10**14


def test_attempts_needed_is_what_a_simulation_needs() -> None:
    """Tasks alike, so that all scatter is between attempts: then more attempts do what more tasks would."""
    rng = random.Random(3)

    def differences(k: int) -> list[float]:
        return [sum((rng.random() < 0.6) - (rng.random() < 0.5) for _ in range(k)) / k for _ in range(60)]

    noise = (0.6 * 0.4 + 0.5 * 0.5) / 2
    sample = differences(2)
    shift = 0.1 - sum(sample) / len(sample)  # a sample whose mean is the truth
    needed = attempts_needed([value + shift for value in sample], noise, 2)
    assert needed is not None
    assert 4 <= needed <= 10
    found = sum(sign_flip(differences(needed)) <= 0.05 for _ in range(300)) / 300
    assert 0.7 <= found <= 0.95


def test_no_number_of_attempts_makes_up_for_tasks_that_differ() -> None:
    apart = [1.0, -0.9] * 20
    assert attempts_needed(apart, 0.01, 2) is None
    assert attempts_needed([0.5], 0.1, 2) is None
    assert attempts_needed([0.0, 0.0], 0.1, 2) is None
    assert attempts_needed([0.2, 0.1, 0.3], 0.0, 2) is None
