"""LangChain: chat models, whatever is made of them, and chains."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pydantic import BaseModel

import tokenprior as tp
from many_apis import ManyApis
from tokenprior.library import Library
from tokenprior.placement import conditioned

pytest.importorskip("langchain.agents")
pytest.importorskip("langchain_openai")
from langchain.agents import create_agent
from langchain_core.caches import InMemoryCache
from langchain_core.globals import set_llm_cache
from langchain_core.language_models.fake_chat_models import FakeListChatModel
from langchain_core.messages import HumanMessage, SystemMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableBranch, RunnableLambda, RunnableParallel
from langchain_openai import ChatOpenAI

# LangChain leaves its clients unclosed.
pytestmark = [
    pytest.mark.anyio,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

SAID = [SystemMessage("You help."), HumanMessage("What of dogs?")]
PARTS = [SystemMessage([{"type": "text", "text": "You help."}]), HumanMessage("What of dogs?")]
PROMPT = ChatPromptTemplate.from_messages([("system", "You help."), ("user", "What of {what}?")])


class Value(BaseModel):
    """A value."""

    value: int


def look(value: int) -> str:
    """Looks."""
    return "seen"


@pytest.fixture
def model(server: ManyApis) -> ChatOpenAI:
    return ChatOpenAI(model="m", base_url=server.url, api_key="k", max_retries=0)  # type: ignore[arg-type]


@pytest.fixture
def cache() -> Iterator[None]:
    set_llm_cache(InMemoryCache())
    yield
    set_llm_cache(None)


def text_of(chunks: Any) -> str:
    return "".join(chunk.text for chunk in chunks)


USES: dict[str, Callable[[Any], Any]] = {
    "messages": lambda m: m.invoke(SAID).text,
    "parts": lambda m: m.invoke(PARTS).text,
    "pairs": lambda m: m.invoke([("developer", "You help."), ("user", "What of dogs?")]).text,
    "a text": lambda m: m.invoke("What of dogs?").text,
    "stream": lambda m: text_of(m.stream(SAID)),
    "batch": lambda m: [one.text for one in m.batch([SAID])],
    "generate": lambda m: m.generate([SAID]).generations[0][0].text,
    "bound": lambda m: m.bind(stop=["x"]).invoke(SAID).text,
    "tools": lambda m: m.bind_tools([look]).invoke(SAID).tool_calls,
    "typed": lambda m: m.with_structured_output(Value).invoke(SAID),
    "typed by a tool": lambda m: m.with_structured_output(Value, method="function_calling").invoke(SAID),
    "retried": lambda m: m.with_retry(stop_after_attempt=1).invoke(SAID).text,
    "agent": lambda m: (
        create_agent(m, tools=[look], system_prompt="You help.")
        .invoke({"messages": [("user", "Dogs?")]})["messages"][-1]
        .text
    ),
}
CHAINS: dict[str, Callable[[Any], Any]] = {
    "sequence": lambda m: PROMPT | m | StrOutputParser(),
    "binding": lambda m: PROMPT | m.bind_tools([look]),
    "fallback": lambda m: PROMPT | FakeListChatModel(responses=[]).with_fallbacks([m]),
    "parallel": lambda m: PROMPT | RunnableParallel(one=m),
    "branch": lambda m: PROMPT | RunnableBranch((lambda _: True, m), StrOutputParser()),
}


@pytest.mark.parametrize("use", [pytest.param(use, id=name) for name, use in USES.items()])
def test_a_model_sends_the_prior_and_else_what_it_sent_before(
    use: Callable[[Any], Any], model: ChatOpenAI, server: ManyApis, library: Library
) -> None:
    plain = use(model)
    assert use(tp.wrap(model, library)) == plain
    half = len(server.bodies) // 2
    prior = tp.TokenPrior.of(library)
    assert server.bodies[half:] == [conditioned("chat", body, prior) for body in server.bodies[:half]]
    assert half >= 1


async def test_an_async_use_does_the_same(model: ChatOpenAI, server: ManyApis, library: Library) -> None:
    for one in (model, tp.wrap(model, library)):
        assert (await one.ainvoke(SAID)).text == "fine"
        assert "".join([chunk.text async for chunk in one.astream(SAID)]) == "fine"
        assert (await one.agenerate([SAID])).generations[0][0].text == "fine"
        assert [event async for event in one.astream_events(SAID)]
    prior = tp.TokenPrior.of(library)
    assert server.bodies[4:] == [conditioned("chat", body, prior) for body in server.bodies[:4]]


@pytest.mark.parametrize("make", [pytest.param(make, id=name) for name, make in CHAINS.items()])
def test_the_models_of_a_chain_are_wrapped(
    make: Callable[[Any], Any], model: ChatOpenAI, server: ManyApis, library: Library
) -> None:
    chain = make(model)
    wrapped = tp.wrap(chain, library)
    for one in (chain, wrapped):
        one.invoke({"what": "dogs"})
    bare, sent = server.bodies
    assert sent == conditioned("chat", bare, tp.TokenPrior.of(library))
    assert type(wrapped) is type(chain)


def test_the_given_model_and_messages_stay_as_they_were_and_twice_is_once(
    model: ChatOpenAI, server: ManyApis, library: Library
) -> None:
    said = copy.deepcopy(SAID)
    wrapped = tp.wrap(tp.wrap(model, library), library)
    assert isinstance(wrapped, ChatOpenAI)
    assert type(wrapped).__qualname__ == "ChatOpenAI"
    wrapped.invoke(said)
    model.invoke(said)
    sent, bare = server.bodies
    assert said == SAID
    assert sent == conditioned("chat", bare, tp.TokenPrior.of(library))


@pytest.mark.usefixtures("cache")
def test_a_cache_does_not_mix_calls_with_and_without_the_prior(
    model: ChatOpenAI, server: ManyApis, library: Library
) -> None:
    wrapped = tp.wrap(model, library)
    for one in (model, wrapped, model, wrapped):
        one.invoke(SAID)
    assert len(server.bodies) == 2


def test_the_responses_api_gets_it_in_the_same_message(server: ManyApis, library: Library) -> None:
    model = ChatOpenAI(model="m", base_url=server.url, api_key="k", use_responses_api=True)  # type: ignore[arg-type]
    for one in (model, tp.wrap(model, library)):
        one.invoke(SAID)
    bare, sent = server.bodies
    assert sent == conditioned("responses", bare, tp.TokenPrior.of(library)) != bare


def test_lessons_are_chosen_for_the_last_user_message(model: ChatOpenAI, server: ManyApis, library: Library) -> None:
    tp.wrap(model, library, rendering=tp.Rendering(relevant=1)).invoke(SAID)
    assert server.bodies[0]["messages"][0]["content"].endswith(":\n[G0] When asked about dogs, be brief.")


def test_a_chain_whose_models_nobody_can_see_is_refused(model: ChatOpenAI, library: Library) -> None:
    graph = create_agent(model, tools=[])
    for runnable in (graph, RunnableLambda(lambda asked: model.invoke(asked)), PROMPT):
        with pytest.raises(tp.TokenpriorError, match=r"no chat model can be seen in this .*: wrap the chat model"):
            tp.wrap(runnable, library)
