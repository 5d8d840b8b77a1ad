"""Tips: lessons that the learning model writes with no rollouts, as an arm to hold a learned library against.

It sees the agent's instructions and a few practice questions; no answers, no attempts, no rewards. What it writes is
guarded and bounded as lessons are.
Source: arXiv 2510.08191, the ablation in which experiences are written without rollouts.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from tokenprior.advantage import LeakGuard, parse_lessons
from tokenprior.ask import ask
from tokenprior.config import LearnConfig
from tokenprior.contrast import guarded
from tokenprior.errors import ModelError
from tokenprior.experience import Provenance
from tokenprior.library import Library
from tokenprior.models.base import CallKey, Model, Request
from tokenprior.operation import Add
from tokenprior.prompts import tips as tips_prompt
from tokenprior.task import Task

QUESTIONS = 8


async def tips(
    tasks: Sequence[Task],
    *,
    instructions: str,
    count: int,
    model: Model,
    config: LearnConfig,
    guard: LeakGuard,
) -> Library:
    """Lessons with no rollouts. A reply that cannot be used brings fewer of them, or none.

    Args:
        tasks: the practice tasks; the questions of `QUESTIONS` of them are shown, drawn by `config.seed`.
        instructions: what the agent is told.
        count: how many lessons to ask for; with 0 nothing is called.
        guard: refuses lessons that give away an answer or quote a question.

    Raises:
        ModelError: no call came through: an outage is not a library.
        BudgetReached: as `Model.answer` does.
    """
    if count == 0:
        return Library()
    chosen = random.Random(config.seed).sample(list(tasks), min(QUESTIONS, len(tasks)))
    request = Request(
        key=CallKey(phase="tips"),
        messages=tips_prompt.messages(
            instructions,
            [task.question for task in chosen],
            limit=config.attempt_chars // 4,
            count=count,
            words=config.library.max_words,
        ),
        temperature=config.learning_temperature,
        max_tokens=config.learning_max_tokens,
        seed=config.seed,
        schema=tips_prompt.schema(count),
        timeout_s=config.learning_timeout_s,
    )
    asked = await ask(model, request, lambda text: parse_lessons(text, limit=count))
    if not asked.usage.calls:
        raise ModelError(
            f"no call for the tips arm came through ({asked.drops[0].reason}): put the endpoint right, and the same "
            "command goes on"
        )
    lessons, _ = asked.value or ([], [])
    kept, _ = guarded(lessons, guard, config)
    adds = [Add(name=lesson.name, text=lesson.text) for lesson in kept]
    made = Library().apply(adds, bounds=config.library.bounds).library
    written = Provenance(operation="Tips", reason="written without rollouts")
    return Library(experiences=tuple(replace(e, provenance=written) for e in made))
