"""A server on loopback that speaks /v1/chat/completions whole and as a stream, with calls of tools. For the gateway.

What it says depends on the request alone: it calls the tool `add` if one is offered and no result is there yet, else it
says the last message, whether it has read lessons, and the model's name. Some models misbehave by their name.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from aiohttp import web

USAGE = {
    "prompt_tokens": 20,
    "completion_tokens": 7,
    "total_tokens": 27,
    "prompt_tokens_details": {"cached_tokens": 4},
}


class StreamingUpstream:
    """The server, in the loop of the test.

    Attributes:
        bodies: of all requests, in order.
        raw: what was sent for each, byte for byte, the events that say the usage left out.
        gone: how many clients left before the end.
    """

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.raw: list[bytes] = []
        self.gone = 0
        self.arrived = asyncio.Event()
        self.url = ""

    @property
    def model(self) -> str:
        return f"{self.url}#*"

    async def __aenter__(self) -> StreamingUpstream:
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_post("/v1/chat/completions", self._chat)
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.2)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/v1"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.bodies.append(body)
        self.headers.append(dict(request.headers))
        self.arrived.set()
        match body.get("model"):
            case "refuses":
                return web.Response(text='{"error": {"message": "no such field: foo", "x": 1}}', status=400)
            case "locked":
                return web.json_response({"error": {"message": "wrong key"}}, status=401)
            case "moved":
                raise web.HTTPTemporaryRedirect("http://127.0.0.1:9/v1/chat/completions")
            case "broke":
                return web.json_response({"error": {"message": "pay", "code": "insufficient_quota"}}, status=429)
            case "hangs":
                try:
                    await asyncio.sleep(60)
                except asyncio.CancelledError:
                    self.gone += 1
                    raise
        message, finish = answer(body)
        if body.get("stream") is not True:
            choice = {"index": 0, "finish_reason": finish, "message": message}
            # In a form that no library of ours would write.
            whole = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": body["model"]}
            sent = json.dumps(whole | {"choices": [choice], "usage": USAGE, "odd": {"ü": 1.50}}, indent=1).encode()
            self.raw.append(sent)
            return web.Response(body=sent, content_type="application/json")
        return await self._stream(request, body, message, finish)

    async def _stream(
        self, request: web.Request, body: dict[str, Any], message: dict[str, Any], finish: str
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        sent = b""
        for number, event in enumerate(events(body, message, finish)[: -1 if body["model"] == "no-done" else None]):
            if body["model"] == "cut" and number == 2:
                request.transport.abort()  # type: ignore[union-attr]
                break
            if body["model"] == "drips" and number == 1:
                try:
                    await asyncio.sleep(60)
                except asyncio.CancelledError:
                    self.gone += 1
                    raise
            if body["model"] == "errs" and number == 0:
                event = b'data: {"error": {"message": "overloaded"}}\n\n'
            half = len(event) // 2
            await response.write(event[:half])
            await asyncio.sleep(0.001)
            await response.write(event[half:])
            if b'"usage"' not in event:
                sent += event
        self.raw.append(sent)
        return response


def answer(body: dict[str, Any]) -> tuple[dict[str, Any], str]:
    said = body["messages"]
    if body.get("tools") and not any(message["role"] == "tool" for message in said):
        function = {"name": "add", "arguments": '{"a": 1, "b": 2}'}
        return {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "c1", "type": "function", "function": function},
                {"id": "c2", "type": "function", "function": function},
            ],
        }, "tool_calls"
    last = said[-1]["content"]
    learned = "Lessons from experience" in json.dumps(said[0]["content"])
    return {"role": "assistant", "content": f"{last} | ü {'taught' if learned else 'plain'} | {body['model']}"}, "stop"


def events(body: dict[str, Any], message: dict[str, Any], finish: str) -> list[bytes]:
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": body["model"]}

    def event(delta: dict[str, Any], reason: str | None = None) -> bytes:
        chunk = head | {"choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}
        return b"data:  " + json.dumps(chunk, ensure_ascii=False).encode() + b"\r\n\r\n"

    made = [b": keep-alive\n\n", event({"role": "assistant", "content": ""})]
    text = message["content"] or ""
    made += [event({"content": text[at : at + 5]}) for at in range(0, len(text), 5)]
    for index, call in enumerate(message.get("tool_calls", ())):
        arguments = call["function"]["arguments"]
        named = {"name": call["function"]["name"], "arguments": ""}
        made.append(event({"tool_calls": [call | {"index": index, "function": named}]}))
        made += [
            event({"tool_calls": [{"index": index, "function": {"arguments": arguments[at : at + 4]}}]})
            for at in range(0, len(arguments), 4)
        ]
    made.append(event({}, finish))
    if (body.get("stream_options") or {}).get("include_usage"):
        made.append(b"data: " + json.dumps(head | {"choices": [], "usage": USAGE}).encode() + b"\n\n")
    return [*made, b"data: [DONE]\n\n"]
