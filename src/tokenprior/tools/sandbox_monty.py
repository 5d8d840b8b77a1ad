"""The interpreter of the level `monty`: as `sandbox_guest`, but the code is of a subset of Python and runs in Rust.

Run as a process of its own, never imported: the extension was seen to abort the process that loaded it while that one
ended (1.4.0, in 2 of 4 runs that hit a time limit). Only the standard library and `pydantic_monty`.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any


def show(_stream: str, text: str) -> None:
    data = text.encode("utf-8", "backslashreplace")
    while data:
        data = data[os.write(1, data) :]


def serve(settings: dict[str, Any]) -> None:
    channel = os.fdopen(os.dup(0), "rb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.path.append(settings["found_at"])
    import pydantic_monty as monty

    limits: monty.ResourceLimits = {
        "max_feed_duration_secs": settings["timeout_s"] + 1,  # whoever waits is first; this one is for orphans
        "max_memory": settings["memory_bytes"],
        "max_suspensions": 1_000_000,
    }
    pool = monty.Monty(
        binary_path=settings["binary"], min_processes=1, max_processes=1, request_timeout=settings["timeout_s"] + 5
    )
    with pool, pool.checkout(limits=limits) as session:
        os.write(channel.fileno(), b"ready\n")
        for line in channel:
            request = json.loads(line)
            try:
                value = session.feed_run(request["code"], print_callback=show)
                if value is not None:
                    show("", f"{value!r}\n")
            except monty.MontyCrashedError:
                os._exit(1)
            except (monty.MontyRuntimeError, monty.MontySyntaxError) as error:
                show("", f"{error.display('traceback')}\n")
            except Exception as error:  # a value that has no counterpart here
                show("", f"{type(error).__name__}: {error}\n")
            os.write(channel.fileno(), request["token"].encode() + b"\n")
    os._exit(0)


if __name__ == "__main__":
    serve(json.loads(sys.argv[1]))
