"""Contrast: a group and the library become a semantic advantage, in the words of the learning model.

Order of events: the attempts worth showing are chosen; unless the way is compact each is summarised, side by side;
one call compares them, with the current library in view; its lessons are parsed and guarded.

Departures from the paper: (1) the compact way shows short attempts as they are, one call in place of G + 1. (2) A
group that failed altogether is contrasted with the reference answer or the verifier's words. (3) A lesson that gives
away an answer, quotes a question, passes on what a tool or a page said, or holds private data is dropped. (4) Several
groups of a batch may be contrasted together, for one rule.
"""

from __future__ import annotations

from collections.abc import Sequence

from tokenprior.advantage import Advantage, InjectionGuard, LeakGuard, Lesson, parse_lessons
from tokenprior.ask import ask
from tokenprior.config import LearnConfig
from tokenprior.experience import count_words
from tokenprior.flow import all_of
from tokenprior.group import Group
from tokenprior.library import Library
from tokenprior.models.base import CallFailed, CallKey, Model, Request
from tokenprior.operation import Drop
from tokenprior.private import masked, refusal
from tokenprior.prompts import contrast as contrast_prompt
from tokenprior.prompts import joint as joint_prompt
from tokenprior.prompts import shown
from tokenprior.prompts import summary as summary_prompt
from tokenprior.reward import Reward
from tokenprior.rollout import Rollout, Usage
from tokenprior.task import Task
from tokenprior.text import shorten


def question_for(group: Group, config: LearnConfig) -> contrast_prompt.Question | None:
    """Which question a group is worth, or `None` if it teaches nothing. The one place that decides it.

    Without ground truth the rewards have no say: attempts that disagree are worth comparing. With it, an all-fail group
    needs something to be compared with: a reference answer, or feedback.
    """
    if not config.ground_truth:
        return "no_ground_truth" if group.distinct_outputs > 1 else None
    kind = group.kind(success_at=config.success_at, threshold=config.contrast_threshold)
    if kind == "unscored" or kind not in config.learn_from:
        return None
    if kind == "all_fail":
        can_compare = bool(shown.reference(group.task)) or any(reward.feedback for _, reward in group.scored)
        return "all_fail" if can_compare else None
    return kind


def bundles(tasks: Sequence[Task], config: LearnConfig) -> list[tuple[Task, ...]]:
    """Which tasks of a step have their groups contrasted together: each alone, or so many in the order of the step.

    Without ground truth nothing is known that several tasks could share, so each stays alone.
    """
    size = config.groups_per_contrast if config.ground_truth else 1
    kinds: dict[str, list[Task]] = {}
    for task in tasks:
        kinds.setdefault(shown.reference(task) if config.alike and size > 1 else "", []).append(task)
    return [tuple(kind[at : at + size]) for kind in kinds.values() for at in range(0, len(kind), size)]


async def contrast(
    groups: Sequence[Group],
    library: Library,
    *,
    model: Model,
    config: LearnConfig,
    guard: LeakGuard,
    step: int = 0,
) -> list[Advantage]:
    """What one group teaches, or several together; nothing if there is nothing to ask, and then no call is made.

    Groups that `question_for` finds nothing to ask about are left out. Those with a wanted reply are contrasted
    together, if there are several; every other one on its own.

    Raises:
        ModelError, BudgetReached: as `Model.answer` does.
    """
    worth = [group for group in groups if question_for(group, config) is not None]
    examples = [(group, wanted) for group in worth if (wanted := _wanted(group, config))]
    if len(examples) < 2:
        examples = []
    together = [group for group, _ in examples]
    made = [_contrast_alone(group, library, model, config, guard, step) for group in worth if group not in together]
    if examples:
        made.append(_contrast_together(examples, library, model, config, guard, step))
    return await all_of(made)


def _wanted(group: Group, config: LearnConfig) -> str:
    """What the checker accepts: the reference answer, else the output of the best attempt of a mixed group."""
    if not config.ground_truth:
        return ""
    if answer := shown.reference(group.task):
        return answer
    best = max(group.scored, key=lambda pair: pair[1].value or 0.0)
    return best[0].output if group.has_contrast(config.contrast_threshold) else ""


async def _contrast_together(
    examples: Sequence[tuple[Group, str]],
    library: Library,
    model: Model,
    config: LearnConfig,
    guard: LeakGuard,
    step: int,
) -> Advantage:
    groups = [group for group, _ in examples]
    request = Request(
        key=CallKey(phase="contrast", step=step, task=groups[0].task.id),
        messages=joint_prompt.messages(
            [(group.task.question, wanted) for group, wanted in examples],
            library,
            limit=config.attempt_chars // 4,
            words=config.library.max_words,
        ),
        temperature=config.learning_temperature,
        max_tokens=config.learning_max_tokens,
        seed=config.seed,
        timeout_s=config.learning_timeout_s,
    )
    asked = await ask(model, request, joint_prompt.parse_sentence)
    lessons, unparsed = asked.value or ([], [])
    injected = InjectionGuard(
        (rollout for group in groups for rollout, _ in group.scored), instructed=joint_prompt.SYSTEM
    )
    kept, refused = guarded(lessons, guard, config, injected)
    return Advantage(
        groups=tuple(group.task.id for group in groups),
        rollouts=tuple(f"{rollout.task_id}#{rollout.index}" for group in groups for rollout, _ in group.scored),
        lessons=tuple(kept),
        drops=(*asked.drops, *unparsed, *refused),
        usage=asked.usage,
    )


