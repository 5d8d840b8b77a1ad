"""Ending: a program that was started for an attempt is ended with all that it started.

What is covered, on Linux: every process of the program's session, every descendant by `/proc`, and every process that
carries the attempt's marker in its environment, so also those that left the session or lost their parent. What is not:
a process that has done all of it, left the session, lost its parent and dropped the marker; and one of another user.
Without `/proc` (macOS) the process group is all that is found. If we are killed ourselves, `agents.lookout` does it.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

from tokenprior.agents import lookout
from tokenprior.agents.lookout import MOST_ROUNDS, kill, members, tell

GRACE_S = 2.0

# A thread of its own: those of the loop may all be taken by verifiers just when a program has to be ended.
_LOOKOUT = ThreadPoolExecutor(1, thread_name_prefix="tokenprior-ending")


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
        kill(leader, marker)  # it blocks; the loop is being stopped
        raise


class Guard:
    """A process beside us that ends an attempt's processes if we are killed, as we see it."""

    def __init__(self, pipe: asyncio.StreamWriter) -> None:
        self._pipe = pipe

    def began(self, leader: int) -> None:
        """Tell it which process was started."""
        self._pipe.write(f"{leader}\n".encode())

    def ended(self) -> None:
        """Tell it that nothing is left to end."""
        self._pipe.write(lookout.ENDED)


@asynccontextmanager
async def guarded(marker: str, folder: str) -> AsyncIterator[Guard]:
    """A guard for an attempt whose processes carry the marker, there before the first of them.

    Args:
        folder: is removed with them.
    """
    quiet = asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-S", lookout.__file__, marker, folder),
        stdin=asyncio.subprocess.PIPE,
        stdout=quiet,
        stderr=quiet,
        env={},
        start_new_session=True,  # a Ctrl-C is not meant for it
    )
    assert process.stdin is not None
    try:
        yield Guard(process.stdin)
    finally:
        process.stdin.close()
        await process.wait()
