"""Our side of one sandboxed interpreter: a warden process that starts and ends it, and two ways to talk to it.

The code comes from a model and may have been written to do harm, so everything that arrives is believed to be hostile:
output is read as it comes and bounded, the channel takes nothing but the token of the call under way, and whatever else
happens costs the interpreter its life. Nothing here blocks the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

START_TIMEOUT_S: Final = 30.0
END_TIMEOUT_S: Final = 15.0
REASON_TIMEOUT_S: Final = 2.0
OUTPUT_BYTES: Final = 16 << 20
"""More than this in one call ends the interpreter; the text of the result is far shorter."""
_HERE: Final = str(Path(__file__).parent)
# Imported, not run as a script, for then its compiled form is kept; last on the path, where it hides nothing.
_WARDEN: Final = (
    "import json, sys; sys.path.append(sys.argv[1]); "
    "import sandbox_warden; sandbox_warden.main(json.loads(sys.argv[2]))"
)


class NotStarted(Exception):
    """The sandbox could not be started; the text says why, in one line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """What one call gave.

    Attributes:
        output: what was printed, shortened in the middle.
        lost: why the interpreter is gone; empty if it is still there.
    """

    output: str
    lost: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What the warden is told.

    Attributes:
        words: JSON; `sandbox_warden.main` reads it.
        reasons: what the warden's one-word reasons mean, in words for the model.
    """

    words: dict[str, Any]
    reasons: dict[str, str] = field(default_factory=dict)


class Output:
    """The beginning and the end of what was printed, in bounded memory."""

    def __init__(self, limit_chars: int) -> None:
        self._limit = limit_chars
        self._half = 2 * limit_chars + 64  # bytes; a character has up to four, and half of them are at each end
        self._head, self._tail = bytearray(), bytearray()
        self.total = 0

    def add(self, data: bytes) -> None:
        self.total += len(data)
        room = self._half - len(self._head)
        self._head += data[:room]
        self._tail += data[max(0, room) :]
        if len(self._tail) > 4 * self._half:
            del self._tail[: -self._half]

    def take(self) -> str:
        """The text so far, at most the limit plus a line that says what is missing; then empty again."""
        tail = self._tail[-self._half :]
        missing = self.total - len(self._head) - len(tail)
        if missing <= 0:
            text = (self._head + tail).decode("utf-8", "replace")
            if len(text) > self._limit:
                text = _joined(text, text, self._limit, f"{len(text) - self._limit} characters")
        else:
            head, end = self._head.decode("utf-8", "replace"), tail.decode("utf-8", "replace")
            text = _joined(head, end, self._limit, f"about {self.total - self._limit} bytes")
        self._head, self._tail, self.total = bytearray(), bytearray(), 0
        return text


def _joined(head: str, end: str, limit: int, what: str) -> str:
    first = limit - limit // 2
    return f"{head[:first]}\n[... {what} left out here ...]\n{end[len(end) - limit // 2 :]}"


class ProcessInterpreter:
    """One interpreter. `start`, then `run` one at a time, then `end`; not usable after a `Ran.lost` but for `end`."""

    def __init__(self, order: Order, *, timeout_s: float, output_chars: int) -> None:
        self._order, self._reasons = order.words, order.reasons
        self._timeout_s = timeout_s
        self._printed = Output(output_chars)
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None
        self._status: socket.socket | None = None
        self._output = -1
        self._reports: list[dict[str, Any]] = []
        self._heard = {"channel": bytearray(), "status": bytearray()}
        self._closed: set[str] = set()
        self._changed = asyncio.Event()
        self._group = 0
        self._ending: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start it and wait until it listens.

        Raises:
            NotStarted: it did not. Nothing is left behind.
        """
        try:
            await self._launch()
            async with asyncio.timeout(START_TIMEOUT_S):
                await self._until(lambda: bool(self._reports and self._heard["channel"]))
            started = self._reports[0].get("started") if self._reports else None
            if not isinstance(started, int) or self._heard["channel"] != b"ready\n":
                raise NotStarted(await self._why_not_started())
            self._group = started
            self._heard["channel"].clear()
        except TimeoutError:
            await self.end()
            raise NotStarted(f"it was not ready after {START_TIMEOUT_S:g} s") from None
        except BaseException:
            await self.end()
            raise

    async def run(self, code: str) -> Ran:
        """Run code and wait for its end, at most `timeout_s`. A cancelled call loses the interpreter."""
        assert self._channel is not None
        token = secrets.token_hex(16)
        request = json.dumps({"token": token, "code": code}).encode("ascii") + b"\n"
        done = f"{token}\n".encode()
        lost = ""
        try:
            async with asyncio.timeout(self._timeout_s):
                with contextlib.suppress(OSError):  # it is gone; the status says why
                    await asyncio.get_running_loop().sock_sendall(self._channel, request)
                await self._until(lambda: self._heard["channel"].endswith(b"\n"))
        except TimeoutError:
            lost = f"it took longer than {self._timeout_s:g} s"
        except asyncio.CancelledError:
            await self.end()
            raise
        if not lost and self._heard["channel"] == done:
            self._heard["channel"].clear()
            self._read_output()  # all that was printed before the token is in the pipe
            if self._printed.total <= OUTPUT_BYTES:
                return Ran(output=self._printed.take())
        if not lost:
            lost = await self._why_lost()
        await self.end()
        return Ran(output=self._printed.take(), lost=lost)

    async def end(self) -> None:
        """End all processes and the temporary directory. When this returns, none is left. May be called again.

        If the wait is cancelled, the end comes all the same, a moment later.
        """
        if self._process is None:
            return
        if self._ending is None:
            assert self._status is not None
            with contextlib.suppress(OSError):
                self._status.shutdown(socket.SHUT_WR)
            self._ending = asyncio.create_task(self._end())
        await asyncio.shield(self._ending)

    async def _end(self) -> None:
        assert self._process is not None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(END_TIMEOUT_S):
                await self._until(lambda: "status" in self._closed, stop_early=False)
        self._process.kill()
        self._process.wait()
        if self._group > 0 and len(self._reports) < 2:  # the warden was killed; possible at the level `none` only
            with contextlib.suppress(OSError):
                os.killpg(self._group, signal.SIGKILL)
        self._read_output()
        self._close()
        self._process = None

    async def _launch(self) -> None:
        """Start the warden, in a thread, for the system takes its time: 32 at once held the loop for 0.7 s."""
        launched = asyncio.create_task(asyncio.to_thread(self._launch_here))
        try:
            await asyncio.shield(launched)
        except asyncio.CancelledError:
            with contextlib.suppress(NotStarted):
                await launched
            raise
        finally:
            if self._process is not None:
                self._listen()

    def _launch_here(self) -> None:
        self._channel, channel = socket.socketpair()
        self._status, status = socket.socketpair()
        self._output, output = os.pipe()
        try:
            order = {**self._order, "status_fd": status.fileno()}
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-X", "utf8", "-c", _WARDEN, _HERE, json.dumps(order)],
                stdin=channel.fileno(),
                stdout=output,
                stderr=output,
                env={"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "LANG": "C.UTF-8"},
                pass_fds=(status.fileno(),),
                start_new_session=True,
            )
        except OSError as error:
            raise NotStarted(f"{type(error).__name__}: {error}") from error
        finally:
            if self._process is None:
                self._close(watched=False)
            channel.close()
            status.close()
            os.close(output)

    def _listen(self) -> None:
        assert self._channel is not None
        assert self._status is not None
        loop = asyncio.get_running_loop()
        for end in (self._channel, self._status):
            end.setblocking(False)
        os.set_blocking(self._output, False)
        loop.add_reader(self._channel, self._hear, "channel", self._channel)
        loop.add_reader(self._status, self._hear, "status", self._status)
        loop.add_reader(self._output, self._read_output)

    async def _until(self, condition: Callable[[], bool], *, stop_early: bool = True) -> None:
        """Wait for it; with `stop_early` also until anything happened after which it cannot come true."""
        while not condition():
            gone = self._closed or len(self._reports) > 1 or any("failed" in report for report in self._reports)
            if stop_early and (gone or self._printed.total > OUTPUT_BYTES or len(self._heard["channel"]) > 64):
                return
            self._changed.clear()
            await self._changed.wait()

    def _hear(self, name: str, end: socket.socket) -> None:
        try:
            data = end.recv(4096)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self._changed.set()
        if not data or (name == "channel" and len(self._heard[name]) > 4096):
            asyncio.get_running_loop().remove_reader(end)
            self._closed.add(name)
            return
        self._heard[name] += data
        if name == "status":
            *lines, rest = bytes(self._heard[name]).split(b"\n")
            self._heard[name] = bytearray(rest)
            self._reports += [json.loads(line) for line in lines]

    def _read_output(self) -> None:
        """What is there, up to the bound, and no more than a pipe can hold at once."""
        for _ in range(16):
            if self._output < 0 or self._printed.total > OUTPUT_BYTES:
                break
            try:
                data = os.read(self._output, 1 << 16)
            except BlockingIOError:
                return
            if not data:
                break
            self._printed.add(data)
        else:
            return
        self._changed.set()
        if self._output >= 0:
            asyncio.get_running_loop().remove_reader(self._output)

    async def _why_lost(self) -> str:
        if self._printed.total > OUTPUT_BYTES:
            return f"it printed more than {OUTPUT_BYTES >> 20} MiB"
        if self._heard["channel"] and "channel" not in self._closed:
            return "it wrote to the channel of the interpreter"
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(REASON_TIMEOUT_S):
                await self._until(lambda: len(self._reports) > 1 or "status" in self._closed, stop_early=False)
        why = str(self._reports[1].get("ended", "")) if len(self._reports) > 1 else ""
        return self._reasons.get(why, why) or "it closed the channel of the interpreter"

    async def _why_not_started(self) -> str:
        failed = next((report["failed"] for report in self._reports if "failed" in report), "")
        await self.end()
        ended = next((report["ended"] for report in self._reports if "ended" in report), "")
        printed = self._printed.take().strip().splitlines()
        why = "; ".join(str(part) for part in (failed or ended, printed[-1] if printed else "") if part)
        return " ".join(why.split())[:300] or "no reason was given"

    def _close(self, *, watched: bool = True) -> None:
        for end in (self._channel, self._status):
            if end is not None:
                if watched:
                    asyncio.get_running_loop().remove_reader(end)
                end.close()
        if self._output >= 0:
            if watched:
                asyncio.get_running_loop().remove_reader(self._output)
            os.close(self._output)
        self._channel = self._status = None
        self._output = -1
