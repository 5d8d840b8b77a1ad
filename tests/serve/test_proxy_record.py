"""Record: requests are held out by lot, written down out of the way, and rewarded by id."""

from __future__ import annotations

import asyncio
import json
import socket
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select

from proxy_world import ASKED, MATHS, PRIOR, client, proxied
from recording_upstream import CHAT, EVENTS, RESPONSE, Asked, RecordingUpstream
from tokenprior.serve.proxy.passage import Lot
from tokenprior.serve.proxy.reply import PassingReply
from tokenprior.served import Served
from tokenprior.store import open_store, schema
from tokenprior.store.served import served_of

pytestmark = pytest.mark.anyio

CHATS = "/v1/chat/completions"
UPSTREAM_ID = "chatcmpl-7"


def recorded(folder: Path) -> list[Served]:
    """What the store holds, in the order of its arrival."""
    with open_store(folder / "s.db") as store:
        rows = store.read(lambda connection: list(connection.execute(select(schema.served))))
    return sorted((served_of(row._mapping) for row in rows), key=lambda served: served.served_at)


def bytes_of(folder: Path) -> bytes:
    """All that the store's files hold."""
    return b"".join(path.read_bytes() for path in sorted(folder.glob("s.db*")))


async def test_a_share_of_the_units_goes_without_the_prior_and_each_unit_always_does_the_same(tmp_path: Path) -> None:
    async with (
        RecordingUpstream() as upstream,
        proxied(tmp_path, upstream.url, holdout=0.5, seed=3) as proxy,
        client(proxy) as session,
    ):
        told: dict[str, set[str]] = {}
        for number in range(40):
            unit = f"user-{number % 10}"
            body = json.loads(ASKED) | ({"user": unit} if number % 20 < 10 else {})
            headers = {"x-tokenprior-unit": unit} if number % 20 >= 10 else {}
            answered = await session.post(CHATS, json=body, headers=headers)
            told.setdefault(unit, set()).add(answered.headers["x-tokenprior-library"])
            assert (PRIOR.text in json.loads(upstream.asked[-1].body)["messages"][0]["content"]) == (
                answered.headers["x-tokenprior-library"] != "none"
            )
    assert all(len(shown) == 1 for shown in told.values())
    assert set.union(*told.values()) == {"none", f"maths/{MATHS.version}"}
    served = recorded(tmp_path)
    assert len(served) == 40
    assert {(one.library, one.version, one.share, one.source) for one in served} == {
        ("maths", MATHS.version, 0.5, "proxy")
    }
    assert len({one.unit for one in served}) == 10
    assert not any("user-" in one.unit for one in served), "whom a unit means is not written down"


@given(share=st.floats(0, 1), seed=st.integers(), units=st.sets(st.text(), min_size=1, max_size=30))
def test_a_larger_share_holds_out_whoever_was_held_out(share: float, seed: int, units: set[str]) -> None:
    lot, more = Lot(share=share, seed=seed), Lot(share=min(1.0, share * 1.5), seed=seed)
    held = {unit for unit in units if lot.holds_out(lot.hashed(unit))}
    assert held <= {unit for unit in units if more.holds_out(more.hashed(unit))}
    assert not any(Lot(share=0.0, seed=seed).holds_out(lot.hashed(unit)) for unit in units)
    assert all(Lot(share=1.0, seed=seed).holds_out(lot.hashed(unit)) for unit in units)


async def test_what_was_served_is_written_down_with_its_figures_and_without_its_words(tmp_path: Path) -> None:
    async with (
        RecordingUpstream() as upstream,
        proxied(tmp_path, upstream.url, holdout=0.0001) as proxy,
        client(proxy) as session,
    ):
        ids = []
        for path, body, headers in [
            (CHATS, ASKED, {"x-tokenprior-task": "lengths"}),
            (CHATS, ASKED[:-1] + b', "stream": true}', {}),
            ("/v1/responses", b'{"model": "m-2", "input": "How long?"}', {}),
            (CHATS, ASKED, {"x-tokenprior-library": "none"}),
            (CHATS, b"no JSON", {}),
            ("/v1/embeddings", b"{}", {}),
        ]:
            answered = await session.post(path, data=body, headers=headers)
            await answered.read()
            ids.append(answered.headers.get("x-tokenprior-id"))
    served = recorded(tmp_path)
    assert [one.id for one in served] == ids[:3], "what no library stood before is not recorded"
    assert [one.reply_id for one in served] == ["chatcmpl-7", "chatcmpl-8", "resp_7"]
    assert [(one.input_tokens, one.output_tokens) for one in served] == [(12, 3), (12, 2), (9, 1)]
    assert [one.model for one in served] == ["m-1", "m-1", "m-2"]
    assert served[0].task == "lengths"
    assert served[1].task == served[2].task != None  # noqa: E711  # the same question
    assert all(one.unit == one.id and one.status == 200 and one.exchange is None for one in served)
    assert all(one.latency_s > 0 for one in served)


