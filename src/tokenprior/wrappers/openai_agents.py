"""The OpenAI Agents SDK: an agent becomes a clone whose instructions are a function that puts the prior at their end.

Agents that it hands over to get the prior too, as in learning: those of its list, and what a `Handoff` gives when it
is invoked. The given agents stay as they are; the clones share their tools.

What is not covered: an agent that is a tool of this one (`as_tool`), which runs on its own: wrap it before it becomes
a tool. To have the prior in all calls of all agents, wrap the client instead: `set_default_openai_client(wrap(client,
...))`.
"""

from __future__ import annotations

import copy
import inspect
from typing import Any

from tokenprior.wrappers.base import Learned

Known = dict[int, tuple[Any, Any]]  # by id: an agent, kept alive so that its id stays its own, and its clone


def wrap(agent: Any, learned: Learned) -> Any:
    """A clone with the prior in its instructions."""
    return _clone(agent, learned, {})


def _clone(agent: Any, learned: Learned, known: Known) -> Any:
    if id(agent) in known:  # agents may hand over to each other
        return known[id(agent)][1]
    made = agent.clone(instructions=_instructions(agent.instructions, learned), handoffs=[])
    known[id(agent)] = agent, made
    made.handoffs = [
        _handoff(one, learned, known) if hasattr(one, "on_invoke_handoff") else _clone(one, learned, known)
        for one in agent.handoffs
    ]
    return made


def _instructions(given: Any, learned: Learned) -> Any:
    async def instructions(context: Any, agent: Any) -> str | None:
        text = given(context, agent) if callable(given) else given
        if inspect.isawaitable(text):
            text = await text
        asked = {"instructions": text or "", "input": context.turn_input}
        found: str = learned.conditioned("responses", asked)["instructions"]
        return found or text

    return instructions


def _handoff(handoff: Any, learned: Learned, known: Known) -> Any:
    async def invoke(context: Any, arguments: str) -> Any:
        # Whatever it gives may be made for this one call, and is not to be kept.
        return _clone(await handoff.on_invoke_handoff(context, arguments), learned, dict(known))

    made = copy.copy(handoff)
    made.on_invoke_handoff = invoke
    return made
