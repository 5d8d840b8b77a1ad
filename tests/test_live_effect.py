"""What is said of a served library: it helps, it hurts, or what is missing; and why a difference may not be its own."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from act_home import cli
from tokenprior.library import Library
from tokenprior.live_effect import LiveEffect, UnitTally, live_effects
from tokenprior.reward import Reward
from tokenprior.served import Served
from tokenprior.store import open_store
from tokenprior.store.served import ServedLog


def units(
    count: int,
    reward: Callable[[bool, random.Random], float | None],
    *,
    version: str = "1a2b3c4d5e6f",
    share: float = 0.3,
    seed: int = 1,
) -> list[UnitTally]:
    """Single requests, held out by lot."""
    rng = random.Random(seed)
    made = []
    for number in range(count):
        held_out = rng.random() < share
        given = reward(held_out, rng)
        made.append(
            UnitTally(
                library="support",
                version=version,
                share=share,
                held_out=held_out,
                unit=f"{version}-{number}",
                rewarded=int(given is not None),
                reward=given,
                first_at=float(number),
            )
        )
    return made


def success(served: float, held_out: float) -> Callable[[bool, random.Random], float | None]:
    return lambda held, rng: float(rng.random() < (held_out if held else served))


def effect(tallies: Iterable[UnitTally]) -> LiveEffect:
    return live_effects(tallies)[-1]


def test_a_library_that_helps_is_said_to_help_by_how_much_and_on_what() -> None:
    found = effect(units(3_000, success(0.7, 0.5)))
    assert found.outcome == "helps"
    assert found.verdict.startswith("support/1a2b3c4d5e6f helps: +0.")
    assert "{:,} units with it, {:,} without".format(*found.units) in found.verdict
    assert sum(found.units) == 3_000
    assert "a single planned look would say [+0." in found.verdict
    assert found.needed is None
    assert found.warnings == ()


def test_a_library_that_hurts_is_said_to_hurt() -> None:
    found = effect(units(3_000, success(0.3, 0.5)))
    assert found.outcome == "hurts"
    assert found.verdict.startswith("support/1a2b3c4d5e6f hurts: -0.")


def test_too_little_evidence_is_said_with_what_would_settle_it() -> None:
    found = effect(units(200, success(0.6, 0.5)))
    assert found.outcome == "unclear"
    assert found.needed is not None
    assert f"about {found.needed:,} more rewarded requests would settle a difference this large" in found.verdict
    assert len(str(found.needed).rstrip("0")) <= 2, "more digits than are known"


def test_what_is_missing_for_a_comparison_is_named() -> None:
    rewards = units(50, success(1, 1))
    assert "no request has a reward yet" in effect(units(50, lambda held, rng: None)).verdict
    assert "no request was held out" in effect(units(50, success(1, 1), share=0.0)).verdict
    silent = [replace(t, reward=None, rewarded=0) if t.held_out else t for t in rewards]
    assert "no request held out has a reward yet" in effect(silent).verdict
    silent = [t if t.held_out else replace(t, reward=None, rewarded=0) for t in rewards]
    assert "no request with it has a reward yet" in effect(silent).verdict
    apart = [replace(t, version="old" if t.held_out else "new") for t in rewards]
    assert "while the same version was served" in effect(apart).verdict


def test_few_units_and_equal_rewards_give_a_difference_and_no_interval() -> None:
    few = effect(units(8, success(0.5, 0.5), share=0.5, seed=4))
    assert few.outcome == "unclear"
    assert "no interval, for an arm has fewer than 5" in few.verdict
    equal = effect(units(100, success(1, 1)))
    assert equal.outcome == "unclear"
    assert "+0.000" in equal.verdict
    assert "no interval, for all rewards are equal" in equal.verdict


def test_versions_come_in_the_order_in_which_they_were_served_and_then_together() -> None:
    old = units(300, success(0.6, 0.5), version="bbbb")
    new = [replace(one, first_at=1e6) for one in units(300, success(0.6, 0.5), version="aaaa", seed=2)]
    found = live_effects([*new, *old])
    assert [one.name for one in found] == ["support/bbbb", "support/aaaa", "support over 2 versions"]
    assert found[2].served.requests == found[0].served.requests + found[1].served.requests
    assert found[2].always is not None
    assert found[0].always is not None
    assert found[2].always.high is not None
    assert found[0].always.high is not None
    assert found[2].always.high - found[2].always.mean < found[0].always.high - found[0].always.mean


def test_what_was_served_while_nothing_was_held_out_is_counted_and_not_compared() -> None:
    drawn = units(300, success(0.6, 0.5))
    before = [replace(one, held_out=False) for one in units(300, success(0.0, 0.0), share=0.0, seed=3)]
    found, plain = effect([*drawn, *before]), effect(drawn)
    assert found.served.requests == plain.served.requests + 300
    assert (found.always, found.units) == (plain.always, plain.units)


def test_a_version_without_lessons_is_said_to_be_the_same_with_it_and_without() -> None:
    empty = units(3_000, success(0.9, 0.1), version=Library().version)
    (alone,) = live_effects(empty)
    assert (alone.outcome, alone.always) == ("same words", None)
    assert "has no lessons" in alone.verdict
    found = live_effects([*empty, *units(50, success(0.5, 0.5))])
    assert {one.version for one in found} == {Library().version, "1a2b3c4d5e6f"}, "no part of a whole"


def test_requests_of_one_user_are_one_unit() -> None:
    drawn = [replace(one, requests=40, rewarded=30) for one in units(60, success(0.6, 0.5))]
    found, single = effect(drawn), effect(units(60, success(0.6, 0.5)))
    assert found.always == single.always, "more requests of the same users are not more users"
    assert found.units == single.units
    assert found.served.rewarded == 30 * single.served.rewarded


def test_a_rewarded_share_that_differs_between_the_arms_is_a_warning() -> None:
    def loud(held: bool, rng: random.Random) -> float | None:
        return None if rng.random() < (0.4 if held else 0.7) else float(rng.random() < 0.5)

    found = effect(units(2_000, loud))
    assert len(found.warnings) == 1
    assert "of the requests with it have a reward and" in found.verdict
    assert (
        effect(units(2_000, lambda held, rng: float(rng.random() < 0.5) if rng.random() < 0.5 else None)).warnings == ()
    )


def test_failures_that_differ_between_the_arms_are_a_warning() -> None:
    rng = random.Random(1)
    drawn = [
        replace(one, failed=int(not one.held_out and rng.random() < 0.1)) for one in units(2_000, success(0.5, 0.5))
    ]
    (warning,) = effect(drawn).warnings
    assert "of the requests with it failed, 0.0% of those held out" in warning


def test_a_lot_that_was_not_kept_to_is_a_warning() -> None:
    kept = [one for one in units(4_000, success(0.5, 0.5)) if not one.held_out or int(one.unit[-1]) < 7]
    (warning,) = effect(kept).warnings
    assert "were held out where the lot draws 30.0%" in warning


def test_the_command_prints_a_row_for_each_arm_and_a_sentence_for_each_version(tmp_path: Path) -> None:
    rng = random.Random(1)
    noted = []
    for number, tally in enumerate(units(400, success(0.9, 0.2)) + units(400, success(0.9, 0.2), version="ffff")):
        noted.append(
            Served(
                id=f"r{number}",
                library="support",
                version=tally.version,
                held_out=tally.held_out,
                share=tally.share,
                unit=f"r{number}",
                source="proxy",
                input_tokens=10,
                output_tokens=rng.randrange(5),
                served_at=float(number),
                reward=Reward(value=tally.reward),
            )
        )
    store = tmp_path / "s.db"
    with open_store(store) as opened:
        asyncio.run(ServedLog(opened.writer).note(noted))
    for names in ([], ["support"]):
        ended = cli("compare", "--live", *names, "--store", store, "--json", tmp_path / "live.json")
        assert ended.code == 0, ended.err
        lines = ended.out.splitlines()
        assert [line.split()[0] for line in lines[1:5]] == ["support", "held", "support", "held"]
        assert lines[-1].startswith("support over 2 versions helps: +0.")
        report = json.loads((tmp_path / "live.json").read_text())
        assert [one["version"] for one in report["effects"]] == ["1a2b3c4d5e6f", "ffff", None]
        assert report["effects"][2]["outcome"] == "helps"


def test_what_a_user_gets_wrong_is_one_line(tmp_path: Path) -> None:
    with open_store(tmp_path / "s.db"):
        pass
    nothing = cli("compare", "--live", "--store", tmp_path / "s.db")
    assert (nothing.code, nothing.err) == (0, "")
    assert "nothing was recorded yet: tokenprior serve" in nothing.out
    assert (
        "served as 'x'; nothing was recorded yet: tokenprior serve"
        in cli("compare", "--live", "x", "--store", tmp_path / "s.db").line
    )
    assert "no such store" in cli("compare", "--live", "--store", tmp_path / "none.db").line
    assert "only --store and --json" in cli("compare", "--live", "--stop-early").line
    assert "--live" in cli("compare").line
    assert "--store goes with --live" in cli("compare", "a.yaml", "--store", "s.db").line
