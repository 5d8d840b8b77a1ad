"""Soak: a proxy under load for minutes or an hour, with faults of the upstream, reloads and clients that leave.

    python benchmarks/soak.py --minutes 3

Order of events: an upstream on loopback, `tokenprior serve` before it in a process of its own, and clients at about so
many requests a second: whole, streamed, leaving half-way; the upstream refuses, breaks off or dawdles for some. Every
few seconds the library file changes, now and then to a broken one. The upstream answers well with a chance that depends
on whether it saw the prior; clients report most of what they got. While all goes on, `tokenprior compare --live` looks
on. At the end three accounts of the same requests, the clients', the upstream's and the store's, have to agree.

It prints a table with what was found and what was wanted, and ends with 1 if something is not as it should be. Memory
is printed as a line through the samples after a warm-up; read it, for a quarter of an hour says little.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import signal
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, quantiles
from typing import Any

import aiohttp
from aiohttp import web

from tokenprior.experience import Experience
from tokenprior.library import Library
from tokenprior.live_effect import LiveEffect
from tokenprior.store import open_store
from tokenprior.store.served import effects_in

HOLDOUT = 0.3
WITHOUT, WITH = 0.5, 0.6  # the planted chances of a good answer
EFFECT = WITH - WITHOUT
USERS = 2_000
REWARDED = 0.7  # of the good and the bad alike
LIBRARIES = 6
FAULTS = {"429": 0.03, "500": 0.03, "cut": 0.02, "slow": 0.02}
LEAVES, STREAMED = 0.05, 0.35
MARK = re.compile(r"marked (\d+)")
AT_A_TIME = 200  # requests
WARM_UP = 0.2  # of the samples of memory


def chance(*parts: object) -> float:
    """A number in [0, 1) that depends on the parts alone."""
    return random.Random("/".join(map(str, parts))).random()


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to happen to a request."""

    number: int

    @property
    def fault(self) -> str:
        drawn = chance("fault", self.number)
        for name, share in FAULTS.items():
            if (drawn := drawn - share) < 0:
                return name
        return ""

    @property
    def streamed(self) -> bool:
        return self.fault == "cut" or chance("stream", self.number) < STREAMED

    @property
    def leaves(self) -> bool:
        return not self.fault and chance("leave", self.number) < LEAVES

    @property
    def user(self) -> str | None:
        """Half of the requests come from users who come back."""
        if chance("known", self.number) < 0.5:
            return None
        return f"user-{int(chance('user', self.number) * USERS)}"

    def is_good(self, *, prior: bool) -> bool:
        """Users differ in how well they are served; the effect is the same for all."""
        own = 0.0 if self.user is None else 0.6 * (chance("luck", self.user) - 0.5)
        return chance("good", self.number) < (WITH if prior else WITHOUT) + own

    @property
    def body(self) -> dict[str, Any]:
        return {
            "model": "fake",
            "messages": [
                {"role": "system", "content": "You answer customers."},
                {"role": "user", "content": f"#{self.number} " + "Where is my parcel? " * 20},
            ],
            "stream": self.streamed,
            "number": self.number,
            **({"user": self.user} if self.user else {}),
        }


