"""The program that serves a GGUF file: `python -m tokenprior.models.embedded_server --model PATH`.

Order of events: llama.cpp's chatter is sent to stderr, the model is loaded, one line `listening
http://127.0.0.1:PORT` goes to stdout, and then the program reads stdin until it ends. It is a process of its own
because llama.cpp ends on an assertion with `abort()`, which must not take a run with it.

It never outlives its parent: stdin ends when the parent does, however it ends, and on Linux the kernel kills it
even while it is still loading.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.metadata
import os
import signal
import sys
from pathlib import Path
from typing import Any

from tokenprior.errors import EmbeddedModelError, MissingExtra, TokenpriorError

PR_SET_PDEATHSIG = 1
PROMPT_CACHE_MIB = 1024
BATCH = 512  # what llama.cpp takes by itself


def main(argv: list[str] | None = None) -> int:
    """Serve until stdin ends or a signal comes.

    Returns:
        0 after the end of stdin, 1 if the model could not be served; the reason is the last line on stderr.
    """
    parser = argparse.ArgumentParser(prog="python -m tokenprior.models.embedded_server", description=__doc__)
    parser.add_argument("--model", required=True, type=Path, help="a GGUF file")
    parser.add_argument("--slots", type=int, default=2, help="prompts answered side by side")
    parser.add_argument("--context-per-slot", type=int, default=4096, help="tokens of prompt and reply together")
    parser.add_argument("--threads", type=int, default=None, help="default: as many as the cores allow")
    parser.add_argument("--batch", type=int, default=BATCH, help="tokens of prompts evaluated in one go")
    parser.add_argument("--slot-folder", default="", help="where slots may be written to and read from")
    parser.add_argument("--port", type=int, default=0, help="default: a free one")
    arguments = parser.parse_args(argv)
    _die_with_parent()
    announce = _chatter_to_stderr()
    try:
        server = serve(
            arguments.model,
            slots=arguments.slots,
            context_per_slot=arguments.context_per_slot,
            threads=arguments.threads,
            batch=arguments.batch,
            slot_folder=arguments.slot_folder,
            port=arguments.port,
        )
    except TokenpriorError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    os.write(announce, f"listening {server.listening_address}\n".encode())
    while os.read(0, 4096):
        pass
    # Not a return: tearing down llama.cpp while a request is running waits for that request.
    os._exit(0)


def serve(
    path: Path,
    *,
    slots: int,
    context_per_slot: int,
    threads: int | None = None,
    batch: int = BATCH,
    slot_folder: str = "",
    port: int = 0,
) -> Any:
    """Load the model and start to listen on 127.0.0.1.

    Args:
        path: a GGUF file.
        slots: 1 or more.
        context_per_slot: tokens, 1 or more; a longer prompt is refused with HTTP 400, never cut.
        threads: 1 or more; `None` leaves the choice to `usable_cores` and llama.cpp.
        batch: tokens of prompts evaluated in one go, 32 or more.
        slot_folder: where the state of a slot may be written and read; empty allows neither.
        port: 0 takes a free one.

    Returns:
        The running `xllamacpp.Server`; `listening_address` is its address. It listens as long as it is referenced.

    Raises:
        MissingExtra: xllamacpp is not installed.
        EmbeddedModelError: the file cannot be served, or xllamacpp has changed its shape.
    """
    # Before the import, since OpenMP reads it when it is loaded. Its threads spin while they wait for each other. On
    # two cores with one other busy process the 135M model wrote 0.5 tokens/s by default and 27 with this; on a quiet
    # machine it costs a tenth (1.5B model: 15.9 to 14.5 tokens/s; OMP_WAIT_POLICY=passive: 11.8).
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    try:
        import xllamacpp
    except ModuleNotFoundError as error:
        raise MissingExtra("xllamacpp", "local", "the embedded model") from error
    params = xllamacpp.CommonParams()
    assign(params, "model.path", str(path))
    assign(params, "n_parallel", slots)
    assign(params, "n_ctx", context_per_slot * slots)
    assign(params, "hostnames", ["127.0.0.1"])
    assign(params, "port", port)
    assign(params, "cache_prompt", True)
    # One pool for all slots would let one long prompt push the others out.
    assign(params, "kv_unified", False)
    # 3 writes ten lines for each request, and the log lives as long as the server.
    assign(params, "verbosity", 2)
    # The default keeps up to 8 GiB of old prompts in memory.
    assign(params, "cache_ram_mib", PROMPT_CACHE_MIB)
    # The default lets every page that is open in a browser on this machine use the model and read its prompts.
    assign(params, "cors_origins", "http://127.0.0.1")
    assign(params, "endpoint_slots", False)
    assign(params, "n_ubatch", batch)
    if slot_folder:
        assign(params, "slot_save_path", slot_folder.rstrip("/") + "/")
    assign(params, "ui", False)
    chosen = threads if threads is not None else usable_cores()
    if chosen is not None:
        assign(params, "cpuparams.n_threads", chosen)
        assign(params, "cpuparams_batch.n_threads", chosen)
    try:
        return xllamacpp.Server(params)
    except RuntimeError as error:
        raise EmbeddedModelError(
            f"{path} cannot be served: {error} (a GGUF file, and enough memory for {slots} slots of "
            f"{context_per_slot} tokens, were expected)"
        ) from error


def assign(params: Any, dotted: str, value: object) -> None:
    """Set an attribute that must be there already.

    Attribute names of xllamacpp follow llama.cpp and change between releases; a plain assignment to an object of
    Python would then be taken without an effect.

    Raises:
        EmbeddedModelError: names the attribute and the installed version.
    """
    *owners, name = dotted.split(".")
    try:
        for owner in owners:
            params = getattr(params, owner)
        getattr(params, name)
        setattr(params, name, value)
    except (AttributeError, TypeError) as error:
        try:
            version = importlib.metadata.version("xllamacpp")
        except importlib.metadata.PackageNotFoundError:
            version = "of unknown version"
        raise EmbeddedModelError(
            f"xllamacpp {version} does not take {dotted}={value!r}: "
            f"install the version that tokenprior was made for (pip install 'tokenprior[local]')"
        ) from error


def usable_cores() -> int | None:
    """Cores this process may use, or `None` if it may use all of the machine: then llama.cpp knows better which
    of them are real.

    llama.cpp does not see a container's limits, and more threads than cores make it slower, not faster.
    """
    count = os.cpu_count() or 1
    allowed = len(os.sched_getaffinity(0)) if sys.platform == "linux" else count
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        allowed = min(allowed, max(1, int(quota) // int(period)))
    except (OSError, ValueError):
        pass  # no cgroup v2, or "max"
    return allowed if allowed < count else None


def _chatter_to_stderr() -> int:
    """Keep stdout for the one line: from here on descriptor 1 is stderr, for C++ as well. Returns the real one."""
    announce = os.dup(1)
    os.dup2(2, 1)
    return announce


def _die_with_parent() -> None:
    # Default dispositions end the process at once; Python's would wait until C++ returns from loading.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


if __name__ == "__main__":
    sys.exit(main())
