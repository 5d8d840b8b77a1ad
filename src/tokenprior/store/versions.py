"""Versions: every library that a run tried or kept, oldest first, with what came of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from tokenprior.library import Library

# How a version came about. `start`: the run began with it. `candidate`, `part`: it was tried at the gate, whole or as
# part of the changes. `learned`: there was no trial in that step. `pruned`: what was left when lessons measured to hurt
# were deleted and the gate refused the rest. `back`: learning came to what ships already. `edited`: a person made it.
Origin = Literal["start", "candidate", "part", "learned", "pruned", "back", "edited"]

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class LibraryVersion:
    """One library of a run, at the step that made it.

    Attributes:
        version: the library's.
        step: from 0; -1 for what the run began with.
        origin: how it came about.
        experiences: how many.
        trial: the figures of its trial, as `Trial.to_json` gives them.
        deleted: ids that were taken out in this step because they were measured to hurt.
        shipped: whether it became what ships.
        ships: whether it ships now.
        learning: whether learning goes on from it.
        pinned: whether a person chose it, so that it is used whatever ships.
        edited: by whom and why, in words; empty for what nobody made by hand.
    """

    version: str
    step: int
    origin: Origin
    experiences: int
    trial: Mapping[str, Any] | None = None
    deleted: tuple[str, ...] = ()
    shipped: bool = False
    ships: bool = False
    learning: bool = False
    pinned: bool = False
    edited: str = ""

    @property
    def sentences(self) -> tuple[str, ...]:
        """What happened."""
        told = {
            "start": "what the run began with",
            "learned": "learned, no gate" if self.shipped else "learned, not tried again",
            "pruned": "what was left when the gate refused the candidate",
            "back": "learning is back at what ships",
            "edited": self.edited,
        }
        first = self.trial["sentence"] if self.trial else told[self.origin]
        gone = f"lessons deleted, measured to hurt: {', '.join(self.deleted)}"
        return (first, gone) if self.deleted else (first,)

    def to_json(self) -> dict[str, Any]:
        return {
            "version": self.version,
            "step": self.step,
            "origin": self.origin,
            "experiences": self.experiences,
            "what": list(self.sentences),
            "trial": self.trial,
            "deleted": list(self.deleted),
            "shipped": self.shipped,
            "ships": self.ships,
            "learning": self.learning,
            "pinned": self.pinned,
        }


def versions(
    start: Library,
    steps: Sequence[Row],
    trials: Sequence[Row],
    operations: Sequence[Row],
    pinned: str | None,
    edits: Sequence[Row] = (),
) -> list[LibraryVersion]:
    """Put the rows of one run together.

    A version stands once for each step that tried it or came to it; a step that changed nothing adds none.

    Args:
        start: what the run began with.
        steps, trials, operations, edits: the run's rows in the order of their keys.
        pinned: the version that a person chose, if one is in force.
    """
    if not steps and not edits:
        return []
    made = [LibraryVersion(version=start.version, step=-1, origin="start", experiences=len(start), shipped=True)]
    made += _edited(edits, -1)
    before = shipped = made[0].version
    for row in steps:
        deleted = measured_to_hurt([one for one in operations if one["step"] == row["step"]])
        tried = [one for one in trials if one["step"] == row["step"]]
        for trial in tried:
            figures = trial["figures"]
            made.append(
                LibraryVersion(
                    version=trial["candidate_version"],
                    step=row["step"],
                    origin="candidate" if figures["part"] == "whole" else "part",
                    experiences=len(trial["candidate"]["experiences"]),
                    trial=figures,
                    deleted=deleted if figures["part"] == "whole" else (),
                    shipped=figures["decision"] == "ships",
                )
            )
        if row["library_version"] not in {before, *(one["candidate_version"] for one in tried)}:
            origin: Origin = "pruned" if tried else "back" if row["library_version"] == shipped else "learned"
            made.append(
                LibraryVersion(
                    version=row["library_version"],
                    step=row["step"],
                    origin=origin,
                    experiences=len(row["library"]["experiences"]),
                    deleted=deleted,
                    shipped=row["shipped_version"] == row["library_version"] != shipped,
                )
            )
        made += _edited(edits, row["step"])
        before, shipped = row["library_version"], row["shipped_version"]
    return _marked(made, shipped, before, pinned)


def _edited(edits: Sequence[Row], step: int) -> list[LibraryVersion]:
    """What people made of the library after a step."""
    return [
        LibraryVersion(
            version=row["edited_version"],
            step=step,
            origin="edited",
            experiences=len(row["edited"]["experiences"]),
            edited=f"edited by {row['author']}: {row['reason']}",
        )
        for row in edits
        if row["step"] == step
    ]


def measured_to_hurt(operations: Sequence[Row]) -> tuple[str, ...]:
    """The ids that the operations of a step deleted because of their measured effect."""
    return tuple(
        one["operation"]["id"]
        for one in operations
        if one["operation"]["op"] == "Delete" and one["outcome"] == "done" and one["reason"].startswith("measured:")
    )


def _marked(made: Sequence[LibraryVersion], ships: str, learning: str, pinned: str | None) -> list[LibraryVersion]:
    """Where a version came more than once, the last time bears the marks."""
    last = {one.version: place for place, one in enumerate(made)}
    return [
        replace(
            one,
            ships=one.version == ships and last[ships] == place,
            learning=one.version == learning and last[learning] == place,
            pinned=one.version == pinned and last[one.version] == place,
        )
        for place, one in enumerate(made)
    ]
