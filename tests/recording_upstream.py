"""An OpenAI-compatible upstream on loopback, in the loop of the test, that keeps what it was sent byte for byte.

What it answers is a function of the test's, else a canned reply in a spelling that no library of ours would write.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from aiohttp import web
from multidict import CIMultiDictProxy

CHAT = (
    b'{"id": "chatcmpl-7", "object":"chat.completion","created":1,"model":"m-1",\n "choices":[{"index":0,'
    b'"finish_reason":"stop","message":{"role":"assistant","content":"caf\\u00e9 \xc3\xbc"}}],\r\n "usage":'
    b'{"prompt_tokens":12,"completion_tokens":3,"total_tokens":15}, "odd": 1.50}'
)
EVENTS = (
    b'data:  {"id":"chatcmpl-8","object":"chat.completion.chunk","created":1,"model":"m-1","choices":[{"index":0,'
    b'"delta":{"role":"assistant","content":"one"},"finish_reason":null}]}\r\n\r\n',
    b'data: {"id":"chatcmpl-8","object":"chat.completion.chunk","created":1,"model":"m-1","choices":[{"index":0,'
    b'"delta":{"content":" two"},"finish_reason":"stop"}]}\n\n',
    b'data: {"id":"chatcmpl-8","object":"chat.completion.chunk","created":1,"model":"m-1","choices":[],'
    b'"usage":{"prompt_tokens":12,"completion_tokens":2,"total_tokens":14}}\n\n',
    b"data: [DONE]\n\n",
)
RESPONSE = (
    b'{"id":"resp_7","object":"response","created_at":1,"model":"m-1","status":"completed","output":[{"type":"message",'
    b'"id":"msg_1","role":"assistant","status":"completed","content":[{"type":"output_text","text":"fine","annotations":'
    b'[]}]}],"parallel_tool_calls":true,"tool_choice":"auto","tools":[],"usage":{"input_tokens":9,"output_tokens":1,'
    b'"total_tokens":10}}'
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One request as it arrived."""

    method: str
    target: str
    headers: CIMultiDictProxy[str]
    body: bytes


Answer = Callable[[web.Request, Asked], Awaitable[web.StreamResponse]]


class RecordingUpstream:
    """The server. Use as an async context manager.

    Attributes:
        asked: all requests, in order.
        gone: how many clients left before the end.
        answer: makes the responses, if the test wants other ones.
    """

    def __init__(self, answer: Answer | None = None) -> None:
        self.asked: list[Asked] = []
        self.answer = answer or canned
        self.gone = 0
        self.arrived = asyncio.Event()
        self.left = asyncio.Event()
        self.url = ""

    async def __aenter__(self) -> RecordingUpstream:
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_route("*", "/{path:.*}", self._any)
        self._runner = web.AppRunner(
            app, access_log=None, handler_cancellation=True, shutdown_timeout=0.2, auto_decompress=False
        )
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/v1"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _any(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        asked = Asked(method=request.method, target=request.raw_path, headers=request.headers, body=body)
        self.asked.append(asked)
        self.arrived.set()
        try:
            return await self.answer(request, asked)
        except (asyncio.CancelledError, ConnectionError):
            self.gone += 1
            self.left.set()
            raise


async def canned(request: web.Request, asked: Asked) -> web.StreamResponse:
    """A whole reply or a stream of the API that was asked."""
    if asked.target.endswith("/responses"):
        return web.Response(body=RESPONSE, content_type="application/json", headers={"x-request-id": "req_9"})
    if not asked.target.endswith("/chat/completions"):
        return web.json_response({"object": "list", "data": [], "you": asked.method})
    if b'"stream": true' not in asked.body and b'"stream":true' not in asked.body:
        return web.Response(body=CHAT, content_type="application/json", headers={"x-request-id": "req_9"})
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    for event in EVENTS:
        await response.write(event)
    return response