async def _contrast_alone(
    group: Group,
    library: Library,
    model: Model,
    config: LearnConfig,
    guard: LeakGuard,
    step: int,
) -> Advantage:
    """A failed summary costs that attempt's place in the comparison, a failed comparison this group's lessons: both
    are drops of the advantage."""
    question = question_for(group, config)
    assert question is not None, "only groups with a question get here"
    pairs = _worth_showing(group, config)
    drops: list[Drop] = []
    usage = Usage()
    summaries: list[str | None] = [None] * len(pairs)
    if not _is_compact(group.task, pairs, config):
        summaries, drops, usage = await _summarise(group, pairs, model, config, step)
        pairs = [pair for pair, summary in zip(pairs, summaries, strict=True) if summary is not None]
        summaries = [summary for summary in summaries if summary is not None]
    rollouts = tuple(f"{rollout.task_id}#{rollout.index}" for rollout, _ in pairs)
    kept_summaries = tuple(summary for summary in summaries if summary is not None)
    if not pairs:
        return Advantage(groups=(group.task.id,), drops=tuple(drops), usage=usage)
    request = Request(
        key=CallKey(phase="contrast", step=step, task=group.task.id),
        messages=contrast_prompt.messages(
            group.task,
            [(rollout, reward, summary) for (rollout, reward), summary in zip(pairs, summaries, strict=True)],
            library,
            question,
            limit=config.attempt_chars,
            lessons=config.lessons_per_group,
            words=config.library.max_words,
        ),
        temperature=config.learning_temperature,
        max_tokens=config.learning_max_tokens,
        seed=config.seed,
        schema=contrast_prompt.schema(config.lessons_per_group),
        timeout_s=config.learning_timeout_s,
    )
    asked = await ask(model, request, lambda text: parse_lessons(text, limit=config.lessons_per_group))
    lessons, unparsed = asked.value or ([], [])
    injected = InjectionGuard((rollout for rollout, _ in pairs), instructed=contrast_prompt.SYSTEM)
    kept, refused = guarded(lessons, guard, config, injected)
    return Advantage(
        groups=(group.task.id,),
        rollouts=rollouts,
        summaries=kept_summaries,
        lessons=tuple(kept),
        drops=(*drops, *asked.drops, *unparsed, *refused),
        usage=usage + asked.usage,
    )


def guarded(
    lessons: list[Lesson], guard: LeakGuard, config: LearnConfig, injected: InjectionGuard | None = None
) -> tuple[list[Lesson], list[Drop]]:
    """The lessons that may be kept, and the others with the reason. What leaks, was injected or is private is not
    repeated in its drop.

    Args:
        injected: knows the attempts that were shown; where none were, orders and addresses are refused all the same.
    """
    injected = injected or InjectionGuard()
    max_words = config.library.max_words
    kept: list[Lesson] = []
    drops: list[Drop] = []
    for lesson in lessons:
        count = count_words(lesson.text)
        words = f"{lesson.name}. {lesson.text}"
        if problem := guard.problem(words) or injected.problem(words) or refusal(words, config.private):
            drops.append(Drop(what="(withheld)", reason=problem))
        elif count > 2 * max_words:
            # Up to twice the limit the update may still shorten it.
            reason = f"{count} words, at most {max_words} are allowed"
            drops.append(Drop(what=shorten(masked(lesson.text)), reason=reason))
        elif config.private == "mask":
            kept.append(Lesson(name=masked(lesson.name), text=masked(lesson.text)))
        else:
            kept.append(lesson)
    return kept, drops


def _worth_showing(group: Group, config: LearnConfig) -> list[tuple[Rollout, Reward | None]]:
    if config.ground_truth:
        return list(group.scored)
    return [(rollout, None) for rollout in group.rollouts if rollout.failure is None]


def _is_compact(task: Task, pairs: list[tuple[Rollout, Reward | None]], config: LearnConfig) -> bool:
    if config.compact is not None:
        return config.compact
    limit = config.attempt_chars
    return max(shown.length(rollout, task.question, limit) for rollout, _ in pairs) <= limit


async def _summarise(
    group: Group, pairs: list[tuple[Rollout, Reward | None]], model: Model, config: LearnConfig, step: int
) -> tuple[list[str | None], list[Drop], Usage]:
    async def one(rollout: Rollout, reward: Reward | None) -> tuple[str | None, Drop | None, Usage]:
        request = Request(
            key=CallKey(phase="summary", step=step, task=group.task.id, rollout=rollout.index),
            messages=summary_prompt.messages(group.task, rollout, reward, limit=config.attempt_chars),
            temperature=config.learning_temperature,
            max_tokens=config.learning_max_tokens,
            seed=config.seed,
            timeout_s=config.learning_timeout_s,
        )
        try:
            reply = await model.answer(request)
        except CallFailed as failed:
            return None, Drop(what=f"summary of attempt {rollout.index}", reason=f"{failed.kind}"), Usage()
        if not reply.text.strip():
            return None, Drop(what=f"summary of attempt {rollout.index}", reason="the reply is empty"), reply.usage
        return reply.text.strip(), None, reply.usage

    made = await all_of(one(rollout, reward) for rollout, reward in pairs)
    usage = Usage()
    for _, _, used in made:
        usage += used
    return [summary for summary, _, _ in made], [drop for _, drop, _ in made if drop], usage
