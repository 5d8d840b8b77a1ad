"""A whole run whose calls go in batches: the same library, nothing paid twice, and nothing lost on the way."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml

import endpoint_run
import world
from batch_server import BatchServer
from tokenprior.cli.live import describe
from tokenprior.config import load_config
from tokenprior.errors import ConfigError
from tokenprior.models.base import NotedBatch, Request
from tokenprior.models.batch_carrier import AtProvider
from tokenprior.progress import Progress
from tokenprior.session import session
from tokenprior.store import open_store

pytestmark = pytest.mark.anyio

QUICK = {"collect_s": 0.05, "poll_s": 0.02, "least": 2}


def config_at(path: Path, server: BatchServer, batch: Any = QUICK, **changes: Any) -> Path:
    """A folder with tasks and a config whose calls go in batches."""
    path.mkdir(exist_ok=True)
    made = endpoint_run.folder(path, server)
    settings = yaml.safe_load(made.read_text())
    settings["endpoint"]["batch"] = batch
    made.write_text(yaml.safe_dump(settings | changes))
    return made


async def learn(config: Path, said: list[Progress] | None = None) -> str:
    on_progress = said.append if said is not None else None
    async with session(load_config(config), on_progress=on_progress) as opened:
        result = await opened.learn()
        return opened.learning_run + result.library.dumps() + json.dumps(result.steps)


def left_in(folder: Path) -> list[str]:
    """The states of all calls of the run."""
    with open_store(folder / "tokenprior.db") as store:
        return [row["state"] for row in store.rows("calls", store.runs()[0].id)]


async def test_learning_in_batches_ends_in_the_same_library_byte_for_byte(tmp_path: Path) -> None:
    with BatchServer() as server:
        alone = await learn(config_at(tmp_path / "alone", server, batch=False))
        assert server.batches == {}
        calls = server.calls
        said: list[Progress] = []
        together = await learn(config_at(tmp_path / "together", server), said)
        assert together == alone, "and batches are in no run's id"
        assert "small letters" in together
        assert server.in_batches + server.calls - calls == calls, "as many calls as before"
        assert server.in_batches > 0.8 * calls
    assert any("at the provider since 0 min" in progress.waiting for progress in said)
    assert said[-1].waiting == ""


async def test_evaluation_goes_in_batches_too(tmp_path: Path) -> None:
    with BatchServer() as server:
        async with session(load_config(config_at(tmp_path, server))) as opened:
            comparison = await opened.compare({})
        assert server.calls == 0
        assert server.in_batches == 40
    assert comparison.arms[0].scored == 40


async def test_a_run_that_makes_no_batches_any_more_takes_what_has_ended_and_waits_for_nothing(tmp_path: Path) -> None:
    with BatchServer(holds=True) as server:
        config = config_at(tmp_path, server)
        loop, looked = asyncio.get_running_loop(), asyncio.Event()

        def look() -> None:
            loop.call_soon_threadsafe(looked.set)

        server.on_look = look
        running = asyncio.ensure_future(learn(config))
        await asyncio.wait_for(looked.wait(), 20)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert server.asked.total() == 0
        config = config_at(tmp_path, server, batch=False)
        without = await learn(config)
        assert "small letters" in without, "it was not held up"
        assert "unknown" in left_in(tmp_path)
        server.release()
        server.batches["batch-0"].looks = 3
        assert await learn(config) == without
        assert set(left_in(tmp_path)) == {"done"}, "what was paid for is kept all the same"


@pytest.mark.parametrize(
    ("batch", "said"),
    [
        ({"models": ["openai:gpt-5-mini"]}, "endpoint.batch.models names 'openai:gpt-5-mini'"),
        ({"wait": 3}, "unknown key 'endpoint.batch.wait'"),
        ({"price_factor": 2}, "key 'endpoint.batch.price_factor': got 2"),
        ("often", "key 'endpoint.batch': got 'often'"),
    ],
)
async def test_a_wrong_setting_is_told_in_one_line(tmp_path: Path, batch: Any, said: str) -> None:
    with BatchServer() as server, pytest.raises(ConfigError) as caught:
        await learn(config_at(tmp_path, server, batch=batch))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


async def test_no_key_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENPRIOR_API_KEY", key := "a-very-secret-value-17")
    said = {"response": {"status_code": 400, "body": {"error": {"message": f"not for {key}"}}}}

    def trouble(request: Request) -> dict[str, Any] | None:
        return said if world.chance(request.key.task) < 0.1 else None

    with BatchServer(trouble=trouble) as server:
        await learn(config_at(tmp_path, server))
        assert any(header.get("authorization") == f"Bearer {key}" for header in server.headers)
    assert "failed" in left_in(tmp_path)
    assert all(key.encode() not in file.read_bytes() for file in tmp_path.iterdir())  # noqa: ASYNC240 (a small folder)


def test_what_is_at_the_provider_is_said_in_a_few_words() -> None:
    at_provider = AtProvider()
    assert str(at_provider) == ""
    noted = NotedBatch(number=0, model="m", by_program=False, made_at=0.0, file="f", batch="b", calls=())
    at_provider.put(noted)
    assert str(at_provider).startswith("batch of 0 at the provider since ")
    at_provider.put(NotedBatch(number=1, model="m", by_program=False, made_at=0.0, file="f", batch="b", calls=()))
    assert str(at_provider).startswith("2 batches of 0 in all at the provider since ")
    assert describe(Progress(waiting="batch of 7 at the provider since 3 min"), 60.0).endswith("since 3 min")


def command(config: Path) -> subprocess.Popen[str]:
    # A shell may run what it starts in the background deaf to SIGINT.
    heard = "import runpy, signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    line = [sys.executable, "-c", f"{heard}runpy.run_module('tokenprior', run_name='__main__')", "learn", str(config)]
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


async def test_killed_and_stopped_while_a_batch_is_at_the_provider_the_same_command_goes_on(tmp_path: Path) -> None:
    with BatchServer() as server:
        undisturbed = await learn(config_at(tmp_path / "undisturbed", server))
    with BatchServer(holds=True) as server:
        config = config_at(tmp_path / "killed", server)
        looked = threading.Event()
        server.on_look = looked.set

        def until_it_waits(ended_by: signal.Signals) -> tuple[int, str]:
            looked.clear()
            with command(config) as running:
                assert looked.wait(60), "it waits for its batch"
                running.send_signal(ended_by)
                _, said = running.communicate(timeout=60)
                return running.returncode, said

        code, _ = await asyncio.to_thread(until_it_waits, signal.SIGKILL)
        assert code == -signal.SIGKILL
        waiting = server.in_batches
        code, said = await asyncio.to_thread(until_it_waits, signal.SIGINT)
        assert code == 130
        assert "at the provider since" in said
        assert "it stays there; the same command goes on with it" in said
        assert server.in_batches == waiting, "nothing was sent a second time"
        server.release()
        done = await learn(config)
        assert done == undisturbed.replace(*_runs(undisturbed, done))
        assert set(server.asked.values()) == {1}, "no reply was paid twice"
    assert set(left_in(config.parent)) == {"done"}, "and no call is in doubt"


def _runs(one: str, other: str) -> tuple[str, str]:
    """The ids of two runs, which hold the addresses of their servers."""
    return one.partition("{")[0], other.partition("{")[0]
