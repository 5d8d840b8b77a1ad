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
import importlib.util
import json
import os
import shutil
import socket
import sys
import sysconfig
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from tokenprior.errors import ConfigError
from tokenprior.tools.sandbox_filter import system_call_filter
from tokenprior.tools.sandbox_process import NotStarted, Order, ProcessInterpreter

Level = Literal["auto", "sandlock", "bwrap", "monty", "none"]
LEVELS: Final = ("sandlock", "bwrap", "monty")
"""Strongest first; `auto` takes the first that works. `none` is not among them."""

_HERE: Final = Path(__file__).parent
_GUEST: Final = _HERE / "sandbox_guest.py"
_MONTY: Final = _HERE / "sandbox_monty.py"
_SYSTEM: Final = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64")
_SYSTEM_FILES: Final = ("/etc/ld.so.cache", "/etc/localtime", "/etc/alternatives")
_OWN_MEMORY: Final = 128 << 20  # what the interpreter itself takes, beside `memory_mb`

# Beyond what sandlock denies by itself (0.9.0). Landlock lets files that may not be opened still be changed in mode,
# owner, times and attributes, and other processes of this user in limits and priority: both were tried and worked.
_DENIED_IN_SANDLOCK: Final = (
    "chmod fchmod fchmodat fchmodat2 chown lchown fchown fchownat utime utimes utimensat futimesat file_setattr "
    "setxattr lsetxattr fsetxattr setxattrat removexattr lremovexattr fremovexattr removexattrat "
    "prlimit64 setrlimit setpriority ioprio_set sched_setaffinity sched_setscheduler sched_setparam sched_setattr "
    "migrate_pages move_pages memfd_create memfd_secret mq_open mq_unlink inotify_add_watch fanotify_init"
).split()

