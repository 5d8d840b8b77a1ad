"""Proxy: each request gets the prior of its library, and nothing else of it or of its reply changes."""

from __future__ import annotations

import asyncio
import io
import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from proxy_world import ASKED, MATHS, PRIOR, WEB, client, proxied, write
from recording_upstream import CHAT, EVENTS, Asked, RecordingUpstream, canned
from tokenprior.library import Library
from tokenprior.placement import conditioned
from tokenprior.prior import TokenPrior

pytestmark = pytest.mark.anyio

CHATS = "/v1/chat/completions"
JSON = {"Content-Type": "application/json"}


async def test_the_request_differs_in_the_prior_alone_and_the_reply_in_nothing(tmp_path: Path) -> None:
    headers = {**JSON, "X-Own": "a", "Authorization": "Bearer sk-mine", "Accept": "*/*", "OpenAI-Organization": "o"}
    async with RecordingUpstream() as upstream, proxied(tmp_path, upstream.url) as proxy, client(proxy) as direct:
        straight = await direct.post(upstream.url + "/chat/completions", data=ASKED, headers=headers)
        through = await direct.post(CHATS, data=ASKED, headers=headers)
        assert await through.read() == await straight.read() == CHAT
        plain, taught = upstream.asked
    assert taught.body.startswith(b'{"model": "m-1", "messages": [{"role": "system", "content": "Lessons')
    assert taught.body.endswith(b'{"role": "user", "content": "How long?"}], "temperature": 0.70}')
    assert json.loads(taught.body) == conditioned("chat", json.loads(ASKED), PRIOR)
    own = {"x-tokenprior-id", "x-tokenprior-library", "date"}
    assert through.status == straight.status
    assert _without(through.headers, own) == _without(straight.headers, own)
    assert through.headers["x-tokenprior-library"] == f"maths/{MATHS.version}"
    assert through.headers["x-tokenprior-id"].startswith("tp-")
    # What concerns the connection alone, and that a reply is wanted which can be read on the way.
    changed = {"host", "content-length", "accept-encoding", "connection"}
    assert _without(taught.headers, changed) == _without(plain.headers, changed)


def _without(headers: Any, names: set[str]) -> list[tuple[str, str]]:
    return sorted((name.lower(), value) for name, value in headers.items() if name.lower() not in names)


@pytest.mark.parametrize(
    "body",
    [
        {"n": 3, "messages": [{"role": "system", "content": "Add."}, {"role": "user", "content": "a"}]},
        {"tools": [{"type": "function", "function": {"name": "f"}}], "messages": [{"role": "user", "content": "a"}]},
        {
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}],
                },
                {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "{}"}}]},
                {"role": "tool", "tool_call_id": "1", "content": "3"},
            ]
        },
        {"of_tomorrow": {"deep": [1.0, 10**40, None]}, "messages": [{"role": "developer", "content": []}]},
    ],
)
async def test_tools_n_images_and_unknown_fields_pass(tmp_path: Path, body: dict[str, Any]) -> None:
    async with RecordingUpstream() as upstream, proxied(tmp_path, upstream.url) as proxy, client(proxy) as session:
        await session.post(CHATS, json=body)
        assert json.loads(upstream.asked[0].body) == conditioned("chat", body, PRIOR)


async def test_the_responses_api_gets_the_prior_as_instructions(tmp_path: Path) -> None:
    body = {"model": "m-1", "input": "How long?", "instructions": "Be kind."}
    async with RecordingUpstream() as upstream, proxied(tmp_path, upstream.url) as proxy, client(proxy) as session:
        answered = await session.post("/v1/responses", json=body)
        assert json.loads(upstream.asked[0].body) == body | {"instructions": PRIOR.conditioned("Be kind.")}
        assert answered.headers["x-tokenprior-library"] == f"maths/{MATHS.version}"


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("GET", "/v1/models"),
        ("GET", "/v1/models/a%2Fb?x=%20&x=2"),
        ("POST", "/v1/embeddings"),
        ("DELETE", "/v1/files/file-1"),
        ("GET", "/v1/chat/completions"),
        ("POST", "/v1/chat/completions/chatcmpl-1"),
        ("PUT", "/v1/x/...y"),
    ],
)
async def test_whatever_else_is_asked_passes_untouched(tmp_path: Path, method: str, target: str) -> None:
    body = b"" if method in ("GET", "DELETE") else b'{"messages": [{"role": "user", "content": "a"}]}'
    async with RecordingUpstream() as upstream, proxied(tmp_path, upstream.url) as proxy, client(proxy) as session:
        from yarl import URL

        url = URL(f"http://127.0.0.1:{proxy.port}{target}", encoded=True)
        answered = await session.request(method, url, data=body or None, headers={"Accept-Encoding": "br"})
        assert (await answered.json(content_type=None))["you"] == method if "chat" not in target else answered.ok
        [asked] = upstream.asked
        assert (asked.method, asked.target, asked.body) == (method, target, body)
        assert asked.headers["Accept-Encoding"] == "br"
        assert "x-tokenprior-id" not in answered.headers


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no JSON",
        b'{"messages": []}',
        b'{"messages": [{"role": "system", "content": 3}]}',
        b'{"messages": [{"role": "user", "content": "a"}], "messages": []}',
        b'\xef\xbb\xbf{"messages": [{"role": "user", "content": "a"}]}',
    ],
)
async def test_a_malformed_body_goes_on_as_it_came(tmp_path: Path, body: bytes) -> None:
    async with RecordingUpstream() as upstream, proxied(tmp_path, upstream.url) as proxy, client(proxy) as session:
        answered = await session.post(CHATS, data=body)
        assert upstream.asked[0].body == body
        assert answered.headers["x-tokenprior-library"] == "none"