async def test_words_are_kept_where_the_config_says_so_masked_and_without_the_prior(tmp_path: Path) -> None:
    body = {
        "model": "m-1",
        "temperature": 0.70,
        "messages": [{"role": "user", "content": "My key is sk-abcdefgh12345678, write to anna@firm.de"}],
    }
    traffic = {"traffic": {"keep": True}}
    async with (
        RecordingUpstream() as upstream,
        proxied(tmp_path, upstream.url, **traffic) as proxy,
        client(proxy) as session,
    ):
        await (await session.post(CHATS, json=body)).read()
        await (await session.post(CHATS, json=body | {"stream": True})).read()
        await (await session.post("/v1/responses", json={"input": "How?", "instructions": "Hm."})).read()
    whole, streamed, response = (one.exchange or {} for one in recorded(tmp_path))
    assert whole["output"] == "café ü"
    assert streamed["output"] == "one two"
    assert response == {
        "messages": [{"role": "system", "content": "Hm."}, {"role": "user", "content": "How?"}],
        "output": "fine",
    }
    assert [message["role"] for message in whole["messages"]] == ["user"]
    held = bytes_of(tmp_path)
    assert b"sk-abcdefgh" not in held
    assert b"anna@firm" not in held
    assert b"write to" in held


async def test_a_reward_right_behind_the_reply_finds_it_by_either_id(tmp_path: Path) -> None:
    async with (
        RecordingUpstream() as upstream,
        proxied(tmp_path, upstream.url, holdout=0.0001) as proxy,
        client(proxy) as session,
    ):
        answered = await session.post(CHATS, data=ASKED)
        ours = answered.headers["x-tokenprior-id"]
        first = await session.post("/feedback", json={"id": ours, "reward": True, "comment": "short"})
        assert await first.json() == {"id": ours, "library": "maths", "version": MATHS.version}
        again = await session.post("/feedback", json={"id": "chatcmpl-7", "reward": 0.25})
        assert (again.status, (await again.json())["id"]) == (200, ours)
        [one] = recorded(tmp_path)  # durable before the answer
        assert one.reward is not None
        assert (one.reward.value, one.reward.feedback) == (0.25, "")
        unknown = await session.post("/feedback", json={"id": "chatcmpl-9", "reward": 1})
        assert (unknown.status, (await unknown.json())["error"]["code"]) == (404, "unknown_id")
        counted = proxy.metrics.text().decode()
        assert 'tokenprior_feedback_total{outcome="kept"} 2.0' in counted
        assert 'tokenprior_feedback_total{outcome="unknown"} 1.0' in counted


async def test_a_reward_waits_for_the_end_of_a_stream(tmp_path: Path) -> None:
    last = asyncio.Event()

    async def held(request: web.Request, _asked: Asked) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for event in EVENTS:
            await response.write(event)
        await last.wait()  # the client has seen the end, and the proxy has not
        return response

    async with (
        RecordingUpstream(held) as upstream,
        proxied(tmp_path, upstream.url, holdout=0.0001) as proxy,
        client(proxy) as session,
    ):
        answered = await session.post(CHATS, data=ASKED)
        got = b""
        while not got.endswith(b"data: [DONE]\n\n"):
            got += await answered.content.readany()
        asking = asyncio.ensure_future(session.post("/feedback", json={"id": "chatcmpl-8", "reward": 1}))
        await asyncio.wait([asking], timeout=0.1)
        last.set()
        assert (await asking).status == 200


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'{"id": "a"}',
        b'{"reward": 1}',
        b'{"id": 3, "reward": 1}',
        b'{"id": "a", "reward": "1"}',
        b'{"id": "a", "reward": null}',
        b'{"id": "a", "reward": NaN}',
        b'{"id": "a", "reward": 1e999}',
        b'{"id": "a", "reward": 1' + b"0" * 400 + b"}",
        b'{"id": "a", "reward": 1, "comment": 3}',
        b'{"id": "a", "reward": 1, "more": 3}',
        b'{"id": "a", "reward": ' + b"[" * 5_000,
    ],
)
async def test_a_reward_is_a_finite_number(tmp_path: Path, body: bytes) -> None:
    async with (
        RecordingUpstream() as upstream,
        proxied(tmp_path, upstream.url, holdout=0.1) as proxy,
        client(proxy) as session,
    ):
        answered = await session.post("/feedback", data=body)
        assert answered.status == 400
        assert "reward" in (await answered.json())["error"]["message"] or b"comment" in body


async def test_where_nothing_is_recorded_no_reward_is_kept(tmp_path: Path) -> None:
    async with RecordingUpstream() as upstream, proxied(tmp_path, upstream.url) as proxy, client(proxy) as session:
        answered = await session.post("/feedback", json={"id": "a", "reward": 1})
        assert (answered.status, (await answered.json())["error"]["code"]) == (404, "not_recorded")
    assert not (tmp_path / "s.db").exists()