_INSTALL: Final = {
    "sandlock": "pip install 'tokenprior[sandbox]' (Linux 6.12 or newer)",
    "bwrap": "install bubblewrap (Debian: apt-get install bubblewrap)",
    "monty": "pip install 'tokenprior[sandbox]'",
    "none": "use Linux or macOS",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one interpreter may take. Passing a limit ends it with all of its processes, unless the code gets an error.

    Attributes:
        timeout_s: wall clock of one call.
        cpu_s: processor time of each process, over all calls.
        memory_mb: address space of each process (the code gets a MemoryError) and memory of all together, beside
            128 MiB for the interpreter.
        processes: at one time, beside the interpreter; threads count at the level `bwrap`.
        files_mb: size of each file and of all that lies in the working directory.
        output_chars: of the text of one result; the middle is left out.
    """

    timeout_s: float = 20.0
    cpu_s: int = 120
    memory_mb: int = 512
    processes: int = 16
    files_mb: int = 64
    output_chars: int = 8000


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
    if missing := _missing(level):
        raise NotStarted(missing)
    return ProcessInterpreter(_order(level, limits), timeout_s=limits.timeout_s, output_chars=limits.output_chars)


def _missing(level: str) -> str:
    """What a level lacks on this machine, without starting anything; empty if nothing."""
    is_linux = sys.platform.startswith("linux")
    if os.name != "posix":
        return f"it does not run on {sys.platform}"
    if level in ("sandlock", "bwrap") and not is_linux:
        return "it needs Linux"
    if level == "sandlock" and not _found("sandlock"):
        return "the package sandlock is not installed"
    if level == "bwrap" and not shutil.which("bwrap"):
        return "the program bwrap is not installed"
    if level == "bwrap" and not system_call_filter():
        return "the system calls of this machine are not known"
    if level == "monty" and not (_found("pydantic_monty") and _monty_program()):
        return "the package pydantic-monty is not installed"
    return ""


def _found(package: str) -> str:
    """The folder that holds a package, empty if it is not there. Does not import it."""
    spec = importlib.util.find_spec(package)
    return str(Path(spec.origin).parent.parent) if spec is not None and spec.origin else ""


def _monty_program() -> str | None:
    return shutil.which("monty", path=sysconfig.get_path("scripts")) or shutil.which("monty")


def _order(level: str, limits: Limits) -> Order:
    memory, files = (limits.memory_mb << 20) + _OWN_MEMORY, limits.files_mb << 20
    words: dict[str, Any] = {
        "command": [],
        "environment": {
            "PATH": "/usr/bin:/bin",
            "LANG": "C.UTF-8",
            "HOME": "{directory}",
            "OMP_NUM_THREADS": "1",  # one thread for each core would take address space and processes
        },
        "sandlock": None,
        "limits": {
            "cpu_s": limits.cpu_s,
            "memory_bytes": 0 if level == "monty" else memory,
            "file_bytes": files,
            "tree_bytes": memory,
            "tree_file_bytes": files + (1 << 20),
            "tree_processes": limits.processes + 3,  # bwrap is two, monty one
        },
    }
    if level == "monty":
        settings = {"found_at": _found("pydantic_monty"), "binary": _monty_program()}
        settings |= {"timeout_s": limits.timeout_s, "memory_bytes": limits.memory_mb << 20}
        words["command"] = [sys.executable, "-I", "-S", "-X", "utf8", str(_MONTY), json.dumps(settings)]
    else:
        words["command"] = _guest(level, limits)
    if level == "sandlock":
        words["sandlock"] = {
            "found_at": _found("sandlock"),
            "readable": [*_readable(), "/dev/urandom"],
            "processes": limits.processes + 1,
            "denied": list(_DENIED_IN_SANDLOCK),
        }
    filter_bytes = b""
    if level == "bwrap":
        filter_bytes = system_call_filter()
        words["command"] = [*_bwrap(words["environment"], files), *words["command"]]
    return Order(words=words, filter=filter_bytes, reasons=_reasons(limits))


def _reasons(limits: Limits) -> dict[str, str]:
    return {
        "cpu": f"it used more than {limits.cpu_s} s of processor time",
        "memory": f"it used more than {limits.memory_mb} MiB of memory",
        "processes": f"it had more than {limits.processes} processes",
        "files": f"it wrote more than {limits.files_mb} MiB of files, or too many of them",
    }


def _readable() -> list[str]:
    """The Python that tokenprior runs on, its packages, and what they link to."""
    paths = [*_SYSTEM, *_SYSTEM_FILES, sys.base_prefix, sys.base_exec_prefix, *_packages()]
    return [path for path in dict.fromkeys(paths) if os.path.exists(path)]


def _packages() -> list[str]:
    """Installed packages of the virtual environment; those of the base installation are found without."""
    if sys.prefix == sys.base_prefix:
        return []
    return list(dict.fromkeys(os.path.realpath(sysconfig.get_path(name)) for name in ("purelib", "platlib")))


def _guest(level: str, limits: Limits) -> list[str]:
    is_root = os.geteuid() == 0
    settings = {
        "packages": _packages(),
        "drop_capabilities": is_root and level != "none",
        # Root is exempt from the limit of processes; a user of its own also owns nothing on this machine.
        "uid": 61184 + os.getpid() % 4000 if is_root and level == "bwrap" else None,
        "processes": limits.processes + 2 if level == "bwrap" else None,
    }
    python = os.path.realpath(sys.executable)
    return [python, "-I", "-B", "-X", "utf8", "-c", _GUEST.read_text(encoding="utf-8"), json.dumps(settings)]


def _bwrap(environment: dict[str, str], file_bytes: int) -> list[str]:
    """The command line up to the program. The directory is in memory there, with a size; the rest is read-only."""
    is_root = os.geteuid() == 0
    words = [str(shutil.which("bwrap")), "--die-with-parent", "--new-session", "--clearenv", "--cap-drop", "ALL"]
    words += ["--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]
    if not is_root:
        words += ["--unshare-user"]
    for capability in ("CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP") if is_root else ():
        words += ["--cap-add", capability]
    for name, value in environment.items():
        words += ["--setenv", name, "/tmp" if name == "HOME" else value]
    for path in _readable():
        if os.path.islink(path) and path in _SYSTEM:
            words += ["--symlink", os.readlink(path), path]
        else:
            words += ["--ro-bind", path, path]
    words += ["--proc", "/proc", "--dev", "/dev", "--remount-ro", "/dev"]
    words += ["--perms", "0777", "--size", str(file_bytes), "--tmpfs", "/tmp", "--chdir", "/tmp"]
    return [*words, "--remount-ro", "/", "--hostname", "sandbox", "--seccomp", "{filter}", "--"]


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
def kill():
    import os
    os.kill(PID, 0)
print(json.dumps({"read a file": denied(read), "write outside": denied(write), "change a file": denied(chmod),
                  "connect": denied(connect), "signal us": denied(kill)}))
"""
_lock = threading.Lock()
_reports: dict[str, LevelReport] = {}


def _report(level: str) -> LevelReport:
    with _lock:
        if level not in _reports:
            why = _missing(level) or _in_a_thread(level)
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
        secret, outside = Path(folder, "secret"), Path(folder, "outside")
        secret.write_text("secret", encoding="utf-8")
        names = {"SECRET": str(secret), "OUTSIDE": str(outside), "PORT": ear.getsockname()[1], "PID": os.getpid()}
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
            denied = json.loads(ran.output)
            through = [name for name, was_denied in denied.items() if not was_denied]
        except (ValueError, AttributeError):
            return f"its probe printed {' '.join(ran.output.split())[-200:]!r}"
        if outside.exists():
            through.append("write outside")
        try:
            ear.accept()[0].close()
            through.append("connect")
        except BlockingIOError:
            pass
        return f"code in it could {', '.join(dict.fromkeys(through))}" if through else ""
