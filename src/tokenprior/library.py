"""Library: the experiences in their order, immutable, named by a hash of their content.

`apply` is the one place where operations change a library. It is deterministic, and every operation ends in
exactly one of two lists: applied, or refused with a reason.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any, assert_never

from tokenprior.errors import DataError
from tokenprior.experience import MAX_WORDS, Effect, Experience, Provenance, count_words, overlap, parse_id, words
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
            bounds: limits of the candidate; what is of the least `Experience.worth` goes first, the youngest of those.
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

    def with_effects(self, effects: Mapping[str, Effect]) -> Library:
        """The same experiences with the effects of those ids set; the version stays."""
        measured = [replace(e, effect=effects[e.id]) if e.id in effects else e for e in self]
        return replace(self, experiences=tuple(measured))

    def refreshed(self, newer: Library) -> Library:
        """The same words, with what a newer library knows of where they came from and what they do."""
        known = {experience.key: experience for experience in newer}
        return replace(self, experiences=tuple(known.get(e.key, e) for e in self))

    def only(self, ids: Collection[str]) -> Library:
        """The experiences of those ids, in their order."""
        return replace(self, experiences=tuple(e for e in self if e.id in ids))

    def changes(self, candidate: Library) -> tuple[tuple[str, ...], ...]:
        """What tells a candidate from this library, in parts that may be taken over each on its own.

        A part is the ids of one experience that came, went or was reworded; those of a merge are one part.
        """
        words = {e.id: e.line for e in self}
        new_words = {e.id: e.line for e in candidate}
        ids = [*new_words, *(identity for identity in words if identity not in new_words)]
        parts: list[tuple[str, ...]] = []
        for experience in candidate:
            gone = tuple(p for p in experience.provenance.parents if p in words and p not in new_words)
            if words.get(experience.id) != experience.line and gone:
                parts.append((experience.id, *gone))
        merged = {identity for part in parts for identity in part}
        parts += [(i,) for i in ids if i not in merged and words.get(i) != new_words.get(i)]
        return tuple(sorted(parts, key=lambda part: ids.index(part[0])))

    def with_changes(self, candidate: Library, ids: Collection[str]) -> Library:
        """This library with the changes of a candidate at some ids; ids that the candidate gave stay given."""
        kept = [candidate[e.id] if e.id in ids else e for e in self if e.id not in ids or e.id in candidate]
        new = [e for e in candidate if e.id in ids and e.id not in self]
        return Library(experiences=(*kept, *new), next_number=max(self.next_number, candidate.next_number))

    def to_json(self) -> dict[str, Any]:
        """The library as a JSON value, provenance included; `from_json` gives the same library back."""
        return {
            "format": "tokenprior-library-1",
            "version": self.version,
            "next_number": self.next_number,
            "experiences": [
                {
                    "id": e.id,
                    "name": e.name,
                    "text": e.text,
                    "provenance": e.provenance.to_json(),
                    **({"effect": asdict(e.effect)} if e.effect else {}),
                }
                for e in self
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
                        effect=Effect(**e["effect"]) if e.get("effect") else None,
                    )
                    for e in value["experiences"]
                ),
                next_number=int(value.get("next_number", 0)),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"not a library in tokenprior's JSON: {type(error).__name__} {error}") from error

    def _repr_html_(self) -> str:
        """For a notebook."""
        from tokenprior.display import library_html

        return library_html(self)

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
        self._words: dict[str, frozenset[str]] = {}  # of each text, for a batch may bring thousands of lessons

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
        if problem := self._length(operation.text):
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
        if problem := self._length(text):
            return problem
        if same := self._same(text, beside):
            return f"{same} says the same"
        return None

    def _length(self, text: str) -> str | None:
        count = count_words(text)
        if count > self.bounds.max_words:
            return f"{count} words, at most {self.bounds.max_words} are allowed"
        if count < 3:
            return f"{count or 'no'} {'word' if count == 1 else 'words'}: too few to say when to do what"
        return None

    def _same(self, text: str, beside: Sequence[str]) -> str | None:
        said = self._words_of(text)
        for identity, experience in self.entries.items():
            if identity not in beside and overlap(self._words_of(experience.text), said) >= SAME:
                return identity
        return None

    def _words_of(self, text: str) -> frozenset[str]:
        if text not in self._words:
            self._words[text] = frozenset(words(text))
        return self._words[text]

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
            parents=tuple(dict.fromkeys([*parents, *(parent for p in before for parent in p.parents)])),
            origins=tuple(dict.fromkeys(replace(origin, effect=None) for p in before for origin in p.origins)),
        )
        name = operation.name or old.name
        return replace(old, name=name, text=operation.text, provenance=provenance, effect=None)

    def evict(self) -> list[Operation]:
        """Keep to the bounds."""
        done: list[Operation] = []
        youngest_first = list(reversed(self.entries.values()))
        for weakest in sorted(youngest_first, key=lambda experience: experience.worth):
            if not (over := self._over()):
                break
            del self.entries[weakest.id]
            done.append(Delete(id=weakest.id, reason=f"the library is over its bound of {over}"))
        return done

    def _over(self) -> str:
        if len(self.entries) > self.bounds.max_experiences:
            return f"{self.bounds.max_experiences} experiences"
        if sum(estimate_tokens(e.line) for e in self.entries.values()) > self.bounds.max_tokens:
            return f"{self.bounds.max_tokens} tokens"
        return ""
