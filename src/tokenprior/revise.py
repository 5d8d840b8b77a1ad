"""Revise: the library and the lessons of a batch become operations, in the words of the learning model.

A bad reply must not cost a batch: where no reply can be used, or parts of one cannot, the lessons that no usable
operation takes up are added by code, each as it stands.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from tokenprior.advantage import Advantage, InjectionGuard, LeakGuard, Lesson, number_lessons
from tokenprior.ask import ask
from tokenprior.config import LearnConfig
from tokenprior.experience import similarity
from tokenprior.library import Applied, Library, Refused, Source
from tokenprior.models.base import CallKey, Model, Request
from tokenprior.operation import Add, Delete, Drop, Merge, Modify, Operation, parse_operations
from tokenprior.private import PrivatePolicy, masked, refusal
from tokenprior.prompts import revise as revise_prompt
from tokenprior.rollout import Usage

NEAR = 0.2  # shared words from which an operation without lesson numbers is taken to rest on a lesson


@dataclass(frozen=True, slots=True, kw_only=True)
class Revision:
    """What became of the lessons of a batch.

    Attributes:
        applied: the candidate library, with what was done and what refused.
        drops: what of the replies could not be used, and lessons that the learning model took up nowhere.
        usage: of the update calls.
    """

    applied: Applied
    drops: tuple[Drop, ...] = ()
    usage: Usage = field(default_factory=Usage)


async def revise(
    library: Library,
    advantages: Sequence[Advantage],
    *,
    model: Model,
    config: LearnConfig,
    guard: LeakGuard,
    run: str = "",
    step: int = 0,
) -> Revision:
    """Update a library with the advantages of a batch. Without lessons nothing is called and nothing changes.

    Raises:
        ModelError, BudgetReached: as `Model.answer` does.
    """
    numbered = number_lessons(advantages)
    sources = {number: Source(groups=a.groups, rollouts=a.rollouts) for number, a, _ in numbered}
    size = config.lessons_per_update or max(1, len(numbered))
    revision = Revision(applied=Applied(library=library, done=(), refused=()))
    for turn, start in enumerate(range(0, len(numbered), size)):
        lessons = [(number, lesson) for number, _, lesson in numbered[start : start + size]]
        current = revision.applied.library
        operations, drops, usage = await _ask(current, lessons, model, config, step, turn)
        allowed, leaks = _without_leaks(operations, guard, config.private)
        applied = current.apply(allowed, bounds=config.library.bounds, run=run, step=step, sources=sources)
        spoiled = bool(drops or leaks or applied.refused)
        left = _left_over(lessons, applied.done)
        if spoiled and left:
            adds = [
                Add(name=lesson.name, text=lesson.text, lessons=(number,), reason="no usable operation took it up")
                for number, lesson in left
            ]
            added = applied.library.apply(adds, bounds=config.library.bounds, run=run, step=step, sources=sources)
            applied = Applied(
                library=added.library,
                done=(*applied.done, *added.done),
                refused=(*applied.refused, *added.refused),
            )
        elif left:
            drops = [*drops, *(Drop(what=lesson.text, reason="the update left it out") for _, lesson in left)]
        revision = Revision(
            applied=Applied(
                library=applied.library,
                done=(*revision.applied.done, *applied.done),
                refused=(*revision.applied.refused, *applied.refused, *leaks),
            ),
            drops=(*revision.drops, *drops),
            usage=revision.usage + usage,
        )
    return revision


async def _ask(
    library: Library,
    lessons: Sequence[tuple[int, Lesson]],
    model: Model,
    config: LearnConfig,
    step: int,
    turn: int,
) -> tuple[list[Operation], list[Drop], Usage]:
    request = Request(
        key=CallKey(phase="revise", step=step, rollout=turn),
        messages=revise_prompt.messages(
            library, lessons, words=config.library.max_words, entries=config.library.max_experiences
        ),
        temperature=config.learning_temperature,
        max_tokens=config.learning_max_tokens,
        seed=config.seed,
        schema=revise_prompt.schema(),
        timeout_s=config.learning_timeout_s,
    )
    asked = await ask(model, request, parse_operations)
    operations, unparsed = asked.value or ([], [])
    drops = [*asked.drops, *unparsed] if asked.value is None or unparsed else []
    return _attributed(operations, lessons), drops, asked.usage


def _attributed(operations: Sequence[Operation], lessons: Sequence[tuple[int, Lesson]]) -> list[Operation]:
    """Give operations that name no lesson of this batch the one they most likely rest on.

    An Add that resembles none keeps none: a model that invents a lesson gets it refused by `Library.apply`'s caller.
    """
    known = {number for number, _ in lessons}
    made: list[Operation] = []
    for operation in operations:
        if isinstance(operation, Delete):
            made.append(operation)
            continue
        cited = tuple(number for number in operation.lessons if number in known)
        if not cited and isinstance(operation, Add | Modify | Merge):
            closeness = [(similarity(lesson.text, operation.text), -number) for number, lesson in lessons]
            best, number = max(closeness, default=(0.0, 0))
            cited = (-number,) if best >= NEAR else ()
        made.append(replace(operation, lessons=cited))
    return made


def _without_leaks(
    operations: Sequence[Operation], guard: LeakGuard, private: PrivatePolicy
) -> tuple[list[Operation], list[Refused]]:
    """Operations whose words may be kept. A refused one loses its words, so that the leak is stored nowhere."""
    allowed: list[Operation] = []
    refused: list[Refused] = []
    injected = InjectionGuard(instructed=revise_prompt.SYSTEM)

    def problem_of(words: str) -> str | None:
        return guard.problem(words) or injected.problem(words) or refusal(words, private)

    for operation in operations:
        problem = None
        if problem_of(operation.reason):
            operation = replace(operation, reason="")
        if isinstance(operation, Add | Modify | Merge):
            problem = problem_of(f"{operation.name}. {operation.text}")
            if problem:
                operation = replace(operation, name="", text="(withheld)", reason="")
        if problem is None and isinstance(operation, Add) and not operation.lessons:
            problem = "rests on no lesson of this batch"
        if problem:
            refused.append(Refused(operation=operation, reason=problem))
        else:
            allowed.append(_masked(operation) if private == "mask" else operation)
    return allowed, refused


def _masked(operation: Operation) -> Operation:
    if isinstance(operation, Add | Modify | Merge):
        operation = replace(operation, name=masked(operation.name), text=masked(operation.text))
    return replace(operation, reason=masked(operation.reason))


def _left_over(lessons: Sequence[tuple[int, Lesson]], done: Sequence[Operation]) -> list[tuple[int, Lesson]]:
    """Lessons that no operation carried out takes up."""
    taken = {number for operation in done if not isinstance(operation, Delete) for number in operation.lessons}
    return [(number, lesson) for number, lesson in lessons if number not in taken]
