"""A real server on loopback that speaks /v1/chat/completions, answers as `world` does, and misbehaves on request.

In a test: `with FakeOpenAI(...) as server:` runs it in a thread of its own; `server.url` is its address. As a program:
`python tests/fake_openai.py --port 0 --fault 429-fraction --fault half --first 2` prints the address and stays.

Replies depend on the request alone, so any order and number of calls gives the same run. Requests are told apart by
`request_id` (messages, temperature, seed), which a test can also work out from what the ledger holds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from email.utils import formatdate
from typing import Any

from aiohttp import web

import world
from tokenprior.models.base import CallKey, Phase, Request
from tokenprior.prompts import contrast, revise, summary
from tokenprior.rollout import Message
from tokenprior.task import content_hash

Answer = Callable[[Request], str]

_PHASES: dict[str, Phase] = {contrast.SYSTEM: "contrast", revise.SYSTEM: "revise", summary.SYSTEM: "summary"}

RATE_LIMITS = ("429-integer", "429-fraction", "429-date", "429-ms", "429-bare", "503-wait")
PASSING = ("500", "503", "close", "half", "garbage", "list", "shape", "no-choices")
REFUSED = ("400", "413")
EMPTY = ("null-content",)
FINAL = ("401", "403", "404")
FAULTS = (*RATE_LIMITS, *PASSING, *REFUSED, *EMPTY, "slow", *FINAL)

GARBAGE = ("I would rather not.", "", '{"lessons": 7}', '[{"op": "Explode"}]', "```json\n{'lessons': [[[\n```")


def request_id(messages: Sequence[Sequence[str]], temperature: float | None, seed: int | None) -> str:
    """What tells one request from another."""
    return content_hash([[list(message) for message in messages], temperature, seed])


def phase_of(system: str) -> Phase:
    return next((phase for words, phase in _PHASES.items() if system.startswith(words)), "rollout")


class FakeOpenAI:
    """The server.

    Args:
        answer: text of the reply as a function of the request; its key holds the phase and, as task, the request's id.
        faults: names out of `FAULTS`. Which one meets a request is drawn from the seed and the request's id.
        first: how many tries of a request meet a fault before it is answered; `None` is always.
        share: the share of requests that meet faults at all.
        delay_s: how long every good reply takes.
        garbage: share of learning requests answered with words in place of JSON.
        words: what a refusal says, beside the key it was sent.
        code: error code of a refusal.
        finish: reason of the end of a good reply.
    """

    def __init__(
        self,
        answer: Answer = world.both,
        *,
        faults: Sequence[str] = (),
        first: int | None = 1,
        share: float = 1.0,
        seed: int = 0,
        delay_s: float = 0.0,
        garbage: float = 0.0,
        words: str = "refused",
        code: str | None = None,
        finish: str = "stop",
    ) -> None:
        unknown = set(faults) - set(FAULTS)
        assert not unknown, f"no such faults: {unknown}"
        self.answer, self.faults, self.first, self.share, self.seed = answer, tuple(faults), first, share, seed
        self.delay_s, self.garbage = delay_s, garbage
        self.words, self.code, self.finish = words, code, finish
        self.seen: Counter[str] = Counter()
        self.phases: Counter[str] = Counter()
        self.met: Counter[str] = Counter()
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.on_call: Callable[[Request], None] | None = None
        self.in_flight = self.most_in_flight = self.calls = 0
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._closing = asyncio.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._ready = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def model(self) -> str:
        """The name under which tokenprior reaches it."""
        return f"{self.url}#fake"

    def __enter__(self) -> FakeOpenAI:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._closing.set)
        self._thread.join(10)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self.serve(0, self._ready.set))
        finally:
            self._loop.close()

    async def serve(self, port: int, ready: Callable[[], None]) -> None:
        """Serve until closed."""
        app = web.Application(client_max_size=300_000_000)
        self.add_routes(app.router)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", port)
        await site.start()
        self.port = runner.addresses[0][1]
        ready()
        try:
            await self._closing.wait()
        finally:
            await runner.cleanup()

    def add_routes(self, router: web.UrlDispatcher) -> None:
        router.add_post("/v1/chat/completions", self._chat)

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        said = as_request(body)
        self.calls += 1
        self.seen[said.key.task] += 1
        self.phases[said.key.phase] += 1
        self.bodies.append(body)
        self.headers.append({name.casefold(): value for name, value in request.headers.items()})
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            if self.on_call:
                self.on_call(said)
            if fault := self.fault_for(said.key.task, self.seen[said.key.task]):
                self.met[fault] += 1
                return await self._misbehave(fault, request, body)
            if self.delay_s:
                await asyncio.sleep(self.delay_s)
            return web.json_response(completion(self._text(said), body, self.finish))
        finally:
            self.in_flight -= 1

    def _text(self, said: Request) -> str:
        learning = said.key.phase in ("contrast", "revise")
        if learning and world.chance("garbage", self.seed, said.key.task) < self.garbage:
            return GARBAGE[int(world.chance("which", said.key.task) * len(GARBAGE))]
        return self.answer(said)

    def fault_for(self, task: str, tries: int) -> str | None:
        """The fault that this try of a request meets."""
        if not self.faults or (self.first is not None and tries > self.first):
            return None
        if world.chance("share", self.seed, task) >= self.share:
            return None
        return self.faults[int(world.chance("fault", self.seed, task, tries) * len(self.faults))]

    async def _misbehave(self, fault: str, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        if fault in _HEADERS:
            return self._refusal(int(fault[:3]), _HEADERS[fault](), request)
        if fault.isdigit():
            return self._refusal(int(fault), {}, request)
        if fault == "garbage":
            return web.Response(text="<html>Bad gateway</html>", content_type="application/json")
        if fault in _BODIES:
            return web.json_response(_BODIES[fault](completion("x", body)))
        if fault == "slow":
            await self._closing.wait()
        if fault == "half":
            whole = json.dumps(completion("x" * 100, body)).encode()
            half = web.StreamResponse(headers={"Content-Type": "application/json", "Content-Length": str(len(whole))})
            await half.prepare(request)
            await half.write(whole[: len(whole) // 2])
        if request.transport is not None:
            request.transport.close()
        return web.Response()

    def _refusal(self, status: int, headers: dict[str, str], request: web.Request) -> web.Response:
        # As some gateways do, it says the key aloud.
        said = f"{self.words}: HTTP {status} for {request.headers.get('Authorization')}"
        error = {"message": said, "type": self.code or "fake", "code": self.code}
        return web.json_response({"error": error}, status=status, headers=headers)


_HEADERS: dict[str, Callable[[], dict[str, str]]] = {
    "429-integer": lambda: {"Retry-After": "0"},
    "429-fraction": lambda: {"Retry-After": "0.02"},
    "429-date": lambda: {"Retry-After": formatdate(time.time() - 1, usegmt=True)},
    "429-ms": lambda: {"retry-after-ms": "20", "Retry-After": "60"},
    "429-bare": dict,
    "503-wait": lambda: {"Retry-After": "0.02"},
}
_BODIES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "list": lambda whole: [whole],
    "shape": lambda whole: {"hello": "world"},
    "no-choices": lambda whole: whole | {"choices": []},
    "null-content": lambda whole: (
        whole | {"choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": None}}]}
    ),
}


def as_request(body: dict[str, Any]) -> Request:
    """The body as tokenprior's own request."""
    said = [(message["role"], message["content"]) for message in body["messages"]]
    identity = request_id(said, body.get("temperature"), body.get("seed"))
    system = said[0][1] if said[0][0] == "system" else ""
    return Request(
        key=CallKey(phase=phase_of(system), task=identity),
        messages=tuple(Message(role=role, content=content) for role, content in said),
        temperature=body.get("temperature"),
        seed=body.get("seed"),
    )