class Upstream:
    """Plays its part by the number of a request.

    Attributes:
        seen: by number, how often it came, and the mark of the library that stood before it.
    """

    def __init__(self) -> None:
        self.seen: dict[int, list[str]] = {}
        self.gone = 0

    async def __aenter__(self) -> Upstream:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._chat)
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/v1"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        plan = Plan(number=body["number"])
        found = MARK.search(body["messages"][0]["content"])
        self.seen.setdefault(plan.number, []).append(found[1] if found else "")
        try:
            return await self._answered(request, plan, prior=found is not None)
        except asyncio.CancelledError:
            self.gone += 1
            raise
        except ConnectionResetError:  # it left between two pieces
            self.gone += 1
            return web.Response()

    async def _answered(self, request: web.Request, plan: Plan, *, prior: bool) -> web.StreamResponse:
        if plan.fault in ("429", "500"):
            return web.json_response({"error": {"message": f"as planned {plan.number}"}}, status=int(plan.fault))
        if plan.fault == "slow":
            await asyncio.sleep(0.5)
        words = f"{'good' if plan.is_good(prior=prior) else 'bad'} {plan.number}"
        head = {"id": f"chatcmpl-{plan.number}", "model": "fake"}
        usage = {"prompt_tokens": 120 + 30 * prior, "completion_tokens": 5, "total_tokens": 125 + 30 * prior}
        if not plan.streamed:
            choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": words}}
            await asyncio.sleep(0.2 if plan.leaves else 0.005)
            return web.json_response(head | {"choices": [choice], "usage": usage})
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for place, word in enumerate(words.split(" ")):
            choice = {"index": 0, "delta": {"content": f"{word} "}, "finish_reason": None}
            await response.write(f"data: {json.dumps(head | {'choices': [choice]})}\n\n".encode())
            await asyncio.sleep(0.2 if plan.leaves else 0.005)
            if plan.fault == "cut" and place == 0 and request.transport:
                request.transport.abort()
                return response
        await response.write(f"data: {json.dumps(head | {'choices': [], 'usage': usage})}\n\ndata: [DONE]\n\n".encode())
        return response


@dataclass(slots=True, kw_only=True)
class Account:
    """The clients' own."""

    sent: set[int] = field(default_factory=set)
    as_planned: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    shown: dict[int, tuple[str, str]] = field(default_factory=dict)  # id and library, by number
    reported: dict[str, float] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)
    latencies_s: list[float] = field(default_factory=list)


class Clients:
    """Many clients of one proxy."""

    def __init__(self, session: aiohttp.ClientSession, base: str, account: Account) -> None:
        self._session, self._base, self._account = session, base, account
        self._room = asyncio.Semaphore(AT_A_TIME)

    async def run(self, rate: float, until: float) -> None:
        """Send so many a second, fewer where that would be too many at a time for this machine."""
        began, number = time.monotonic(), 0
        async with asyncio.TaskGroup() as running:
            while time.monotonic() < until:
                await self._room.acquire()
                task = running.create_task(self._one(Plan(number=number)))
                task.add_done_callback(lambda _: self._room.release())
                number += 1
                await asyncio.sleep(max(0.0, began + number / rate - time.monotonic()))

    async def _one(self, plan: Plan) -> None:
        account = self._account
        account.sent.add(plan.number)
        began = time.monotonic()
        try:
            if plan.leaves:
                with suppress(TimeoutError):
                    async with asyncio.timeout(0.1):
                        await self._asked(plan)
                    account.lost.append(f"{plan.number}: was answered before it could leave")
                account.as_planned["left"] += 1
                return
            words = await self._asked(plan)
        except (aiohttp.ClientError, TimeoutError) as error:
            if plan.fault == "cut" and isinstance(error, aiohttp.ClientPayloadError | aiohttp.ServerDisconnectedError):
                account.as_planned["cut"] += 1
            else:
                account.lost.append(f"{plan.number} ({plan.fault or 'plain'}): {type(error).__name__}: {error}")
            return
        kind = plan.fault or ("streamed" if plan.streamed else "whole")
        wanted = f"as planned {plan.number}" if plan.fault in ("429", "500") else f" {plan.number}"
        if wanted not in words or plan.fault == "cut":
            account.lost.append(f"{plan.number} ({kind}): got {words[:80]!r}")
            return
        account.as_planned[kind] += 1
        account.latencies_s.append(time.monotonic() - began)
        if plan.fault not in ("429", "500") and chance("reward", plan.number) < REWARDED:
            await self._report(account.shown[plan.number][0], float(words.startswith("good")))

    async def _asked(self, plan: Plan) -> str:
        headers = {"x-tokenprior-task": f"n{plan.number}"}
        async with self._session.post(f"{self._base}/chat/completions", json=plan.body, headers=headers) as response:
            wanted = int(plan.fault) if plan.fault in ("429", "500") else 200
            identity, shown = (response.headers.get(f"x-tokenprior-{what}", "") for what in ("id", "library"))
            if response.status != wanted or not identity:
                return f"status {response.status}: {await response.text()}"
            self._account.shown[plan.number] = identity, shown
            if wanted != 200 or not plan.streamed:
                value = await response.json()
                return str(value["error"]["message"] if wanted != 200 else value["choices"][0]["message"]["content"])
            events = [line[6:] async for line in response.content if line.startswith(b"data: {")]
        return "".join(c["delta"]["content"] for event in events for c in json.loads(event)["choices"]).strip()

    async def _report(self, identity: str, reward: float) -> None:
        report = {"id": identity, "reward": reward, "comment": "" if reward else "it was no answer"}
        async with self._session.post(f"{self._base.removesuffix('/v1')}/feedback", json=report) as response:
            if response.status == 200:
                self._account.reported[identity] = reward
            else:
                self._account.refused.append(f"{response.status}: {(await response.text())[:200]}")


