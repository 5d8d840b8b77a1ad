"""Clients of openai: whatever method asks, the request bears the prior and differs in nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import openai
import pytest
from pydantic import BaseModel

import tokenprior as tp
from many_apis import ManyApis
from tokenprior.library import Library
from tokenprior.placement import conditioned

pytestmark = pytest.mark.anyio

SAID: list[Any] = [{"role": "system", "content": "You help."}, {"role": "user", "content": "What of dogs?"}]
PARTS: list[Any] = [
    {"role": "developer", "content": [{"type": "text", "text": "You help."}]},
    {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}]},
]
TOOL: Any = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}


class Value(BaseModel):
    value: int


@contextmanager
def opened(server: ManyApis) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=server.url, api_key="k", max_retries=0) as client:
        yield client


@asynccontextmanager
async def async_opened(server: ManyApis) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=server.url, api_key="k", max_retries=0) as client:
        yield client


def streamed(client: openai.OpenAI) -> Any:
    with client.chat.completions.stream(model="m", messages=SAID) as stream:
        return "".join(event.delta for event in stream if event.type == "content.delta")


def response_streamed(client: openai.OpenAI) -> Any:
    with client.responses.stream(model="m", input="What of dogs?") as stream:
        return "".join(event.delta for event in stream if event.type == "response.output_text.delta")


CHAT: dict[str, Callable[[openai.OpenAI], Any]] = {
    "create": lambda c: c.chat.completions.create(model="m", messages=SAID).choices[0].message.content,
    "no system": lambda c: c.chat.completions.create(model="m", messages=SAID[1:]).choices[0].message.content,
    "parts": lambda c: c.chat.completions.create(model="m", messages=PARTS, n=2).choices[0].message.content,
    "tuple": lambda c: c.chat.completions.create(model="m", messages=tuple(SAID)).choices[0].message.content,
    "tools": lambda c: (
        c.chat.completions.create(model="m", messages=SAID, tools=[TOOL], seed=1).choices[0].message.tool_calls
    ),
    "parse": lambda c: c.chat.completions.parse(model="m", messages=SAID, response_format=Value).choices[0].message,
    "events": lambda c: [
        chunk.choices[0].delta.content for chunk in c.chat.completions.create(model="m", messages=SAID, stream=True)
    ],
    "stream": streamed,
    "raw": lambda c: c.chat.completions.with_raw_response.create(model="m", messages=SAID).text,
    "extra": lambda c: c.chat.completions.create(
        model="m", messages=[], extra_body={"messages": SAID, "odd": [1.50]}
    ).choices[0],
    "options": lambda c: (
        c.with_options(timeout=5).with_options(max_retries=1).chat.completions.create(model="m", messages=SAID)
    ),
}
RESPONSES: dict[str, Callable[[openai.OpenAI], Any]] = {
    "create": lambda c: c.responses.create(model="m", input="What of dogs?").output_text,
    "instructions": lambda c: c.responses.create(model="m", input="Dogs?", instructions="You help.").output_text,
    "items": lambda c: c.responses.create(model="m", input=SAID).output_text,
    "parse": lambda c: c.responses.parse(model="m", input=SAID, text_format=Value).output_parsed,
    "events": lambda c: [event.type for event in c.responses.create(model="m", input=SAID, stream=True)],
    "stream": response_streamed,
    "count": lambda c: c.responses.input_tokens.count(model="m", input=SAID).input_tokens,
}
CALLS = [("chat", name, call) for name, call in CHAT.items()] + [
    ("responses", name, c) for name, c in RESPONSES.items()
]


@pytest.mark.parametrize(("api", "call"), [pytest.param(api, c, id=f"{api}-{name}") for api, name, c in CALLS])
def test_every_method_sends_the_prior_and_else_what_it_sent_before(
    api: Any, call: Callable[[openai.OpenAI], Any], server: ManyApis, library: Library
) -> None:
    with opened(server) as client:
        plain = call(client)
        assert call(tp.wrap(client, library)) == plain
    (path, bare), (also, sent) = server.asked
    assert path == also
    assert sent == conditioned(api, bare, tp.TokenPrior.of(library)) != bare


async def async_streamed(client: openai.AsyncOpenAI) -> Any:
    async with client.chat.completions.stream(model="m", messages=SAID) as stream:
        return [event.type async for event in stream]


async def async_events(client: openai.AsyncOpenAI) -> Any:
    return [event.type async for event in await client.responses.create(model="m", input=SAID, stream=True)]


ASYNC: list[tuple[Any, Callable[[openai.AsyncOpenAI], Awaitable[Any]]]] = [
    ("chat", lambda c: c.chat.completions.create(model="m", messages=SAID)),
    ("chat", async_streamed),
    ("responses", lambda c: c.responses.parse(model="m", input=SAID, text_format=Value)),
    ("responses", async_events),
]


@pytest.mark.parametrize(("api", "call"), ASYNC)
async def test_an_async_client_does_the_same(
    api: Any, call: Callable[[openai.AsyncOpenAI], Awaitable[Any]], server: ManyApis, library: Library
) -> None:
    async with async_opened(server) as client:
        plain = await call(client)
        assert await call(tp.wrap(client, library)) == plain
    bare, sent = server.bodies
    assert sent == conditioned(api, bare, tp.TokenPrior.of(library)) != bare


def test_clients_of_azure_are_wrapped_too(server: ManyApis, library: Library) -> None:
    made = {"azure_endpoint": server.root, "api_key": "k", "api_version": "1", "azure_deployment": "d"}
    with openai.AzureOpenAI(**made) as client:  # type: ignore[call-overload]
        client.chat.completions.create(model="m", messages=SAID)
        wrapped = tp.wrap(client, library)
        assert isinstance(wrapped, openai.AzureOpenAI)
        wrapped.chat.completions.create(model="m", messages=SAID)
    (path, bare), (also, sent) = server.asked
    assert path == also == "/openai/deployments/d/chat/completions?api-version=1"
    assert sent == conditioned("chat", bare, tp.TokenPrior.of(library))


def test_the_given_client_stays_as_it_was_and_twice_is_once(server: ManyApis, library: Library) -> None:
    said = list(SAID)
    with opened(server) as client:
        wrapped = tp.wrap(tp.wrap(client, library), library)
        wrapped.chat.completions.create(model="m", messages=said)
        client.chat.completions.create(model="m", messages=said)
    sent, bare = server.bodies
    assert said == SAID == bare["messages"]
    assert sent == conditioned("chat", bare, tp.TokenPrior.of(library))


def test_a_call_that_is_tried_again_bears_the_prior_again(server: ManyApis, library: Library) -> None:
    server.refuse = 1
    with opened(server) as client:
        wrapped = tp.wrap(client.with_options(max_retries=1), library)
        assert wrapped.chat.completions.create(model="m", messages=SAID).choices[0].message.content == "fine"
    first, second = server.bodies
    assert first == second
    assert first["messages"][0]["content"].endswith(tp.TokenPrior.of(library).text)


def test_lessons_are_chosen_for_the_last_user_message(server: ManyApis, library: Library) -> None:
    with opened(server) as client:
        wrapped = tp.wrap(client, library, rendering=tp.Rendering(relevant=1))
        wrapped.chat.completions.create(model="m", messages=SAID)
        wrapped.responses.create(model="m", input="And what of cats?")
    dogs, cats = server.bodies
    assert dogs["messages"][0]["content"].endswith(":\n[G0] When asked about dogs, be brief.")
    assert cats["instructions"].endswith(":\n[G1] When asked about cats, be kind.")


def test_other_requests_and_malformed_ones_go_as_they_are(server: ManyApis, library: Library) -> None:
    with opened(server) as client:
        wrapped = tp.wrap(client, library)
        wrapped.embeddings.create(model="m", input="What of dogs?", encoding_format="float")
        wrapped.chat.completions.create(model="m", messages=[])
        assert wrapped.chat.completions.list().data == []
    assert [body.get("input", body.get("messages")) for body in server.bodies] == ["What of dogs?", []]


async def test_copies_of_one_client_do_not_get_in_each_others_way(server: ManyApis, library: Library) -> None:
    async with async_opened(server) as client:
        clients = [tp.wrap(client, library.only([name])) for name in ("G0", "G1")] * 4
        await asyncio.gather(*(one.chat.completions.create(model="m", messages=SAID) for one in clients))
    said = [body["messages"][0]["content"].count(words) for words in ("dogs", "cats") for body in server.bodies]
    assert (len(said), sum(said)) == (16, 8)


def test_a_client_without_the_hook_is_refused(library: Library) -> None:
    class BaseClient:
        """As of an SDK that has it no more."""

        def copy(self) -> BaseClient:
            return BaseClient()

    BaseClient.__module__ = "openai._base_client"
    with pytest.raises(tp.TokenpriorError, match="has no _prepare_options, by which a prior gets into its calls"):
        tp.wrap(BaseClient(), library)
