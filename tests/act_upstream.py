"""A server on loopback that speaks /v1/chat/completions, with calls of tools and streams, in a thread of its own.

It plays the policy, the learning model and the judge: what it says is a function of the request (`Said`) alone, which
a test gives. `with Upstream(answer) as server:`; `server.url` is its address, `server.said` what it was asked.
"""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from aiohttp import web

from tokenprior.prompts import contrast, revise, summary
from tokenprior.task import content_hash

Part = Literal["policy", "summary", "contrast", "revise", "judge"]
Calls = list[tuple[str, Any]]  # names of tools, each with its arguments: a value for JSON, or a text as it is
Answer = Callable[["Said"], str | Calls]

_PARTS: dict[str, Part] = {
    contrast.SYSTEM: "contrast",
    revise.SYSTEM: "revise",
    summary.SYSTEM: "summary",
    "You grade attempts": "judge",
}


@dataclass(frozen=True)
class Said:
    """A request as the server got it."""

    body: dict[str, Any]

    @property
    def messages(self) -> list[dict[str, Any]]:
        return list(self.body["messages"])

    @property
    def system(self) -> str:
        first = self.messages[0]
        return str(first["content"]) if first["role"] == "system" else ""

    @property
    def part(self) -> Part:
        """Who is asked."""
        return next((part for words, part in _PARTS.items() if self.system.startswith(words)), "policy")

    @property
    def question(self) -> str:
        """The first message of a user."""
        return next(str(message["content"]) for message in self.messages if message["role"] == "user")

    @property
    def results(self) -> list[str]:
        """What tools gave so far."""
        return [str(message["content"]) for message in self.messages if message["role"] == "tool"]

    @property
    def turn(self) -> int:
        """How often the policy has spoken."""
        return sum(message["role"] == "assistant" for message in self.messages)

    @property
    def identity(self) -> str:
        """What tells one request from another."""
        kept = [self.body["messages"], self.body.get("temperature"), self.body.get("seed"), self.body.get("tools")]
        return content_hash(kept)

    def chance(self, *parts: object) -> float:
        """A number in [0, 1) that depends on the seed of the request and the parts alone."""
        return int(content_hash([self.body.get("seed"), *parts])[:8], 16) / 16**8


class Upstream:
    """The server.

    Attributes:
        said: all requests in order.
        seen: how often each came, by `Said.identity`.
        on_call: told of each request before it is answered, in the server's thread.
        delay_s: how long every reply takes.
        most_in_flight: requests that were being answered at one time.
    """

    def __init__(self, answer: Answer, *, delay_s: float = 0.0) -> None:
        self.answer, self.delay_s = answer, delay_s
        self.said: list[Said] = []
        self.seen: Counter[str] = Counter()
        self.on_call: Callable[[Said], None] | None = None
        self.in_flight = self.most_in_flight = 0
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._closing = asyncio.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def model(self) -> str:
        """The name under which tokenprior reaches it."""
        return f"{self.url}#fake"

    def asked(self, part: Part) -> list[Said]:
        return [said for said in self.said if said.part == part]

    def __enter__(self) -> Upstream:
        self._thread.start()
        assert self._ready.wait(20)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._closing.set)
        self._thread.join(20)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        app = web.Application(client_max_size=64 << 20)
        app.router.add_post("/v1/chat/completions", self._chat)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.port = runner.addresses[0][1]
        self._ready.set()
        try:
            await self._closing.wait()
        finally:
            await runner.cleanup()

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        said = Said(await request.json())
        self.said.append(said)
        self.seen[said.identity] += 1
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            if self.on_call:
                self.on_call(said)
            if self.delay_s:
                await asyncio.sleep(self.delay_s)
            message, finish = _message(self.answer(said), said)
        finally:
            self.in_flight -= 1
        usage = {"prompt_tokens": len(json.dumps(said.messages)) // 4, "completion_tokens": 10}
        usage |= {"total_tokens": sum(usage.values())}
        head = {"id": "chatcmpl-1", "created": 1, "model": said.body["model"]}
        if said.body.get("stream") is not True:
            choice = {"index": 0, "finish_reason": finish, "message": message}
            return web.json_response(head | {"object": "chat.completion", "choices": [choice], "usage": usage})
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for event in _events(head | {"object": "chat.completion.chunk"}, message, finish, usage):
            await response.write(event)
        return response


def _message(said: str | Calls, asked: Said) -> tuple[dict[str, Any], str]:
    if isinstance(said, str):
        return {"role": "assistant", "content": said}, "stop"
    calls = [
        {
            "id": f"call-{asked.turn}-{place}",
            "type": "function",
            "function": {"name": name, "arguments": value if isinstance(value, str) else json.dumps(value)},
        }
        for place, (name, value) in enumerate(said)
    ]
    return {"role": "assistant", "content": None, "tool_calls": calls}, "tool_calls"


def _events(head: dict[str, Any], message: dict[str, Any], finish: str, usage: dict[str, int]) -> list[bytes]:
    """The reply in pieces; what it took comes whether it was asked for or not, as some servers do."""
    text = message["content"] or ""
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    deltas += [{"content": text[at : at + 4]} for at in range(0, len(text), 4)]
    for index, call in enumerate(message.get("tool_calls", ())):
        named = call["function"]
        deltas.append({"tool_calls": [call | {"index": index, "function": named | {"arguments": ""}}]})
        deltas.append({"tool_calls": [{"index": index, "function": {"arguments": named["arguments"]}}]})
    chunks = [head | {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    chunks.append(head | {"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
    chunks.append(head | {"choices": [], "usage": usage})
    return [*(f"data: {json.dumps(chunk)}\n\n".encode() for chunk in chunks), b"data: [DONE]\n\n"]


def teacher(*lessons: str) -> Answer:
    """A learning model that finds the same lessons in every group, and adds each to the library that lacks it."""

    def answer(said: Said) -> str:
        if said.part == "summary":
            return "It went on and ended."
        if said.part == "contrast":
            found = [{"name": "", "lesson": lesson} for lesson in lessons]
            return json.dumps({"difference": "some knew", "lessons": found})
        text = str(said.messages[-1]["content"])
        library, _, new = text.partition("New lessons:")
        numbered = re.findall(r"^(\d+)\. (.*)$", new, re.MULTILINE)
        operations: list[dict[str, Any]] = []
        for lesson in lessons:
            numbers = [int(number) for number, words in numbered if words == lesson]
            if not numbers:
                continue
            why = {"lessons": numbers, "reason": "groups say so"}
            known = re.search(rf"^\[(G\d+)\] {re.escape(lesson)}$", library, re.MULTILINE)
            add = {"op": "Add", "name": "", "text": lesson}
            operations.append((({"op": "Keep", "id": known[1]}) if known else add) | why)
        return json.dumps(operations)

    return answer


def graded(said: Said) -> str:
    """A judge that gives 10 if the attempt says the reference answer, and 0 if not."""
    spans = dict(re.findall(r"<(attempt|reference)[^>]*>\s*(.*?)\s*</", said.messages[-1]["content"], re.DOTALL))
    right = spans["reference"].strip().casefold() in spans["attempt"].casefold()
    return json.dumps({"score": 10 if right else 0, "reason": "it says so" if right else "it says something else"})
