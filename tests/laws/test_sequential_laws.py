"""Evidence by betting holds at every look, finds what is there, and its interval is what it does not speak against."""

from __future__ import annotations

import math
import random
from statistics import fmean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenprior.sequential import confidence_sequence, e_value

law = settings(max_examples=60, deadline=None, derandomize=True, database=None)
differences = st.lists(st.sampled_from([-1.0, -0.5, 0.0, 0.25, 1 / 3, 1.0]), max_size=30)


def binary(gain: float, share: float, n: int, rng: random.Random) -> list[float]:
    """Paired differences of one attempt a task: the two arms differ on `share` of the tasks."""
    weights = [(share + gain) / 2, (share - gain) / 2, 1 - share]
    return [float(value) for value in rng.choices([1, -1, 0], weights, k=n)]


def first_look_at(evidence: float, values: list[float]) -> int | None:
    looks = range(1, len(values) + 1)
    return next((n for n in looks if e_value(values[:n], low=-1.0, high=1.0) >= evidence), None)


@pytest.mark.parametrize("share", [0.2, 1.0])
def test_looking_after_every_task_keeps_the_level(share: float) -> None:
    rng = random.Random(f"null/{share}")
    rejected = fmean(first_look_at(20, binary(0.0, share, 200, rng)) is not None for _ in range(400))
    assert rejected <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 400)


@pytest.mark.parametrize(("gain", "n", "power"), [(0.2, 100, 0.45), (0.35, 50, 0.75), (0.35, 100, 0.95)])
def test_gains_are_found_in_time(gain: float, n: int, power: float) -> None:
    rng = random.Random(f"gain/{gain}/{n}")
    looks = [first_look_at(20, binary(gain, 0.5, n, rng)) for _ in range(200)]
    assert fmean(look is not None for look in looks) >= power


def test_looking_after_every_task_keeps_the_true_mean_within_the_interval() -> None:
    rng = random.Random(4)
    left_out = 0
    for _ in range(400):
        values = [sum(rng.random() < 0.7 for _ in range(4)) / 4 for _ in range(100)]
        left_out += any(e_value(values[:n], low=0.0, high=1.0, null=0.7) >= 20 for n in range(1, 101))
    assert left_out / 400 <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 400)


@law
@given(differences)
def test_evidence_is_positive_and_neither_order_nor_direction_changes_it(values: list[float]) -> None:
    evidence = e_value(values, low=-1.0, high=1.0)
    assert evidence > 0
    assert e_value(values[::-1], low=-1.0, high=1.0) == evidence
    assert e_value([-value for value in values], low=-1.0, high=1.0) == pytest.approx(evidence)


@law
@given(differences.filter(bool), st.floats(-0.99, 0.99))
def test_one_more_value_is_a_fair_bet_under_the_null(values: list[float], null: float) -> None:
    # -1 or 1, with the mean that the null claims.
    up, down = (e_value([*values, end], low=-1.0, high=1.0, null=null) for end in (1.0, -1.0))
    fair = (1 + null) / 2 * up + (1 - null) / 2 * down
    assert fair == pytest.approx(e_value(values, low=-1.0, high=1.0, null=null), rel=1e-9)


def test_no_values_are_no_evidence() -> None:
    assert e_value([], low=-1.0, high=1.0) == 1.0


def test_no_amount_of_evidence_overflows() -> None:
    assert e_value([1.0] * 100_000, low=-1.0, high=1.0) > 1e300
    assert 0 <= e_value([0.0] * 100_000, low=-1.0, high=1.0) <= 1
    assert e_value([1e-9], low=0.0, high=1.0, null=0.0) > 1e300
    assert e_value([0.5, 1.0], low=0.0, high=1.0, null=5e-324) > 1e300


@pytest.mark.parametrize("values", [[1.01], [-1.01], [math.nan], [0.0, math.inf]])
def test_a_value_outside_its_bounds_is_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="outside"):
        e_value(values, low=-1.0, high=1.0)
    with pytest.raises(ValueError, match="outside"):
        confidence_sequence(values, low=-1.0, high=1.0)


@pytest.mark.parametrize(("low", "high", "null"), [(0.0, 1.0, 1.1), (0.0, 1.0, -0.1), (1.0, 1.0, 1.0)])
def test_a_null_or_bounds_that_cannot_be_are_refused(low: float, high: float, null: float) -> None:
    with pytest.raises(ValueError, match="outside"):
        e_value([1.0], low=low, high=high, null=null)


@law
@given(differences.filter(bool), st.sampled_from([0.01, 0.05, 0.2]))
def test_the_interval_is_what_the_evidence_does_not_speak_against(values: list[float], level: float) -> None:
    interval = confidence_sequence(values, low=-1.0, high=1.0, level=level)
    assert interval.low is not None
    assert interval.high is not None
    assert -1 <= interval.low <= interval.mean <= interval.high <= 1
    assert interval.mean == pytest.approx(fmean(values))
    assert interval.n == len(values)
    for i in range(1, 40):
        null = -1 + i / 20
        if min(abs(null - interval.low), abs(null - interval.high)) > 1e-9:
            inside = interval.low < null < interval.high
            assert (e_value(values, low=-1.0, high=1.0, null=null) < 1 / level) == inside


def test_few_values_leave_nearly_every_mean_possible_and_many_leave_few() -> None:
    few = confidence_sequence([0.0], low=-1.0, high=1.0)
    assert few.low is not None
    assert few.high is not None
    assert few.high - few.low > 1.95
    many = confidence_sequence([0.0, 1.0] * 2_000, low=0.0, high=1.0)
    assert many.low is not None
    assert many.high is not None
    assert 0.42 < many.low < 0.5 < many.high < 0.58


def test_values_at_the_edge_keep_the_edge() -> None:
    solved = confidence_sequence([1.0] * 50, low=0.0, high=1.0)
    assert solved.high == 1.0
    assert solved.low is not None
    assert 0.8 < solved.low < 1.0


def test_no_values_have_no_interval() -> None:
    with pytest.raises(ValueError, match="no values"):
        confidence_sequence([], low=0.0, high=1.0)
