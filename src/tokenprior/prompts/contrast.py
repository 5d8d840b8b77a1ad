"""The question of the contrast: why did some attempts of a group do better than others?

Four wordings, one for each kind of group. A small learning model answers a narrow question far better than a broad one
(METHOD section 4), so the all-fail wording asks only what was read, what was wanted, and how the two differ.

The library, which all contrasts of a step share, is in the system message, so that a server can take it from its cache.
The rules stay at the end: from the system message Qwen2.5-Coder-1.5B did not mind them, and 3 of 8 replies repeated the
form "When ..., ..." in place of a lesson (LOG.md, 2026-11-25).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from tokenprior.library import Library
from tokenprior.operation import NAME_FORM
from tokenprior.prompts import shown
from tokenprior.reward import Reward
from tokenprior.rollout import Message, Rollout
from tokenprior.task import Task

Question = Literal["mixed", "all_fail", "all_success", "no_ground_truth"]

SYSTEM = f"You study attempts of an agent and write short lessons that make its next attempts better. {shown.DATA_RULE}"

_ASK: dict[Question, str] = {
    "mixed": (
        "Some attempts earned more than others. First say in one sentence what the better attempts did that the worse "
        "ones did not: in procedure, in knowledge, or in the form of the answer."
    ),
    "all_fail": (
        "No attempt was accepted. First say in one sentence how what the checker read differs from the reference "
        "answer: is the content right but the form wrong, or did the procedure go wrong, and at which step?"
    ),
    "all_success": (
        "Every attempt was accepted. First say in one sentence which way of working they share that others might miss."
    ),
    "no_ground_truth": (
        "Nobody has judged these attempts. First say in one sentence where they agree and where they part, and which "
        "of them you trust more, by checking their steps and by counting how many agree."
    ),
}

_RULES = """Then write {limit}.
- One sentence of at most {words} words: "When <kind of task or situation>, <what to do>."
- It must help with other tasks of this kind. Name no person, number, object or answer of this task.
- Say what to do, not what to avoid, and nothing that the agent's lessons say already.
- If there is nothing to learn, send an empty list.
Reply with JSON only:
{{"difference": "...", "lessons": [{{"name": "{form}", "lesson": "When ..., ..."}}]}}"""


def messages(
    task: Task,
    attempts: Sequence[tuple[Rollout, Reward | None, str | None]],
    library: Library,
    question: Question,
    *,
    limit: int,
    lessons: int,
    words: int,
) -> tuple[Message, ...]:
    """The prompt of one contrast.

    Args:
        attempts: each with its reward (`None` without ground truth) and its summary (`None` in the compact way).
        limit: the most characters of one attempt.
        lessons: how many to ask for at most.
        words: the longest lesson.
    """
    parts = [f"The task:\n{shown.fenced(task.question, limit)}"]
    parts += [
        shown.attempt(number, rollout, reward, limit=limit, question=task.question, summary=summary)
        for number, (rollout, reward, summary) in enumerate(attempts, start=1)
    ]
    if question != "no_ground_truth" and (answer := shown.reference(task)):
        parts.append(f"The reference answer:\n{shown.fenced(answer, 1_000)}")
    asked = "one lesson" if lessons == 1 else f"at most {lessons} lessons"
    parts.append(f"{_ASK[question]}\n{_RULES.format(limit=asked, words=words, form=NAME_FORM)}")
    system = f"{SYSTEM}\n\nLessons the agent has already:\n{shown.lessons(library)}"
    return (Message(role="system", content=system), Message(role="user", content="\n\n".join(parts)))


def schema(lessons: int) -> dict[str, Any]:
    """JSON Schema of the reply, for endpoints that can be held to one."""
    lesson = {
        "type": "object",
        "properties": {"name": {"type": "string"}, "lesson": {"type": "string"}},
        "required": ["name", "lesson"],
        "additionalProperties": False,
    }
    return {
        "type": "object",
        "properties": {
            "difference": {"type": "string"},
            "lessons": {"type": "array", "items": lesson, "maxItems": lessons},
        },
        "required": ["difference", "lessons"],
        "additionalProperties": False,
    }
