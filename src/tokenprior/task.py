"""Task and TaskSet: what the agent practises on, with stable ids and splits that never mix.

Order of events: rows of a file become tasks (`load.load_tasks`), a `TaskSet` checks that ids are unique, and
`TaskSet.split` parts it once and for all by a seed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from tokenprior.errors import ConfigError, DataError
from tokenprior.text import shorten

MOST_ID = 400  # characters: ids stand in indexes, and a server takes no longer ones
FIELDS = ("id", "question", "answer", "metadata", "images")

_HASHED = json.JSONEncoder(sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=str)


def content_hash(value: object) -> str:
    """Twenty hexadecimal digits that name a JSON value for good, whatever the order of its keys."""
    text = _HASHED.encode(value)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:20]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One question for the agent.

    Attributes:
        id: its name for life; groups are keyed by it.
        question: what the agent is asked.
        answer: the reference: a string, a list of accepted strings, any other JSON value for a verifier that
            knows its shape, or `None` if there is none.
        metadata: whatever else the row holds; never shown to a model.
        images: that belong to the question: addresses, `data:` ones for those that were files.
    """

    id: str
    question: str
    answer: Any = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    images: tuple[str, ...] = ()

    @property
    def accepted(self) -> tuple[str, ...]:
        """The accepted answers as strings: one, several, or none where the answer is a structure or missing."""
        match self.answer:
            case bool():
                return (str(self.answer),)
            case str() | int() | float():
                return (str(self.answer),)
            case list() | tuple() if self.answer and all(isinstance(a, str | int | float) for a in self.answer):
                return tuple(str(a) for a in self.answer)
            case _:
                return ()

    @property
    def text_key(self) -> str:
        """The question with case and white space folded: equal keys are one text for a split."""
        return " ".join(self.question.split()).casefold()

    @property
    def fingerprint(self) -> str:
        """A hash of all that can change what becomes of this task."""
        images = [list(self.images)] if self.images else []
        return content_hash([self.id, self.question, self.answer, dict(self.metadata), *images])


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Three sets that share no text: lessons are drawn from `practice`, candidates tried on `gate`, and
    `held_out` is looked at for the report only."""

    practice: TaskSet
    gate: TaskSet
    held_out: TaskSet

    @property
    def every(self) -> tuple[Task, ...]:
        """All tasks, for what belongs to the data as a whole, such as the options of a choice."""
        return (*self.practice, *self.gate, *self.held_out)


class TaskSet(Sequence[Task]):
    """Tasks in the order of their file, with unique ids. Immutable.

    Raises:
        DataError: an id stands twice, is too long, or holds what no database takes.
    """

    def __init__(self, tasks: Iterable[Task]) -> None:
        self._tasks = tuple(tasks)
        seen: set[str] = set()
        for task in self._tasks:
            if task.id in seen:
                raise DataError(f"task id {task.id!r} stands twice: give every row an id of its own, or none at all")
            seen.add(task.id)
            if len(task.id) > MOST_ID:
                raise DataError(
                    f"task id {shorten(task.id, 60)!r} has {len(task.id):,} characters, expected at most {MOST_ID}: "
                    "give the row a shorter one, or none at all"
                )
            if "\0" in task.id or any("\ud800" <= character <= "\udfff" for character in task.id):
                raise DataError(f"task id {task.id!r} holds a character that no database takes: give the row another")

    def __len__(self) -> int:
        return len(self._tasks)

    def __iter__(self) -> Iterator[Task]:
        return iter(self._tasks)

    def __getitem__(self, index: Any) -> Any:
        return TaskSet(self._tasks[index]) if isinstance(index, slice) else self._tasks[index]

    def __repr__(self) -> str:
        return f"TaskSet({len(self)} tasks)"

    @cached_property
    def fingerprint(self) -> str:
        """A hash of all tasks in their order."""
        return content_hash([task.fingerprint for task in self._tasks])

    def split(self, *, practice: int, gate: int = 0, held_out: int | None = None, seed: int = 0) -> Split:
        """Part the set by a seed. Tasks of equal text always fall on one side.

        The order comes from a hash of the seed and the text: it is the same on every machine and for every order of
        the file, and added rows move no other row past another. Where the borders fall depends on all rows, so a row
        may change its part when rows are added.

        Args:
            practice: how many tasks to learn from.
            gate: how many to try candidates on.
            held_out: how many to report on; `None` takes all that is left. A part comes out smaller than asked for
                where tasks of equal text do not all fit into it.

        Raises:
            ConfigError: if there are fewer tasks than asked for, or a number is negative.
        """
        if min(practice, gate, held_out or 0) < 0:
            raise ConfigError(f"split: practice {practice}, gate {gate}, held_out {held_out}: none may be negative")
        by_text: dict[str, list[Task]] = {}
        for task in self._tasks:
            by_text.setdefault(task.text_key, []).append(task)
        ordered = sorted(by_text.values(), key=lambda same: (content_hash([seed, same[0].text_key]), same[0].id))
        wanted = practice + gate + (held_out or 0)
        if wanted > len(self._tasks):
            raise ConfigError(
                f"split asks for {wanted} tasks (practice {practice}, gate {gate}, held_out {held_out}), "
                f"but there are {len(self._tasks)}: ask for fewer"
            )
        parts: list[list[Task]] = [[], [], []]
        limits: list[float] = [practice, gate, float("inf") if held_out is None else held_out]
        for same in ordered:
            for part, limit in zip(parts, limits, strict=True):
                if len(part) + len(same) <= limit:
                    part.extend(same)
                    break
        return Split(practice=TaskSet(parts[0]), gate=TaskSet(parts[1]), held_out=TaskSet(parts[2]))