def completion(text: str, body: dict[str, Any], finish: str = "stop") -> dict[str, Any]:
    """A whole reply."""
    prompt = sum(len(message["content"]) for message in body["messages"]) // 4 + 1
    return {
        "id": "chatcmpl-fake",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": body["model"],
        "choices": [{"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text}}],
        "usage": {
            "prompt_tokens": prompt,
            "completion_tokens": len(text) // 4 + 1,
            "total_tokens": prompt + len(text) // 4 + 1,
            "prompt_tokens_details": {"cached_tokens": prompt // 2},
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="A fake OpenAI-compatible server on loopback.")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--fault", action="append", default=[], choices=FAULTS)
    parser.add_argument("--first", type=int, default=1, help="tries of a request that meet a fault; -1 is all")
    parser.add_argument("--share", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--delay", type=float, default=0.0)
    parser.add_argument("--garbage", type=float, default=0.0)
    args = parser.parse_args()
    first = None if args.first < 0 else args.first
    faults = FakeOpenAI(
        faults=args.fault, first=first, share=args.share, seed=args.seed, delay_s=args.delay, garbage=args.garbage
    )
    asyncio.run(faults.serve(args.port, lambda: print(faults.url, flush=True)))  # noqa: T201 (it is a program)


if __name__ == "__main__":
    main()
