"""Lookout: the living processes of an attempt, and what ends them if we are killed.

Run in a process of its own for each attempt of a program, by `ending.guarded`, with the standard library only. It holds
the end of a pipe whose other end is ours: if that closes without a word, for whatever reason, it kills every process of
the attempt, removes its folder and ends.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from contextlib import suppress

MOST_ROUNDS = 200  # of the hard end; a process that cannot be killed hangs in the kernel

ENDED = b"ended\n"

_PROC = "/proc"


def members(leader: int, marker: str) -> list[int]:
    """The living processes of an attempt.

    Args:
        leader: the process that was started, in a session of its own; 0 if that is not known.
        marker: a text in its environment that stands in no other.
    """
    if not os.path.exists(f"{_PROC}/self/stat"):
        with suppress(ProcessLookupError, PermissionError):
            if leader:
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
            state, parent, _, session = _read(entry, "stat").rpartition(b")")[2].split()[:4]
            if state in (b"Z", b"X"):
                continue
            parents[int(entry)] = int(parent)
            if (leader and int(session) == leader) or marker.encode() in _read(entry, "environ"):
                found.add(int(entry))
    found.discard(os.getpid())
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return sorted(found)


def _read(entry: str, name: str) -> bytes:
    with open(f"{_PROC}/{entry}/{name}", "rb") as file:
        return file.read()


def tell(leader: int, found: list[int], number: signal.Signals) -> None:
    """Send them a signal."""
    for pid in found:
        with suppress(ProcessLookupError, PermissionError):
            if os.path.exists(_PROC):
                os.kill(pid, number)
            else:
                os.killpg(leader, number)


def kill(leader: int, marker: str) -> None:
    """Kill them until none is left."""
    for _ in range(MOST_ROUNDS):
        if not (found := members(leader, marker)):
            break
        tell(leader, found, signal.SIGKILL)
        time.sleep(0.01)


def main(marker: str, folder: str) -> None:
    """Wait for the end of the pipe."""
    leader = 0
    for line in sys.stdin.buffer:
        if line == ENDED:
            return
        leader = int(line)
    kill(leader, marker)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
