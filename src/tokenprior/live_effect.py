"""Live effect: what a served library does, from the rewards of requests with it and of requests held back by lot.

What was drawn by lot is a unit: a user or a conversation, or a single request where the client named none. Units are
independent, requests of one unit are not, so a unit's value is the mean of its rewards. A version is compared with what
was held out while it was served, and while the same share was: what else changes with time then falls on both sides.
Such strata are pooled by how much each can tell.

People look every day. The verdict therefore rests on an interval that holds at every look, an asymptotic confidence
sequence; the narrower one for a single look stands beside it. We chose it over betting (`sequential.py`), which has to
know the bounds of a reward, and is 1.2 to 1.7 times as wide at a thousand units and 1.6 to 2.6 times at five thousand
(`benchmarks/live_effect.py`). What it is not: exact for few units.

Source: Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas, "Time-uniform Central Limit Theory and Asymptotic Confidence
Sequences", The Annals of Statistics 52 (2024).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from tokenprior.library import Library
from tokenprior.statistics import Interval
from tokenprior.stratified import (
    FEWEST,
    StratifiedDifference,
    every_look,
    mean_with_interval,
    stratified_difference,
)

Outcome = Literal["helps", "hurts", "unclear", "same words", "nothing"]


_FOR_EVER = 10_000  # times the requests there are, from which a number of them tells nobody anything
_EMPTY = Library().version  # what is served before anything was learned


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitTally:
    """What one unit asked for in one arm, of one version, while one share was held out.

    Attributes:
        library, version, share, held_out, unit: as in `served.Served`.
        failed: of the requests, that no reply came to, or an error.
        left: of the requests, whose client went away.
        rewarded: of the requests, that have a reward.
        reward: the mean of these rewards; `None` if there are none.
        first_at: seconds since 1970.
    """

    library: str
    version: str
    share: float
    held_out: bool
    unit: str
    requests: int = 1
    failed: int = 0
    left: int = 0
    rewarded: int = 0
    reward: float | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    first_at: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveArm:
    """The requests with a library, or those held out.

    Attributes:
        reward: mean over the rewarded units, with its 95% interval for one look; `None` if there are none.
        units: that were rewarded.
    """

    requests: int = 0
    rewarded: int = 0
    failed: int = 0
    left: int = 0
    units: int = 0
    reward: Interval | None = None
    input_tokens: int = 0
    output_tokens: int = 0

    @property
    def rewarded_share(self) -> float | None:
        """Of its requests; `None` if there are none."""
        return self.rewarded / self.requests if self.requests else None


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveEffect:
    """What a library does where it is served, or one version of it does.

    Attributes:
        library: the name it is served under.
        version: empty where several are pooled.
        versions: how many it is about.
        served: with the prior; requests of a time in which nothing was held out are in it too.
        held_out: without.
        once: the difference of the mean rewards, with the 95% interval of one look that was planned; `None` where
            nothing could be compared.
        always: the same difference, with the 95% interval that holds at every look. Neither has bounds with fewer than
            `FEWEST` units in an arm, and where all rewards are equal.
        units: that the difference rests on, with the prior and without.
        needed: about so many rewarded requests more, shared out as now, would settle a difference as large as this one
            in 4 of 5 tries; `None` where it is settled or cannot be told.
        warnings: sentences on why the difference may not be the library's doing.
    """

    library: str
    version: str
    versions: int
    served: LiveArm
    held_out: LiveArm
    once: Interval | None = None
    always: Interval | None = None
    units: tuple[int, int] = (0, 0)
    needed: int | None = None
    warnings: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.library}/{self.version}" if self.version else f"{self.library} over {self.versions} versions"

    @property
    def outcome(self) -> Outcome:
        if self.version == _EMPTY:
            return "same words"
        if self.always is None:
            return "nothing"
        if not _excludes_0(self.always):
            return "unclear"
        return "helps" if self.always.mean > 0 else "hurts"

    @property
    def verdict(self) -> str:
        """One sentence: it helps, it hurts, or there is not enough evidence and what would settle it; and warnings."""
        match self.outcome:
            case "same words":
                said = f"{self.name} has no lessons: with it and without it requests are the same"
            case "nothing":
                said = f"{self.name}: nothing to compare: {self._lacking}"
            case "unclear":
                said = f"Not enough evidence that {self.name} differs from no prior: {self._figures}"
                if self.needed is not None:
                    said += f"; about {self.needed:,} more rewarded requests would settle a difference this large"
            case outcome:
                said = f"{self.name} {outcome}: {self._figures}"
        return " ".join([f"{said}.", *self.warnings])

    @property
    def _figures(self) -> str:
        always, once = self.always, self.once
        assert always is not None, "there are figures where something was compared"
        assert once is not None, "and for one look too"
        counts = "{:,} units with it, {:,} without".format(*self.units)
        if always.low is None or always.high is None or once.low is None or once.high is None:
            lacking = f"an arm has fewer than {FEWEST}" if min(self.units) < FEWEST else "all rewards are equal"
            return f"{always.mean:+.3f} ({counts}; no interval, for {lacking})"
        one_look = f"a single planned look would say [{once.low:+.3f}, {once.high:+.3f}]"
        return f"{always.mean:+.3f} [{always.low:+.3f}, {always.high:+.3f}] ({counts}; {one_look})"

    @property
    def _lacking(self) -> str:
        if not self.served.rewarded and not self.held_out.rewarded:
            return "no request has a reward yet"
        if not self.held_out.requests:
            return "no request was held out"
        for arm, which in ((self.served, "with it"), (self.held_out, "held out")):
            if not arm.rewarded:
                return f"no request {which} has a reward yet"
        return "no two units with it and two held out were rewarded while the same version was served"

    def to_json(self) -> dict[str, Any]:
        return {
            "library": self.library,
            "version": self.version or None,
            "versions": self.versions,
            "outcome": self.outcome,
            "once": _interval_json(self.once),
            "always": _interval_json(self.always),
            "units": list(self.units),
            "needed": self.needed,
            "served": _arm_json(self.served),
            "held_out": _arm_json(self.held_out),
            "warnings": list(self.warnings),
            "verdict": self.verdict,
        }


def live_effects(tallies: Iterable[UnitTally]) -> tuple[LiveEffect, ...]:
    """Libraries by name: each of their versions, the one first served first, and then all of them if there are several.
    A version without lessons is no part of that.

    No order of the tallies changes anything.
    """
    libraries: dict[str, dict[str, list[UnitTally]]] = defaultdict(lambda: defaultdict(list))
    for tally in tallies:
        libraries[tally.library][tally.version].append(tally)
    made: list[LiveEffect] = []
    for library in sorted(libraries):
        versions = libraries[library]
        for version in sorted(versions, key=lambda version: (min(t.first_at for t in versions[version]), version)):
            made.append(_effect(library, version, 1, versions[version]))
        several = [tallies for version, tallies in versions.items() if version != _EMPTY]
        if len(several) > 1:
            made.append(_effect(library, "", len(several), [tally for tallies in several for tally in tallies]))
    return tuple(made)


def _effect(library: str, version: str, versions: int, tallies: Sequence[UnitTally]) -> LiveEffect:
    plain = LiveEffect(
        library=library,
        version=version,
        versions=versions,
        served=_arm([tally for tally in tallies if not tally.held_out]),
        held_out=_arm([tally for tally in tallies if tally.held_out]),
    )
    found = None if version == _EMPTY else _difference((tally, tally.reward) for tally in tallies)
    if found is None:
        return plain
    needed, times = None, found.times_needed
    if times and 1 < times < _FOR_EVER:
        needed = _about((times - 1) * sum(tally.rewarded for tally in _of(found, tallies)))
    return replace(
        plain,
        once=found.once,
        always=found.always,
        units=found.units,
        needed=needed,
        warnings=_warnings(tallies),
    )


def _difference(values: Iterable[tuple[UnitTally, float | None]]) -> StratifiedDifference | None:
    """Served less held out. What is not known is left out."""
    cells: dict[tuple[Hashable, bool], dict[str, float]] = defaultdict(dict)
    for tally, value in values:
        if value is not None:
            cells[_stratum(tally), not tally.held_out][tally.unit] = value
    return stratified_difference(cells)


def _stratum(tally: UnitTally) -> tuple[str, float]:
    """Where the share changed, time and arm would hang together if it were one stratum."""
    return tally.version, tally.share


def _of(found: StratifiedDifference, tallies: Iterable[UnitTally]) -> list[UnitTally]:
    return [tally for tally in tallies if _stratum(tally) in found.strata]


def _about(count: float) -> int:
    """Two digits of it are more than is known."""
    size = int(10 ** max(0, math.floor(math.log10(max(1.0, count))) - 1))
    return math.ceil(count / size) * size


def _arm(tallies: Sequence[UnitTally]) -> LiveArm:
    by_unit: dict[str, list[UnitTally]] = defaultdict(list)
    for tally in tallies:
        if tally.reward is not None:
            by_unit[tally.unit].append(tally)
    return LiveArm(
        requests=sum(tally.requests for tally in tallies),
        rewarded=sum(tally.rewarded for tally in tallies),
        failed=sum(tally.failed for tally in tallies),
        left=sum(tally.left for tally in tallies),
        units=len(by_unit),
        reward=mean_with_interval([_mean_reward(of_unit) for of_unit in by_unit.values()]),
        input_tokens=sum(tally.input_tokens for tally in tallies),
        output_tokens=sum(tally.output_tokens for tally in tallies),
    )


def _mean_reward(tallies: Sequence[UnitTally]) -> float:
    return math.fsum((t.reward or 0.0) * t.rewarded for t in tallies) / sum(t.rewarded for t in tallies)


def _warnings(tallies: Sequence[UnitTally]) -> tuple[str, ...]:
    """Why a difference of rewards may not be what the library does to them."""
    drawn = [tally for tally in tallies if 0 < tally.share < 1]
    said: list[str] = []
    rewarded = _difference((tally, tally.rewarded / tally.requests) for tally in drawn)
    if rewarded and _excludes_0(rewarded.always):
        served, held_out = _shares(_of(rewarded, drawn), lambda tally: tally.rewarded)
        said.append(
            f"But {served:.1%} of the requests with it have a reward and {held_out:.1%} of those held out: they may "
            "not be the same kind, and the difference may come from that."
        )
    failures = any(tally.failed for tally in drawn)
    failed = _difference((tally, tally.failed / tally.requests) for tally in drawn) if failures else None
    if failed and _excludes_0(failed.always):
        served, held_out = _shares(_of(failed, drawn), lambda tally: tally.failed)
        said.append(f"But {served:.1%} of the requests with it failed, {held_out:.1%} of those held out.")
    return (*said, *_lot(drawn))


def _excludes_0(interval: Interval) -> bool:
    low, high = interval.low, interval.high
    return low is not None and high is not None and not low <= 0 <= high


def _shares(tallies: Iterable[UnitTally], count: Callable[[UnitTally], int]) -> tuple[float, float]:
    """Of the requests with the prior, and of those without."""
    arms: tuple[list[UnitTally], list[UnitTally]] = [], []
    for tally in tallies:
        arms[tally.held_out].append(tally)
    served, held_out = (sum(map(count, arm)) / sum(tally.requests for tally in arm) for arm in arms)
    return served, held_out


def _lot(drawn: Sequence[UnitTally]) -> tuple[str, ...]:
    """Whether as many units were held out as the lot should have drawn.

    Source: Fabijan et al., "Diagnosing Sample Ratio Mismatch in Online Controlled Experiments", KDD 2019.
    """
    units = {(tally.unit, tally.share, tally.held_out) for tally in drawn}
    if len(units) < FEWEST:
        return ()
    held_out = sum(held for _, _, held in units) / len(units)
    wanted = math.fsum(share for _, share, _ in units) / len(units)
    scatter = math.fsum(share * (1 - share) for _, share, _ in units) / len(units)
    if abs(held_out - wanted) <= every_look(scatter / len(units), scatter):
        return ()
    return (
        f"But {held_out:.1%} of its {len(units):,} units were held out where the lot draws {wanted:.1%}: something "
        "else decides which requests are recorded, and no difference can be trusted until it is found.",
    )


def _arm_json(arm: LiveArm) -> dict[str, Any]:
    return {
        "requests": arm.requests,
        "rewarded": arm.rewarded,
        "failed": arm.failed,
        "left": arm.left,
        "units": arm.units,
        "reward": _interval_json(arm.reward),
        "input_tokens": arm.input_tokens,
        "output_tokens": arm.output_tokens,
    }


def _interval_json(interval: Interval | None) -> dict[str, Any] | None:
    if interval is None:
        return None
    return {"mean": interval.mean, "low": interval.low, "high": interval.high}
