"""How an interpreter is started at each level: the command, what it may read, what it may take."""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import shutil
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tokenprior.tools.sandbox_filter import system_call_filter
from tokenprior.tools.sandbox_process import Order

_HERE: Final = Path(__file__).parent
_GUEST: Final = _HERE / "sandbox_guest.py"
_MONTY: Final = _HERE / "sandbox_monty.py"
_SYSTEM: Final = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64")
_SYSTEM_FILES: Final = ("/etc/ld.so.cache", "/etc/localtime", "/etc/alternatives")
_NUMBERS: Final = itertools.count()
_OWN_MEMORY: Final = 128 << 20  # what the interpreter itself takes, beside `memory_mb`

# Beyond what sandlock denies by itself (0.9.0). Landlock lets files that may not be opened still be changed in mode,
# owner, times and attributes: tried, and it worked. Limits and priority of other processes are denied as a precaution.
_DENIED_IN_SANDLOCK: Final = (
    "chmod", "fchmod", "fchmodat", "fchmodat2", "chown", "lchown", "fchown", "fchownat", "utime", "utimes",
    "utimensat", "futimesat", "file_setattr", "setxattr", "lsetxattr", "fsetxattr", "setxattrat", "removexattr",
    "lremovexattr", "fremovexattr", "removexattrat", "prlimit64", "setrlimit", "setpriority", "ioprio_set",
    "sched_setaffinity", "sched_setscheduler", "sched_setparam", "sched_setattr", "migrate_pages", "move_pages",
    "memfd_create", "memfd_secret", "mq_open", "mq_unlink", "inotify_add_watch", "fanotify_init",
)  # fmt: skip


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


def missing(level: str) -> str:
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
    if level in ("sandlock", "bwrap") and not system_call_filter():
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


def order(level: str, limits: Limits) -> Order:
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
        "in_memory": "/tmp" if level == "bwrap" else "",
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
        settings = {
            "found_at": _found("pydantic_monty"),
            "binary": _monty_program(),
            "timeout_s": limits.timeout_s,
            "memory_bytes": limits.memory_mb << 20,
        }
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
    if level == "bwrap":
        words["command"] = [*_bwrap(words["environment"], files), *words["command"]]
    return Order(words=words, reasons=_reasons(limits))


def _reasons(limits: Limits) -> dict[str, str]:
    return {
        "cpu": f"it used more than {limits.cpu_s} s of processor time",
        "memory": f"it used more than {limits.memory_mb} MiB of memory",
        "processes": f"it had more than {limits.processes} processes",
        "files": f"it wrote more than {limits.files_mb} MiB of files, too many, or where they cannot be counted",
    }


def _readable() -> list[str]:
    """The Python that tokenprior runs on, its packages, and what they link to; no path lies in another."""
    paths = [*_SYSTEM, *_SYSTEM_FILES, os.path.realpath(sys.base_prefix), os.path.realpath(sys.base_exec_prefix)]
    there = [Path(path) for path in dict.fromkeys([*paths, *_packages()]) if os.path.exists(path)]
    return [str(path) for path in there if not any(other in path.parents for other in there)]


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
        "filter": system_call_filter().hex() if level != "none" else "",
        # Root is exempt from the limit of processes; a user of its own also owns nothing on this machine. Each session
        # has another one, for the limit counts all processes of a user.
        "uid": 61184 + (os.getpid() + next(_NUMBERS)) % 4000 if is_root and level == "bwrap" else None,
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
        for parent in reversed(Path(path).parents[:-1]):  # made with no rights for others, if one is not told
            words += ["--perms", "0755", "--dir", str(parent)]
        if os.path.islink(path) and path in _SYSTEM:
            words += ["--symlink", os.readlink(path), path]
        else:
            words += ["--ro-bind", path, path]
    words += ["--proc", "/proc", "--dev", "/dev", "--remount-ro", "/dev"]
    words += ["--perms", "0777", "--size", str(file_bytes), "--tmpfs", "/tmp", "--chdir", "/tmp"]
    return [*words, "--remount-ro", "/", "--hostname", "sandbox", "--"]
