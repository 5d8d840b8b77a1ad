"""The embedded server's child: it comes up, is restarted, and never outlives its parent."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tokenprior.errors import EmbeddedModelError
from tokenprior.models.catalog import find
from tokenprior.models.embedded import EmbeddedServer
from tokenprior.models.embedded_server import assign, usable_cores
from tokenprior.models.pull import find_here

STAND_IN = """
import http.server, os, sys, threading

class Door(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/die":
            sys.stderr.write("GGML_ASSERT failed\\n")
            sys.stderr.flush()
            os._exit(134)
        body = b'{"data": [{"id": "stand-in"}]}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass

server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Door)
threading.Thread(target=server.serve_forever, daemon=True).start()
print("chatter of a library")
print(f"listening http://127.0.0.1:{server.server_port}", flush=True)
sys.stdin.read()
os._exit(0)
"""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def stand_in(tmp_path: Path) -> list[str]:
    program = tmp_path / "stand_in.py"
    program.write_text(STAND_IN)
    return [sys.executable, str(program)]


def get(url: str | urllib.request.Request) -> Any:
    with urllib.request.urlopen(url, timeout=60) as reply:
        return json.load(reply)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # A child of init that nobody has reaped yet is dead, too.
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] != "Z"


def gone_within(pid: int, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while is_alive(pid):
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


async def dead(server: EmbeddedServer) -> None:
    """Wait until the object has noticed."""
    for _ in range(500):
        if server.pid is None:
            return
        await asyncio.sleep(0.01)
    raise AssertionError("the child is alive")


async def born(server: EmbeddedServer) -> int:
    for _ in range(500):
        if server.pid is not None:
            return server.pid
        await asyncio.sleep(0.01)
    raise AssertionError("no child")


@pytest.mark.anyio
async def test_it_serves_and_leaves_no_process(stand_in: list[str]) -> None:
    async with EmbeddedServer("any", argv=stand_in) as server:
        assert await asyncio.to_thread(get, f"{server.base_url}/models") == {"data": [{"id": "stand-in"}]}
        assert await server.ensure() == server.base_url
        assert await server.start() == server.base_url
        pid = server.pid
        assert pid is not None
        assert os.getsid(pid) != os.getsid(0), "Ctrl-C at our terminal would reach it before us"
    assert not is_alive(pid)
    await server.aclose()
    with pytest.raises(EmbeddedModelError, match="is closed"):
        await server.ensure()


@pytest.mark.anyio
async def test_a_dead_child_is_restarted_once_for_all_callers(stand_in: list[str]) -> None:
    async with EmbeddedServer("any", argv=stand_in) as server:
        first = server.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        await dead(server)
        addresses = await asyncio.gather(*(server.ensure() for _ in range(8)))
        assert set(addresses) == {server.base_url}
        assert server.pid not in (None, first)
        assert server._restarts == 1
        assert await asyncio.to_thread(get, f"{server.base_url}/models")


@pytest.mark.anyio
async def test_after_three_restarts_in_a_row_it_gives_up_with_the_last_words(stand_in: list[str]) -> None:
    async with EmbeddedServer("any", argv=stand_in) as server:
        for _ in range(4):
            address = await server.ensure()
            with pytest.raises(OSError, match=r"closed connection|reset"):
                await asyncio.to_thread(get, address.removesuffix("/v1") + "/die")
            await dead(server)
        with pytest.raises(EmbeddedModelError, match=r"3 restarts; at last it ended with 134: GGML_ASSERT failed"):
            await server.ensure()
        assert await server.start(), "an explicit start begins a new count"


@pytest.mark.anyio
async def test_a_child_that_never_listens_is_an_error_and_is_killed(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    program = (
        "import os, signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_DFL); "
        f"open({str(pid_file)!r}, 'w').write(str(os.getpid())); "
        "print('still loading', file=sys.stderr, flush=True); time.sleep(60)"
    )
    server = EmbeddedServer("any", argv=[sys.executable, "-c", program], start_timeout_s=1.0)
    with pytest.raises(EmbeddedModelError, match=r"did not listen within 1 s: still loading"):
        await server.start()
    assert gone_within(int(pid_file.read_text()), 1)
    await server.aclose()


@pytest.mark.anyio
async def test_a_child_that_ends_at_once_is_an_error_with_its_last_lines() -> None:
    program = "import sys; sys.exit('no such architecture')"
    server = EmbeddedServer("any", argv=[sys.executable, "-c", program])
    with pytest.raises(EmbeddedModelError, match=r"ended with 1 before it listened: no such architecture"):
        await server.start()
    await server.aclose()


@pytest.mark.anyio
async def test_closing_or_cancelling_during_a_start_leaves_no_process(tmp_path: Path) -> None:
    program = "import sys; sys.stdin.read()"
    for how in ("close", "cancel"):
        server = EmbeddedServer("any", argv=[sys.executable, "-c", program])
        starting = asyncio.create_task(server.start())
        pid = await born(server)
        if how == "cancel":
            starting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await starting
        else:
            await server.aclose()
            with pytest.raises(EmbeddedModelError):
                await starting
        assert not is_alive(pid)
        await server.aclose()


@pytest.mark.anyio
async def test_a_child_that_ignores_the_polite_ways_is_killed(tmp_path: Path) -> None:
    program = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        "print('listening http://127.0.0.1:1', flush=True); time.sleep(60)"
    )
    server = EmbeddedServer("any", argv=[sys.executable, "-c", program])
    await server.start()
    pid = server.pid
    assert pid is not None
    await server.aclose()
    assert not is_alive(pid)


PARENT = """
import asyncio, sys
from tokenprior.models.embedded import EmbeddedServer

