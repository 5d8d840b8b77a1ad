"""Latency: the scripted world of `endpoint.py` behind an endpoint that takes as long as a real one.

    python benchmarks/latency.py --time-scale 0.25 --port 8398       (serves until its input ends, or it is interrupted)
    python benchmarks/latency.py --probe 64 256                      (what the endpoint itself adds)

A call takes the time to its first token, then that of its prompt at so many tokens a second, then that of its output.
Output lengths are lognormal with a heavy tail: at the defaults an attempt takes 3.8 s at the median, 6.3 s on average,
and 40 s at p99. They are drawn from the seed, the request and how often this very request came before, never from the
order of arrival: the same work takes the same time however it is scheduled. The text itself is short; the usage tells
the length that was drawn. `--time-scale` shrinks all times alike, the pauses of a rate limit too.

With `--requests-per-minute` (of unscaled time) there is a rate limit: a bucket that holds a tenth of a minute's
requests and fills evenly, and 429 with `retry-after-ms` and `Retry-After` (in whole seconds, as providers give it, and
so never less than one). Prompts are not cached here; `caching.py` models that, with the times of this module.

The first part of a path names a run: `http://127.0.0.1:PORT/RUN/v1`. Each run has a world, a rate limit and a trace of
its own, which `GET /RUN/trace` returns. `Served` runs all this in a process of its own.

How to read the probe: "added" is what calls took beyond what they were meant to take, as the endpoint sees it and as a
plain client in another process sees it; it has to be small against the calls. "CPU" is the endpoint's own.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import math
import random
import re
import statistics
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from aiohttp import ClientSession, TCPConnector, web
from endpoint import Role, World, item, role_of
from makespan import Call

_ITEM = re.compile(r"ITEM-(\d+)")
Messages = Sequence[Mapping[str, Any]]

_MEDIAN_OUTPUT: Mapping[Role, float] = {
    "policy": 200.0,
    "contrast": 250.0,
    "describe": 150.0,
    "advice": 250.0,
    "instruction": 300.0,
    "revise": 800.0,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """How long calls take.

    Attributes:
        first_token_s, first_token_sigma: median and spread (of the logarithm) of the time to the first token.
        prompt_tokens_per_s: at which a prompt is evaluated; what is cached is not.
        output_tokens_per_s: at which a reply is written.
        output_sigma: spread of the logarithm of the output's length, 1.05 for a p99 of 11.5 times the median.
        most_output_tokens: where every reply ends, whatever was drawn; the same for every program.
        time_scale: all times are multiplied by it.
        seed: of all draws.
    """

    first_token_s: float = 0.4
    first_token_sigma: float = 0.5
    prompt_tokens_per_s: float = 8_000.0
    output_tokens_per_s: float = 60.0
    output_sigma: float = 1.05
    most_output_tokens: int = 4_000
    time_scale: float = 1.0
    seed: int = 0

    def drawn(self, role: Role, fresh_tokens: int, key: str) -> tuple[float, int]:
        """Seconds that a call takes, and the tokens of its output.

        Args:
            fresh_tokens: of the prompt that are not cached.
            key: names the call; the same key gets the same draw.
        """
        rng = random.Random(f"{self.seed}/{key}")
        tokens = round(rng.lognormvariate(math.log(_MEDIAN_OUTPUT[role]), self.output_sigma))
        tokens = max(1, min(self.most_output_tokens, tokens))
        first_s = rng.lognormvariate(math.log(self.first_token_s), self.first_token_sigma)
        took_s = first_s + fresh_tokens / self.prompt_tokens_per_s + tokens / self.output_tokens_per_s
        return took_s * self.time_scale, tokens


class Bucket:
    """A rate limit: it fills evenly, and each request takes one out.

    Args:
        per_s: requests that it gains in a second; above 0.
        most: that it holds; at least 1. It begins full.
        now_s: the clock when it was made.
    """

    def __init__(self, per_s: float, most: float, now_s: float) -> None:
        self._per_s, self._most = per_s, most
        self._held, self._at_s = self._most, now_s

    def take(self, now_s: float) -> float:
        """0.0 if a request may go on, else the seconds until one could."""
        self._held = min(self._most, self._held + (now_s - self._at_s) * self._per_s)
        self._at_s = now_s
        if self._held >= 1.0:
            self._held -= 1.0
            return 0.0
        return (1.0 - self._held) / self._per_s


@dataclass(slots=True, kw_only=True)
class Run:
    """What the endpoint knows of one run."""

    world: World
    bucket: Bucket | None
    calls: list[Call] = field(default_factory=list)
    seen: Counter[str] = field(default_factory=Counter)


class Server:
    """The endpoint itself, in the running event loop.

    Args:
        profile: how long calls take.
        world: the settings of `World`.
        requests_per_minute: of unscaled time, for each run; `None` is no limit.
    """

    def __init__(
        self,
        profile: Profile,
        *,
        world: Mapping[str, Any],
        requests_per_minute: float | None = None,
    ) -> None:
        self._profile, self._world = profile, world
        self._per_minute = requests_per_minute
        self._runs: dict[str, Run] = {}

    def app(self) -> web.Application:
        app = web.Application(client_max_size=64 * 1024**2)
        app.router.add_post("/{run}/v1/chat/completions", self._complete)
        app.router.add_get("/{run}/trace", self._trace)
        return app

    def _run(self, name: str, now_s: float) -> Run:
        if name not in self._runs:
            bucket = None
            if self._per_minute:
                per_s = self._per_minute / 60 / self._profile.time_scale
                bucket = Bucket(per_s, max(1.0, self._per_minute / 10), now_s)
            self._runs[name] = Run(world=World(**self._world), bucket=bucket)
        return self._runs[name]

    async def _trace(self, request: web.Request) -> web.Response:
        calls = [asdict(call) for call in self._run(request.match_info["run"], time.monotonic()).calls]
        return web.json_response({"calls": calls, "cpu_s": time.process_time()})

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        began_s = time.monotonic()
        run = self._run(request.match_info["run"], began_s)
        body = await request.read()
        asked = json.loads(body)
        try:
            role, _ = role_of(asked["messages"])
        except ValueError as problem:
            run.calls.append(Call(role="unknown", start_s=began_s, end_s=time.monotonic(), status=400))
            return web.json_response({"error": {"message": str(problem), "type": "invalid_request_error"}}, status=400)
        digest = hashlib.sha256(body).hexdigest()[:16]
        if run.bucket is not None and (wait_s := run.bucket.take(began_s)):
            run.calls.append(Call(role=role, start_s=began_s, end_s=time.monotonic(), request=digest, status=429))
            return web.json_response(
                {"error": {"message": "Rate limit reached for requests", "type": "requests"}},
                status=429,
                headers={"retry-after": str(math.ceil(wait_s)), "retry-after-ms": str(math.ceil(wait_s * 1000))},
            )
        run.seen[digest] += 1
        key = f"{digest}/{run.seen[digest]}"
        said = run.world.reply(asked["messages"], key=str(run.seen[digest]))
        prompt_tokens = sum(len(str(message.get("content") or "")) for message in asked["messages"]) // 4
        intended_s, output_tokens = self._profile.drawn(role, prompt_tokens, key)
        await asyncio.sleep(began_s + intended_s - time.monotonic())
        response = web.json_response(
            {
                "id": f"call-{len(run.calls)}",
                "object": "chat.completion",
                "created": int(time.time()),
                "model": asked.get("model", "world"),
                "choices": [{"index": 0, "message": {"role": "assistant", "content": said}, "finish_reason": "stop"}],
                "usage": {
                    "prompt_tokens": prompt_tokens,
                    "completion_tokens": output_tokens,
                    "total_tokens": prompt_tokens + output_tokens,
                },
            }
        )
        with contextlib.suppress(ConnectionError):  # a client that left has used the call all the same
            await response.prepare(request)
            await response.write_eof()
        run.calls.append(
            Call(
                role=role,
                items=items_of(role, asked["messages"]),
                start_s=began_s,
                end_s=time.monotonic(),
                intended_s=intended_s,
                prompt_tokens=prompt_tokens,
                output_tokens=output_tokens,
                request=digest,
            )
        )
        return response


def items_of(role: str, messages: Messages) -> tuple[int, ...]:
    """The items that a prompt is about: the last one named for an attempt, which may have others as examples."""
    found = [int(number) for message in messages for number in _ITEM.findall(str(message.get("content") or ""))]
    return tuple(found[-1:]) if role == "policy" else tuple(dict.fromkeys(found))


class Served:
    """The endpoint in a process of its own, for as long as the `with` block lasts.

    Args:
        options: of the command line, see `parser`.
    """

    def __init__(self, *options: str) -> None:
        self._options = options
        self.url = ""

    def __enter__(self) -> Served:
        command = [sys.executable, str(Path(__file__)), "--port", "0", *self._options]
        self._child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._child.stdout is not None
        self.url = self._child.stdout.readline().strip()
        if not self.url:
            raise RuntimeError("the endpoint did not start")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.close()
        self._child.wait(timeout=30)
        self._child.stdout.close()

    def trace(self, run: str) -> tuple[list[Call], float]:
        """All calls of a run, refused ones too, and the CPU seconds of the endpoint so far."""
        with urllib.request.urlopen(f"{self.url}/{run}/trace", timeout=60) as reply:
            told = json.load(reply)
        return [Call(**call | {"items": tuple(call["items"])}) for call in told["calls"]], told["cpu_s"]


def added(seconds: Sequence[float]) -> str:
    """Median, p99 and largest of some seconds, in milliseconds."""
    ordered = sorted(seconds)
    p99 = ordered[min(len(ordered) - 1, math.ceil(0.99 * len(ordered)) - 1)]
    return f"{1000 * statistics.median(ordered):6.1f} {1000 * p99:7.1f} {1000 * ordered[-1]:7.1f}"


async def probe(url: str, run: str, in_flight: int, calls: int) -> list[float]:
    """What a plain client sees: the latency of each call, at so many in flight."""
    left = iter(range(calls))
    took: list[float] = []

    async def worker(session: ClientSession) -> None:
        for number in left:
            messages = [{"role": "user", "content": item(number)[0]}]
            began = time.monotonic()
            async with session.post(f"{url}/{run}/v1/chat/completions", json={"messages": messages}) as reply:
                reply.raise_for_status()
                await reply.read()
            took.append(time.monotonic() - began)

    async with ClientSession(connector=TCPConnector(limit=0)) as session:
        await asyncio.gather(*(worker(session) for _ in range(in_flight)))
    return took


def report_probe(served: Served, sizes: Sequence[int]) -> None:
    print(f"{'in flight':>9} {'calls/s':>8} {'added, endpoint (ms)':>23} {'added, client (ms)':>23} {'CPU/call':>9}")
    print(f"{'':>9} {'':>8} {'p50':>7} {'p99':>7} {'max':>7} {'p50':>7} {'p99':>7} {'max':>7}")
    for in_flight in sizes:
        run, calls = f"probe-{in_flight}", in_flight * 12
        _, cpu_before_s = served.trace(run)
        began = time.monotonic()
        seen = asyncio.run(probe(served.url, run, in_flight, calls))
        took_s = time.monotonic() - began
        trace, cpu_s = served.trace(run)
        endpoint = [call.latency_s - call.intended_s for call in trace]
        # The two are drawn from one set: sorted, the k-th call of one is the k-th of the other but for the noise.
        client = [a - b for a, b in zip(sorted(seen), sorted(call.intended_s for call in trace), strict=True)]
        print(
            f"{in_flight:>9} {calls / took_s:>8.0f} {added(endpoint):>23} {added(client):>23} "
            f"{1000 * (cpu_s - cpu_before_s) / calls:>6.2f} ms"
        )


async def serve(server: Server, port: int) -> None:
    runner = web.AppRunner(server.app(), access_log=None, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=1024).start()
    print(f"http://127.0.0.1:{runner.addresses[0][1]}", flush=True)
    try:
        await asyncio.to_thread(sys.stdin.read)
    finally:
        await runner.cleanup()


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--time-scale", type=float, default=0.25)
    made.add_argument("--output-sigma", type=float, default=Profile().output_sigma)
    made.add_argument("--requests-per-minute", type=float, help="of unscaled time; no limit by default")
    made.add_argument("--base-rate", type=float, default=0.5)
    made.add_argument("--effect", type=float, default=0.0)
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--port", type=int, default=8398)
    made.add_argument("--probe", type=int, nargs="+", help="print what the endpoint adds at so many calls in flight")
    return made


def main() -> None:
    asked = parser().parse_args()
    if asked.probe:
        with Served("--time-scale", str(asked.time_scale), "--seed", str(asked.seed)) as served:
            report_probe(served, asked.probe)
        return
    profile = Profile(time_scale=asked.time_scale, output_sigma=asked.output_sigma, seed=asked.seed)
    world = {"base_rate": asked.base_rate, "effect": asked.effect, "seed": asked.seed}
    asyncio.run(serve(Server(profile, world=world, requests_per_minute=asked.requests_per_minute), asked.port))


if __name__ == "__main__":
    main()
