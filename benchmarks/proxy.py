"""Proxy: what `tokenprior serve` costs beside a direct call, both in one run on the loopback address.

    python benchmarks/proxy.py [--requests 20000] [--in-flight 64] [--holdout 0.1] [--profile FILE]

Upstream, proxy and load generator are processes of their own. The upstream and the load generator are bare asyncio
protocols, so that neither is what is measured. Two kinds of request are sent, each of about 2 kB: one answered as a
whole, one as a stream of 30 events. Read:

    CPU ms      processor time of the proxy's process for a request, all its threads, from /proc; the goal is under 0.4
    per core    requests a second that one core would carry: 1000 / CPU ms; the goal is above 2,500
    added ms    p50 and p99 of a request through the proxy, less those of a direct one, with an upstream that takes
                100 ms, so that what waits in line for the processor is not counted
    busy        requests a second with an upstream that answers at once; upstream and load generator share the cores

Processor time holds on a machine that does other things beside it; times on the clock do not.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tokenprior.experience import Experience
from tokenprior.library import Library

EVENTS = 30
DELAY_S = 0.1
WORDS = "When a total is asked for, write each part on a line of its own, and add the parts only then."


def request_bytes(host: str, *, stream: bool) -> bytes:
    """What a client sends, with the headers that OpenAI's client for Python sends."""
    said = [
        {"role": "system", "content": "You are a careful assistant. " * 10},
        {"role": "user", "content": "A shop sells pens at 1.20 and pads at 3.50; how much are six of each? " * 18},
    ]
    body = json.dumps({"messages": said, "model": "gpt-x", "temperature": 0.7, "stream": stream}).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nAccept-Encoding: gzip, deflate\r\n"
        "Connection: keep-alive\r\nAccept: application/json\r\nContent-Type: application/json\r\n"
        "User-Agent: AsyncOpenAI/Python 3.57.0\r\nX-Stainless-Lang: python\r\nX-Stainless-Package-Version: 3.57.0\r\n"
        "X-Stainless-OS: Linux\r\nX-Stainless-Arch: x64\r\nX-Stainless-Runtime: CPython\r\n"
        "X-Stainless-Runtime-Version: 3.11.7\r\nAuthorization: Bearer sk-none\r\nX-Stainless-Async: async:asyncio\r\n"
        f"x-stainless-retry-count: 0\r\nx-stainless-read-timeout: 600\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def whole_reply() -> bytes:
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "28.20 " * 120}}
    usage = {"prompt_tokens": 500, "completion_tokens": 240, "total_tokens": 740}
    body = json.dumps({"id": "chatcmpl-1", "object": "chat.completion", "choices": [choice], "usage": usage}).encode()
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body


def stream_pieces() -> list[bytes]:
    pieces = [b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"]
    for number in range(EVENTS):
        delta = {"index": 0, "delta": {"content": f"28.{number} and so on"}, "finish_reason": None}
        chunk = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "choices": [delta]}
        event = f"data: {json.dumps(chunk)}\n\n".encode()
        pieces.append(b"%x\r\n%s\r\n" % (len(event), event))
    return [*pieces, b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"]


class Upstream(asyncio.Protocol):
    """Answers each request from what was made beforehand; `/slow` in the address makes it take its time."""

    whole = whole_reply()
    pieces = stream_pieces()
    delay_s = 0.0

    def connection_made(self, transport: Any) -> None:
        self.transport, self.rest = transport, b""

    def data_received(self, data: bytes) -> None:
        self.rest += data
        head, end, body = self.rest.partition(b"\r\n\r\n")
        if not end:
            return
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        if len(body) < length:
            return
        self.rest = body[length:]
        answer = self.stream if b'"stream": true' in body else self.answer
        loop = asyncio.get_running_loop()
        loop.call_later(DELAY_S, answer) if b"/slow/" in head else answer()

    def answer(self) -> None:
        self.transport.write(self.whole)

    def stream(self, at: int = 0) -> None:
        self.transport.write(self.pieces[at])
        if at + 1 < len(self.pieces):
            # A turn of the loop between events, so that they arrive one by one.
            asyncio.get_running_loop().call_later(0.001, self.stream, at + 1)


def upstream(pipe: Connection) -> None:
    async def run() -> None:
        server = await asyncio.get_running_loop().create_server(Upstream, "127.0.0.1", 0, backlog=1024)
        pipe.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(run())


class Client(asyncio.Protocol):
    """Sends its request again and again, each time the reply to the last one has ended."""

    def __init__(self, load: Load) -> None:
        self.load, self.seen, self.began = load, b"", 0.0

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.send()

    def send(self) -> None:
        if not self.load.left:
            self.transport.close()
            return
        self.load.left -= 1
        self.seen, self.began = b"", time.perf_counter()
        self.transport.write(self.load.request)

    def data_received(self, data: bytes) -> None:
        self.seen += data
        head, end, body = self.seen.partition(b"\r\n\r\n")
        if not end:
            return
        _, named, rest = head.lower().partition(b"content-length:")
        if not (len(body) >= int(rest.split(b"\r\n", 1)[0]) if named else body.endswith(b"0\r\n\r\n")):
            return
        self.load.took.append(time.perf_counter() - self.began)
        self.load.bad += not self.seen.startswith(b"HTTP/1.1 200")
        self.send()

    def connection_lost(self, _error: Exception | None) -> None:
        self.load.open -= 1
        if not self.load.open:
            self.load.done.set_result(None)


class Load:
    def __init__(self, request: bytes, count: int, in_flight: int) -> None:
        self.request, self.left, self.open = request, count, in_flight
        self.took: list[float] = []
        self.bad = 0
        self.done = asyncio.get_running_loop().create_future()


def generator(pipe: Connection) -> None:
    async def run(port: int, request: bytes, count: int, in_flight: int) -> tuple[float, list[float], int]:
        loop = asyncio.get_running_loop()
        load, began = Load(request, count, in_flight), time.perf_counter()
        for _ in range(in_flight):
            await loop.create_connection(lambda: Client(load), "127.0.0.1", port)
        await load.done
        return time.perf_counter() - began, load.took, load.bad

    while (asked := pipe.recv()) is not None:
        pipe.send(asyncio.run(run(*asked)))


@contextmanager
def child(target: Any) -> Iterator[Connection]:
    here, there = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=target, args=(there,), daemon=True)
    process.start()
    try:
        yield here
    finally:
        process.terminate()
        process.join()


