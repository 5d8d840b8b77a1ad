"""OpenAI's own clients, unmodified, through the proxy: as with the upstream, but for the prior in the request."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import openai
import pytest
from aiohttp import web

from proxy_world import PRIOR, proxied
from recording_upstream import EVENTS, Asked, RecordingUpstream
from tokenprior.placement import Api, conditioned

pytestmark = pytest.mark.anyio

NODE = Path(__file__).parent.parent / "node"
MESSAGES: Any = [
    {"role": "system", "content": "Be kind. ü"},
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "How long?"},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
        ],
    },
]
TOOLS: Any = [{"type": "function", "function": {"name": "measure", "parameters": {"type": "object", "properties": {}}}}]


def opened(base_url: str) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=base_url, api_key="sk-mine", max_retries=0)


def same_but_for_the_prior(api: Api, direct: Asked, through: Asked) -> None:
    """The second request is the first one with the prior in its place, byte for byte."""
    expected = conditioned(api, json.loads(direct.body), PRIOR)
    assert json.loads(through.body) == expected
    added = len(through.body) - len(direct.body)
    assert any(through.body[:at] + through.body[at + added :] == direct.body for at in range(len(direct.body) + 1))
    ours = {"host", "content-length", "accept-encoding", "connection"}
    told, came = ({k.lower(): v for k, v in asked.headers.items()} for asked in (direct, through))
    assert {k: v for k, v in came.items() if k not in ours} == {k: v for k, v in told.items() if k not in ours}


async def test_the_python_client_gets_the_same_whole_reply(tmp_path: Path) -> None:
    async with RecordingUpstream() as upstream, proxied(tmp_path, upstream.url) as proxy:
        got = []
        for base_url in (upstream.url, proxy.base_url):
            async with opened(base_url) as client:
                raw = await client.chat.completions.with_raw_response.create(
                    model="m-1", messages=MESSAGES, tools=TOOLS, n=2, temperature=0.7, extra_body={"of_tomorrow": [1.5]}
                )
                got.append((raw.content, raw.status_code, raw.request_id, raw.parse()))
        assert got[0] == got[1]
        assert got[0][3].choices[0].message.content == "café ü"
        same_but_for_the_prior("chat", *upstream.asked)


async def test_the_python_client_gets_the_same_stream(tmp_path: Path) -> None:
    async with RecordingUpstream() as upstream, proxied(tmp_path, upstream.url) as proxy:
        got = []
        for base_url in (upstream.url, proxy.base_url):
            async with (
                opened(base_url) as client,
                client.chat.completions.with_streaming_response.create(
                    model="m-1", messages=MESSAGES, stream=True
                ) as raw,
            ):
                got.append(b"".join([piece async for piece in raw.iter_bytes()]))
        assert got[0] == got[1] == b"".join(EVENTS)
        same_but_for_the_prior("chat", *upstream.asked)


async def test_the_python_client_gets_the_same_response_of_the_responses_api(tmp_path: Path) -> None:
    async with RecordingUpstream() as upstream, proxied(tmp_path, upstream.url) as proxy:
        got = []
        for base_url in (upstream.url, proxy.base_url):
            async with opened(base_url) as client:
                raw = await client.responses.with_raw_response.create(
                    model="m-1", input="How long?", instructions="Hm."
                )
                got.append((raw.content, raw.parse().output_text))
        assert got[0] == got[1]
        same_but_for_the_prior("responses", *upstream.asked)


async def test_the_python_client_meets_the_same_errors(tmp_path: Path) -> None:
    async def refuse(_request: web.Request, _asked: Asked) -> web.StreamResponse:
        error = {"message": "slow down", "type": "rate_limit", "param": None, "code": "rate_limit_exceeded"}
        return web.json_response({"error": error}, status=429, headers={"retry-after": "3"})

    async with RecordingUpstream(refuse) as upstream, proxied(tmp_path, upstream.url) as proxy:
        got = []
        for base_url in (upstream.url, proxy.base_url):
            async with opened(base_url) as client:
                with pytest.raises(openai.RateLimitError) as met:
                    await client.chat.completions.create(model="m-1", messages=MESSAGES)
                got.append((met.value.code, met.value.body, met.value.response.headers["retry-after"]))
        assert got[0] == got[1]


async def test_the_python_client_reads_our_own_errors_as_openais(tmp_path: Path) -> None:
    async with proxied(tmp_path, "http://127.0.0.1:1/v1") as proxy, opened(proxy.base_url) as client:
        with pytest.raises(openai.InternalServerError) as met:
            await client.chat.completions.create(model="m-1", messages=MESSAGES)
        assert (met.value.status_code, met.value.code) == (502, "upstream_unreachable")


async def node(base_url: str, kind: str) -> Any:
    """What the Node client made of a reply."""
    program = shutil.which("node")
    if program is None or not (NODE / "node_modules/openai").is_dir():
        pytest.skip("node or its openai package is not here: cd tests/node && npm install --no-package-lock")
    started = await asyncio.create_subprocess_exec(
        program,
        str(NODE / "client.mjs"),
        base_url,
        kind,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    said, wrong = await started.communicate()
    assert started.returncode == 0, wrong.decode()
    return json.loads(said)


@pytest.mark.parametrize(("kind", "api"), [("whole", "chat"), ("streamed", "chat"), ("response", "responses")])
async def test_the_node_client_gets_the_same_reply(tmp_path: Path, kind: str, api: Api) -> None:
    async with RecordingUpstream() as upstream, proxied(tmp_path, upstream.url) as proxy:
        assert await node(upstream.url, kind) == await node(proxy.base_url, kind)
        same_but_for_the_prior(api, *upstream.asked)


async def test_the_node_client_lists_models_and_leaves_streams(tmp_path: Path) -> None:
    held = asyncio.Event()

    async def answer(request: web.Request, asked: Asked) -> web.StreamResponse:
        if asked.target.endswith("/models"):
            return web.json_response({"object": "list", "data": [{"id": "m-1", "object": "model"}]})
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(EVENTS[0])
        await held.wait()
        return response

    async with RecordingUpstream(answer) as upstream, proxied(tmp_path, upstream.url) as proxy:
        assert await node(proxy.base_url, "models") == [{"id": "m-1", "object": "model"}]
        first = await node(proxy.base_url, "left")
        assert first["choices"][0]["delta"]["content"] == "one"
        await asyncio.wait_for(upstream.left.wait(), 10)