async def test_the_library_is_chosen_by_header_by_model_by_pattern_or_is_the_first(tmp_path: Path) -> None:
    libraries = {
        "maths": {"library": write(tmp_path, "maths", MATHS)},
        "web": {"library": write(tmp_path, "web", WEB), "models": ["gpt-5*"]},
    }
    expected = {
        ("m-1", ""): ("maths", "m-1"),
        ("m-1", "web"): ("web", "m-1"),
        ("m-1@web", ""): ("web", "m-1"),
        ("gpt-5-mini", ""): ("web", "gpt-5-mini"),
        ("gpt-5-mini@maths", ""): ("maths", "gpt-5-mini"),
        ("gpt-5@web", "maths"): ("maths", "gpt-5"),
        ("m-1@none", ""): ("none", "m-1"),
        ("gpt-5", "none"): ("none", "gpt-5"),
        ("x@unknown", ""): ("maths", "x@unknown"),
    }
    shown = {"maths": PRIOR.text, "web": TokenPrior.of(WEB).text}
    async with (
        RecordingUpstream() as upstream,
        proxied(tmp_path, upstream.url, libraries=libraries) as proxy,
        client(proxy) as session,
    ):
        for (model, header), (name, asked_for) in expected.items():
            headers = {"x-tokenprior-library": header} if header else {}
            body = {"messages": [{"role": "user", "content": "a"}], "model": model}
            answered = await session.post(CHATS, json=body, headers=headers)
            asked = upstream.asked[-1]
            first = json.loads(asked.body)["messages"][0]["content"]
            assert first == shown.get(name, "a"), (model, header)
            assert json.loads(asked.body)["model"] == asked_for
            assert answered.headers["x-tokenprior-library"].partition("/")[0] == name
            assert "x-tokenprior-library" not in asked.headers
        unknown = await session.post(CHATS, json={"messages": []}, headers={"x-tokenprior-library": "webb"})
        assert unknown.status == 400
        assert "there are: maths, web, none" in (await unknown.json())["error"]["message"]


async def test_what_is_relevant_is_chosen_for_the_last_thing_the_user_says(tmp_path: Path) -> None:
    libraries = {"web": {"library": write(tmp_path, "web", WEB), "prior": {"relevant": 1}}}
    said = [
        {"role": "user", "content": "Is there a date on the page?"},
        {"role": "assistant", "content": "No."},
        {"role": "user", "content": [{"type": "text", "text": "Then which name?"}]},
    ]
    async with (
        RecordingUpstream() as upstream,
        proxied(tmp_path, upstream.url, libraries=libraries) as proxy,
        client(proxy) as session,
    ):
        await session.post(CHATS, json={"messages": said})
        await session.post(CHATS, json={"messages": said[:1]})
    priors = [json.loads(asked.body)["messages"][0]["content"] for asked in upstream.asked]
    assert [("[G0]" in prior, "[G1]" in prior) for prior in priors] == [(False, True), (True, False)]


@pytest.mark.parametrize("status", [301, 400, 401, 404, 429, 500, 503])
async def test_the_upstreams_refusals_pass_as_they_are(tmp_path: Path, status: int) -> None:
    async def refuse(_request: web.Request, _asked: Asked) -> web.StreamResponse:
        headers = {"Retry-After": "7", "Location": "/elsewhere", "X-Odd": "a, b"}
        return web.Response(status=status, reason="Own Words", body=b"{'no': JSON", headers=headers)

    async with (
        RecordingUpstream(refuse) as upstream,
        proxied(tmp_path, upstream.url) as proxy,
        client(proxy) as session,
    ):
        answered = await session.post(CHATS, data=ASKED, allow_redirects=False)
        assert (answered.status, answered.reason, await answered.read()) == (status, "Own Words", b"{'no': JSON")
        assert [answered.headers[name] for name in ("Retry-After", "Location", "X-Odd")] == ["7", "/elsewhere", "a, b"]
        assert len(upstream.asked) == 1