@contextmanager
def proxy(folder: Path, base: str, *options: str, profile: str | None = None) -> Iterator[tuple[int, int]]:
    """A proxy in front of the upstream: its process id and its port."""
    lessons = tuple(Experience(id=f"G{n}", name=f"Lesson {n}", text=WORDS) for n in range(20))
    (folder / "library.json").write_text(Library(experiences=lessons).dumps(), encoding="utf-8")
    command = [sys.executable, *(["-m", "cProfile", "-o", profile] if profile else []), "-m", "tokenprior", "serve"]
    command += ["library.json", "--upstream", base, "--port", "0", *options]
    started = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert started.stdout is not None
    try:
        address = next(line for line in started.stdout if line.startswith("OPENAI_BASE_URL="))
        yield started.pid, int(address.rpartition(":")[2].partition("/")[0])
    finally:
        started.terminate()
        started.wait(30)


def cpu_s(pid: int) -> float:
    """Processor time that a process has taken, all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def quantiles_ms(took: list[float]) -> tuple[float, float]:
    cut = statistics.quantiles(took, n=100)
    return 1000 * cut[49], 1000 * cut[98]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--in-flight", type=int, default=64)
    parser.add_argument("--holdout", type=float, default=0.0, help="above 0 requests are recorded too")
    parser.add_argument(
        "--profile", help="write a cProfile of the proxy, whole requests, to this file (it slows it down)"
    )
    options = parser.parse_args()
    more = ("--holdout", str(options.holdout)) if options.holdout else ()
    with tempfile.TemporaryDirectory() as folder, child(upstream) as up, child(generator) as load:
        port = up.recv()
        print("request   CPU ms  per core  added ms p50   p99   busy req/s direct, through")
        for stream in (False, True):
            count = options.requests // (10 if stream else 1)

            def run(
                to: int, number: int, request: bytes = request_bytes("127.0.0.1", stream=stream)
            ) -> tuple[float, list[float], int]:
                load.send((to, request, number, options.in_flight))
                answered: tuple[float, list[float], int] = load.recv()
                return answered

            with proxy(
                Path(folder), f"http://127.0.0.1:{port}/v1", *more, profile=None if stream else options.profile
            ) as (pid, through):
                run(through, count // 10)  # warm
                direct_s, _, _ = run(port, count)
                before = cpu_s(pid)
                through_s, _, bad = run(through, count)
                used_ms = 1000 * (cpu_s(pid) - before) / count
            with proxy(Path(folder), f"http://127.0.0.1:{port}/slow/v1", *more) as (_, slow):
                run(slow, options.in_flight)
                calm = max(options.in_flight * 10, count // 10)
                proxied = quantiles_ms(run(slow, calm)[1])
                # The upstream takes its time by the address, which the load generator writes into its request.
                asked = request_bytes("127.0.0.1", stream=stream).replace(b"POST /v1", b"POST /slow/v1", 1)
                direct = quantiles_ms(run(port, calm, asked)[1])
            name = "streamed" if stream else "whole"
            added = f"{proxied[0] - direct[0]:12.2f} {proxied[1] - direct[1]:5.2f}"
            busy = f"{count / direct_s:10,.0f} {count / through_s:9,.0f}"
            print(f"{name:<9} {used_ms:6.3f} {1000 / used_ms:9,.0f}  {added}   {busy}{f'  {bad} BAD' if bad else ''}")


if __name__ == "__main__":
    main()
