"""Fenced: tool calls as fenced blocks in the text, for models that were never taught to call tools.

A 1.5B model that writes `<tools>` where a call was wanted writes a good block of Python when asked for one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from tokenprior.rollout import Message, ToolCall
from tokenprior.tools.base import ToolResult, ToolSpec

STOP = ("```output",)  # where a model begins to make up what the tool would say


def explained(specs: Sequence[ToolSpec]) -> str:
    """What a system prompt says of the tools, to stand in one paragraph with the instructions.

    Nine wordings were tried on the 1.5B model: in a paragraph of their own, or as a list, none made it call anything.
    """
    return " ".join(
        f"To call {spec.name}, write a ```{spec.name} block with {_holds(spec)}; what it gives comes back to you. "
        f"{spec.description}"
        for spec in specs
    )


def called(text: str, specs: Sequence[ToolSpec], turn: int) -> tuple[str, ToolCall] | None:
    """The text up to the end of its first call, and the call; `None` if there is none."""
    names = "|".join(re.escape(spec.name) for spec in specs)
    found = re.search(rf"^```(?P<name>{names})[ \t]*\n(?P<body>.*?)(?:\n?^```|\Z)", text, re.DOTALL | re.MULTILINE)
    if not found:
        return None
    spec = next(spec for spec in specs if spec.name == found["name"])
    only = _only(spec)
    arguments = json.dumps({only: found["body"]}, ensure_ascii=False) if only else found["body"]
    until = text[: found.end()]
    closed = until if until.endswith("```") else f"{until.rstrip()}\n```"
    return closed, ToolCall(id=f"call_{turn}_0", name=spec.name, arguments=arguments)


def told(name: str, result: ToolResult) -> Message:
    """A result as the next message of the conversation."""
    head = f"{name} failed:" if result.failed else f"Output of {name}:"
    return Message(role="user", content=f"{head}\n```\n{result.text}\n```")


def _only(spec: ToolSpec) -> str | None:
    """The one argument that has to be there, if it is a text: a block is then just that."""
    wanted = spec.parameters.get("required", [])
    types = spec.parameters.get("properties", {})
    return str(wanted[0]) if len(wanted) == 1 and types.get(wanted[0], {}).get("type") == "string" else None


def _holds(spec: ToolSpec) -> str:
    only = _only(spec)
    return f"the {only}" if only else f"JSON that fits {json.dumps(spec.parameters, ensure_ascii=False)}"
