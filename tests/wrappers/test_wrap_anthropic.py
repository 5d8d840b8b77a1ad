"""Clients of anthropic: whatever method asks, the request bears the prior and differs in nothing else."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import tokenprior as tp
from many_apis import ManyApis
from tokenprior.library import Library
from tokenprior.placement import conditioned

anthropic = pytest.importorskip("anthropic")
pytestmark = pytest.mark.anyio

ASKED: dict[str, Any] = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "What of dogs?"}]}
CACHED = [{"type": "text", "text": "You help.", "cache_control": {"type": "ephemeral"}}]


@contextmanager
def opened(server: ManyApis) -> Iterator[Any]:
    with anthropic.Anthropic(base_url=server.root, api_key="k", max_retries=0) as client:
        yield client


def streamed(client: Any) -> Any:
    with client.messages.stream(**ASKED) as stream:
        return "".join(stream.text_stream)


CALLS: dict[str, Callable[[Any], Any]] = {
    "create": lambda c: c.messages.create(**ASKED),
    "text": lambda c: c.messages.create(**ASKED, system="You help."),
    "blocks": lambda c: c.messages.create(**ASKED, system=CACHED),
    "events": lambda c: [event.type for event in c.messages.create(**ASKED, stream=True)],
    "stream": streamed,
    "beta": lambda c: c.beta.messages.create(**ASKED, betas=["x"]),
    "raw": lambda c: c.messages.with_raw_response.create(**ASKED).text(),
    "extra": lambda c: c.messages.create(**ASKED, extra_body={"system": "You help.", "odd": [1.50]}),
    "options": lambda c: c.with_options(timeout=5).messages.create(**ASKED),
    "count": lambda c: c.messages.count_tokens(model="m", messages=ASKED["messages"]),
}


@pytest.mark.parametrize("call", [pytest.param(call, id=name) for name, call in CALLS.items()])
def test_every_method_sends_the_prior_and_else_what_it_sent_before(
    call: Callable[[Any], Any], server: ManyApis, library: Library
) -> None:
    with opened(server) as client:
        plain = call(client)
        assert call(tp.wrap(client, library)) == plain
    (path, bare), (also, sent) = server.asked
    assert path == also
    assert sent == conditioned("messages", bare, tp.TokenPrior.of(library)) != bare


async def async_streamed(client: Any) -> Any:
    async with client.messages.stream(**ASKED) as stream:
        return [text async for text in stream.text_stream]


@pytest.mark.parametrize("call", [lambda c: c.messages.create(**ASKED), async_streamed])
async def test_an_async_client_does_the_same(
    call: Callable[[Any], Awaitable[Any]], server: ManyApis, library: Library
) -> None:
    async with anthropic.AsyncAnthropic(base_url=server.root, api_key="k") as client:
        plain = await call(client)
        assert await call(tp.wrap(client, library)) == plain
    bare, sent = server.bodies
    assert sent == conditioned("messages", bare, tp.TokenPrior.of(library)) != bare


def test_a_block_that_is_cached_stays_as_it_is(server: ManyApis, library: Library) -> None:
    with opened(server) as client:
        tp.wrap(client, library).messages.create(**ASKED, system=CACHED)
    first, second = server.bodies[0]["system"]
    assert first == CACHED[0]
    assert second == {"type": "text", "text": f"\n\n{tp.TokenPrior.of(library).text}"}


def test_each_request_of_a_batch_bears_the_prior(server: ManyApis, library: Library) -> None:
    with opened(server) as client:
        asked = [{"custom_id": str(n), "params": ASKED} for n in range(2)]
        client.messages.batches.create(requests=asked)
        tp.wrap(client, library).messages.batches.create(requests=asked)
    bare, sent = server.bodies
    assert bare["requests"] == asked
    prior = tp.TokenPrior.of(library)
    assert sent["requests"] == [one | {"params": conditioned("messages", ASKED, prior)} for one in asked]


def test_the_given_client_stays_as_it_was_and_twice_is_once(server: ManyApis, library: Library) -> None:
    with opened(server) as client:
        wrapped = tp.wrap(tp.wrap(client, library), library)
        assert isinstance(wrapped, anthropic.Anthropic)
        wrapped.messages.create(**ASKED)
        client.messages.create(**ASKED)
        assert client.middleware == ()
    sent, bare = server.bodies
    assert bare == ASKED
    assert sent == conditioned("messages", bare, tp.TokenPrior.of(library))
