"""The live effect covers planted truths, at every look too, and neither order, scale nor other strata disturb it."""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tokenprior.live_effect import UnitTally, live_effects
from tokenprior.stratified import StratifiedDifference, mean_with_interval, stratified_difference


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A unit's value in one stratum."""

    stratum: str
    treated: bool
    unit: str
    value: float


def difference_of(drawn: Iterable[Drawn]) -> StratifiedDifference | None:
    cells: dict[tuple[Hashable, bool], dict[str, float]] = defaultdict(dict)
    for one in drawn:
        cells[one.stratum, one.treated][one.unit] = one.value
    return stratified_difference(cells)


law = settings(max_examples=60, deadline=None, derandomize=True, database=None)
drawn_values = st.lists(
    st.builds(
        Drawn,
        stratum=st.sampled_from("ab"),
        treated=st.booleans(),
        unit=st.sampled_from([f"u{n}" for n in range(12)]),
        value=st.sampled_from([0.0, 0.25, 1 / 3, 0.5, 1.0]),
    ),
    max_size=60,
    unique_by=lambda one: (one.stratum, one.treated, one.unit),
)
tallies = st.lists(
    st.builds(
        UnitTally,
        library=st.sampled_from(["one", "two"]),
        version=st.sampled_from(["v1", "v2"]),
        share=st.sampled_from([0.0, 0.1, 0.5]),
        held_out=st.booleans(),
        unit=st.sampled_from([f"u{n}" for n in range(9)]),
        requests=st.just(3),
        rewarded=st.just(2),
        reward=st.sampled_from([0.0, 0.25, 1 / 3, 1.0]),
        failed=st.sampled_from([0, 1]),
        first_at=st.sampled_from([1.0, 2.0]),
    ),
    max_size=50,
    unique_by=lambda t: (t.library, t.version, t.share, t.held_out, t.unit),
)
Chance = Callable[[random.Random, bool], float]


def lot(n: int, share: float, value: Chance, rng: random.Random, stratum: str = "") -> list[Drawn]:
    made = []
    for number in range(n):
        treated = rng.random() >= share
        made.append(Drawn(stratum=stratum, treated=treated, unit=f"{stratum}{number}", value=value(rng, treated)))
    return made


def success(served: float, held_out: float) -> Chance:
    return lambda rng, treated: float(rng.random() < (served if treated else held_out))


def lognormal(rng: random.Random, treated: bool) -> float:
    return rng.lognormvariate(0, 1)


def found(drawn: list[Drawn]) -> StratifiedDifference:
    difference = difference_of(drawn)
    assert difference is not None
    return difference


def noise(level: float, repetitions: int) -> float:
    return 2.5 * math.sqrt(level * (1 - level) / repetitions)


@pytest.mark.parametrize(
    ("share", "n", "value", "truth"),
    [
        (0.15, 100, success(0.6, 0.5), 0.1),
        (0.3, 150, success(0.6, 0.5), 0.1),
        (0.3, 150, success(0.04, 0.04), 0.0),
        (0.1, 200, success(0.97, 0.95), 0.02),
        (0.5, 200, lognormal, 0.0),
    ],
)
def test_the_interval_of_one_look_covers_the_planted_truth(share: float, n: int, value: Chance, truth: float) -> None:
    rng = random.Random(f"once/{share}/{n}/{truth}")
    covered = told = 0
    for _ in range(400):
        interval = found(lot(n, share, value, rng)).once
        if interval.low is not None and interval.high is not None:
            told += 1
            covered += interval.low <= truth <= interval.high
    assert told > 200
    assert covered / told >= 0.95 - noise(0.05, told)


@pytest.mark.parametrize(
    ("share", "value", "truth"),
    [(0.3, success(0.6, 0.5), 0.1), (0.1, success(0.5, 0.5), 0.0), (0.2, success(0.06, 0.06), 0.0)],
)
def test_looking_again_and_again_keeps_the_truth_within_the_interval(share: float, value: Chance, truth: float) -> None:
    rng = random.Random(f"always/{share}/{truth}")
    looks = [20 * 2 ** (step / 2) for step in range(13)]  # up to 1,280 units
    missed = 0
    for _ in range(200):
        drawn = lot(int(looks[-1]), share, value, rng)
        for look in looks:
            difference = difference_of(drawn[: int(look)])
            if difference and (bounds := difference.always).low is not None and bounds.high is not None:
                if bounds.low <= truth <= bounds.high:
                    continue
                missed += 1
                break
    assert missed / 200 <= 0.05 + noise(0.05, 200)


def test_users_who_come_back_under_every_version_are_counted_once() -> None:
    rng = random.Random(7)
    covered = too_sure = 0
    for _ in range(300):
        drawn = []
        for user in range(60):
            treated, chance = rng.random() >= 0.5, rng.random()
            for version in "abcd":
                value = sum(rng.random() < chance for _ in range(5)) / 5
                drawn.append(Drawn(stratum=version, treated=treated, unit=f"u{user}", value=value))
        for told, interval in (
            (True, found(drawn).once),
            (False, found([replace(one, unit=f"{one.stratum}{one.unit}") for one in drawn]).once),
        ):
            assert interval.low is not None
            assert interval.high is not None
            covered += told and interval.low <= 0 <= interval.high
            too_sure += not told and not interval.low <= 0 <= interval.high
    assert covered / 300 >= 0.95 - noise(0.05, 300)
    assert too_sure / 300 > 0.2, "taken for four users each, they would be believed too often"