async def test_a_compressed_reply_that_nobody_asked_for_passes_as_it_is(tmp_path: Path) -> None:
    async def zipped(_request: web.Request, _asked: Asked) -> web.StreamResponse:
        return web.Response(body=b"\x1f\x8bno gzip", headers={"Content-Encoding": "gzip"})

    async with (
        RecordingUpstream(zipped) as upstream,
        proxied(tmp_path, upstream.url) as proxy,
        client(proxy) as session,
    ):
        answered = await session.post(CHATS, data=ASKED)
        assert await answered.read() == b"\x1f\x8bno gzip"
        assert answered.headers["Content-Encoding"] == "gzip"


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 204), ("GET", 304), ("POST", 200)])
async def test_replies_without_a_body_leave_the_connection_in_order(tmp_path: Path, method: str, status: int) -> None:
    async def bare(request: web.Request, asked: Asked) -> web.StreamResponse:
        if asked.target == "/v1/bare":
            return web.Response(status=status, headers={"ETag": "a"})
        return await canned(request, asked)

    async with RecordingUpstream(bare) as upstream, proxied(tmp_path, upstream.url) as proxy, client(proxy) as session:
        for _ in range(2):
            straight = await session.request(method, upstream.url + "/bare")
            through = await session.request(method, "/v1/bare")
            assert (through.status, await through.read()) == (status, b"") == (straight.status, await straight.read())
            assert _without(through.headers, {"date"}) == _without(straight.headers, {"date"})
            assert await (await session.post(CHATS, data=ASKED)).read() == CHAT


