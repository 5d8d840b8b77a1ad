"""The question of the tips: which lessons does the learning model write when it has seen no attempt and no answer?

What a library is worth beyond them is what the attempts have taught.
Source: arXiv 2510.08191, the ablation in which experiences are written without rollouts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tokenprior.operation import NAME_FORM
from tokenprior.prompts import shown
from tokenprior.rollout import Message

SYSTEM = f"You write short lessons for an agent before it begins its work. {shown.DATA_RULE}"

_ASK = """What should the agent mind with tasks of this kind? Write {count}.
- One sentence of at most {words} words: "When <kind of task or situation>, <what to do>."
- It must help with other tasks of this kind. Name no person, number, object or answer of the tasks above.
- Say what to do, not what to avoid, and say nothing twice.
Reply with JSON only:
{{"lessons": [{{"name": "{form}", "lesson": "When ..., ..."}}]}}"""


def messages(instructions: str, questions: Sequence[str], *, limit: int, count: int, words: int) -> tuple[Message, ...]:
    """The prompt.

    Args:
        instructions: what the agent is told; may be empty.
        questions: a few tasks of the kind, without their answers.
        limit: the most characters of each of them.
        count: how many lessons to ask for.
        words: the longest lesson.
    """
    parts = [f"The agent is told:\n{shown.fenced(instructions, limit * 4)}"] if instructions else []
    parts += [f"Task {number}:\n{shown.fenced(text, limit)}" for number, text in enumerate(questions, start=1)]
    asked = "one lesson" if count == 1 else f"{count} lessons"
    parts.append(_ASK.format(count=asked, words=words, form=NAME_FORM))
    return (Message(role="system", content=SYSTEM), Message(role="user", content="\n\n".join(parts)))


def schema(count: int) -> dict[str, Any]:
    """JSON Schema of the reply, for endpoints that can be held to one."""
    lesson = {
        "type": "object",
        "properties": {"name": {"type": "string"}, "lesson": {"type": "string"}},
        "required": ["name", "lesson"],
        "additionalProperties": False,
    }
    return {
        "type": "object",
        "properties": {"lessons": {"type": "array", "items": lesson, "maxItems": count}},
        "required": ["lessons"],
        "additionalProperties": False,
    }