def test_a_rate_that_drifts_while_the_share_changes_does_not_look_like_an_effect() -> None:
    rng = random.Random(11)
    week = [lot(400, 0.1, success(0.2, 0.2), rng, "first"), lot(400, 0.5, success(0.8, 0.8), rng, "second")]
    apart = found(week[0] + week[1]).once
    assert apart.low is not None
    assert apart.high is not None
    assert apart.low <= 0 <= apart.high
    mixed = found([replace(one, stratum="") for one in week[0] + week[1]]).always
    assert mixed.high is not None
    assert mixed.high < 0, "held out more often when all went better"


@law
@given(drawn_values, st.randoms(use_true_random=False))
def test_no_order_changes_anything(drawn: list[Drawn], rng: random.Random) -> None:
    mixed = list(drawn)
    rng.shuffle(mixed)
    assert difference_of(mixed) == difference_of(drawn)


@law
@given(tallies, st.randoms(use_true_random=False))
def test_no_order_of_the_tallies_changes_what_is_said(made: list[UnitTally], rng: random.Random) -> None:
    mixed = list(made)
    rng.shuffle(mixed)
    assert live_effects(mixed) == live_effects(made)
    assert [effect.verdict for effect in live_effects(mixed)] == [effect.verdict for effect in live_effects(made)]


@law
@given(drawn_values, st.sampled_from([0.5, 2.0, 100.0]), st.sampled_from([-8.0, 0.0, 3.0]))
def test_another_scale_of_rewards_gives_the_same_on_that_scale(drawn: list[Drawn], size: float, start: float) -> None:
    plain = difference_of(drawn)
    scaled = difference_of([replace(one, value=start + size * one.value) for one in drawn])
    if plain is None or scaled is None:
        assert plain is scaled
        return
    for here, there in ((plain.once, scaled.once), (plain.always, scaled.always)):
        assert there.mean == pytest.approx(size * here.mean, abs=1e-9 * size)
        if here.low is None or here.high is None:
            assert (there.low, there.high) == (None, None)
        else:
            assert there.low == pytest.approx(size * here.low, rel=1e-6, abs=1e-9 * size)
            assert there.high == pytest.approx(size * here.high, rel=1e-6, abs=1e-9 * size)


@law
@given(drawn_values)
def test_the_other_way_round_is_the_difference_with_the_other_sign(drawn: list[Drawn]) -> None:
    here = difference_of(drawn)
    there = difference_of([replace(one, treated=not one.treated) for one in drawn])
    assert (here is None) is (there is None)
    if here and there:
        assert there.estimate == pytest.approx(-here.estimate)
        assert there.variance == pytest.approx(here.variance)


@law
@given(drawn_values)
def test_what_holds_at_every_look_is_wider_than_what_holds_at_one(drawn: list[Drawn]) -> None:
    difference = difference_of([one for one in drawn if one.stratum == "a"])
    if difference and difference.df > 30:
        once, always = difference.once, difference.always
        if once.low is not None and always.low is not None:
            assert always.low <= once.low + 1e-12


@law
@given(tallies)
def test_an_arm_without_rewards_gives_words_and_no_figure(made: list[UnitTally]) -> None:
    for effect in live_effects([tally for tally in made if not tally.held_out]):
        assert (effect.once, effect.always, effect.needed) == (None, None, None)
        assert effect.outcome == "nothing"
        assert "nothing to compare" in effect.verdict


def test_one_stratum_is_welchs_test_with_two_more_values_in_each_arm() -> None:
    rng = random.Random(3)
    drawn = lot(80, 0.3, lambda rng, treated: rng.gauss(treated, 1), rng)
    low, high = min(one.value for one in drawn), max(one.value for one in drawn)
    arms = [[one.value for one in drawn if one.treated is arm] for arm in (True, False)]
    shown = found(drawn)
    errors = [stats.tstd([*arm, low, high]) ** 2 / len(arm) for arm in arms]
    df = sum(errors) ** 2 / sum(e**2 / (len(arm) - 1) for e, arm in zip(errors, arms, strict=True))
    assert shown.variance == pytest.approx(sum(errors))
    assert shown.df == int(df)
    assert shown.once.high is not None
    assert shown.once.high - shown.estimate == pytest.approx(stats.t.ppf(0.975, int(df)) * math.sqrt(sum(errors)))


def test_so_many_more_requests_do_settle_it_in_most_tries() -> None:
    rng = random.Random(5)
    first = found(lot(400, 0.3, success(0.58, 0.5), rng))
    times = replace(first, estimate=0.08).times_needed
    assert times is not None
    settled = 0
    for _ in range(100):
        interval = found(lot(round(400 * times), 0.3, success(0.58, 0.5), rng)).always
        settled += interval.low is not None and interval.low > 0
    assert 0.65 <= settled / 100 <= 0.92


def test_a_mean_lies_within_its_interval_and_that_within_what_was_seen() -> None:
    rng = random.Random(9)
    covered = 0
    for _ in range(400):
        interval = mean_with_interval([float(rng.random() < 0.8) for _ in range(40)])
        assert interval is not None
        assert interval.low is not None
        assert interval.high is not None
        assert 0 <= interval.low <= interval.mean <= interval.high <= 1
        covered += interval.low <= 0.8 <= interval.high
    assert covered / 400 >= 0.95 - noise(0.05, 400)
