"""Levels of isolation for code that a model wrote, and which of them really work on this machine.

=========  ===================================================  ========================
level      what holds the code                                  where
=========  ===================================================  ========================
sandlock   Landlock and seccomp (package `sandlock`)            Linux 6.12 or newer
bwrap      name spaces and seccomp (program `bwrap`)            Linux, x86-64 or arm64
monty      another interpreter, of a subset of Python           Linux, macOS
none       nothing; a process of this user with limits          Linux, macOS; by name only
=========  ===================================================  ========================

Order of events: `active_level` settles on a level, by a probe that starts it once in this process and tries to break
out of it; `interpreter` makes one interpreter at that level. What each level does not cover: docs/sandbox.md.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import tempfile
import threading
from dataclasses import dataclass
from typing import Final, Literal

from tokenprior.errors import ConfigError
from tokenprior.tools.sandbox_launch import Limits, missing, order
from tokenprior.tools.sandbox_process import NotStarted, ProcessInterpreter

Level = Literal["auto", "sandlock", "bwrap", "monty", "none"]
LEVELS: Final = ("sandlock", "bwrap", "monty")
"""Strongest first; `auto` takes the first that works. `none` is not among them."""

_INSTALL: Final = {
    "sandlock": "pip install 'tokenprior[sandbox]' (Linux 6.12 or newer)",
    "bwrap": "install bubblewrap (Debian: apt-get install bubblewrap)",
    "monty": "pip install 'tokenprior[sandbox]'",
    "none": "use Linux or macOS",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelReport:
    """Whether a level works on this machine.

    Attributes:
        name: of the level.
        usable: whether its probe held.
        why: what is missing or what went wrong; for a usable level what was tried.
    """

    name: str
    usable: bool
    why: str


def probe() -> list[LevelReport]:
    """All levels but `none`, strongest first. Blocks (about a second the first time); cached in this process."""
    return [_report(level) for level in LEVELS]


def active_level(level: Level) -> str:
    """The level that is used where this one is asked for. Blocks while it probes; cached in this process.

    Raises:
        ConfigError: it does not work on this machine, or for `auto`: none does.
    """
    if level != "auto":
        report = _report(level)
        if not report.usable:
            raise ConfigError(
                f"code interpreter: level {level} does not work here: {report.why}; {_INSTALL[level]}, "
                "or set level: auto"
            )
        return level
    whys = []
    for name in LEVELS:
        report = _report(name)
        if report.usable:
            return name
        whys.append(f"{name}: {report.why}")
    raise ConfigError(
        f"code interpreter: no sandbox works here ({'; '.join(whys)}); {_INSTALL['sandlock']}, or {_INSTALL['bwrap']}"
    )


def interpreter(level: str, limits: Limits) -> ProcessInterpreter:
    """One interpreter, not yet started, at a level that `active_level` gave."""
    if why := missing(level):
        raise NotStarted(why)
    return ProcessInterpreter(order(level, limits), timeout_s=limits.timeout_s, output_chars=limits.output_chars)


_PROBE_CODE: Final = """
import json
def denied(attempt):
    try:
        attempt()
    except BaseException:
        return True
    return False
def read():
    with open(SECRET) as file:
        file.read()
def write():
    with open(OUTSIDE, "w") as file:
        file.write("x")
def chmod():
    import os
    os.chmod(SECRET, 0o600)
def connect():
    import socket
    socket.create_connection(("127.0.0.1", PORT), 1).close()
def fast_open():
    import socket
    with socket.socket() as end:
        end.sendto(b"x", socket.MSG_FASTOPEN, ("127.0.0.1", PORT))
def kill():
    import os
    os.kill(PID, 0)
print(json.dumps({"read a file": denied(read), "write outside": denied(write), "change a file": denied(chmod),
                  "connect": denied(connect) and denied(fast_open), "signal us": denied(kill)}))
"""
_lock = threading.Lock()
_reports: dict[str, LevelReport] = {}


def _report(level: str) -> LevelReport:
    with _lock:
        if level not in _reports:
            why = missing(level) or _in_a_thread(level)
            tried = "nothing is tried, for it is no boundary" if level == "none" else "probed"
            _reports[level] = LevelReport(name=level, usable=not why, why=why or tried)
        return _reports[level]


def _in_a_thread(level: str) -> str:
    """Probe it with an event loop of its own; the caller may be in one."""
    found: list[str] = []
    thread = threading.Thread(target=lambda: found.append(asyncio.run(_break_out(level))))
    thread.start()
    thread.join()
    return found[0] if found else "the probe failed"


async def _break_out(level: str) -> str:
    """Start it and try; returns what got through, or why it did not start, or nothing."""
    with (
        tempfile.TemporaryDirectory(prefix="tokenprior-probe-") as folder,
        socket.create_server(("127.0.0.1", 0)) as ear,
    ):
        ear.setblocking(False)
        secret, outside = os.path.join(folder, "secret"), os.path.join(folder, "outside")
        os.close(os.open(secret, os.O_CREAT | os.O_WRONLY, 0o644))
        names = {"SECRET": secret, "OUTSIDE": outside, "PORT": ear.getsockname()[1], "PID": os.getpid()}
        code = "".join(f"{name} = {value!r}\n" for name, value in names.items()) + _PROBE_CODE
        one = interpreter(level, Limits())
        try:
            await one.start()
            ran = await one.run(code)
        except NotStarted as error:
            return str(error)
        finally:
            await one.end()
        if ran.lost or level == "none":
            return ran.lost
        try:
            through = [name for name, was_denied in json.loads(ran.output).items() if not was_denied]
        except (ValueError, AttributeError):
            return f"its probe printed {' '.join(ran.output.split())[-200:]!r}"
        if os.listdir(folder) != ["secret"]:
            through.append("write outside")
        try:
            ear.accept()[0].close()
            through.append("connect")
        except BlockingIOError:
            pass
        return f"code in it could {', '.join(dict.fromkeys(through))}" if through else ""
