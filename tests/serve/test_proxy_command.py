"""tokenprior serve: settings in one line each, and a server that ends in good order."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

import story
from proxy_world import ASKED, MATHS, WEB, write
from recording_upstream import CHAT, Asked, RecordingUpstream, canned
from tokenprior.store import open_store, schema

pytestmark = pytest.mark.anyio

UPSTREAM = ("--upstream", "http://127.0.0.1:9/v1")


class Command:
    """A running `tokenprior serve`."""

    def __init__(self, process: asyncio.subprocess.Process, said: list[str], base_url: str) -> None:
        self.process, self.said, self.base_url = process, said, base_url

    async def ended(self) -> tuple[int, str]:
        """Its exit code, and what it said on standard error."""
        assert self.process.stderr is not None
        wrong = (await self.process.stderr.read()).decode()
        return await self.process.wait(), wrong


@asynccontextmanager
async def command(folder: Path, *arguments: str) -> AsyncIterator[Command]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tokenprior", "serve", "--port", "0", *arguments),
        cwd=folder,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        said: list[str] = []
        while not said or not said[-1].startswith("OPENAI_BASE_URL="):
            line = (await process.stdout.readline()).decode()
            assert line, (said, process.stderr and (await process.stderr.read()).decode())
            said.append(line.rstrip("\n"))
        yield Command(process, said, said[-1].partition("=")[2])
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_it_says_what_it_serves_and_the_one_line_that_a_client_needs(tmp_path: Path) -> None:
    write(tmp_path, "maths", MATHS)
    write(tmp_path, "web", WEB)
    async with RecordingUpstream() as upstream:
        arguments = ("maths.json", "pages=web.json", "--upstream", upstream.url, "--holdout", "0.25")
        async with command(tmp_path, *arguments) as served, aiohttp.ClientSession() as session:
            assert served.said[:-1] == [
                f"maths: maths.json, version {MATHS.version}, 1 lesson, about 34 tokens before each request; for "
                "requests that name none",
                f"pages: web.json, version {WEB.version}, 2 lessons, about 49 tokens before each request",
                f"upstream {upstream.url}, with the client's own key",
                "25% of the requests go without a prior; recorded in tokenprior.db",
            ]
            answered = await session.post(f"{served.base_url}/chat/completions", data=ASKED)
            assert await answered.read() == CHAT
            served.process.send_signal(signal.SIGINT)
            code, wrong = await served.ended()
    assert (code, wrong) == (0, "tokenprior: stopping\n")
    with open_store(tmp_path / "tokenprior.db") as store:
        assert store.read(lambda connection: len(list(connection.execute(schema.served.select())))) == 1


async def test_told_to_stop_it_takes_no_more_and_lets_what_is_in_flight_end(tmp_path: Path) -> None:
    go_on = asyncio.Event()

    async def held(request: web.Request, asked: Asked) -> web.StreamResponse:
        await go_on.wait()
        return await canned(request, asked)

    write(tmp_path, "maths", MATHS)
    async with (
        RecordingUpstream(held) as upstream,
        command(tmp_path, "maths.json", "--upstream", upstream.url, "--holdout", "0.5") as served,
        aiohttp.ClientSession() as session,
    ):
        asking = asyncio.ensure_future(session.post(f"{served.base_url}/chat/completions", data=ASKED))
        await upstream.arrived.wait()
        served.process.terminate()
        assert served.process.stderr is not None
        assert await served.process.stderr.readline() == b"tokenprior: stopping; 1 request is answered first\n"
        with pytest.raises(aiohttp.ClientConnectorError):
            await session.get(f"{served.base_url}/models")
        go_on.set()
        answered = await asking
        assert await answered.read() == CHAT
        assert await served.ended() == (0, "")
    with open_store(tmp_path / "tokenprior.db") as store:
        assert store.read(lambda connection: len(list(connection.execute(schema.served.select())))) == 1


async def test_what_does_not_end_in_time_is_cut_off(tmp_path: Path) -> None:
    async def held(_request: web.Request, _asked: Asked) -> web.StreamResponse:
        await asyncio.Event().wait()
        return web.Response()

    write(tmp_path, "maths", MATHS)
    async with RecordingUpstream(held) as upstream:
        config = {"upstream": upstream.url, "libraries": {"maths": "maths.json"}, "limits": {"drain_s": 0.2}}
        (tmp_path / "serve.yaml").write_text(json.dumps(config))
        async with command(tmp_path, "--config", "serve.yaml") as served, aiohttp.ClientSession() as session:
            asking = asyncio.ensure_future(session.post(f"{served.base_url}/chat/completions", data=ASKED))
            await upstream.arrived.wait()
            served.process.terminate()
            with pytest.raises(aiohttp.ClientError):
                await asking
            assert (await served.ended())[0] == 0
            await asyncio.wait_for(upstream.left.wait(), 10)


async def test_told_twice_it_waits_for_nothing(tmp_path: Path) -> None:
    async def held(_request: web.Request, _asked: Asked) -> web.StreamResponse:
        await asyncio.Event().wait()
        return web.Response()

    write(tmp_path, "maths", MATHS)
    async with (
        RecordingUpstream(held) as upstream,
        command(tmp_path, "maths.json", "--upstream", upstream.url) as served,
        aiohttp.ClientSession() as session,
    ):
        asking = asyncio.ensure_future(session.post(f"{served.base_url}/chat/completions", data=ASKED))
        await upstream.arrived.wait()
        served.process.send_signal(signal.SIGINT)
        assert served.process.stderr is not None
        await served.process.stderr.readline()
        served.process.send_signal(signal.SIGINT)
        with pytest.raises(aiohttp.ClientError):
            await asking
        assert await served.ended() == (0, "")


async def test_a_new_version_is_seen_while_it_runs_and_a_broken_one_said_once(tmp_path: Path) -> None:
    write(tmp_path, "maths", MATHS)
    async with command(tmp_path, "maths.json", *UPSTREAM) as served:
        assert served.process.stderr is not None
        write(tmp_path, "maths", WEB)
        line = (await served.process.stderr.readline()).decode()
        assert line == f"tokenprior: library maths is now {WEB.version}, 2 lessons\n"
        (tmp_path / "maths.json").write_text("{")
        line = (await served.process.stderr.readline()).decode()
        assert line.startswith(f"tokenprior: library maths stays at {WEB.version}: maths.json:1: not JSON")
        write(tmp_path, "maths", MATHS)
        line = (await served.process.stderr.readline()).decode()
        assert line == f"tokenprior: library maths is now {MATHS.version}, 1 lesson\n"


def test_a_dry_run_says_what_would_be_served_and_ends(tmp_path: Path) -> None:
    path = write(tmp_path, "maths", MATHS)
    assert f"maths: {path}, version {MATHS.version}" in story.said("serve", path, *UPSTREAM, "--dry-run")


def test_a_config_names_its_files_from_where_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "maths", MATHS)
    config = {
        "upstream": "https://api.example.com",
        "libraries": {"maths": {"library": "maths.json", "models": ["m-*"], "prior": {"tokens": 100}}},
        "traffic": {"keep": True},
    }
    (tmp_path / "serve.yaml").write_text(json.dumps(config))
    monkeypatch.chdir("/")
    said = story.said("serve", "--config", tmp_path / "serve.yaml", "--dry-run")
    assert f"maths: {tmp_path}/maths.json" in said
    assert "upstream https://api.example.com/v1, " in said
    assert f"recorded in {tmp_path}/tokenprior.db, messages and replies too, masked" in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "expected a LIBRARY to serve, a file or a run, or --config FILE"),
        (("maths.json",), "expected --upstream URL"),
        (
            ("maths.json", "--upstream", "api.example.com"),
            "key 'upstream': got 'api.example.com'; expected",
        ),
        (("maths.json", "--upstream", "https://u:sk-12345678@h/v1"), "no key in it"),
        (("maths.json", "--upstream", "https://h/v1#gpt"), "nothing behind it"),
        (("maths.json", "maths.json", *UPSTREAM), "two libraries have one name"),
        (("none=maths.json", *UPSTREAM), "library name 'none': expected"),
        (("absent.json", *UPSTREAM), "absent.json: cannot be read: No such file"),
        (("a-run", *UPSTREAM), "tokenprior.db: no such store; name yours with --store FILE"),
        (
            ("maths.json", *UPSTREAM, "--holdout", "1.5"),
            "key 'holdout': got 1.5; input should be less than or equal to 1",
        ),
        (("maths.json", *UPSTREAM, "--host", "0.0.0.0"), "others than this machine can reach it, so clients need keys"),
        (("maths.json", *UPSTREAM, "--key-variable", "NOT_SET"), "the environment variable NOT_SET is not set"),
        (("--config", "absent.yaml"), "absent.yaml: cannot be read"),
        (("--config", "typo.yaml"), "typo.yaml: unknown key 'limits.idle': did you mean 'idle_s'?"),
        (("--config", "empty.yaml"), "empty.yaml: key 'upstream' is missing"),
    ],
)
def test_a_mistake_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TOKENPRIOR_CLIENT_KEYS", raising=False)
    write(tmp_path, "maths", MATHS)
    config = {"upstream": "https://h/v1", "libraries": {"maths": "maths.json"}, "limits": {"idle": 3}}
    (tmp_path / "typo.yaml").write_text(json.dumps(config))
    (tmp_path / "empty.yaml").write_text("{}")
    error = story.error("serve", *arguments)
    assert words in error
    assert "sk-12345678" not in error


async def test_a_port_that_is_taken_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, "maths", MATHS)
    async with RecordingUpstream() as upstream:
        port = upstream.url.rpartition(":")[2].removesuffix("/v1")
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tokenprior", "serve", path, *UPSTREAM, "--port", port),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        _, wrong = await process.communicate()
    assert process.returncode == 2
    assert wrong.decode().startswith(f"tokenprior: 127.0.0.1:{port} cannot be had: ")
    assert wrong.count(b"\n") == 1
