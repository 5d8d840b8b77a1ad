"""The question of the update: which operations make the library better, given the lessons of a whole batch?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tokenprior.advantage import Lesson
from tokenprior.library import Library
from tokenprior.prompts import shown
from tokenprior.rollout import Message

SYSTEM = f"You keep a short library of lessons for an agent. {shown.DATA_RULE}"

_ASK = """Decide what to do with every new lesson. Operations:
- Add: a lesson the library lacks. {{"op": "Add", "name": "...", "text": "When ..., ...", "lessons": [1], "reason": "..."}}
- Modify: better words for one entry. {{"op": "Modify", "id": "G0", "name": "...", "text": "...", "lessons": [2], "reason": "..."}}
- Merge: one entry in place of several. {{"op": "Merge", "ids": ["G0", "G1"], "name": "...", "text": "...", "lessons": [], "reason": "..."}}
- Delete: an entry that is wrong, useless or said elsewhere. {{"op": "Delete", "id": "G0", "reason": "..."}}
- Keep: the library says it already. {{"op": "Keep", "id": "G0", "lessons": [3], "reason": "..."}}
Rules: several lessons that say the same become one Add that names all their numbers. A text is one sentence of at most {words} words,
"When <condition>, <what to do>.", true for many tasks; drop what concerns one task only. Name no answer. At most {entries} entries in the library.
Reply with a JSON list of operations only."""  # noqa: E501  # a model reads these lines, not a person


def messages(
    library: Library, lessons: Sequence[tuple[int, Lesson]], *, words: int, entries: int
) -> tuple[Message, ...]:
    """The prompt of one update.

    Args:
        lessons: the lessons of the batch, each with its number.
        words: the longest text.
        entries: the most experiences that the library may hold.
    """
    listed = "\n".join(f"{number}. {lesson.line}" for number, lesson in lessons)
    parts = [
        f"The library:\n{shown.lessons(library)}",
        f"New lessons:\n{shown.fenced(listed, 100_000)}",
        _ASK.format(words=words, entries=entries),
    ]
    return (Message(role="system", content=SYSTEM), Message(role="user", content="\n\n".join(parts)))


def schema() -> dict[str, Any]:
    """JSON Schema of the reply, for endpoints that can be held to one."""
    text = {"type": "string"}
    operation = {
        "type": "object",
        "properties": {
            "op": {"enum": ["Add", "Modify", "Merge", "Delete", "Keep"]},
            "ids": {"type": "array", "items": text},
            "name": text,
            "text": text,
            "lessons": {"type": "array", "items": {"type": "integer"}},
            "reason": text,
        },
        "required": ["op", "ids", "name", "text", "lessons", "reason"],
        "additionalProperties": False,
    }
    return {
        "type": "object",
        "properties": {"operations": {"type": "array", "items": operation}},
        "required": ["operations"],
        "additionalProperties": False,
    }