def library(mark: int) -> Library:
    text = f"When a customer asks for a parcel, say where it is, marked {mark}."
    return Library(experiences=(Experience(id="G0", text=text),), next_number=1)


class Served:
    """The proxy, as a user starts it."""

    def __init__(self, folder: Path, upstream: str) -> None:
        self.store, self.file = folder / "soak.db", folder / "support.json"
        self.file.write_text(library(0).dumps())
        self._log = folder / "proxy.log"
        self._command = ["serve", f"support={self.file}", "--upstream", upstream, "--port", "0"]
        self._command += ["--holdout", str(HOLDOUT), "--store", str(self.store)]
        self.put = {0}
        self.reloads = self.broken = 0
        self.base = ""
        self.code: int | None = None

    async def __aenter__(self) -> Served:
        with self._log.open("wb") as errors:
            self._child = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "tokenprior", *self._command, stdout=asyncio.subprocess.PIPE, stderr=errors
            )
        assert self._child.stdout
        async for line in self._child.stdout:
            if line.startswith(b"OPENAI_BASE_URL="):
                self.base = line.decode().strip().partition("=")[2]
                return self
        raise SystemExit(f"the proxy ended: {self._log.read_text()}")

    async def __aexit__(self, *_: object) -> None:
        if self._child.returncode is None:
            self._child.send_signal(signal.SIGTERM)
        self.code = await self._child.wait()

    @property
    def memory_mb(self) -> float:
        status = Path(f"/proc/{self._child.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        return int(found[1]) / 1024 if found else 0.0

    @property
    def files(self) -> int:
        """Open sockets and files."""
        return len(os.listdir(f"/proc/{self._child.pid}/fd"))

    @property
    def cpu_s(self) -> float:
        fields = Path(f"/proc/{self._child.pid}/stat").read_text().rpartition(") ")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    async def change(self, every_s: float) -> None:
        """Put another library into the file, and every fourth time something that is none; for ever."""
        for count in range(1, sys.maxsize):
            await asyncio.sleep(every_s)
            if count % 4 == 0:
                self.file.write_text(library(count).dumps()[:-40])
                self.broken += 1
            else:
                waiting = self.file.with_suffix(".new")
                waiting.write_text(library(count % LIBRARIES).dumps())
                waiting.replace(self.file)
                self.put.add(count % LIBRARIES)
                self.reloads += 1

    def said(self) -> list[str]:
        return self._log.read_text().splitlines()


@dataclass(slots=True, kw_only=True)
class Watched:
    """What was seen while all went on.

    Attributes:
        memory: seconds since the start, and megabytes of the proxy.
        looks: effects over all versions, as they were read now and then.
    """

    memory: list[tuple[float, float]] = field(default_factory=list)
    files: list[int] = field(default_factory=list)
    looks: list[LiveEffect] = field(default_factory=list)
    longest_look_s: float = 0.0

    async def run(self, proxy: Served, every_s: float, look_every: int) -> None:
        began = time.monotonic()
        for count in range(sys.maxsize):
            await asyncio.sleep(every_s)
            self.memory.append((time.monotonic() - began, proxy.memory_mb))
            self.files.append(proxy.files)
            if count % look_every == look_every - 1:
                look = time.monotonic()
                self.looks += (await asyncio.to_thread(_effects, proxy.store))[-1:]
                self.longest_look_s = max(self.longest_look_s, time.monotonic() - look)

    @property
    def slope_mb_per_hour(self) -> float:
        """Of the line through the samples after the warm-up, by least squares."""
        kept = self.memory[int(WARM_UP * len(self.memory)) :]
        if len(kept) < 3:
            return 0.0
        mean_s, mean_mb = fmean(s for s, _ in kept), fmean(mb for _, mb in kept)
        spread = sum((s - mean_s) ** 2 for s, _ in kept)
        return 3600 * sum((s - mean_s) * (mb - mean_mb) for s, mb in kept) / spread


def _effects(store: Path) -> tuple[LiveEffect, ...]:
    with open_store(store) as opened:
        return effects_in(opened)


def rows_of(store: Path) -> dict[int, list[sqlite3.Row]]:
    """What the store says of each request."""
    by_number: dict[int, list[sqlite3.Row]] = {}
    with sqlite3.connect(store) as connection:
        connection.row_factory = sqlite3.Row
        for row in connection.execute("SELECT id, task, version, held_out, status, reward_value FROM served"):
            by_number.setdefault(int(row["task"][1:]), []).append(row)
    return by_number


def checks(account: Account, upstream: Upstream, proxy: Served, watched: Watched) -> Iterator[tuple[str, str, bool]]:
    """What is to be so: in words, what was found, and whether it is."""
    rows = rows_of(proxy.store)
    left = {number for number in account.sent if Plan(number=number).leaves}
    stayed = account.sent - left
    yield "requests lost, or answered otherwise than planned", str(len(account.lost)), not account.lost
    planned = sum(account.as_planned.values())
    yield "requests sent, and ended as planned", f"{len(account.sent)}, {planned}", planned == len(account.sent)
    twice = [number for number, marks in upstream.seen.items() if len(marks) > 1]
    missing = stayed - upstream.seen.keys()
    yield "requests that the upstream saw twice, or never", f"{len(twice)}, {len(missing)}", not twice and not missing
    doubled = sum(len(found) > 1 for found in rows.values())
    yield (
        "rows in the store; doubled; missing",
        f"{len(rows)}; {doubled}; {len(stayed - rows.keys())}",
        (not doubled and stayed <= rows.keys() <= account.sent),
    )
    # Who leaves before its request was read was never served; who leaves just when its reply is through got it.
    unknown = left - rows.keys()
    unrecorded = unknown & upstream.seen.keys()
    statuses = {number: rows[number][0]["status"] for number in left & rows.keys()}
    gone = sum(status == 499 for status in statuses.values())
    odd = sum(status not in (499, 200) for status in statuses.values())
    yield (
        "clients that left; known to have; otherwise; not in the store; seen upstream",
        f"{len(left)}; {gone}; {odd}; {len(unknown)}; {len(unrecorded)}",
        not odd and not unrecorded,
    )
    wrong = [number for number in stayed & rows.keys() if rows[number][0]["status"] != _status(number)]
    yield "statuses in the store that are not the upstream's", str(len(wrong)), not wrong
    ids = [n for n, (identity, _) in account.shown.items() if n in rows and rows[n][0]["id"] != identity]
    yield "ids that the client and the store know otherwise", str(len(ids)), not ids
    versions = {str(mark): library(mark).version for mark in range(LIBRARIES)}
    words = Counter(_words(rows[n][0], marks[0], versions) for n, marks in upstream.seen.items() if n in rows)
    yield "held out, and nothing stood before it", str(words["held out"]), words["held out"] > 0
    yield "with the prior, and the words of its version did", str(words["with prior"]), words["with prior"] > 0
    yield "with other words than the store says", str(words["wrong"]), not words["wrong"]
    kept = {
        row["id"]: row["reward_value"] for found in rows.values() for row in found if row["reward_value"] is not None
    }
    yield (
        "rewards reported, refused, and in the store",
        (f"{len(account.reported)}, {len(account.refused)}, {len(kept)}"),
        kept == account.reported and not account.refused,
    )
    yield "libraries put in place, and broken ones", f"{proxy.reloads}, {proxy.broken}", proxy.reloads > 0
    refusals = sum("stays at" in line for line in proxy.said())
    # The last one may have come too late.
    yield "broken ones that the proxy said it left alone", str(refusals), 0 <= proxy.broken - refusals <= 1
    taken = {int(mark) for marks in upstream.seen.values() for mark in marks if mark}
    unseen = proxy.put - taken  # the last one may have come too late
    yield (
        "libraries that the upstream saw, of those put",
        f"{len(taken)} of {len(proxy.put)}",
        (taken <= proxy.put and len(unseen) <= 1),
    )
    yield "exit code after SIGTERM", str(proxy.code), proxy.code == 0
    effect = _effects(proxy.store)[-1]
    for name, interval in (("for one look", effect.once), ("for every look", effect.always)):
        covers = bool(interval and interval.low is not None and interval.high is not None)
        covers = covers and interval.low <= EFFECT <= interval.high  # type: ignore[union-attr, operator]
        yield f"the interval {name} covers {EFFECT:+.1f}", str(interval), covers
    missed = sum(_leaves_out(look) for look in watched.looks)
    yield "looks while it went on, and those that left it out", f"{len(watched.looks)}, {missed}", not missed
    yield "warnings about the lot, the rewards or failures", str(len(effect.warnings)), not effect.warnings


def _leaves_out(look: LiveEffect) -> bool:
    always = look.always
    if always is None or always.low is None or always.high is None:
        return False
    return not always.low <= EFFECT <= always.high


def _status(number: int) -> int:
    fault = Plan(number=number).fault
    return int(fault) if fault in ("429", "500") else 0 if fault == "cut" else 200


def _words(row: sqlite3.Row, mark: str, versions: dict[str, str]) -> str:
    if row["held_out"]:
        return "wrong" if mark else "held out"
    return "with prior" if versions.get(mark) == row["version"] else "wrong"


async def soak(arguments: argparse.Namespace, folder: Path) -> bool:
    account, watched = Account(), Watched()
    timeout = aiohttp.ClientTimeout(total=60)
    connector = aiohttp.TCPConnector(limit=0)
    async with (
        Upstream() as upstream,
        Served(folder, upstream.url) as proxy,
        aiohttp.ClientSession(timeout=timeout, connector=connector) as session,
    ):
        changing = asyncio.create_task(proxy.change(arguments.reload_s))
        watching = asyncio.create_task(watched.run(proxy, 5.0, 6))
        began = time.monotonic()
        await Clients(session, proxy.base, account).run(arguments.rate, began + 60 * arguments.minutes)
        took_s, cpu_s = time.monotonic() - began, proxy.cpu_s
        changing.cancel()
        watching.cancel()
        ends = await asyncio.gather(changing, watching, return_exceptions=True)
        if failed := [end for end in ends if not isinstance(end, asyncio.CancelledError)]:
            raise SystemExit(f"what went on beside the load ended early: {failed}")
    found = list(checks(account, upstream, proxy, watched))
    print(f"{'what':<55} {'found':<44} as it should be")
    for what, said, well in found:
        print(f"{what:<55} {said:<44} {'yes' if well else 'NO'}")
    print(f"\nended: {dict(account.as_planned)}; calls cancelled at the upstream: {upstream.gone}")
    cuts = quantiles(account.latencies_s, n=100)
    sent = len(account.sent)
    print(f"through the proxy: p50 {1e3 * cuts[49]:.0f} ms, p99 {1e3 * cuts[98]:.0f} ms, {sent / took_s:.0f} a second")
    print(f"proxy: {1e3 * cpu_s / sent:.2f} ms of CPU a request, feedback and recording included")
    sizes = [mb for _, mb in watched.memory] or [0.0]
    tenths = " ".join(f"{sizes[place * (len(sizes) - 1) // 10]:.1f}" for place in range(11))
    print(f"memory of the proxy in MB, ten times on the way: {tenths}; {max(watched.files, default=0)} files at most")
    print(f"a line through it after the warm-up: {watched.slope_mb_per_hour:+.2f} MB an hour")
    print(f"a look took {watched.longest_look_s:.2f} s at most; the last: {_effects(proxy.store)[-1].verdict}")
    for line in [*account.lost, *account.refused][:20]:
        print("not as planned:", line)
    return all(well for _, _, well in found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--rate", type=float, default=100.0, help="requests a second")
    parser.add_argument("--reload-s", type=float, default=5.0, help="seconds between changes of the library")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        if not asyncio.run(soak(arguments, Path(folder))):
            sys.exit(1)


if __name__ == "__main__":
    main()
