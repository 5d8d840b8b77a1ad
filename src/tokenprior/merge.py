"""Merge: libraries of several runs or teams become one.

Order of events: lessons of different libraries that say the same become one; pairs that ask for different things under
the same condition are named as conflicts; the bounds are kept; ids are given anew. No model is asked, so what is told
apart is words: a paraphrase is not seen as the same, nor as a conflict.

Which words a lesson comes from decides everything but its place and its id: the order of the libraries changes those
alone, unless the first of them is to win conflicts.

An effect is of a lesson beside the others of its library, on the tasks and with the model of its run. Beside other
lessons nothing is measured yet, so it goes along as evidence of its origin, decides which of two wordings stays and
what the bounds evict, and is not the effect of the joined lesson: learn from the result, or audit it, to have one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

from tokenprior.experience import Effect, Experience, Origin, Provenance, overlap, similarity, words
from tokenprior.library import SAME, Bounds, Library
from tokenprior.operation import Delete
from tokenprior.relevance import FUNCTION_WORDS

ALIKE = 0.6  # two conditions that share this much of their words, function words apart, hold for the same tasks

Prefer = Literal["first", "effect"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A lesson of a library that was joined, or of several that said the same.

    Attributes:
        line: name and text.
        origins: where it stood, each `LIBRARY/ID`.
        id: in the joined library; empty if it is not there.
    """

    line: str
    origins: tuple[str, ...]
    id: str = ""

    def to_json(self) -> dict[str, Any]:
        return {"id": self.id, "line": self.line, "origins": list(self.origins)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Conflict:
    """Two lessons of different libraries that ask for different things under the same condition, in the order of the
    libraries. Both may stay, for a task may want two things."""

    first: Entry
    second: Entry


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """A lesson that is not in the joined library in its own words, and why."""

    entry: Entry
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Merged:
    """Libraries joined. Every lesson of theirs is in the library, or among those that were left.

    Attributes:
        library: with ids from G0 on, in the order of the libraries.
        conflicts: those that were found, settled or not.
        same: how many lessons became one with another that said the same.
        left: duplicates with other words than those that stayed, the losers of conflicts, and what the bounds evicted.
    """

    library: Library
    conflicts: tuple[Conflict, ...]
    same: int
    left: tuple[Left, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "format": "tokenprior-merge-1",
            "version": self.library.version,
            "conflicts": [{"first": c.first.to_json(), "second": c.second.to_json()} for c in self.conflicts],
            "left": [{"entry": one.entry.to_json(), "reason": one.reason} for one in self.left],
        }


def merge(libraries: Sequence[tuple[str, Library]], *, bounds: Bounds, prefer: Prefer | None = None) -> Merged:
    """Join libraries.

    Lessons of one library are never taken for the same, nor for a conflict: it was learned with both.

    Args:
        libraries: each with what it is called in the report and, where its run is not known, in the provenance.
        bounds: of the joined library; what is of the least worth goes first, by the effects there are.
        prefer: which side of a conflict stays: `first` that of the library that comes first, `effect` the one of the
            larger effect, 0 where none was measured. `None`, or an equal effect, keeps both.
    """
    taken = [
        _Taken(library=at, place=place, label=label, experience=experience)
        for at, (label, library) in enumerate(libraries)
        for place, experience in enumerate(library)
    ]
    every = _clusters(sorted(taken, key=_Taken.canonical))
    pairs = _conflicts(every)
    lost = _settled(pairs, prefer)
    kept, evicted = _within([cluster for cluster in every if cluster not in lost], bounds)
    kept.sort(key=lambda cluster: cluster.place)
    ids = {cluster: f"G{number}" for number, cluster in enumerate(kept)}
    entries = {cluster: cluster.entry(ids.get(cluster, "")) for cluster in every}
    reasons = lost | evicted
    in_order = sorted(every, key=lambda cluster: cluster.place)
    left = [Left(entry=entries[c], reason=reasons[c]) for c in in_order if c in reasons]
    left += [
        Left(entry=one.entry, reason=f"it says the same as {entries[c].id or c.best.name}")
        for c in in_order
        for one in c.members
        if one.experience.line != c.best.experience.line
    ]
    return Merged(
        library=Library(experiences=tuple(cluster.joined(ids[cluster]) for cluster in kept)),
        conflicts=tuple(Conflict(first=entries[one], second=entries[other]) for one, other in pairs),
        same=len(taken) - len(every),
        left=tuple(left),
    )


@dataclass(frozen=True, kw_only=True)
class _Taken:
    """A lesson as it came."""

    library: int
    place: int
    label: str
    experience: Experience

    @property
    def name(self) -> str:
        return f"{self.label}/{self.experience.id}"

    @property
    def entry(self) -> Entry:
        return Entry(line=self.experience.line, origins=(self.name,))

    @cached_property
    def worth(self) -> tuple[float, int]:
        effect = _evidence(self.experience)
        return (effect.shrunk if effect else 0.0, self.experience.support)

    def canonical(self) -> tuple[Any, ...]:
        """An order of lessons, the worthiest first, that depends on the order of the libraries for equal ones alone."""
        effect, support = self.worth
        origin = self.experience.provenance
        return (-effect, -support, self.experience.line, origin.run, self.experience.id, self.library)

    @cached_property
    def said(self) -> _Said:
        return _Said.of(self.experience.text)

    @cached_property
    def origins(self) -> tuple[Origin, ...]:
        """What it was before. One that was joined already, and not reworded or measured since, is none of its own."""
        before, effect = self.experience.provenance, self.experience.effect
        is_joined = bool(before.origins) and (not before.run or before.run in {one.run for one in before.origins})
        if is_joined and effect is None:
            return before.origins
        run = self.label if is_joined else before.run or self.label
        return (*before.origins, Origin(run=run, id=self.experience.id, effect=effect))


def _evidence(experience: Experience) -> Effect | None:
    """Of several measurements, the one over the most tasks."""
    found = [experience.effect, *(origin.effect for origin in experience.provenance.origins)]
    return max((effect for effect in found if effect), key=lambda effect: effect.tasks, default=None)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Cluster:
    """Lessons that say the same, one of a library, the best of them first."""

    members: list[_Taken]

    @property
    def best(self) -> _Taken:
        return self.members[0]

    @property
    def place(self) -> tuple[int, int]:
        return min((member.library, member.place) for member in self.members)

    @property
    def libraries(self) -> set[int]:
        return {member.library for member in self.members}

    @property
    def in_order(self) -> list[_Taken]:
        return sorted(self.members, key=lambda member: member.library)

    def entry(self, identity: str) -> Entry:
        names = tuple(member.name for member in self.in_order)
        return Entry(line=self.best.experience.line, origins=names, id=identity)

    def joined(self, identity: str) -> Experience:
        """The words of the best, and what all of them rest on. Parents were ids of another library."""
        before = [member.experience.provenance for member in self.in_order]
        origins: dict[tuple[str, str], Origin] = {}
        for origin in (origin for member in self.in_order for origin in member.origins):
            known = origins.get((origin.run, origin.id), origin)
            origins[origin.run, origin.id] = max(known, origin, key=lambda one: one.effect.tasks if one.effect else 0)
        best = self.best.experience.provenance
        provenance = replace(
            best,
            groups=_told_apart(((one, one.groups) for one in before), best),
            rollouts=_told_apart(((one, one.rollouts) for one in before), best),
            parents=(),
            origins=tuple(origins.values()),
        )
        return replace(self.best.experience, id=identity, provenance=provenance, effect=None)


def _told_apart(found: Iterable[tuple[Provenance, Sequence[str]]], best: Provenance) -> tuple[str, ...]:
    """Ids of tasks or attempts of several runs, once each: those of other runs than the wording's as `RUN/ID`."""
    every: dict[str, None] = {}
    for provenance, ids in found:
        known = tuple(f"{origin.run}/" for origin in provenance.origins)
        for one in ids:
            every[one if not provenance.run or one.startswith(known) else f"{provenance.run}/{one}"] = None
    return tuple(one.removeprefix(f"{best.run}/") if best.run else one for one in every)


def _clusters(taken: Sequence[_Taken]) -> list[_Cluster]:
    """Each joins the one most like it, if that says the same and holds none of its library."""
    clusters: list[_Cluster] = []
    for one in taken:
        alike = [
            (similarity(cluster.best.experience.line, one.experience.line), -at)
            for at, cluster in enumerate(clusters)
            if one.library not in cluster.libraries and cluster.best.said.is_same_as(one.said)
        ]
        if alike:
            clusters[-max(alike)[1]].members.append(one)
        else:
            clusters.append(_Cluster(members=[one]))
    return clusters


_FIRST = re.compile(
    r"(?:when(?:ever)?|if|for|where|in case|once|before|after|while|given)\b(?P<condition>[^,:;]+)[,:;](?P<advice>.+)",
    re.I,
)
_LAST = re.compile(r"(?P<advice>[^,:;]+?),?\s(?:when(?:ever)?|if)\s(?P<condition>.+)", re.I)
_NEGATIONS = frozenset({
    "not", "no", "never", "avoid", "without", "cannot", "can't", "don't", "doesn't", "isn't", "aren't",
})  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class _Said:
    """The words of a lesson in their parts; a text with no condition is advice throughout."""

    condition: frozenset[str]
    advice: frozenset[str]

    @classmethod
    def of(cls, text: str) -> _Said:
        flat = " ".join(text.replace("’", "'").split())
        found = _FIRST.fullmatch(flat) or _LAST.fullmatch(flat)
        condition, advice = (found["condition"], found["advice"]) if found else ("", flat)
        return cls(condition=frozenset(words(condition)), advice=frozenset(words(advice)))

    def is_same_as(self, other: _Said) -> bool:
        """Both parts have to agree: one word of advice in ten may be the one that matters."""
        return (
            self._negates == other._negates
            and overlap(self.condition, other.condition) >= SAME
            and overlap(self.advice, other.advice) >= SAME
        )

    def contradicts(self, other: _Said) -> bool:
        """The conditions are alike, and the advice is not."""
        if not self._concerns or not other._concerns or self._negates[0] != other._negates[0]:
            return False
        return overlap(self._concerns, other._concerns) >= ALIKE and not self.is_same_as(other)

    @cached_property
    def _concerns(self) -> frozenset[str]:
        return self.condition - FUNCTION_WORDS

    @cached_property
    def _negates(self) -> tuple[bool, bool]:
        return not _NEGATIONS.isdisjoint(self.condition), not _NEGATIONS.isdisjoint(self.advice)


def _conflicts(clusters: Sequence[_Cluster]) -> list[tuple[_Cluster, _Cluster]]:
    """Pairs in the order of the libraries."""
    in_order = sorted(clusters, key=lambda cluster: cluster.place)
    return [
        (one, other)
        for at, one in enumerate(in_order)
        for other in in_order[at + 1 :]
        if not one.libraries & other.libraries and one.best.said.contradicts(other.best.said)
    ]


def _settled(pairs: Sequence[tuple[_Cluster, _Cluster]], prefer: Prefer | None) -> dict[_Cluster, str]:
    """The losers of conflicts, with the reason. What has lost wins no other conflict."""
    lost: dict[_Cluster, str] = {}
    if prefer is None:
        return lost
    # The worthiest decides first, so that the order of the libraries has no say where effects decide.
    ranked = pairs if prefer == "first" else sorted(pairs, key=lambda pair: sorted(c.best.canonical() for c in pair))
    for pair in ranked:
        winner, loser = pair if prefer == "first" else sorted(pair, key=lambda one: one.best.canonical())
        if winner in lost or loser in lost:
            continue
        if prefer == "effect" and winner.best.worth[0] == loser.best.worth[0]:
            continue
        why = "comes first" if prefer == "first" else "has the larger effect"
        lost[loser] = f"it is in conflict with {winner.best.name}, which {why}"
    return lost


def _within(clusters: Sequence[_Cluster], bounds: Bounds) -> tuple[list[_Cluster], dict[_Cluster, str]]:
    """What the bounds leave, and what they evict, with the reason."""
    by_id = {f"G{number}": cluster for number, cluster in enumerate(clusters)}
    library = Library(
        experiences=tuple(
            replace(cluster.joined(identity), effect=_evidence(cluster.best.experience))
            for identity, cluster in by_id.items()
        )
    )
    applied = library.apply([], bounds=bounds)
    evicted = {by_id[one.id]: one.reason for one in applied.done if isinstance(one, Delete)}
    return [by_id[one.id] for one in applied.library], evicted
