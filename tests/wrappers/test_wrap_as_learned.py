"""What learns and what ships see the same: a bare agent at the gateway, and the wrapped one at an endpoint."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from openai import AsyncOpenAI

import tokenprior as tp
from many_apis import ManyApis
from tokenprior.agents.gateway import Gateway
from tokenprior.library import Library
from tokenprior.models.base import Reply, Request
from tokenprior.rollout import ToolCall
from tokenprior.task import Task

pytestmark = [
    pytest.mark.anyio,
    # LangChain leaves its clients unclosed; DSPy brings warnings of its dependencies.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

TASK = Task(id="t1", question="What of dogs?")
Dress = Callable[[Any], Any]


def look(value: int) -> str:
    """Looks."""
    return "seen"


async def of_openai(url: str, key: str, dress: Dress) -> None:
    said: Any = [{"role": "system", "content": "You help."}, {"role": "user", "content": TASK.question}]
    async with AsyncOpenAI(base_url=url, api_key=key) as client:
        await dress(client).chat.completions.create(model="m", messages=said, temperature=0.5)


async def of_pydantic_ai(url: str, key: str, dress: Dress) -> None:
    pydantic_ai = pytest.importorskip("pydantic_ai")
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    agent = pydantic_ai.Agent(instructions=["You help.", "Be quick."], tools=[look])
    async with AsyncOpenAI(base_url=url, api_key=key) as client:
        model = OpenAIChatModel("m", provider=OpenAIProvider(openai_client=client))
        await dress(agent).run(TASK.question, model=model)


async def of_openai_agents(url: str, key: str, dress: Dress) -> None:
    pytest.importorskip("agents.agent")  # not `agents` alone: a folder of tests would do for that
    from agents import Agent, OpenAIChatCompletionsModel, RunConfig, Runner, function_tool

    agent = Agent(name="a", instructions="You help.", tools=[function_tool(look)])
    async with AsyncOpenAI(base_url=url, api_key=key) as client:
        model = OpenAIChatCompletionsModel(model="m", openai_client=client)
        await Runner.run(dress(agent), TASK.question, run_config=RunConfig(model=model, tracing_disabled=True))


async def of_langchain(url: str, key: str, dress: Dress) -> None:
    agents = pytest.importorskip("langchain.agents")
    model = pytest.importorskip("langchain_openai").ChatOpenAI(model="m", base_url=url, api_key=key, max_retries=0)
    agent = agents.create_agent(dress(model), tools=[look], system_prompt="You help.")
    await agent.ainvoke({"messages": [{"role": "user", "content": TASK.question}]})


async def of_dspy(url: str, key: str, dress: Dress) -> None:
    dspy = pytest.importorskip("dspy", reason="it cannot be installed beside openai 3")
    lm = dspy.LM("openai/m", api_base=url, api_key=key, cache=False, num_retries=0)
    with dspy.context(lm=lm):
        await dress(dspy.ChainOfThought("question -> answer")).acall(question=TASK.question)


def solve(request: Request) -> str | Reply:
    """As `ManyApis` answers."""
    body = request.body or {}
    if body.get("tools") and request.messages[-1].role != "tool":
        call = ToolCall(id="c1", name=body["tools"][0]["function"]["name"], arguments='{"value": 1}')
        return Reply(text="", tool_calls=(call,))
    dspy = "[[ ## reasoning ## ]]\nso\n\n[[ ## answer ## ]]\nfine\n\n[[ ## completed ## ]]"
    return dspy if "[[ ## " in request.messages[0].content else "fine"


@pytest.mark.parametrize("ask", [of_openai, of_pydantic_ai, of_openai_agents, of_langchain, of_dspy])
async def test_each_call_is_the_same_whether_the_gateway_or_the_wrapper_puts_the_prior_there(
    ask: Callable[[str, str, Dress], Awaitable[None]], server: ManyApis, library: Library
) -> None:
    model = tp.ScriptedModel(solve)
    prior = tp.TokenPrior.of(library)
    async with Gateway(model) as gateway, gateway.seat(TASK, prior, phase="rollout", step=0, index=0) as seat:
        await ask(seat.base_url, seat.api_key, lambda thing: thing)
        await ask(server.url, "k", lambda thing: tp.wrap(thing, library))
        gc.collect()  # clients of LangChain close themselves, which has to be in the loop they were made in
        await asyncio.sleep(0.01)
    learned = [request.body for request in model.requests]
    assert len(learned) == len(server.bodies) == (2 if learned[0] and learned[0].get("tools") else 1)
    for one, sent in zip(learned, server.bodies, strict=True):
        assert one is not None
        assert one["messages"][0] == sent["messages"][0]
        assert one["messages"][0]["content"].endswith(prior.text)
        assert one == sent
