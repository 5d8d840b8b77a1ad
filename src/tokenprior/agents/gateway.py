"""Gateway: any program as an agent. It believes that it talks to OpenAI, and talks to us.

Order of events of a request: its key says which attempt makes it; the limits of the attempt are looked at; the prior is
put at the end of the first system message; the model answers, from the ledger if this request was answered before; the
reply is written down; the program gets what the endpoint sent, byte for byte. A stream is handed on as it comes, but
its end waits until the reply is written down: a program that has seen it may be gone in the same moment.

What is covered: chat completions, whole or streamed, with whatever fields the program sends. What is not: other routes
(the responses API, embeddings) are refused in words, for they would be neither recorded nor conditioned. The server
listens on 127.0.0.1 only, and every attempt has a key of its own that ends with it. A program that gives up on a reply
has its call cut off; asked again, it is another call, and counts as one.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tokenprior.agents.base import AttemptLimits
from tokenprior.agents.seat import Refused, Seat
from tokenprior.errors import ConfigError
from tokenprior.models.base import CallFailed, CallKey, Model, Phase, Reply, Request
from tokenprior.placement import conditioned
from tokenprior.prior import TokenPrior
from tokenprior.redact import redact
from tokenprior.rollout import Message, StopReason
from tokenprior.task import Task, content_hash
from tokenprior.text import shorten

if TYPE_CHECKING:
    from aiohttp import web

MOST_BODY_BYTES = 32 * 1024 * 1024

_ENDS = re.compile(rb'"finish_reason"\s*:\s*"|^data:\s*\[DONE\]', re.MULTILINE)
_STATUS = {"rate-limit": 429, "timeout": 504}


class Gateway:
    """A server that speaks OpenAI's chat completions to programs. Use as an async context manager.

    Args:
        model: answers requests with a `Request.body`; already limited, retried, budgeted and recorded.
        model_name: takes the place of the model that a program asks for; `*` keeps it.
        temperature: for requests that name none.
        seed: with the place of the call it gives a seed for requests that name none.
        max_tokens: what is reserved for a reply whose request sets no limit; it is not sent.
    """

    def __init__(
        self,
        model: Model,
        *,
        model_name: str = "*",
        temperature: float | None = None,
        seed: int | None = None,
        max_tokens: int = 4096,
    ) -> None:
        self.model, self.model_name = model, model_name
        self.temperature, self.seed, self.max_tokens = temperature, seed, max_tokens
        self._seats: dict[str, Seat] = {}
        self._runner: web.AppRunner | None = None
        self._base_url = ""

    @property
    def fingerprint(self) -> str:
        """A hash of all that can change what a program gets to read."""
        return content_hash(["gateway", self.model.name, self.model_name, self.temperature, self.seed])

    async def __aenter__(self) -> Gateway:
        from aiohttp import web

        app = web.Application(client_max_size=MOST_BODY_BYTES, middlewares=[web.middleware(_shaped)])
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_get("/v1/models", self._models)
        app.router.add_route("*", "/{path:.*}", self._other)
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.5)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self._base_url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/v1"
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    @asynccontextmanager
    async def seat(
        self, task: Task, prior: TokenPrior, *, phase: Phase, step: int, index: int, limits: AttemptLimits | None = None
    ) -> AsyncIterator[Seat]:
        """A place for one attempt. When it is left its key ends, and what it has in flight is cut off.

        Raises:
            ConfigError: the gateway is not open.
        """
        if self._runner is None:
            raise ConfigError("the gateway is not open: use it as `async with Gateway(...)`")
        key = CallKey(phase=phase, step=step, task=task.id, rollout=index)
        seat = Seat(self._base_url, key, prior, limits or AttemptLimits())
        self._seats[seat.api_key] = seat
        try:
            yield seat
        finally:
            del self._seats[seat.api_key]
            await seat.close()

    def _seat_of(self, http: web.Request) -> Seat:
        scheme, _, key = http.headers.get("Authorization", "").partition(" ")
        seat = self._seats.get(key.strip()) if scheme.casefold() == "bearer" else None
        if seat is None:
            raise Refused(401, "no attempt has this key, or it has ended", "invalid_api_key")
        return seat

    async def _models(self, http: web.Request) -> web.StreamResponse:
        from aiohttp import web

        self._seat_of(http)
        names = [] if self.model_name == "*" else [self.model_name]
        listed = [{"id": name, "object": "model", "created": 0, "owned_by": "tokenprior"} for name in names]
        return web.json_response({"object": "list", "data": listed})

    async def _other(self, http: web.Request) -> web.StreamResponse:
        self._seat_of(http)
        words = f"{http.method} {http.path}: only POST /v1/chat/completions and GET /v1/models are served, "
        raise Refused(501, words + "because nothing else would be recorded", "not_recorded")

    async def _chat(self, http: web.Request) -> web.StreamResponse:
        seat = self._seat_of(http)
        body = _conditioned(await _body_of(http), seat.prior)
        messages = _messages(body)
        seat.admit()
        stream = _Stream(http)
        try:
            place, reply = await seat.call(
                content_hash(body), lambda number: self._asked(seat, body, messages, number, stream.write)
            )
        except CallFailed as failed:
            seat.failure = failed
            if stream.began:
                return stream.cut()
            raise _of_failure(failed) from failed
        except Exception as error:
            refused = seat.refused(error)
            if stream.began:
                return stream.cut()
            raise refused from error
        seat.note(place, messages, reply)
        sent = reply.body.encode("utf-8", "surrogateescape") if reply.body else made_up(reply, body)
        return await stream.finish(sent)

    def _asked(
        self,
        seat: Seat,
        body: dict[str, Any],
        messages: tuple[Message, ...],
        number: int,
        on_bytes: Callable[[bytes], Awaitable[None]],
    ) -> Coroutine[Any, Any, Reply]:
        key = replace(seat.key, turn=number)
        given: dict[str, Any] = {}
        if self.model_name != "*":
            given["model"] = self.model_name
        if self.temperature is not None and body.get("temperature") is None:
            given["temperature"] = self.temperature
        if self.seed is not None and body.get("seed") is None:
            made_of = [self.seed, str(key), content_hash(body["messages"])]
            given["seed"] = int(content_hash(made_of)[:7], 16)
        limits = [_count(body.get(name)) for name in ("max_completion_tokens", "max_tokens")]
        request = Request(
            key=key,
            messages=messages,
            max_tokens=next((limit for limit in limits if limit), self.max_tokens) * (_count(body.get("n")) or 1),
            timeout_s=seat.limits.seconds - seat.at_work_s,
            body=body | given,
            on_bytes=on_bytes,
        )
        return self.model.answer(request)


class _Stream:
    """The reply on its way to the program."""

    def __init__(self, http: web.Request) -> None:
        self._http = http
        self._response: web.StreamResponse | None = None
        self._held: list[bytes] = []

    @property
    def began(self) -> bool:
        return self._response is not None

    async def write(self, event: bytes) -> None:
        """Hand on an event, or keep it back if the stream is at its end."""
        if self._held or _ENDS.search(event):
            self._held.append(event)
        else:
            await self._send(event)

    async def _send(self, piece: bytes) -> None:
        from aiohttp import web

        with suppress(ConnectionError):  # the program is gone, and the server is about to cancel this
            if self._response is None:
                self._response = web.StreamResponse(headers={"Cache-Control": "no-cache"})
                self._response.content_type = "text/event-stream"
                await self._response.prepare(self._http)
            if self._response.prepared:
                await self._response.write(piece)

    async def finish(self, whole: bytes) -> web.StreamResponse:
        """Hand on what is left: all of it, if nothing came as a stream."""
        from aiohttp import web

        if self._response is None and not self._held and whole.lstrip()[:1] == b"{":
            return web.Response(body=whole, content_type="application/json")
        await self._send(b"".join(self._held) if self._response or self._held else whole)
        assert self._response is not None
        with suppress(ConnectionError):
            await self._response.write_eof()
        return self._response

    def cut(self) -> web.StreamResponse:
        """End it so that the program sees that it is no end."""
        assert self._response is not None
        if self._http.transport is not None:
            self._http.transport.abort()
        return self._response


async def _shaped(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Every error in OpenAI's shape."""
    from aiohttp import web

    try:
        return await handler(request)
    except Refused as refused:
        return refused.response()
    except web.HTTPException as error:
        return Refused(error.status, error.text or error.reason, f"http_{error.status}").response()


