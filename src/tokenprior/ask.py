"""Ask: put a question to the learning model until its reply can be used, but not for ever.

No reply ends a run. A reply that cannot be read is answered with what was wrong, and asked for again; what stays
unreadable is a drop with its reason.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from tokenprior.models.base import CallFailed, Model, Request
from tokenprior.operation import Drop
from tokenprior.reply import Malformed
from tokenprior.rollout import Message, Usage
from tokenprior.text import shorten

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked(Generic[T]):
    """What asking brought.

    Attributes:
        value: what was parsed of the first usable reply, or `None`.
        drops: one for every reply that could not be used.
        usage: of all replies.
    """

    value: T | None
    drops: tuple[Drop, ...]
    usage: Usage


async def ask(model: Model, request: Request, parse: Callable[[str], T], *, turns: int = 2) -> Asked[T]:
    """Ask a model, and once more if its reply cannot be parsed.

    Args:
        parse: raises `Malformed` with words that help the model to mend its reply.
        turns: the most replies to ask for.

    Raises:
        ModelError, BudgetReached: as `Model.answer` does. A failed call is a drop.
    """
    drops: list[Drop] = []
    usage = Usage()
    messages = request.messages
    for turn in range(turns):
        try:
            reply = await model.answer(replace(request, key=replace(request.key, turn=turn), messages=messages))
        except CallFailed as failed:
            drops.append(Drop(what=f"{request.key.phase} call", reason=f"{failed.kind}: {shorten(failed.detail)}"))
            break
        usage += reply.usage
        try:
            return Asked(value=parse(reply.text), drops=tuple(drops), usage=usage)
        except Malformed as problem:
            drops.append(Drop(what=shorten(reply.text) or "(empty reply)", reason=str(problem)))
            # A long spoiled reply would fill a small context window; its beginning shows the model what it did.
            said = reply.text[:2_000] or "(nothing)"
            again = f"That reply cannot be used: {problem}. Send the JSON alone, nothing before or after it."
            messages = (
                *request.messages,
                Message(role="assistant", content=said),
                Message(role="user", content=again),
            )
    return Asked(value=None, drops=tuple(drops), usage=usage)
