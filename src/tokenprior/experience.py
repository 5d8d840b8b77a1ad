"""Experience: one lesson, with an id for life, where it came from, and what it was measured to do."""

from __future__ import annotations

import re
from collections.abc import Set
from dataclasses import asdict, dataclass, field
from typing import Any

from tokenprior.task import content_hash
from tokenprior.text import many

MAX_WORDS = 32  # Source: arXiv 2510.08191, the limit the paper's prompts set for one experience.

# Control characters, which drive terminals, and marks that turn the direction of writing.
_UNSEEN = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]+")

_ID = re.compile(r"\[?\s*[Gg]?\s*(\d{1,9})\s*\]?\.?$")


def parse_id(text: object) -> str | None:
    """Read an experience id as learning models write it: `G3`, `[G3]`, `g3`, `3`. `None` if it is none."""
    if isinstance(text, bool) or not isinstance(text, str | int):
        return None
    match = _ID.match(str(text).strip())
    return f"G{int(match[1])}" if match else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """A lesson of another library that an experience was taken over from.

    Attributes:
        run: that wrote it, or the library it was read from where no run is known.
        id: its id there.
        effect: what it was measured to do there: on those tasks, beside those lessons. `None` if that is not known, or
            if the words are no longer those.
    """

    run: str
    id: str
    effect: Effect | None = None

    def __str__(self) -> str:
        return f"{self.run}/{self.id}" + (f" (effect there {self.effect})" if self.effect else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """Where the words of an experience came from.

    Attributes:
        run: the run that wrote it, or `import:NAME`.
        step: the step of the run, from 0.
        operation: the kind of the operation that last wrote it.
        reason: what the learning model gave as its reason.
        groups: ids of the tasks whose groups it was drawn from, over its whole life.
        rollouts: the attempts shown to the learning model, each `task_id#index`.
        parents: ids of the experiences it was modified or merged from, over its whole life.
        origins: the lessons of other libraries that it was before those were joined; see `merge.merge`.
    """

    run: str = ""
    step: int = 0
    operation: str = "Add"
    reason: str = ""
    groups: tuple[str, ...] = ()
    rollouts: tuple[str, ...] = ()
    parents: tuple[str, ...] = ()
    origins: tuple[Origin, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "run": self.run,
            "step": self.step,
            "operation": self.operation,
            "reason": self.reason,
            "groups": list(self.groups),
            "rollouts": list(self.rollouts),
            "parents": list(self.parents),
            # Left out where there are none: libraries from before there were any stay the same bytes.
            **({"origins": [_origin_json(origin) for origin in self.origins]} if self.origins else {}),
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Provenance:
        return cls(
            run=str(value.get("run", "")),
            step=int(value.get("step", 0)),
            operation=str(value.get("operation", "Add")),
            reason=str(value.get("reason", "")),
            groups=tuple(value.get("groups", ())),
            rollouts=tuple(value.get("rollouts", ())),
            parents=tuple(value.get("parents", ())),
            origins=tuple(
                Origin(
                    run=str(origin["run"]),
                    id=str(origin["id"]),
                    effect=Effect(**origin["effect"]) if origin.get("effect") else None,
                )
                for origin in value.get("origins", ())
            ),
        )


def _origin_json(origin: Origin) -> dict[str, Any]:
    effect = {"effect": asdict(origin.effect)} if origin.effect else {}
    return {"run": origin.run, "id": origin.id, **effect}


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """What an experience does to the reward of an attempt that sees it, against one that does not.

    Attributes:
        mean: the difference in reward.
        low, high: its 95% interval, over tasks.
        shrunk: `mean` drawn towards zero by what the effects of a library scatter by chance alone.
        tasks: how many tasks had attempts with and without it.
        rollouts: the scored attempts of those tasks.
    """

    mean: float
    low: float
    high: float
    shrunk: float
    tasks: int
    rollouts: int

    def __str__(self) -> str:
        return f"{self.mean:+.3f} [{self.low:+.3f}, {self.high:+.3f}] over {many(self.tasks, 'task')}"

    @property
    def hurts(self) -> bool:
        """Whether the evidence says that attempts are worse with it."""
        return self.high < 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Experience:
    """One lesson of the library.

    Attributes:
        id: `G` and a number; never given to another experience of the same library, not even after a Delete.
        name: a few words; may be empty for an imported one.
        text: the lesson, one sentence with its condition ("When ..., ...").
        provenance: where it came from.
        effect: what it was measured to do; `None` if that is not known. New words have a new effect.
    """

    id: str
    name: str = ""
    text: str
    provenance: Provenance = field(default_factory=Provenance)
    effect: Effect | None = None

    @property
    def line(self) -> str:
        """The lesson as it stands in a prompt: name and text in one line."""
        return f"{self.name}: {self.text}" if self.name else self.text

    @property
    def key(self) -> str:
        """Names the lesson as it reads: another one once it is reworded."""
        return f"{self.id}/{content_hash(self.line)[:8]}"

    @property
    def support(self) -> int:
        """From how many groups it was drawn."""
        return len(self.provenance.groups)

    @property
    def worth(self) -> tuple[float, int]:
        """What is kept longest where there is no room for all: its effect, 0 if not measured, then its support."""
        return (self.effect.shrunk if self.effect else 0.0, self.support)


# Chinese and Japanese put no space between words; each of their characters is taken as one.
_UNSPACED = "\u3005-\u3007\u3041-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W_{_UNSPACED}]+(?:['_][^\W_{_UNSPACED}]+)*")


def one_line(text: str) -> str:
    """What a model wrote, in one line, with nothing in it that a reader cannot see."""
    return " ".join(_UNSEEN.sub(" ", text).split())


def readable(text: str) -> str:
    """What somebody else wrote, line by line, with nothing in it that a reader cannot see or a file cannot hold."""
    whole = text.encode("utf-8", "replace").decode("utf-8")  # half of a character, as JSON may hold
    return "\n".join(_UNSEEN.sub(" ", line).rstrip() for line in whole.splitlines()).strip()


def words(text: str) -> list[str]:
    """The words of a text in lower case, for comparing lessons."""
    return _WORD.findall(text.casefold())


def count_words(text: str) -> int:
    """How many words a text has; two characters of Chinese or Japanese count as one word."""
    found = words(text)
    unspaced = sum(re.match(f"[{_UNSPACED}]", word) is not None for word in found)
    return len(found) - unspaced + -(-unspaced // 2)


def similarity(one: str, other: str) -> float:
    """How alike two lessons are in their words, see `overlap`."""
    return overlap(set(words(one)), set(words(other)))


def overlap(one: Set[str], other: Set[str]) -> float:
    """How many words two sets share over all that they have (Jaccard), 0.0 to 1.0; two empty ones are alike."""
    shared = len(one & other)
    every = len(one) + len(other) - shared
    return shared / every if every else 1.0
