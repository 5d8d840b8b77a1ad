"""The process between us and a sandbox: starts it, watches it, and ends all that came out of it.

Run in a process of its own for each interpreter, by `main`, with the standard library only (and `sandlock` at that
level). It holds the end of a socket whose other end is ours: when that closes, for whatever reason (the session is
over, the task was cancelled, our process was killed), it kills every process of the sandbox, removes the
temporary directory and ends.

Covered: processes that fork twice, start sessions of their own or ignore signals (this process is a subreaper on Linux,
so they stay its descendants); memory, processes and files of the whole tree, looked at every `LOOK_S` seconds beside
the kernel's limits for each process. Not covered: a process of the level `none` that kills this one first; systems
other than Linux, where only the process group is killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Any

LOOK_S = 0.25
MOST_ENTRIES = 20_000
MOST_DEAD = 500  # processes that ended and that nobody asked about: each takes a number that others need
_LINUX = sys.platform.startswith("linux")


def set_limits(limits: dict[str, int], pid: int = 0) -> None:
    """The kernel's limits for each process, of this process or (Linux) of another."""
    memory, files = limits["memory_bytes"], limits["file_bytes"]
    wanted = [
        (resource.RLIMIT_CPU, limits["cpu_s"], limits["cpu_s"] + 1),  # first a signal, then the end
        (resource.RLIMIT_FSIZE, files, files),
        (resource.RLIMIT_NOFILE, 256, 256),
        (resource.RLIMIT_CORE, 0, 0),
    ]
    if memory:
        wanted.append((resource.RLIMIT_AS, memory, memory))
    for which, soft, hard in wanted:
        if pid:
            resource.prlimit(pid, which, (soft, hard))
        else:
            resource.setrlimit(which, (soft, hard))


def start(order: dict[str, Any], directory: str) -> tuple[int, Callable[[], str]]:
    """Start the sandbox. Returns its process id and what waits for its end and says how it ended."""
    command = [part.replace("{directory}", directory) for part in order["command"]]
    environment = {name: value.replace("{directory}", directory) for name, value in order["environment"].items()}
    if order["sandlock"] is not None:
        return start_in_sandlock(order, command, environment, directory)
    process = subprocess.Popen(
        command,
        env=environment,
        cwd=directory,
        start_new_session=True,
        preexec_fn=lambda: set_limits(order["limits"]),
    )
    return process.pid, lambda: ending(process.wait())


def start_in_sandlock(
    order: dict[str, Any], command: list[str], environment: dict[str, str], directory: str
) -> tuple[int, Callable[[], str]]:
    settings = order["sandlock"]
    sys.path.append(settings["found_at"])
    import sandlock  # type: ignore[import-untyped]

    box = sandlock.Sandbox(
        fs_readable=settings["readable"],
        fs_writable=[directory, "/dev/null"],
        cwd=directory,
        clean_env=True,
        env=environment,
        max_processes=settings["processes"],
        extra_deny_syscalls=settings["denied"],
    )
    process = box.popen(command)
    assert process.pid is not None
    # From outside: inside, the call is denied, for it reaches other processes of this user as well.
    set_limits(order["limits"], process.pid)

    def wait() -> str:
        result = process.wait()
        return ending(-result.signal if result.signal > 0 else result.exit_code)

    return process.pid, wait


def ending(code: int) -> str:
    code = 128 - code if code > 128 else code  # as a shell and bwrap say that a signal ended it
    if code == -signal.SIGXCPU:
        return "cpu"
    return f"it was killed by signal {-code}" if code < 0 else f"it ended with code {code}"


def descendants() -> tuple[list[int], int]:
    """Every process below this one that still runs, and how many are dead but not buried; on Linux only, else none."""
    children: dict[int, list[int]] = {}
    dead: set[int] = set()
    for name in os.listdir("/proc") if _LINUX else ():
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                state, parent = file.read().rpartition(b")")[2].split()[:2]
        except OSError:
            continue
        children.setdefault(int(parent), []).append(int(name))
        if state in b"ZX":
            dead.add(int(name))
    found, new = [], [os.getpid()]
    while new:
        new = [child for pid in new for child in children.get(pid, ())]
        found += new
    alive = [pid for pid in found if pid not in dead]
    return alive, len(found) - len(alive)


def resident_bytes(pids: list[int], limit: int) -> int:
    """Memory of all of them; shared pages are counted once if it looks like too much otherwise."""
    pages = 0
    for pid in pids:
        with contextlib.suppress(OSError, ValueError), open(f"/proc/{pid}/statm", "rb") as file:
            pages += int(file.read().split()[1])
    total = pages * resource.getpagesize()
    if total <= limit:
        return total
    exact = 0
    for pid in pids:
        try:
            with open(f"/proc/{pid}/smaps_rollup", "rb") as file:
                exact += next((int(line.split()[1]) << 10 for line in file if line.startswith(b"Pss:")), 0)
        except ProcessLookupError:
            continue
        except OSError:
            return total
    return exact