async def main():
    server = EmbeddedServer("any", argv=sys.argv[1:])
    await server.start()
    print(server.pid, flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


def test_the_child_ends_when_its_parent_is_killed(stand_in: list[str]) -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT, *stand_in], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert is_alive(pid)
        parent.kill()
        parent.wait()
        assert gone_within(pid, 5)


def test_a_missing_file_or_a_number_out_of_range_is_told_before_anything_starts(tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    with pytest.raises(EmbeddedModelError, match="no such model file"):
        EmbeddedServer(tmp_path / "missing.gguf")
    here = tmp_path / "here.gguf"
    here.touch()
    with pytest.raises(EmbeddedModelError, match="expected 1 or more"):
        EmbeddedServer(here, slots=0)


def test_a_renamed_attribute_of_xllamacpp_is_named_with_its_version() -> None:
    class Threads:
        __slots__ = ("n_threads",)

    class Params:
        def __init__(self) -> None:
            self.cpuparams = Threads()
            self.port = 8080

    params = Params()
    assign(params, "port", 0)
    assert params.port == 0
    for renamed in ("hostname", "cpuparams.n_threads_http", "cpu.n_threads"):
        with pytest.raises(EmbeddedModelError, match=rf"xllamacpp .* does not take {renamed}="):
            assign(params, renamed, 1)


def test_usable_cores_is_told_only_where_there_are_fewer_than_the_machine_has() -> None:
    cores = usable_cores()
    assert cores is None or 1 <= cores < (os.cpu_count() or 1)


@pytest.mark.anyio
async def test_the_small_model_answers_through_xllamacpp() -> None:
    pytest.importorskip("xllamacpp")
    path = find_here(find("embedded-small"))
    if path is None:
        pytest.skip(
            "the small model is not here: run `tokenprior models pull embedded-small` or set TOKENPRIOR_MODEL_FILE"
        )
    async with EmbeddedServer(path, slots=1, context_per_slot=512) as server:
        body = {"messages": [{"role": "user", "content": "What is the capital of France?"}]}
        request = urllib.request.Request(
            f"{server.base_url}/chat/completions",
            data=json.dumps({**body, "max_tokens": 8, "temperature": 0}).encode(),
            headers={"Content-Type": "application/json"},
        )
        reply = await asyncio.to_thread(get, request)
        assert reply["choices"][0]["message"]["content"].strip()
        assert 0 < reply["usage"]["completion_tokens"] <= 8
        pid = server.pid
    assert pid is not None
    assert not is_alive(pid)


@pytest.mark.anyio
async def test_a_file_that_is_no_model_is_told_with_what_llama_cpp_says(tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    path = tmp_path / "no.gguf"
    path.write_bytes(b"not a model")
    server = EmbeddedServer(path)
    with pytest.raises(EmbeddedModelError, match=r"no\.gguf cannot be served"):
        await server.start()
    await server.aclose()
