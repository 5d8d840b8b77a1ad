"""Intervals cover the truth as often as they say, and agree with SciPy."""

from __future__ import annotations

import random
from statistics import fmean

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tokenprior.statistics import Interval, _t_quantile, bootstrap_mean


def bernoulli(rng: random.Random) -> float:
    return float(rng.random() < 0.4)


def fractions(rng: random.Random) -> float:
    """Mean@4 of a task whose difficulty differs from task to task."""
    chance = rng.choice([0.1, 0.3, 0.5, 0.9])
    return sum(rng.random() < chance for _ in range(4)) / 4


@pytest.mark.parametrize("n", [30, 100])
@pytest.mark.parametrize(("draw", "truth"), [(bernoulli, 0.4), (fractions, 0.45)])
def test_the_interval_covers_the_truth_as_often_as_it_says(n: int, draw: object, truth: float) -> None:
    assert callable(draw)
    rng = random.Random(f"{n}/{draw.__name__}")
    covered = 0
    for repetition in range(400):
        interval = bootstrap_mean([draw(rng) for _ in range(n)], resamples=500, seed=repetition)
        assert interval.low is not None
        assert interval.high is not None
        covered += interval.low <= truth <= interval.high
    assert 0.92 <= covered / 400 <= 0.975


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


@pytest.mark.parametrize("df", [1, 2, 3, 4, 5, 7, 10, 19, 29, 99, 1_000])
def test_the_quantile_of_student_is_that_of_scipy(df: int) -> None:
    assert _t_quantile(0.975, df) == pytest.approx(stats.t.ppf(0.975, df), abs=0.01)


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
