"""Ending: a program that was started for an attempt is ended with all that it started.

What is covered, on Linux: every process of the program's session, every descendant by `/proc`, and every process that
carries the attempt's marker in its environment, so also those that left the session or lost their parent. What is not:
a process that has done all of it, left the session, lost its parent and dropped the marker; and one of another user.
Without `/proc` (macOS) the process group is all that is found.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

GRACE_S = 2.0
MOST_ROUNDS = 200  # of the hard end; a process that cannot be killed hangs in the kernel

_PROC = Path("/proc")
# A thread of its own: those of the loop may all be taken by verifiers just when a program has to be ended.
_LOOKOUT = ThreadPoolExecutor(1, thread_name_prefix="tokenprior-ending")


def members(leader: int, marker: str) -> list[int]:
    """The living processes of an attempt.

    Args:
        leader: the process that was started, in a session of its own.
        marker: a text in its environment that stands in no other.
    """
    if not (_PROC / "self" / "stat").exists():
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(leader, 0)
            return [leader]
        return []
    parents: dict[int, int] = {}
    found: set[int] = set()
    for entry in os.listdir(_PROC):
        if not entry.isdigit():
            continue
        with suppress(OSError):  # it has ended meanwhile, or belongs to somebody else
            # The name in brackets may hold anything, brackets too.
            state, parent, _, session = (_PROC / entry / "stat").read_bytes().rpartition(b")")[2].split()[:4]
            if state in (b"Z", b"X"):
                continue
            parents[int(entry)] = int(parent)
            if int(session) == leader or marker.encode() in (_PROC / entry / "environ").read_bytes():
                found.add(int(entry))
    found.discard(os.getpid())
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return sorted(found)


def tell(leader: int, found: list[int], number: signal.Signals) -> None:
    """Send them a signal."""
    for pid in found:
        with suppress(ProcessLookupError, PermissionError):
            if _PROC.exists():
                os.kill(pid, number)
            else:
                os.killpg(leader, number)


async def end(leader: int, marker: str) -> None:
    """End an attempt's processes: asked to first, then killed. None is left when this returns.

    Cancelled, it kills what there is at once.
    """
    loop = asyncio.get_running_loop()

    async def look() -> list[int]:
        return await loop.run_in_executor(_LOOKOUT, members, leader, marker)

    try:
        found = await look()
        tell(leader, found, signal.SIGTERM)
        until = time.monotonic() + GRACE_S
        while found and time.monotonic() < until:
            await asyncio.sleep(0.03)
            found = await look()
        for _ in range(MOST_ROUNDS):
            if not found:
                return
            tell(leader, found, signal.SIGKILL)
            await asyncio.sleep(0.01)
            found = await look()
    except asyncio.CancelledError:
        for _ in range(MOST_ROUNDS):
            if not (found := members(leader, marker)):
                break
            tell(leader, found, signal.SIGKILL)
            time.sleep(0.01)  # noqa: ASYNC251 (the loop is being stopped)
        raise
