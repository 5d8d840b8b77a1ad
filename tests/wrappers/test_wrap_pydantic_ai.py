"""pydantic-ai: models and agents, however they are run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from openai import AsyncOpenAI
from pydantic import BaseModel
from pydantic_ai import Agent
from pydantic_ai.direct import model_request
from pydantic_ai.messages import ModelRequest, SystemPromptPart, UserPromptPart
from pydantic_ai.models.function import FunctionModel
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.models.test import TestModel
from pydantic_ai.models.wrapper import WrapperModel
from pydantic_ai.providers.openai import OpenAIProvider

import tokenprior as tp
from many_apis import ManyApis
from tokenprior.library import Library
from tokenprior.placement import conditioned

pytestmark = pytest.mark.anyio


class Value(BaseModel):
    value: int


@asynccontextmanager
async def opened(server: ManyApis) -> AsyncIterator[OpenAIChatModel]:
    async with AsyncOpenAI(base_url=server.url, api_key="k", max_retries=0) as client:
        yield OpenAIChatModel("m", provider=OpenAIProvider(openai_client=client))


def with_tool() -> Agent[None, str]:
    agent = Agent(instructions="You help.")

    @agent.tool_plain
    def look(value: int) -> str:
        return "seen"

    return agent


def with_dynamic() -> Agent[None, str]:
    agent = Agent(system_prompt="You help.", instructions=["Be nice.", "Be quick."])

    @agent.instructions
    def day() -> str:
        return "It is Monday."

    return agent


async def streamed(agent: Any, model: Any) -> Any:
    async with agent.run_stream("What of dogs?", model=model) as stream:
        return await stream.get_output()


AGENTS: dict[str, Callable[[], Agent[None, Any]]] = {
    "instructions": lambda: Agent(instructions="You help."),
    "parts of instructions": lambda: Agent(instructions=["Be nice.", "Be quick."]),
    "system prompt": lambda: Agent(system_prompt="You help."),
    "both, some dynamic": with_dynamic,
    "neither": Agent,
    "a tool": with_tool,
    "typed output": lambda: Agent(output_type=Value, instructions="You help."),
}


@pytest.mark.parametrize("make", [pytest.param(make, id=name) for name, make in AGENTS.items()])
async def test_an_agent_sends_the_prior_and_else_what_it_sent_before(
    make: Callable[[], Agent[None, Any]], server: ManyApis, library: Library
) -> None:
    agent = make()
    async with opened(server) as model:
        plain = await agent.run("What of dogs?", model=model)
        wrapped = await tp.wrap(agent, library).run("What of dogs?", model=model)
    assert wrapped.output == plain.output
    half = len(server.bodies) // 2
    assert half >= 1
    prior = tp.TokenPrior.of(library)
    assert server.bodies[half:] == [conditioned("chat", body, prior) for body in server.bodies[:half]]


@pytest.mark.parametrize(
    "run",
    [
        streamed,
        lambda agent, model: agent.run("What of dogs?", model=model),
    ],
)
async def test_a_model_does_the_same_whole_or_streamed(
    run: Callable[[Any, Any], Awaitable[Any]], server: ManyApis, library: Library
) -> None:
    agent = Agent(instructions="You help.")
    async with opened(server) as model:
        await run(agent, model)
        await run(agent, tp.wrap(model, library))
        await run(tp.wrap(agent, library), model)
    bare, *sent = server.bodies
    assert sent == [conditioned("chat", bare, tp.TokenPrior.of(library))] * 2


def test_an_agent_runs_in_a_program_that_is_not_async(library: Library) -> None:
    agent = tp.wrap(Agent(TestModel(custom_output_text="fine"), instructions="You help."), library)
    with asyncio.Runner() as runner:
        asyncio.set_event_loop(runner.get_loop())  # or it makes one that nobody closes
        assert agent.run_sync("What of dogs?").output == "fine"


async def test_the_prior_is_in_no_history_and_not_in_the_given_agent(server: ManyApis, library: Library) -> None:
    async with opened(server) as model:
        agent = Agent(model, system_prompt="You help.")
        first = await tp.wrap(agent, library).run("What of dogs?")
        await agent.run("And of cats?", message_history=first.all_messages())
        await tp.wrap(agent, library).run("And of cats?", message_history=first.all_messages())
    _, bare, sent = server.bodies
    assert bare["messages"][0]["content"] == "You help."
    assert sent == conditioned("chat", bare, tp.TokenPrior.of(library))


async def test_a_wrapped_agent_stays_wrapped_as_a_context(server: ManyApis, library: Library) -> None:
    async with opened(server) as model, tp.wrap(Agent(model), library) as agent:
        await agent.run("What of dogs?")
    assert server.bodies[0]["messages"][0] == {"role": "system", "content": tp.TokenPrior.of(library).text}


async def test_a_model_that_comes_with_the_run_or_by_override_has_the_prior(library: Library) -> None:
    seen: list[str] = []

    def say(messages: Any, info: Any) -> Any:
        from pydantic_ai.messages import ModelResponse, TextPart

        seen.append(info.instructions)
        return ModelResponse(parts=[TextPart("fine")])

    agent = tp.wrap(Agent("test", instructions="You help."), library)
    await agent.run("What of dogs?", model=FunctionModel(say))
    with agent.override(model=FunctionModel(say)):
        await agent.run("What of dogs?")
    assert seen == [f"You help.\n\n{tp.TokenPrior.of(library).text}"] * 2


async def test_a_direct_request_has_the_prior(server: ManyApis, library: Library) -> None:
    asked = [
        [ModelRequest(parts=[UserPromptPart("What of dogs?")], instructions="You help.")],
        [ModelRequest(parts=[SystemPromptPart("You help."), UserPromptPart("What of dogs?")])],
        [ModelRequest(parts=[UserPromptPart("What of dogs?")])],
        [ModelRequest(parts=[UserPromptPart("What of dogs?"), SystemPromptPart("Now in short.")])],
    ]
    async with opened(server) as model:
        for messages in asked:
            await model_request(model, messages)
            await model_request(tp.wrap(model, library), messages)
    for bare, sent in zip(server.bodies[::2], server.bodies[1::2], strict=True):
        assert sent == conditioned("chat", bare, tp.TokenPrior.of(library))


async def test_twice_is_once_and_lessons_are_chosen_for_the_last_user_prompt(
    server: ManyApis, library: Library
) -> None:
    async with opened(server) as model:
        model_of_dogs = tp.wrap(model, library, rendering=tp.Rendering(relevant=1))
        assert isinstance(model_of_dogs, WrapperModel)
        await Agent(model_of_dogs, instructions="You help.").run(["What of", "dogs?"])
        twice = tp.wrap(tp.wrap(Agent(tp.wrap(model, library), instructions="You help."), library), library)
        await twice.run("What of dogs?")
    chosen, whole = (body["messages"][0]["content"] for body in server.bodies)
    assert chosen.endswith(":\n[G0] When asked about dogs, be brief.")
    assert whole == f"You help.\n\n{tp.TokenPrior.of(library).text}"
