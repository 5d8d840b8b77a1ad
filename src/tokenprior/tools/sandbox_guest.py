"""The interpreter inside of a sandbox: takes code on its input, runs it, and says when it is done.

Only the standard library, and nothing of tokenprior: its text is handed to the sandboxed Python as `-c`, for no file of
ours is readable there. All that stands here runs beside the agent's code and may be changed by it; whoever reads from
this process believes nothing.

Order of events: rights are given up (`settings`), then `ready` is written, then a line of JSON comes in for each call
and its token goes out when the code has ended. What the code prints goes to the standard output, never to the channel.
"""

from __future__ import annotations

import ast
import io
import json
import linecache
import os
import sys
import traceback
import types
from typing import Any


def give_up_rights(settings: dict[str, Any]) -> None:
    """Become the user `uid` if one is given; drop all capabilities and filter system calls if told to; limit processes.

    The number is limited for this user in this user name space, so it is only given where both are the session's own.
    """
    libc: Any = None
    if settings["drop_capabilities"] or settings["uid"] is not None:
        import ctypes

        libc = ctypes.CDLL(None, use_errno=True)
        for capability in range(64):
            libc.prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP; EINVAL beyond the last one
    if settings["uid"] is not None:
        os.setgroups([])
        os.setresgid(settings["uid"], settings["uid"], settings["uid"])
        os.setresuid(settings["uid"], settings["uid"], settings["uid"])
    if libc is not None:
        header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this thread
        if libc.capset(header, (ctypes.c_uint32 * 6)()) != 0 or libc.prctl(38, 1, 0, 0, 0) != 0:  # NO_NEW_PRIVS
            raise OSError(ctypes.get_errno(), "could not drop capabilities")
    if settings["filter"]:
        install(bytes.fromhex(settings["filter"]))
    if settings["processes"] is not None:
        import resource

        resource.setrlimit(resource.RLIMIT_NPROC, (settings["processes"], settings["processes"]))


def install(program: bytes) -> None:
    """A filter of system calls, on top of those there are; the strictest answer counts."""
    import ctypes

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))

    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(38, 1, 0, 0, 0)  # NO_NEW_PRIVS
    if libc.prctl(22, 2, ctypes.byref(Program(len(program) // 8, program)), 0, 0) != 0:  # SECCOMP_MODE_FILTER
        raise OSError(ctypes.get_errno(), "could not filter system calls")


def run(code: str, name: str, namespace: dict[str, Any]) -> None:
    """Execute as a notebook does: the value of a last expression is shown, an error is printed."""
    linecache.cache[name] = (len(code), None, code.splitlines(keepends=True), name)
    try:
        tree = ast.parse(code, name)
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, name, "exec"), namespace)
        if isinstance(last, ast.Expr):
            sys.displayhook(eval(compile(ast.Expression(last.value), name, "eval"), namespace))
    except BaseException as error:
        shown = error.__traceback__
        while shown is not None and shown.tb_frame.f_code.co_filename != name:
            shown = shown.tb_next
        lines = traceback.format_exception(type(error), error, shown)
        if shown is None and not isinstance(error, SyntaxError):
            lines = lines[-1:]
        sys.stdout.write("".join(lines))


def show_on_standard_output() -> None:
    """Give the code streams that work, if it has lost or closed those it had."""
    for name in ("stdout", "stderr"):
        if getattr(getattr(sys, name, None), "closed", True):
            # `closefd`: closing the stream must not close what the next one needs.
            raw = open(1, "wb", closefd=False)  # noqa: SIM115
            setattr(sys, name, io.TextIOWrapper(raw, "utf-8", "backslashreplace", line_buffering=True))


def flush() -> None:
    streams: tuple[Any, ...] = (sys.stdout, sys.stderr)
    for stream in streams:
        try:
            stream.flush()
        except BaseException:  # it may be anything that the code put there
            continue


def serve(settings: dict[str, Any]) -> None:
    channel = os.fdopen(os.dup(0), "rb")
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    answers = os.dup(channel.fileno())
    own = os.getpid()
    give_up_rights(settings)
    sys.path.extend(settings["packages"])
    sys.argv[:] = [""]
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    sys.stdout = sys.stderr = sys.__stdout__ = sys.__stderr__ = None  # type: ignore[misc]
    os.write(answers, b"ready\n")
    for number, line in enumerate(channel, start=1):
        request = json.loads(line)
        show_on_standard_output()
        try:
            run(request["code"], f"<call {number}>", module.__dict__)
        except BaseException as error:  # the code broke what shows its errors
            os.write(1, f"{type(error).__name__} while its error was shown\n".encode())
        finally:
            if os.getpid() != own:  # the code forked and the child came back here
                os._exit(0)
        flush()
        os.write(answers, request["token"].encode() + b"\n")


if __name__ == "__main__":
    serve(json.loads(sys.argv[1]))