def stored_bytes(directory: str) -> int:
    """What lies in a directory; more than any limit if it cannot be counted: too many entries, folders that may not be
    listed or are too deep for a path."""
    total, entries, pending = 0, 0, [directory]
    while pending:
        try:
            with os.scandir(pending.pop()) as listing:
                for entry in listing:
                    entries += 1
                    if entries > MOST_ENTRIES:
                        return 1 << 62
                    with contextlib.suppress(FileNotFoundError):
                        facts = entry.stat(follow_symlinks=False)
                        total += facts.st_blocks * 512
                        if stat.S_ISDIR(facts.st_mode):
                            pending.append(entry.path)
        except (FileNotFoundError, NotADirectoryError):  # gone while we looked
            continue
        except OSError:
            return 1 << 62
    return total


def unlinked_bytes(pids: list[int]) -> int:
    """What lies in files that are open and in no directory any more."""
    found: dict[tuple[int, int], int] = {}
    for pid in pids:
        with contextlib.suppress(OSError):
            for number in os.listdir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    facts = os.stat(f"/proc/{pid}/fd/{number}")
                    if stat.S_ISREG(facts.st_mode) and not facts.st_nlink:
                        found[facts.st_dev, facts.st_ino] = facts.st_blocks * 512
    return sum(found.values())


def entries_in_memory(pids: list[int], place: str) -> int:
    """How many files a file system of the sandbox's own holds: its size does not bound those that are empty."""
    for pid in reversed(pids):  # the first ones still stand outside of it
        with contextlib.suppress(OSError):
            own = f"/proc/{pid}/root{place}"
            if os.stat(own).st_dev != os.stat(place).st_dev:
                facts = os.statvfs(own)
                return facts.f_files - facts.f_ffree
    return 0


def excess(order: dict[str, Any], directory: str) -> str:
    """Which limit of the whole tree is passed; empty if none is."""
    limits, stored = order["limits"], 0
    if _LINUX:
        pids, dead = descendants()
        if len(pids) > limits["tree_processes"] or dead > MOST_DEAD:
            return "processes"
        if resident_bytes(pids, limits["tree_bytes"]) > limits["tree_bytes"]:
            return "memory"
        if order["in_memory"] and entries_in_memory(pids, order["in_memory"]) > MOST_ENTRIES:
            return "files"
        stored = unlinked_bytes(pids)
    return "files" if stored + stored_bytes(directory) > limits["tree_file_bytes"] else ""


def watch(order: dict[str, Any], directory: str, status: socket.socket, wait: Callable[[], str]) -> str:
    """Until the sandbox ends, a limit is passed, or nobody wants it any more (empty)."""
    ended, end = os.pipe()
    how: list[str] = []

    def until_it_ends() -> None:
        how.append(wait())
        os.write(end, b".")

    threading.Thread(target=until_it_ends, daemon=True).start()
    while True:
        ready, _, _ = select.select([status.fileno(), ended], [], [], LOOK_S)
        if ended in ready:
            return how[0]
        if status.fileno() in ready:
            return ""
        if over := excess(order, directory):
            return over


def kill_all(group: int) -> None:
    """Kill until none is left. Stopped first, so that none forks while others die."""
    deadline = time.monotonic() + 10
    while True:
        if group:
            with contextlib.suppress(OSError):
                os.killpg(group, signal.SIGKILL)
        pids, _ = descendants()
        for sign in (signal.SIGSTOP, signal.SIGKILL):
            for pid in pids:
                with contextlib.suppress(OSError):
                    os.kill(pid, sign)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                continue
        if not pids or time.monotonic() > deadline:
            return
        time.sleep(0.002)


def remove(directory: str) -> None:
    with contextlib.suppress(RecursionError):
        shutil.rmtree(directory, ignore_errors=True)
    if os.path.lexists(directory):  # directories without rights, or deeper than Python's stack
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "check": False}
        subprocess.run(["chmod", "-R", "u+rwx", "--", directory], **quiet)  # type: ignore[call-overload]
        subprocess.run(["rm", "-rf", "--", directory], **quiet)  # type: ignore[call-overload]


def main(order: dict[str, Any]) -> None:
    status = socket.socket(fileno=order["status_fd"])
    os.set_inheritable(status.fileno(), False)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: status.shutdown(socket.SHUT_RD))
    if _LINUX:
        import ctypes

        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
    directory = os.path.realpath(tempfile.mkdtemp(prefix="tokenprior-python-"))
    group = 0
    try:
        group, wait = start(order, directory)
        null = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        status.sendall(json.dumps({"started": group}).encode() + b"\n")
        report = {"ended": watch(order, directory, status, wait)}
    except Exception as error:
        report = {"failed": f"{type(error).__name__}: {error}"}
    kill_all(group)
    with contextlib.suppress(OSError):  # before the files are removed: that takes its time, and somebody waits for why
        status.sendall(json.dumps(report).encode() + b"\n")
    remove(directory)
    os._exit(0)  # not by way of the threads of a library
