"""Gateway: a program's requests are recorded, budgeted and conditioned, and its replies are what the endpoint sent."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest

import world
from fake_openai import FakeOpenAI
from streaming_upstream import StreamingUpstream
from tokenprior.agents.base import AttemptLimits
from tokenprior.agents.gateway import Gateway
from tokenprior.agents.seat import Seat
from tokenprior.errors import BudgetReached, ConfigError, ModelError
from tokenprior.models.base import Model
from tokenprior.models.budget import Budget, Limits
from tokenprior.models.forward import ForwardModel
from tokenprior.models.recorded import MeteredModel, ReplayedModel
from tokenprior.models.retried import Limit, RetriedModel, RetryPolicy
from tokenprior.models.scripted import ScriptedModel
from tokenprior.prior import TokenPrior
from tokenprior.rollout import Message, StopReason, ToolCall
from tokenprior.store import RunStore, Store, open_store
from tokenprior.task import Task

pytestmark = pytest.mark.anyio

TASK = Task(id="t1", question="What is it?", answer="secret")
PRIOR = TokenPrior(text="Lessons from experience. Follow those:\n[G0] Be brief.")
ASKED: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "What is it?"}]}
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(tmp_path / "s.db") as made:
        yield made


@pytest.fixture
def record(store: Store) -> Iterator[RunStore]:
    made = store.open_run("r-1", name="r", kind="learn", config={})
    yield made
    made.close("done")


def wrapped(endpoint: Model, record: RunStore, budget: Budget | None = None) -> ReplayedModel:
    metered = MeteredModel(endpoint, record, budget or Budget(Limits()), {})
    policy = RetryPolicy(attempts=2, backoff_s=0.001, max_backoff_s=0.002, patience_s=0.5)
    return ReplayedModel(RetriedModel(metered, Limit(64), policy), record)


@asynccontextmanager
async def opened(name: str, record: RunStore, budget: Budget | None = None, **settings: Any) -> AsyncIterator[Gateway]:
    forward = ForwardModel.at(name)
    async with Gateway(wrapped(forward, record, budget), **settings) as gateway:
        yield gateway
    await forward.aclose()


@asynccontextmanager
async def seated(gateway: Gateway, prior: TokenPrior = PRIOR, *, index: int = 0, **limits: Any) -> AsyncIterator[Seat]:
    limited = AttemptLimits(**limits)
    async with gateway.seat(TASK, prior, phase="rollout", step=0, index=index, limits=limited) as seat:
        yield seat


async def post(seat: Seat, body: Any, *, key: str = "", path: str = "chat/completions") -> tuple[int, bytes, Any]:
    headers = {"Authorization": f"Bearer {key or seat.api_key}"}
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    async with (
        aiohttp.ClientSession() as client,
        client.post(f"{seat.base_url}/{path}", data=io.BytesIO(data), headers=headers) as response,
    ):
        return response.status, await response.read(), response.headers


def error_of(reply: tuple[int, bytes, Any]) -> dict[str, Any]:
    error: dict[str, Any] = json.loads(reply[1])["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert reply[2]["x-should-retry"] == "false"
    return error


@pytest.mark.parametrize("stream", [False, True])
async def test_a_program_gets_the_bytes_that_the_endpoint_sent_and_the_ledger_its_meaning(
    store: Store, record: RunStore, stream: bool
) -> None:
    async with (
        StreamingUpstream() as upstream,
        opened(upstream.model, record) as gateway,
        seated(gateway) as seat,
    ):
        status, raw, headers = await post(seat, ASKED | {"stream": stream})
        assert (status, raw) == (200, upstream.raw[0])
        assert headers["Content-Type"] == ("text/event-stream" if stream else "application/json")
        assert seat.messages[-1] == Message(role="assistant", content="What is it? | ü taught | m")
        assert (seat.usage.input_tokens, seat.usage.output_tokens, seat.usage.cached_tokens) == (20, 7, 4)
        assert seat.turns == 1
        assert seat.at_work_s > 0
    row = store.rows("calls", "r-1")[0]
    assert (row["state"], row["key"], row["input_tokens"]) == ("done", "rollout/0/t1/0/0", 20)


@pytest.mark.parametrize("stream", [False, True])
async def test_calls_of_tools_are_part_of_the_trajectory(record: RunStore, stream: bool) -> None:
    async with StreamingUpstream() as upstream, opened(upstream.model, record) as gateway, seated(gateway) as seat:
        await post(seat, ASKED | {"stream": stream, "tools": TOOLS})
        arguments = '{"a": 1, "b": 2}'
        assert seat.messages[-1].tool_calls == (
            ToolCall(id="c1", name="add", arguments=arguments),
            ToolCall(id="c2", name="add", arguments=arguments),
        )


async def test_a_program_that_asks_for_usage_gets_it(record: RunStore) -> None:
    asked = ASKED | {"stream": True, "stream_options": {"include_usage": True}}
    async with StreamingUpstream() as upstream, opened(upstream.model, record) as gateway, seated(gateway) as seat:
        _, raw, _ = await post(seat, asked)
        assert raw.count(b'"prompt_tokens": 20') == 1
        assert raw.endswith(b"data: [DONE]\n\n")


async def test_nothing_of_a_request_is_changed_but_the_prior(record: RunStore) -> None:
    parts = [{"type": "text", "text": "Look.", "cache": 1}, {"type": "image_url", "image_url": {"url": "data:x,aa"}}]
    asked = {
        "model": "m",
        "messages": [{"role": "developer", "content": "Be kind.", "name": "boss"}, {"role": "user", "content": "hi"}],
        "n": 1,
        "temperature": 0.1,
        "unheard_of": {"deep": [1, 2.5, None]},
    }
    async with (
        StreamingUpstream() as upstream,
        opened(upstream.model, record, temperature=0.9, seed=3) as gateway,
        seated(gateway) as seat,
    ):
        await post(seat, asked)
        await post(seat, asked | {"messages": [{"role": "system", "content": parts}, *asked["messages"][1:]]})
        await post(seat, asked | {"messages": asked["messages"][1:], "temperature": None, "seed": 5})
    first, second, third = upstream.bodies
    conditioned = {"role": "developer", "content": PRIOR.conditioned("Be kind."), "name": "boss"}
    assert first.pop("seed") >= 0
    assert first == asked | {"messages": [conditioned, asked["messages"][1]]}
    assert second["messages"][0]["content"] == [*parts, {"type": "text", "text": "\n\n" + PRIOR.text}]
    assert third["messages"][0] == {"role": "system", "content": PRIOR.text}
    assert (third["temperature"], third["seed"]) == (0.9, 5)


async def test_without_a_prior_and_settings_the_request_is_the_programs_own(record: RunStore) -> None:
    async with (
        StreamingUpstream() as upstream,
        opened(upstream.model, record) as gateway,
        seated(gateway, TokenPrior()) as seat,
    ):
        await post(seat, ASKED)
    assert upstream.bodies == [ASKED]


async def test_the_models_name_can_be_put_in_place_of_the_programs(record: RunStore) -> None:
    async with (
        StreamingUpstream() as upstream,
        opened(upstream.model, record, model_name="other") as gateway,
        seated(gateway) as seat,
        aiohttp.ClientSession() as client,
        client.get(f"{seat.base_url}/models", headers={"Authorization": f"Bearer {seat.api_key}"}) as response,
    ):
        await post(seat, ASKED)
        assert [model["id"] for model in (await response.json())["data"]] == ["other"]
    assert upstream.bodies[0]["model"] == "other"


async def test_thirty_two_side_by_side_do_not_mix(record: RunStore) -> None:
    seen: dict[int, Seat] = {}

    async def one(index: int) -> None:
        async with seated(gateway, index=index) as seat:
            for turn in range(3):
                said = {"role": "user", "content": f"question {index} {turn}"}
                status, _, _ = await post(seat, ASKED | {"messages": [said], "stream": turn == 1})
                assert status == 200
            seen[index] = seat

    async with StreamingUpstream() as upstream, opened(upstream.model, record) as gateway:
        await asyncio.gather(*(one(index) for index in range(32)))
        assert len({seat.api_key for seat in seen.values()}) == 32
        for index, seat in seen.items():
            asked = [exchange.messages[-2].content for exchange in seat.exchanges]
            assert asked == [f"question {index} {turn}" for turn in range(3)]
            assert seat.messages == seat.exchanges[-1].messages
            assert seat.messages[-1].content.startswith(f"question {index} 2 |")
            assert error_of(await post(seat, ASKED))["code"] == "invalid_api_key"
    assert len(upstream.bodies) == 96


async def test_a_replay_pays_nothing_and_gives_the_same_bytes(tmp_path: Path) -> None:
    bodies = [ASKED, ASKED, ASKED | {"stream": True}, ASKED | {"tools": TOOLS, "stream": True}]
    given: list[list[bytes]] = []
    async with StreamingUpstream() as upstream:
        for place in range(2):
            with open_store(tmp_path / "again.db") as store:
                record = store.open_run("r-1", name="r", kind="learn", config={})
                async with opened(upstream.model, record, seed=1) as gateway, seated(gateway) as seat:
                    # Side by side, and in another order the second time.
                    replies = await asyncio.gather(*(post(seat, body) for body in (bodies, bodies[::-1])[place]))
                    assert [reply[0] for reply in replies] == [200] * 4
                    given.append([reply[1] for reply in replies])
                    usage = seat.usage
                record.close("done")
        assert len(upstream.bodies) == 4
        assert given[0] == given[1][::-1]
        assert usage.input_tokens == 80
        assert upstream.bodies[0]["seed"] != upstream.bodies[1]["seed"], "asked twice is asked for another sample"


async def test_large_images_and_large_replies_pass_and_the_ledger_keeps_a_hash_of_the_image(
    store: Store, record: RunStore
) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "QUJD" * 700_000}}
    asked = ASKED | {"messages": [{"role": "system", "content": "x"}, {"role": "user", "content": "y" * 3_000_000}]}
    async with StreamingUpstream() as upstream, opened(upstream.model, record) as gateway, seated(gateway) as seat:
        status, raw, _ = await post(seat, asked)
        assert (status, raw) == (200, upstream.raw[0])
        assert len(raw) > 3_000_000
        said = {"role": "user", "content": [image]}
        assert (await post(seat, ASKED | {"messages": [said], "tools": TOOLS}))[0] == 200
        assert upstream.bodies[-1]["messages"][-1] == said
    kept = store.rows("calls", "r-1")[-1]["request"]
    assert "QUJDQUJD" not in str(kept)
    assert "data:image/png;sha256," in str(kept)


async def test_an_upstreams_refusal_of_a_request_passes_through(record: RunStore) -> None:
    async with StreamingUpstream() as upstream, opened(upstream.model, record) as gateway, seated(gateway) as seat:
        for stream in (False, True):
            status, raw, headers = await post(seat, ASKED | {"model": "refuses", "stream": stream})
            assert (status, raw) == (400, b'{"error": {"message": "no such field: foo", "x": 1}}')
            assert headers["x-should-retry"] == "false"
        assert seat.failure is not None
        assert seat.failure.kind == "http-400"
        assert seat.exchanges == ()
        assert seat.fatal is None


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [("500", 500, None), ("429-fraction", 429, None), ("close", 502, "connection"), ("garbage", 502, "garbled")],
)
async def test_what_passes_is_tried_again_here_and_told_once(
    record: RunStore, fault: str, status: int, code: str | None
) -> None:
    with FakeOpenAI(faults=[fault]) as good, FakeOpenAI(faults=[fault], first=None) as bad:
        async with opened(good.model, record) as gateway, seated(gateway) as seat:
            assert (await post(seat, ASKED))[0] == 200
        async with opened(bad.model, record) as gateway, seated(gateway) as seat:
            reply = await post(seat, ASKED)
            assert reply[0] == status
            assert json.loads(reply[1])["error"]["code"] == code
            assert reply[2]["x-should-retry"] == "false"


@pytest.mark.parametrize("fault", ["400", "401", "500"])
async def test_a_key_that_the_upstream_says_aloud_does_not_reach_the_program(
    record: RunStore, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKENPRIOR_API_KEY", "not-of-a-known-form-0123456789")
    with FakeOpenAI(faults=[fault], first=None) as server:
        async with opened(server.model, record) as gateway, seated(gateway) as seat:
            _, raw, _ = await post(seat, ASKED)
    assert server.headers[0]["authorization"] == "Bearer not-of-a-known-form-0123456789"
    assert b"[redacted]" in raw
    assert b"not-of-a-known-form" not in raw


async def test_the_key_of_a_seat_does_not_leave(record: RunStore) -> None:
    async with StreamingUpstream() as upstream, opened(upstream.model, record) as gateway, seated(gateway) as seat:
        await post(seat, ASKED)
        assert seat.api_key not in json.dumps([upstream.headers, upstream.bodies])


@pytest.mark.parametrize(("model", "words"), [("locked", "the key is wrong"), ("broke", "no credit left")])
async def test_a_refusal_for_good_stops_the_run(record: RunStore, model: str, words: str) -> None:
    async with StreamingUpstream() as upstream, opened(upstream.model, record) as gateway, seated(gateway) as seat:
        assert error_of(await post(seat, ASKED | {"model": model}))["code"] == "run_stopped"
        assert isinstance(await asyncio.wait_for(seat.stopped(), 1), ModelError)
        assert words in str(seat.fatal)
        assert (await post(seat, ASKED))[0] == 502
    assert len(upstream.bodies) == 1, "nothing more is let through"


async def test_a_reached_budget_stops_the_run(record: RunStore) -> None:
    async with (
        StreamingUpstream() as upstream,
        opened(upstream.model, record, Budget(Limits(calls=1))) as gateway,
        seated(gateway) as seat,
    ):
        assert (await post(seat, ASKED))[0] == 200
        reply = await post(seat, ASKED | {"stream": True})
        assert (reply[0], error_of(reply)["code"]) == (402, "budget_reached")
        assert isinstance(seat.fatal, BudgetReached)


async def test_what_a_reply_may_take_is_reserved(record: RunStore) -> None:
    async with (
        StreamingUpstream() as upstream,
        opened(upstream.model, record, Budget(Limits(tokens=5000)), max_tokens=4000) as gateway,
        seated(gateway) as seat,
    ):
        assert (await post(seat, ASKED))[0] == 200
        assert (await post(seat, ASKED | {"max_tokens": 10, "max_completion_tokens": 4000}))[0] == 200
        assert (await post(seat, ASKED | {"max_tokens": 100, "n": 60}))[0] == 402


@pytest.mark.parametrize("limits", [{"turns": 2}, {"tokens": 50}, {"seconds": 0.5}])
async def test_an_attempt_at_its_limit_is_told_so(record: RunStore, limits: dict[str, Any]) -> None:
    with FakeOpenAI(lambda request: "x", delay_s=0.3) as server:
        async with opened(server.model, record) as gateway, seated(gateway, TokenPrior(), **limits) as seat:
            long = [{"role": "user", "content": "y" * 100}]
            replies = [await post(seat, ASKED | {"messages": long, "seed": number}) for number in range(3)]
            assert [reply[0] for reply in replies][0::2] == [200, 429]
            assert error_of(replies[2])["code"] == "attempt_limit"
            assert seat.limit_reached
            assert seat.fatal is None


async def test_money_can_be_limited_only_where_the_price_is_known(record: RunStore) -> None:
    async with (
        StreamingUpstream() as upstream,
        opened(upstream.model, record) as gateway,
        seated(gateway, usd=1.0) as seat,
    ):
        await post(seat, ASKED)
        await post(seat, ASKED)
        assert isinstance(seat.fatal, ConfigError)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"[" * 100_000,
        b"\xff",
        b'{"messages": [{"role": "user", "content": NaN}]}',
        {},
        {"messages": []},
        {"messages": "hello"},
        {"messages": ["hello"]},
        {"messages": [{"role": "wizard", "content": "hello"}]},
        {"messages": [{"role": "system", "content": {"text": 1}}]},
        {"messages": [{"role": "assistant", "content": "", "tool_calls": [{"id": "x"}]}]},
        {"messages": [{"role": "assistant", "content": "", "tool_calls": 3}]},
    ],
)
async def test_a_malformed_request_is_refused_in_openais_shape(record: RunStore, body: Any) -> None:
    async with StreamingUpstream() as upstream, opened(upstream.model, record) as gateway, seated(gateway) as seat:
        reply = await post(seat, body)
        assert (reply[0], error_of(reply)["type"]) == (400, "invalid_request_error")
        assert seat.turns == 0
    assert not upstream.bodies


async def test_a_request_that_is_too_large_is_refused(record: RunStore) -> None:
    async with StreamingUpstream() as upstream, opened(upstream.model, record) as gateway, seated(gateway) as seat:
        reply = await post(seat, b" " * (33 * 1024 * 1024))
        assert (reply[0], error_of(reply)["code"]) == (413, "http_413")


@pytest.mark.parametrize("path", ["responses", "embeddings", "completions"])
async def test_what_is_not_recorded_is_not_served(record: RunStore, path: str) -> None:
    async with StreamingUpstream() as upstream, opened(upstream.model, record) as gateway, seated(gateway) as seat:
        reply = await post(seat, {"model": "m", "input": "x"}, path=path)
        assert (reply[0], error_of(reply)["code"]) == (501, "not_recorded")
        assert (await post(seat, ASKED, key="tp-guessed"))[0] == 401


@pytest.mark.parametrize("model", ["hangs", "drips"])
async def test_a_program_that_goes_away_has_its_call_cut_off(store: Store, record: RunStore, model: str) -> None:
    async with StreamingUpstream() as upstream, opened(upstream.model, record) as gateway, seated(gateway) as seat:
        body = ASKED | {"model": model, "stream": model == "drips"}
        with suppress(TimeoutError):
            async with asyncio.timeout(0.2):
                await post(seat, body)
        for _ in range(100):
            if upstream.gone:
                break
            await asyncio.sleep(0.02)
        assert upstream.gone == 1
    assert [row["state"] for row in store.rows("calls", "r-1")] == ["sent"]


async def test_leaving_a_seat_cuts_off_what_it_has_in_flight(record: RunStore) -> None:
    async with StreamingUpstream() as upstream, opened(upstream.model, record) as gateway:
        async with seated(gateway) as seat:
            asking = asyncio.ensure_future(post(seat, ASKED | {"model": "hangs"}))
            await upstream.arrived.wait()
        with pytest.raises(aiohttp.ClientError):
            await asking
        for _ in range(100):
            if upstream.gone:
                break
            await asyncio.sleep(0.02)
        assert upstream.gone == 1


async def test_a_stream_is_handed_on_while_it_comes(record: RunStore) -> None:
    async with StreamingUpstream() as upstream, opened(upstream.model, record) as gateway, seated(gateway) as seat:
        headers = {"Authorization": f"Bearer {seat.api_key}"}
        body = ASKED | {"model": "drips", "stream": True}
        async with (
            aiohttp.ClientSession() as client,
            client.post(f"{seat.base_url}/chat/completions", json=body, headers=headers) as response,
        ):
            assert await asyncio.wait_for(response.content.readany(), 5) == b": keep-alive\n\n"


async def test_a_stream_without_the_word_for_its_end_is_whole_if_it_has_a_reason(record: RunStore) -> None:
    async with StreamingUpstream() as upstream, opened(upstream.model, record) as gateway, seated(gateway) as seat:
        status, raw, _ = await post(seat, ASKED | {"model": "no-done", "stream": True})
        assert (status, raw) == (200, upstream.raw[0])
        assert len(seat.exchanges) == 1


async def test_an_error_in_place_of_a_stream_is_tried_again_and_then_told(record: RunStore) -> None:
    async with StreamingUpstream() as upstream, opened(upstream.model, record) as gateway, seated(gateway) as seat:
        reply = await post(seat, ASKED | {"model": "errs", "stream": True})
        assert (reply[0], "overloaded" in error_of(reply)["message"]) == (502, True)
        assert len(upstream.bodies) == 2


async def test_an_endpoint_that_knows_no_streams_answers_as_a_whole(record: RunStore) -> None:
    with FakeOpenAI(lambda request: "whole") as server:
        async with opened(server.model, record) as gateway, seated(gateway) as seat:
            for _ in range(2):
                status, raw, headers = await post(seat, ASKED | {"stream": True})
                assert (status, headers["Content-Type"]) == (200, "application/json")
                assert json.loads(raw)["choices"][0]["message"]["content"] == "whole"


@pytest.mark.parametrize(("where", "code"), [("closed", "unreachable"), ("moved", "http-307")])
async def test_an_address_that_does_not_answer_is_told_and_none_is_followed(
    record: RunStore, where: str, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # a model's address is never looked for behind a proxy
    monkeypatch.delenv("NO_PROXY", raising=False)
    async with StreamingUpstream() as upstream:
        name = upstream.model if where == "moved" else "http://127.0.0.1:9/v1#*"
        async with opened(name, record) as gateway, seated(gateway) as seat:
            reply = await post(seat, ASKED | {"model": where})
            assert (reply[0], error_of(reply)["code"]) == (502, code)


@pytest.mark.parametrize("name", ["http://h/v1", "ftp://h/v1#m", "openai:gpt", "http://h/v1#"])
def test_a_name_that_is_no_address_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="expected http"):
        ForwardModel.at(name)


async def test_a_stream_that_is_cut_off_is_cut_off_for_the_program_too_and_not_asked_for_again(
    store: Store, record: RunStore
) -> None:
    async with StreamingUpstream() as upstream, opened(upstream.model, record) as gateway, seated(gateway) as seat:
        with pytest.raises(aiohttp.ClientError):
            await post(seat, ASKED | {"model": "cut", "stream": True})
        assert seat.failure is not None
        assert (seat.failure.kind, seat.failure.retryable) == ("connection", False)
    assert len(upstream.bodies) == 1
    assert [row["state"] for row in store.rows("calls", "r-1")] == ["failed"]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_scripted_model_serves_programs_too(stream: bool) -> None:
    from openai import AsyncOpenAI, DefaultAioHttpClient

    async with (
        Gateway(ScriptedModel(world.policy), model_name="scripted") as gateway,
        seated(gateway) as seat,
        AsyncOpenAI(base_url=seat.base_url, api_key=seat.api_key, http_client=DefaultAioHttpClient()) as client,
    ):
        asked: Any = [{"role": "user", "content": "Repeat: kelp7"}]
        made: Any = await client.chat.completions.create(model="x", messages=asked, stream=stream)
        if stream:
            text = "".join([chunk.choices[0].delta.content or "" async for chunk in made])
        else:
            text = made.choices[0].message.content
        assert text.casefold() == "kelp7"
        assert seat.exchanges[0].stop is StopReason.DONE


async def test_a_program_that_leaves_at_the_end_of_a_stream_has_its_exchange_recorded(
    store: Store, record: RunStore
) -> None:
    async with StreamingUpstream() as upstream, opened(upstream.model, record) as gateway, seated(gateway) as seat:
        for turn in range(20):
            headers = {"Authorization": f"Bearer {seat.api_key}"}
            body = ASKED | {"stream": True, "seed": turn}
            async with (
                aiohttp.ClientSession() as client,
                client.post(f"{seat.base_url}/chat/completions", json=body, headers=headers) as response,
            ):
                async for line in response.content:
                    if b'"finish_reason": "stop"' in line:
                        response.close()
                        break
            assert len(seat.exchanges) == turn + 1
    assert {row["state"] for row in store.rows("calls", "r-1")} == {"done"}


async def test_a_gateway_that_is_not_open_says_so() -> None:
    with pytest.raises(ConfigError, match="not open"):
        async with seated(Gateway(ScriptedModel(["x"]))):
            pass
