"""The OpenAI Agents SDK: agents, and those they hand over to."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from openai import AsyncOpenAI

import tokenprior as tp
from many_apis import ManyApis
from tokenprior.library import Library
from tokenprior.placement import conditioned

pytest.importorskip("agents.agent")  # not `agents` alone: a folder of tests would do for that
from agents import (
    Agent,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    RunConfig,
    Runner,
    function_tool,
    handoff,
)

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def opened(server: ManyApis, api: str = "chat") -> AsyncIterator[RunConfig]:
    kind: Any = OpenAIChatCompletionsModel if api == "chat" else OpenAIResponsesModel
    async with AsyncOpenAI(base_url=server.url, api_key="k", max_retries=0) as client:
        yield RunConfig(model=kind(model="m", openai_client=client), tracing_disabled=True)


@function_tool
def look(value: int) -> str:
    """Looks."""
    return "seen"


async def slow_instructions(context: Any, agent: Any) -> str:
    return f"You are {agent.name}."


AGENTS: dict[str, Callable[[], Agent[Any]]] = {
    "text": lambda: Agent(name="a", instructions="You help."),
    "function": lambda: Agent(name="a", instructions=lambda context, agent: f"You are {agent.name}."),
    "async function": lambda: Agent(name="a", instructions=slow_instructions),
    "none": lambda: Agent(name="a"),
    "tool": lambda: Agent(name="a", instructions="You help.", tools=[look]),
    "handoff": lambda: Agent(name="a", instructions="First.", handoffs=[Agent(name="b", instructions="Second.")]),
    "handoff of its own": lambda: Agent(
        name="a", instructions="First.", handoffs=[handoff(Agent(name="b", instructions="Second."))]
    ),
}


@pytest.mark.parametrize("api", ["chat", "responses"])
@pytest.mark.parametrize("make", [pytest.param(make, id=name) for name, make in AGENTS.items()])
async def test_an_agent_sends_the_prior_and_else_what_it_sent_before(
    make: Callable[[], Agent[Any]], api: Any, server: ManyApis, library: Library
) -> None:
    agent = make()
    wrapped = tp.wrap(agent, library)
    async with opened(server, api) as config:
        plain = await Runner.run(agent, "What of dogs?", run_config=config)
        ended = await Runner.run(wrapped, "What of dogs?", run_config=config)
    assert (ended.final_output, ended.last_agent.name) == (plain.final_output, plain.last_agent.name)
    half = len(server.bodies) // 2
    assert half == (2 if api == "chat" and (agent.tools or agent.handoffs) else 1)
    prior = tp.TokenPrior.of(library)
    assert server.bodies[half:] == [conditioned(api, body, prior) for body in server.bodies[:half]]


async def test_a_streamed_run_does_the_same(server: ManyApis, library: Library) -> None:
    agent = Agent(name="a", instructions="You help.")
    async with opened(server) as config:
        for one in (agent, tp.wrap(agent, library)):
            ended = Runner.run_streamed(one, "What of dogs?", run_config=config)
            assert [event.type async for event in ended.stream_events()]
    bare, sent = server.bodies
    assert sent == conditioned("chat", bare, tp.TokenPrior.of(library))


def test_agents_that_hand_over_to_each_other_are_cloned_once_and_the_given_ones_left_alone(library: Library) -> None:
    first = Agent(name="a", instructions="First.", handoffs=[])
    second = Agent(name="b", instructions="Second.", handoffs=[first])
    first.handoffs.append(second)
    made = tp.wrap(first, library)
    (other,) = made.handoffs
    assert isinstance(other, Agent)
    assert other.handoffs == [made]
    assert made is not first
    assert other is not second
    assert (first.instructions, first.handoffs, second.handoffs) == ("First.", [second], [first])


async def test_twice_is_once_and_lessons_are_chosen_for_what_the_user_asks(server: ManyApis, library: Library) -> None:
    agent = Agent(name="a", instructions="You help.", tools=[look])
    async with opened(server) as config:
        await Runner.run(tp.wrap(tp.wrap(agent, library), library), "What of dogs?", run_config=config)
        chosen = tp.wrap(agent, library, rendering=tp.Rendering(relevant=1))
        await Runner.run(chosen, "What of dogs?", run_config=config)
    systems = [body["messages"][0]["content"] for body in server.bodies]
    assert systems[:2] == [f"You help.\n\n{tp.TokenPrior.of(library).text}"] * 2
    assert {system.partition("\n\n")[2] for system in systems[2:]} == {
        tp.TokenPrior.of(library.only(["G0"])).text  # the turn after the tool's, too
    }
