"""Endpoints: what each behaviour of one becomes, and what is sent to it, by its address and by its name alike."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from fake_openai import EMPTY, FAULTS, FINAL, PASSING, RATE_LIMITS, REFUSED, FakeOpenAI, completion
from one_answer import answering
from tokenprior.errors import ConfigError, ModelError
from tokenprior.models.base import CallFailed, CallKey, Model, Request, retry_after_s
from tokenprior.models.forward import ForwardModel
from tokenprior.models.provider import ProviderModel
from tokenprior.rollout import Message, StopReason

pytestmark = pytest.mark.anyio

KEY = "sk-test-0123456789abcdef"
REQUEST = Request(
    key=CallKey(phase="rollout"),
    messages=(Message(role="system", content="Do it."), Message(role="user", content="Repeat: amber")),
    temperature=0.25,
    max_tokens=77,
    seed=5,
    timeout_s=20.0,
)


Opened = Callable[..., AbstractAsyncContextManager[Model]]


@asynccontextmanager
async def closing(model: ForwardModel | ProviderModel) -> AsyncIterator[Model]:
    try:
        yield model
    finally:
        await model.aclose()


@pytest.fixture(params=["address", "provider"])
def opened(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Opened:
    """Opens a server in each of the two ways."""

    def open_it(server: FakeOpenAI | str, *, json_schema: bool = False) -> AbstractAsyncContextManager[Model]:
        url = server if isinstance(server, str) else server.url
        if request.param == "address":
            return closing(ForwardModel.at(f"{url}#fake", json_schema=json_schema))
        monkeypatch.setenv("OPENAI_API_KEY", os.environ.get("TOKENPRIOR_API_KEY", KEY))
        monkeypatch.setenv("OPENAI_BASE_URL", url)
        return closing(ProviderModel("openai-chat:gpt-4o-mini", json_schema=json_schema))

    return open_it


async def failure(opened: Opened, fault: str, request: Request = REQUEST) -> Exception:
    """What one call ends with at an endpoint that always misbehaves so, and that it was one call."""
    with FakeOpenAI(faults=[fault], first=None) as server:
        async with opened(server) as model:
            with pytest.raises((CallFailed, ModelError)) as caught:
                await model.answer(request)
        assert server.calls == 1, "an endpoint is tried once; asking again is the work of RetriedModel"
        return caught.value


async def test_every_fault_of_the_server_is_tested_here() -> None:
    assert set(FAULTS) == {*RATE_LIMITS, *PASSING, *REFUSED, *EMPTY, *FINAL, "slow"}


@pytest.mark.parametrize(
    ("fault", "wait_s"),
    [
        ("429-integer", 0.0),
        ("429-fraction", 0.02),
        ("429-date", 0.0),
        ("429-ms", 0.02),
        ("429-bare", None),
        ("503-wait", 0.02),
    ],
)
async def test_a_rate_limit_says_how_long_to_wait(opened: Opened, fault: str, wait_s: float | None) -> None:
    failed = await failure(opened, fault)
    assert isinstance(failed, CallFailed)
    assert (failed.kind, failed.retryable, failed.retry_after_s) == ("rate-limit", True, wait_s)


@pytest.mark.parametrize(
    ("fault", "kind", "retryable"),
    [
        ("500", "http-500", True),
        ("503", "http-503", True),
        ("close", "connection", True),
        ("half", "connection", True),
        ("garbage", "garbled", True),
        ("list", "garbled", True),
        ("shape", "garbled", True),
        ("no-choices", "garbled", True),
        ("400", "http-400", False),
        ("413", "http-413", False),
    ],
)
async def test_a_failed_call_has_its_kind_and_says_whether_to_ask_again(
    opened: Opened, fault: str, kind: str, retryable: bool
) -> None:
    failed = await failure(opened, fault)
    assert isinstance(failed, CallFailed)
    assert (failed.kind, failed.retryable, failed.retry_after_s) == (kind, retryable, None)


async def test_a_slow_reply_is_a_timeout_and_not_asked_for_again(opened: Opened) -> None:
    failed = await failure(opened, "slow", replace(REQUEST, timeout_s=0.5))
    assert isinstance(failed, CallFailed)
    assert (failed.kind, failed.retryable) == ("timeout", False)
    assert "0.5 s" in failed.detail


@pytest.mark.parametrize("fault", FINAL)
async def test_a_refusal_for_good_ends_the_run(opened: Opened, fault: str) -> None:
    refused = await failure(opened, fault)
    assert isinstance(refused, ModelError)
    assert f"HTTP {fault}" in str(refused)


async def test_a_closed_connection_is_not_taken_for_a_timeout(opened: Opened) -> None:
    """The client calls it "Request timed out"; as a timeout it would not be asked again."""
    failed = await failure(opened, "close")
    assert isinstance(failed, CallFailed)
    assert "timed out" not in str(failed).casefold()


async def test_words_about_time_in_a_refusal_do_not_make_it_a_timeout(opened: Opened) -> None:
    with FakeOpenAI(faults=["500"], first=None, words="upstream timed out") as server:
        async with opened(server) as model:
            with pytest.raises(CallFailed) as caught:
                await model.answer(REQUEST)
    assert (caught.value.kind, caught.value.retryable) == ("http-500", True)
    assert "upstream timed out" in caught.value.detail


async def test_an_empty_account_is_no_rate_limit_to_wait_for(opened: Opened) -> None:
    with FakeOpenAI(faults=["429-bare"], first=None, code="insufficient_quota") as server:
        async with opened(server) as model:
            with pytest.raises(ModelError, match="no credit"):
                await model.answer(REQUEST)


async def test_nobody_at_the_address_is_tried_again_and_was_sent_nothing() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    model = ForwardModel.at(f"http://127.0.0.1:{port}/v1#fake")
    with pytest.raises(CallFailed) as caught:
        await model.answer(REQUEST)
    await model.aclose()
    assert (caught.value.kind, caught.value.retryable) == ("unreachable", True)


async def test_a_reply_without_content_is_an_empty_text(opened: Opened) -> None:
    with FakeOpenAI(faults=["null-content"], first=None) as server:
        async with opened(server) as model:
            reply = await model.answer(REQUEST)
    assert (reply.text, reply.stop) == ("", StopReason.DONE)


async def test_tokens_and_cached_tokens_are_counted(opened: Opened) -> None:
    with FakeOpenAI(lambda request: "x" * 40) as server:
        async with opened(server) as model:
            reply = await model.answer(REQUEST)
    usage = reply.usage
    assert (usage.calls, usage.input_tokens, usage.output_tokens, usage.cached_tokens) == (1, 5, 11, 2)
    assert usage.cost_usd is None, "what a reply costs is not the endpoint's to say"
    assert reply.latency_s > 0


async def test_a_reply_that_was_cut_off_says_so(opened: Opened) -> None:
    with FakeOpenAI(finish="length") as server:
        async with opened(server) as model:
            reply = await model.answer(REQUEST)
    assert reply.stop is StopReason.LENGTH


async def test_messages_and_settings_arrive_as_they_were_given(opened: Opened) -> None:
    talk = (
        *REQUEST.messages,
        Message(role="assistant", content="AMBER"),
        Message(role="user", content="Small letters, please: ü, 琥珀"),
    )
    with FakeOpenAI(lambda request: "ok") as server:
        async with opened(server) as model:
            await model.answer(replace(REQUEST, messages=talk))
            await model.answer(replace(REQUEST, temperature=None, seed=None))
    first, second = server.bodies
    assert [(message["role"], message["content"]) for message in first["messages"]] == [
        (message.role, message.content) for message in talk
    ]
    assert first["temperature"] == 0.25
    assert first["seed"] == 5
    assert first.get("max_completion_tokens", first.get("max_tokens")) == 77
    assert not first.get("stream")
    assert "temperature" not in second
    assert "seed" not in second


async def test_a_lone_surrogate_does_not_make_a_call_impossible(opened: Opened) -> None:
    said = Message(role="user", content="broken \ud83d pair")
    with FakeOpenAI(lambda request: "so \udc00 be it") as server:
        async with opened(server) as model:
            reply = await model.answer(replace(REQUEST, messages=(said,)))
    assert server.bodies[0]["messages"][0]["content"] == "broken ? pair"
    assert reply.text == "so \udc00 be it"


@pytest.mark.parametrize("enabled", [True, False])
async def test_a_schema_is_sent_only_where_the_endpoint_can_be_held_to_it(opened: Opened, enabled: bool) -> None:
    schema = {
        "type": "object",
        "properties": {"lessons": {"type": "array", "items": {"type": "string"}}},
        "required": ["lessons"],
        "additionalProperties": False,
    }
    with FakeOpenAI(lambda request: "{}") as server:
        async with opened(server, json_schema=enabled) as model:
            await model.answer(replace(REQUEST, schema=schema))
            await model.answer(REQUEST)
    held, free = server.bodies
    assert "response_format" not in free
    if enabled:
        assert held["response_format"]["type"] == "json_schema"
        assert held["response_format"]["json_schema"]["schema"]["properties"] == schema["properties"]
    else:
        assert "response_format" not in held


async def test_calls_of_tools_go_there_and_back_with_the_reasoning_before_them(opened: Opened) -> None:
    function = {"name": "look", "arguments": '{"what": "it"}'}
    call = {"id": "c7", "type": "function", "function": function}
    message = {"role": "assistant", "content": None, "reasoning_content": "Hm.", "tool_calls": [call]}
    bodies: list[dict[str, Any]] = []

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        bodies.append(json.loads(await request.content.read()))
        said = completion("", {"messages": [], "model": "m"}, "tool_calls")
        return web.json_response(said | {"choices": [said["choices"][0] | {"message": message}]})

    parameters = {"type": "object", "properties": {"what": {"type": "string"}}, "required": ["what"]}
    tool = {"name": "look", "description": "Looks.", "parameters": parameters | {"additionalProperties": False}}
    picture = Message(role="user", content="See:", images=("https://x.example/a.png", "data:image/png;base64,iVBORw=="))
    async with answering(handle) as url, opened(f"{url}/v1") as model:
        first = replace(REQUEST, messages=(REQUEST.messages[0], picture), tools=(tool,), stop=("END",))
        reply = await model.answer(first)
        result = Message(role="tool", content="nothing", answers="c7")
        await model.answer(replace(first, messages=(*first.messages, reply.message, result)))
    assert [(one.id, one.name, json.loads(one.arguments)) for one in reply.tool_calls] == [
        ("c7", "look", {"what": "it"})
    ]
    asked, again = bodies
    assert asked["stop"] == ["END"]
    assert asked["tools"] == [{"type": "function", "function": tool | {"strict": True}}]
    texts = [part.get("text") or part["image_url"]["url"] for part in asked["messages"][1]["content"]]
    assert texts == ["See:", *picture.images]
    sent = again["messages"][2]
    assert (sent["role"], sent["content"], sent["reasoning_content"]) == ("assistant", None, "Hm.")
    assert [one["id"] for one in sent["tool_calls"]] == ["c7"]
    assert json.loads(sent["tool_calls"][0]["function"]["arguments"]) == {"what": "it"}
    assert again["messages"][3] == {"role": "tool", "tool_call_id": "c7", "content": "nothing"}


@pytest.mark.parametrize("fault", [*RATE_LIMITS, "500", *REFUSED, *FINAL])
async def test_a_key_that_the_server_says_aloud_stays_out_of_errors(
    opened: Opened, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKENPRIOR_API_KEY", "not-of-a-known-form-0123456789")
    with FakeOpenAI(faults=[fault], first=None) as server:
        async with opened(server) as model:
            with pytest.raises((CallFailed, ModelError)) as caught:
                await model.answer(REQUEST)
    assert server.headers[0]["authorization"] == "Bearer not-of-a-known-form-0123456789"
    assert "not-of-a-known-form" not in str(caught.value)
    assert "[redacted]" in str(caught.value)


async def test_nothing_of_openais_goes_to_a_plain_address(monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = {
        "OPENAI_API_KEY": KEY,
        "OPENAI_ADMIN_KEY": "sk-admin-0123456789abcdef",
        "OPENAI_ORG_ID": "org-secret-1",
        "OPENAI_PROJECT_ID": "proj-secret-1",
    }
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("TOKENPRIOR_API_KEY", raising=False)
    with FakeOpenAI() as server:
        async with closing(ForwardModel.at(server.model)) as model:
            await model.answer(REQUEST)
    sent = json.dumps([server.headers, server.bodies])
    assert not [name for name, value in secrets.items() if value in sent]


async def test_the_key_of_an_address_comes_from_the_named_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOUSE_KEY", KEY)
    with FakeOpenAI() as server:
        async with closing(ForwardModel.at(server.model, key_variable="HOUSE_KEY")) as model:
            await model.answer(REQUEST)
    assert server.headers[0]["authorization"] == f"Bearer {KEY}"


async def test_a_named_variable_that_is_not_set_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOUSE_KEY", raising=False)
    with pytest.raises(ConfigError, match="HOUSE_KEY is not set"):
        ForwardModel.at("http://127.0.0.1:1/v1#m", key_variable="HOUSE_KEY")


@pytest.mark.parametrize(
    "name",
    [
        "http://127.0.0.1:1/v1",
        "http://#m",
        "ftp://127.0.0.1/v1#m",
        "http://h/v1#",
        "http://h:99999/v1#m",
        "http://[::1/v1#m",
    ],
)
async def test_an_address_without_host_or_model_is_a_clear_error(name: str) -> None:
    with pytest.raises(ConfigError, match="expected http://HOST/v1#MODEL"):
        ForwardModel.at(name)


@pytest.mark.parametrize("name", ["nothing", "nobody:nothing"])
async def test_an_unknown_provider_is_a_clear_error(name: str) -> None:
    with pytest.raises(ConfigError, match=f"model '{name}'"):
        ProviderModel(name)


async def test_a_provider_by_name_is_asked_once_too(monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeOpenAI(faults=["500"], first=None) as server:
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        model = ProviderModel("openai-chat:gpt-4o-mini")
        with pytest.raises(CallFailed) as caught:
            await model.answer(REQUEST)
        await model.aclose()
        assert caught.value.kind == "http-500"
        assert server.calls == 1, "the client's own retries would be neither budgeted nor written down"
        assert server.headers[0]["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"Retry-After": "3"}, 3.0),
        ({"retry-after": " 1.5 "}, 1.5),
        ({"RETRY-AFTER": "0"}, 0.0),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after-ms": "soon", "retry-after": "9"}, 9.0),
        ({"retry-after": "86400"}, 3600.0),
        ({"retry-after": "9" * 400}, 3600.0),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
        ({"retry-after": "Fri, 31 Dec 9999 23:59:59 GMT"}, 3600.0),
        ({"retry-after": "Wed, 99 Oct 2015 07:28:00 GMT"}, None),
        ({"retry-after": "-5"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "1e9"}, None),
        ({"retry-after": "tomorrow"}, None),
        ({"retry-after": ""}, None),
        ({"x-ratelimit-reset": "5"}, None),
    ],
)
async def test_the_wait_that_headers_ask_for(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after_s(headers) == seconds


async def test_a_date_to_wait_for_counts_from_now() -> None:
    until = datetime.now(UTC) + timedelta(seconds=1000)
    waits = [retry_after_s({"retry-after": text}) for text in (format_datetime(until, usegmt=True), f"{until:%c}")]
    assert waits[0] is not None
    assert 900 < waits[0] <= 1000
    assert waits[1] is None or 900 < waits[1] <= 1000, "a date without a zone is taken as GMT"


@given(st.dictionaries(st.sampled_from(["retry-after", "Retry-After-MS", "x"]), st.text(), max_size=3))
def test_no_header_of_any_server_raises(headers: dict[str, str]) -> None:
    seconds = retry_after_s(headers)
    assert seconds is None or 0.0 <= seconds <= 3600.0