async def test_failures_and_clients_that_left_are_facts(tmp_path: Path) -> None:
    async def answer(request: web.Request, asked: Asked) -> web.StreamResponse:
        said = json.loads(asked.body)["model"]
        if said == "overloaded":
            return web.Response(status=503)
        if said == "gone":
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        if said == "silent":
            await asyncio.Event().wait()
        await response.prepare(request)
        await response.write(EVENTS[0])
        if said == "cut":
            assert request.transport is not None
            request.transport.abort()
        else:
            await asyncio.Event().wait()
        return response

    def body(model: str) -> dict[str, Any]:
        return json.loads(ASKED) | {"model": model}

    async with (
        RecordingUpstream(answer) as upstream,
        proxied(tmp_path, upstream.url, holdout=0.0001) as proxy,
        client(proxy) as session,
    ):
        for model in ("overloaded", "gone"):
            await session.post(CHATS, json=body(model))
        await session.post(CHATS, json=body("cut"))
        never = asyncio.ensure_future(session.post(CHATS, json=body("silent")))
        while len(upstream.asked) < 4:
            await upstream.arrived.wait()
            upstream.arrived.clear()
        never.cancel()
        await asyncio.wait_for(upstream.left.wait(), 10)
        upstream.left.clear()
        left = await session.post(CHATS, json=body("slow"))
        await left.content.readany()
        left.close()
        await asyncio.wait_for(upstream.left.wait(), 10)
    assert {one.model: one.status for one in recorded(tmp_path)} == {
        "overloaded": 503,
        "gone": 502,
        "cut": 0,
        "silent": 499,
        "slow": 499,
    }


async def test_metrics_count_by_route_library_arm_and_status(tmp_path: Path) -> None:
    async with (
        RecordingUpstream() as upstream,
        proxied(tmp_path, upstream.url, holdout=1.0) as proxy,
        client(proxy) as session,
    ):
        await session.post(CHATS, data=ASKED)
        await session.post(CHATS, data=ASKED, headers={"x-tokenprior-library": "none"})
        await session.get("/v1/models")
        await session.get("/nowhere")
        text = await (await session.get("/metrics")).text()
    for arm, library, route, status in [
        ("held-out", "maths", CHATS, 200),
        ("none", "none", CHATS, 200),
        ("none", "none", "/v1/*", 200),
        ("none", "none", "other", 404),
    ]:
        line = f'tokenprior_requests_total{{arm="{arm}",library="{library}",route="{route}",status="{status}"}} 1.0'
        assert line in text
    assert "tokenprior_added_seconds_count 3.0" in text
    assert "tokenprior_in_flight 0.0" in text


@given(
    cuts=st.lists(st.integers(0, 2_000)),
    keep=st.booleans(),
    reply=st.sampled_from([b"".join(EVENTS), CHAT, RESPONSE, b"data: {", b"\xff\x00", b'{"id": 3, "choices": [{}]}']),
)
def test_a_reply_reads_the_same_however_it_is_cut(cuts: list[int], keep: bool, reply: bytes) -> None:
    streamed = reply.startswith(b"data")
    at = [0, *sorted(min(cut, len(reply)) for cut in cuts), len(reply)]
    whole, pieces = (PassingReply(whole=keep) for _ in range(2))
    whole.streamed = pieces.streamed = streamed
    whole.feed(reply)
    for start, end in pairwise(at):
        pieces.feed(reply[start:end])
    whole.end()
    pieces.end()
    assert [pieces.id, pieces.output, pieces.input_tokens, pieces.output_tokens] == [
        whole.id,
        whole.output,
        whole.input_tokens,
        whole.output_tokens,
    ]


async def test_a_client_that_leaves_just_as_a_piece_comes_is_no_failure_of_the_upstream(tmp_path: Path) -> None:
    """Both happen in one turn of the loop: the connection is closing, and nobody was told yet."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    piece = b"6\r\ndata: \r\n"
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        address = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        async with proxied(tmp_path, address, holdout=0.1) as proxy:
            with socket.create_connection(("127.0.0.1", proxy.port)) as leaving:
                length = f"Content-Length: {len(ASKED)}\r\n\r\n".encode()
                leaving.sendall(b"POST " + CHATS.encode() + b" HTTP/1.1\r\nHost: localhost\r\n" + length + ASKED)
                leaving.setblocking(False)
                upstream, _ = await loop.sock_accept(listener)
                with upstream:
                    await loop.sock_recv(upstream, 65536)
                    await loop.sock_sendall(upstream, head + piece)
                    while b"data: " not in await loop.sock_recv(leaving, 65536):
                        pass
                    upstream.send(piece)
                    leaving.close()
    (served,) = recorded(tmp_path)
    assert served.status == 499