def _of_failure(failed: CallFailed) -> Refused:
    """A failed call as the endpoint told it, or in words of ours."""
    number = failed.kind.removeprefix("http-")
    status = int(number) if number.isdigit() else _STATUS.get(failed.kind, 502)
    words = redact(str(failed))
    # A program that followed a redirection would leave the gateway.
    return Refused(status, words, failed.kind, failed.body) if status >= 400 else Refused(502, words, failed.kind)


async def _body_of(http: web.Request) -> dict[str, Any]:
    raw = await http.read()
    try:
        body = json.loads(raw, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise Refused(400, f"the body is no JSON: {shorten(str(error), 200)}", "invalid_json") from error
    if not isinstance(body, dict) or not isinstance(body.get("messages"), list) or not body["messages"]:
        raise Refused(400, "expected a JSON object with a list of `messages`", "invalid_body")
    return body


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON value")


def _conditioned(body: dict[str, Any], prior: TokenPrior) -> dict[str, Any]:
    try:
        return conditioned("chat", body, prior)
    except ValueError as error:
        raise Refused(400, str(error), "invalid_messages") from error


def _messages(body: dict[str, Any]) -> tuple[Message, ...]:
    try:
        return tuple(Message.from_json(_plain_calls(message)) for message in body["messages"])
    except (ValueError, TypeError) as error:
        raise Refused(400, shorten(redact(str(error)), 300), "invalid_messages") from error


def _plain_calls(message: Any) -> Any:
    """Calls of custom tools, whose input is a text, as calls of functions."""
    if not isinstance(message, dict) or not isinstance(message.get("tool_calls"), list):
        return message
    calls = [
        {"id": call.get("id"), "function": {"name": custom.get("name"), "arguments": custom.get("input")}}
        if isinstance(call, dict) and isinstance(custom := call.get("custom"), dict)
        else call
        for call in message["tool_calls"]
    ]
    return message | {"tool_calls": calls}


def _count(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def made_up(reply: Reply, body: dict[str, Any]) -> bytes:
    """What an endpoint would have sent, for a model that is none, such as a scripted one."""
    message: dict[str, Any] = {"role": "assistant", "content": reply.text}
    finish = {StopReason.LENGTH: "length", StopReason.FILTERED: "content_filter"}.get(reply.stop, "stop")
    if reply.tool_calls:
        finish = "tool_calls"
        message["tool_calls"] = [
            {"index": n, "id": c.id, "type": "function", "function": {"name": c.name, "arguments": c.arguments}}
            for n, c in enumerate(reply.tool_calls)
        ]
    used = reply.usage
    head = {"id": "chatcmpl-tokenprior", "created": 0, "model": body.get("model", "")}
    counted = {"prompt_tokens": used.input_tokens, "completion_tokens": used.output_tokens}
    usage = {"usage": counted | {"total_tokens": used.input_tokens + used.output_tokens}}
    choice = {"index": 0, "finish_reason": finish}
    if body.get("stream") is not True:
        whole = {"object": "chat.completion", "choices": [choice | {"message": message}]}
        return json.dumps(head | whole | usage).encode()
    chunk = head | {"object": "chat.completion.chunk", "choices": [choice | {"delta": message}]}
    options = body.get("stream_options")
    counts = isinstance(options, dict) and options.get("include_usage") is True
    events = [chunk, *([chunk | {"choices": []} | usage] if counts else [])]
    return "".join(f"data: {json.dumps(event)}\n\n" for event in events).encode() + b"data: [DONE]\n\n"