async def test_a_reply_without_a_length_ends_where_the_upstream_ends_it(tmp_path: Path) -> None:
    async def old(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _reader.readuntil(b"}]")
        writer.write(b"HTTP/1.0 200 Fine\r\nContent-Type: application/json\r\n\r\n" + CHAT)
        writer.close()

    server = await asyncio.start_server(old, "127.0.0.1", 0)
    address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    async with server, proxied(tmp_path, address) as proxy, client(proxy) as session:
        assert await (await session.post(CHATS, data=ASKED)).read() == CHAT


async def test_pieces_of_a_stream_leave_as_they_come(tmp_path: Path) -> None:
    seen = [asyncio.Event() for _ in EVENTS]

    async def held(request: web.Request, _asked: Asked) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for event, was_seen in zip(EVENTS, seen, strict=True):
            await response.write(event)
            await was_seen.wait()  # the next piece is not made before the client has this one
        return response

    async with RecordingUpstream(held) as upstream, proxied(tmp_path, upstream.url) as proxy, client(proxy) as session:
        answered = await session.post(CHATS, data=ASKED)
        got = b""
        for number, was_seen in enumerate(seen):
            while got != b"".join(EVENTS[: number + 1]):
                got += await answered.content.readany()
            was_seen.set()
        assert await answered.content.read() == b""


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_client_that_goes_away_takes_its_call_with_it(tmp_path: Path, streamed: bool) -> None:
    async def slow(request: web.Request, _asked: Asked) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        if streamed:
            await response.prepare(request)
            await response.write(EVENTS[0])
        await asyncio.Event().wait()
        return response

    async with RecordingUpstream(slow) as upstream, proxied(tmp_path, upstream.url) as proxy, client(proxy) as session:
        asking = asyncio.ensure_future(session.post(CHATS, data=ASKED))
        await upstream.arrived.wait()
        if streamed:
            answered = await asking
            assert await answered.content.readany() == EVENTS[0]
            answered.close()
        asking.cancel()
        await asyncio.wait_for(upstream.left.wait(), 10)
        assert upstream.gone == 1


async def test_a_stream_that_breaks_off_is_seen_to_break_off(tmp_path: Path) -> None:
    async def broken(request: web.Request, _asked: Asked) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(EVENTS[0])
        assert request.transport is not None
        request.transport.abort()
        return response

    async with (
        RecordingUpstream(broken) as upstream,
        proxied(tmp_path, upstream.url) as proxy,
        client(proxy) as session,
    ):
        answered = await session.post(CHATS, data=ASKED)
        with pytest.raises(aiohttp.ClientError):
            await answered.read()


async def test_an_upstream_that_breaks_off_before_a_reply_is_a_502(tmp_path: Path) -> None:
    async def broken(request: web.Request, _asked: Asked) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    async with (
        RecordingUpstream(broken) as upstream,
        proxied(tmp_path, upstream.url) as proxy,
        client(proxy) as session,
    ):
        answered = await session.post(CHATS, data=ASKED)
        assert answered.status == 502
        assert (await answered.json())["error"]["code"] == "upstream_broke_off"
        assert answered.headers["x-tokenprior-id"].startswith("tp-")


async def test_an_upstream_that_is_not_there_is_a_502(tmp_path: Path) -> None:
    async with proxied(tmp_path, "http://127.0.0.1:1/v1") as proxy, client(proxy) as session:
        answered = await session.post(CHATS, data=ASKED)
        assert answered.status == 502
        said = (await answered.json())["error"]
        assert said["code"] == "upstream_unreachable"
        assert "127.0.0.1" not in said["message"], "where the upstream is concerns no client"


async def test_an_upstream_that_says_nothing_is_a_504_and_a_stream_that_stops_is_cut(tmp_path: Path) -> None:
    async def silent(request: web.Request, asked: Asked) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        if b"stream" in asked.body:
            await response.prepare(request)
            await response.write(EVENTS[0])
        await asyncio.Event().wait()
        return response

    limits = {"limits": {"idle_s": 0.2}}
    async with (
        RecordingUpstream(silent) as upstream,
        proxied(tmp_path, upstream.url, **limits) as proxy,
        client(proxy) as session,
    ):
        answered = await session.post(CHATS, data=ASKED)
        assert answered.status == 504
        assert (await answered.json())["error"]["code"] == "upstream_timeout"
        streamed = await session.post(CHATS, data=ASKED[:-1] + b', "stream": true}')
        with pytest.raises(aiohttp.ClientError):
            await streamed.read()


async def test_a_new_version_is_served_and_a_broken_one_is_not(tmp_path: Path) -> None:
    async with RecordingUpstream() as upstream, proxied(tmp_path, upstream.url) as proxy, client(proxy) as session:
        path = tmp_path / "maths.json"

        async def version() -> str:
            answered = await session.post(CHATS, data=ASKED)
            return answered.headers["x-tokenprior-library"].partition("/")[2]

        path.write_text('{"experiences": [', encoding="utf-8")
        await proxy.libraries.refresh(proxy.reloaded)
        await proxy.libraries.refresh(proxy.reloaded)
        assert await version() == MATHS.version
        path.write_text(WEB.dumps(), encoding="utf-8")
        await proxy.libraries.refresh(proxy.reloaded)
        assert await version() == WEB.version
        path.write_text(Library().dumps(), encoding="utf-8")
        await proxy.libraries.refresh(proxy.reloaded)
        assert await version() == Library().version
        assert upstream.asked[-1].body == ASKED, "an empty library changes nothing"
        health = await (await session.get("/health")).json()
        assert health["libraries"]["maths"] == {"version": Library().version, "lessons": 0}
        counted = proxy.metrics.text().decode()
        assert 'tokenprior_reloads_total{library="maths",outcome="failed"} 1.0' in counted, "once, not at every look"
        assert 'tokenprior_reloads_total{library="maths",outcome="taken"} 2.0' in counted


async def test_no_more_are_let_in_than_may_be_in_flight(tmp_path: Path) -> None:
    go_on = asyncio.Event()

    async def held(request: web.Request, asked: Asked) -> web.StreamResponse:
        await go_on.wait()
        return await canned(request, asked)

    async with (
        RecordingUpstream(held) as upstream,
        proxied(tmp_path, upstream.url, limits={"in_flight": 1}) as proxy,
        client(proxy) as session,
    ):
        first = asyncio.ensure_future(session.post(CHATS, data=ASKED))
        await upstream.arrived.wait()
        second = await session.post(CHATS, data=ASKED)
        assert (second.status, second.headers["Retry-After"]) == (429, "1")
        assert (await session.get("/health")).status == 200
        go_on.set()
        assert (await first).status == 200
        assert (await session.post(CHATS, data=ASKED)).status == 200


async def test_a_request_that_waits_for_leave_to_send_its_body_gets_it(tmp_path: Path) -> None:
    async with RecordingUpstream() as upstream, proxied(tmp_path, upstream.url) as proxy, client(proxy) as session:
        answered = await session.post(CHATS, data=ASKED, expect100=True)
        assert await answered.read() == CHAT


async def test_a_large_body_and_a_large_reply_pass(tmp_path: Path) -> None:
    async def echoed(_request: web.Request, asked: Asked) -> web.StreamResponse:
        return web.Response(body=asked.body, content_type="application/json")

    body = {"messages": [{"role": "system", "content": "ü" * 2_000_000}, {"role": "user", "content": "a"}]}
    async with (
        RecordingUpstream(echoed) as upstream,
        proxied(tmp_path, upstream.url) as proxy,
        client(proxy) as session,
    ):
        answered = await session.post(CHATS, data=io.BytesIO(json.dumps(body, ensure_ascii=False).encode()))
        assert json.loads(await answered.read()) == conditioned("chat", body, PRIOR)
