"""Library: the experiences in their order, immutable, named by a hash of their content.

`apply` is the one place where operations change a library. It is deterministic, and every operation ends in
exactly one of two lists: applied, or refused with a reason.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, assert_never

from tokenprior.errors import DataError
from tokenprior.experience import MAX_WORDS, Experience, Provenance, count_words, parse_id, similarity
from tokenprior.operation import Add, Delete, Keep, Merge, Modify, Operation
from tokenprior.task import content_hash

SAME = 0.8  # two lessons that share this much of their words say the same


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How large a library may become.

    Attributes:
        max_experiences: entries.
        max_tokens: of all lines together, counted as `estimate_tokens` does.
        max_words: of one lesson.
    """

    max_experiences: int = 50
    max_tokens: int = 2_000
    max_words: int = MAX_WORDS


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """An operation that was not carried out, and why."""

    operation: Operation
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """What became of a list of operations.

    Attributes:
        library: the candidate.
        done: what was carried out, in order; evictions over the bounds stand at the end as Deletes.
        refused: what was not, each with its reason.
    """

    library: Library
    done: tuple[Operation, ...]
    refused: tuple[Refused, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What a lesson rests on: the groups it was drawn from and the attempts that were shown."""

    groups: tuple[str, ...]
    rollouts: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Library:
    """An ordered set of experiences.

    Attributes:
        experiences: in the order of the prompt.
        next_number: the number of the next new id; only grows, so that an id is never given twice.
    """

    experiences: tuple[Experience, ...] = ()
    next_number: int = 0
    _by_id: Mapping[str, Experience] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        by_id = {experience.id: experience for experience in self.experiences}
        if len(by_id) != len(self.experiences):
            raise DataError("a library holds the same id twice")
        numbers = [int(identity[1:]) for identity in by_id if parse_id(identity) == identity]
        object.__setattr__(self, "next_number", max([self.next_number, *(number + 1 for number in numbers)]))
        object.__setattr__(self, "_by_id", by_id)

    def __len__(self) -> int:
        return len(self.experiences)

    def __iter__(self) -> Iterator[Experience]:
        return iter(self.experiences)

    def __contains__(self, identity: object) -> bool:
        return identity in self._by_id

    def __getitem__(self, identity: str) -> Experience:
        return self._by_id[identity]

    @cached_property
    def version(self) -> str:
        """The content hash: twelve hexadecimal digits of ids, names and texts in their order."""
        return content_hash([[e.id, e.name, e.text] for e in self.experiences])[:12]

    def apply(
        self,
        operations: Sequence[Operation],
        *,
        bounds: Bounds,
        run: str = "",
        step: int = 0,
        sources: Mapping[int, Source] | None = None,
    ) -> Applied:
        """Carry out operations one after another, then keep to the bounds.

        An Add that says what an experience says already becomes a Keep of it, which adds to its support.

        Args:
            bounds: limits of the candidate; whoever was drawn from the fewest groups goes first, the youngest of those.
            run: goes into the provenance.
            step: goes into the provenance.
            sources: what each lesson number rests on.
        """
        work = _Work(self, run, step, dict(sources or {}), bounds)
        done: list[Operation] = []
        refused: list[Refused] = []
        for operation in operations:
            outcome = work.carry_out(operation)
            if isinstance(outcome, str):
                refused.append(Refused(operation=operation, reason=outcome))
            else:
                done.append(outcome)
        done.extend(work.evict())
        library = Library(experiences=tuple(work.entries.values()), next_number=work.next_number)
        return Applied(library=library, done=tuple(done), refused=tuple(refused))

    def to_json(self) -> dict[str, Any]:
        """The library as a JSON value, provenance included; `from_json` gives the same library back."""
        return {
            "format": "tokenprior-library-1",
            "version": self.version,
            "next_number": self.next_number,
            "experiences": [
                {"id": e.id, "name": e.name, "text": e.text, "provenance": e.provenance.to_json()} for e in self
            ],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Library:
        """Raises DataError if the value is not what `to_json` gives."""
        try:
            return cls(
                experiences=tuple(
                    Experience(
                        id=_id_of(e["id"]),
                        name=str(e.get("name", "")),
                        text=str(e["text"]),
                        provenance=Provenance.from_json(e.get("provenance") or {}),
                    )
                    for e in value["experiences"]
                ),
                next_number=int(value.get("next_number", 0)),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"not a library in tokenprior's JSON: {type(error).__name__} {error}") from error

    def dumps(self) -> str:
        """The JSON text, the same bytes for the same library."""
        return json.dumps(self.to_json(), indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def _id_of(value: object) -> str:
    identity = parse_id(value)
    if identity is None:
        raise ValueError(f"{value!r:.40} is no id such as 'G0'")
    return identity


def estimate_tokens(text: str) -> int:
    """About how many tokens a text takes: UTF-8 bytes over four, rounded up. No tokenizer is asked, none is at hand."""
    return -(-len(text.encode("utf-8", "surrogatepass")) // 4)


class _Work:
    """A library while operations are applied to it."""

    def __init__(self, library: Library, run: str, step: int, sources: dict[int, Source], bounds: Bounds) -> None:
        self.entries = {experience.id: experience for experience in library}
        self.next_number = library.next_number
        self.run, self.step, self.sources, self.bounds = run, step, sources, bounds

    def carry_out(self, operation: Operation) -> Operation | str:
        """Apply one operation; a text is the reason of a refusal."""
        match operation:
            case Add():
                return self._add(operation)
            case Modify(id=identity):
                if identity not in self.entries:
                    return f"there is no {identity}"
                if problem := self._wording(operation.text, beside=(identity,)):
                    return problem
                old = self.entries[identity]
                if (operation.name or old.name, operation.text) == (old.name, old.text):
                    return f"{identity} says just that already"
                self.entries[identity] = self._rewritten(old, operation, (identity,))
                return operation
            case Merge(ids=given):
                ids = tuple(dict.fromkeys(given))
                if len(ids) < 2:
                    return "a merge needs at least two ids"
                if missing := [identity for identity in ids if identity not in self.entries]:
                    return f"there is no {', '.join(missing)}"
                if problem := self._wording(operation.text, beside=ids):
                    return problem
                self.entries[ids[0]] = self._rewritten(self.entries[ids[0]], operation, ids)
                for identity in ids[1:]:
                    del self.entries[identity]
                return operation
            case Delete(id=identity):
                if identity not in self.entries:
                    return f"there is no {identity}"
                del self.entries[identity]
                return operation
            case Keep(id=identity):
                if identity not in self.entries:
                    return f"there is no {identity}"
                self._support(identity, operation.lessons)
                return operation
            case _:
                assert_never(operation)

    def _add(self, operation: Add) -> Operation | str:
        if same := self._same(operation.text, ()):
            self._support(same, operation.lessons)
            return Keep(id=same, reason=f"says the same as a new lesson: {operation.text}", lessons=operation.lessons)
        if problem := self._wording(operation.text, beside=()):
            return problem
        identity = f"G{self.next_number}"
        self.next_number += 1
        groups, rollouts = self._evidence(operation.lessons)
        self.entries[identity] = Experience(
            id=identity,
            name=operation.name,
            text=operation.text,
            provenance=Provenance(
                run=self.run, step=self.step, operation="Add", reason=operation.reason, groups=groups, rollouts=rollouts
            ),
        )
        return operation

    def _wording(self, text: str, beside: Sequence[str]) -> str | None:
        count = count_words(text)
        if count > self.bounds.max_words:
            return f"{count} words, at most {self.bounds.max_words} are allowed"
        if count < 3:
            return f"{count} words say nothing that could be followed"
        if same := self._same(text, beside):
            return f"{same} says the same"
        return None

    def _same(self, text: str, beside: Sequence[str]) -> str | None:
        for identity, experience in self.entries.items():
            if identity not in beside and similarity(experience.text, text) >= SAME:
                return identity
        return None

    def _evidence(self, lessons: Sequence[int]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        found = [self.sources[number] for number in lessons if number in self.sources]
        groups = tuple(dict.fromkeys(group for source in found for group in source.groups))
        return groups, tuple(dict.fromkeys(rollout for source in found for rollout in source.rollouts))

    def _support(self, identity: str, lessons: Sequence[int]) -> None:
        old = self.entries[identity]
        groups, rollouts = self._evidence(lessons)
        provenance = replace(
            old.provenance,
            groups=tuple(dict.fromkeys((*old.provenance.groups, *groups))),
            rollouts=tuple(dict.fromkeys((*old.provenance.rollouts, *rollouts))),
        )
        self.entries[identity] = replace(old, provenance=provenance)

    def _rewritten(self, old: Experience, operation: Modify | Merge, parents: tuple[str, ...]) -> Experience:
        groups, rollouts = self._evidence(operation.lessons)
        before = [self.entries[parent].provenance for parent in parents]
        provenance = Provenance(
            run=self.run,
            step=self.step,
            operation=type(operation).__name__,
            reason=operation.reason,
            groups=tuple(dict.fromkeys([*(g for p in before for g in p.groups), *groups])),
            rollouts=tuple(dict.fromkeys([*(r for p in before for r in p.rollouts), *rollouts])),
            parents=parents,
        )
        return replace(old, name=operation.name or old.name, text=operation.text, provenance=provenance)

    def evict(self) -> list[Operation]:
        """Keep to the bounds."""
        done: list[Operation] = []
        while self.entries and (over := self._over()):
            weakest = min(reversed(self.entries.values()), key=lambda experience: experience.support)
            del self.entries[weakest.id]
            done.append(Delete(id=weakest.id, reason=f"the library is over its bound of {over}"))
        return done

    def _over(self) -> str:
        if len(self.entries) > self.bounds.max_experiences:
            return f"{self.bounds.max_experiences} experiences"
        if sum(estimate_tokens(e.line) for e in self.entries.values()) > self.bounds.max_tokens:
            return f"{self.bounds.max_tokens} tokens"
        return ""
