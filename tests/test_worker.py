"""A worker, in this process: it makes the driver's own agent, or says why it cannot."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from socket import gethostname
from typing import Any

import pytest

from tokenprior.agent_settings import WorkerSettings
from tokenprior.config import Config
from tokenprior.errors import ConfigError, MissingExtra
from tokenprior.live import actors, make_agent
from tokenprior.models.base import Reply, Request
from tokenprior.models.desk import Desk
from tokenprior.models.scripted import ScriptedModel
from tokenprior.prior import TokenPrior
from tokenprior.rollout import Rollout
from tokenprior.store import RunStore, open_store
from tokenprior.task import Task
from tokenprior.worker import Worker

pytestmark = pytest.mark.anyio

TASK = Task(id="t", question="Hello?")
PLACE: dict[str, Any] = {"phase": "rollout", "step": 0, "index": 0}


def config(folder: Path, **agent: Any) -> Config:
    agent = agent or {"model": "scripted", "instructions": "Be kind."}
    value = {"tasks": {"path": "none"}, "agent": agent, "verifier": "exact", "learner": "scripted"}
    return Config.model_validate(value).model_copy(update={"folder": folder})


@asynccontextmanager
async def desk(model: Any, folder: Path) -> AsyncIterator[tuple[Desk, RunStore]]:
    with open_store(folder / "s.db") as store:
        record = store.open_run("r-1", name="r", kind="learn", config={})
        async with Desk(model, record, host="127.0.0.1") as opened:
            yield opened, record
        record.close("done")


async def test_its_agent_is_the_driver_s_and_makes_the_same_rollout(tmp_path: Path) -> None:
    model = ScriptedModel(lambda request: f"seed {request.seed}")
    async with desk(model, tmp_path) as (opened, record), AsyncExitStack() as stack:
        here = await make_agent(config(tmp_path), (), model=model, ledger=record, stack=stack, temperature=0.5, seed=3)
        worker = Worker(config(tmp_path), (opened.address, opened.token), "scripted")
        assert await worker.ready() is None
        there = await worker.attempt((0.5, 3, here.fingerprint), TASK, TokenPrior(), **PLACE)
        assert there == await here.attempt(TASK, TokenPrior(), **PLACE)
        await worker.close()


async def test_code_that_is_not_there_or_not_the_driver_s_makes_no_attempt(tmp_path: Path) -> None:
    async with desk(None, tmp_path) as (opened, _):
        settings = config(tmp_path, kind="function", function="agent.py:answer")
        worker = Worker(settings, (opened.address, opened.token), "")
        missing = await worker.attempt((0.5, 3, "of other code"), TASK, TokenPrior(), **PLACE)
        (tmp_path / "agent.py").write_text("def answer(task, prior):\n    return 'here'\n")
        differs = await worker.attempt((0.5, 3, "of other code"), TASK, TokenPrior(), **PLACE)
        await worker.close()
    for said, words in ((missing, "no file"), (differs, "its agent is not the driver's")):
        assert isinstance(said, ConfigError)
        assert re.match(rf"worker on {re.escape(gethostname())}: .*{words}", str(said))


async def test_a_desk_that_refuses_it_stops_the_run_in_words(tmp_path: Path) -> None:
    async with desk(None, tmp_path) as (opened, _):
        worker = Worker(config(tmp_path), (opened.address, "an old token"), "scripted")
        said = await worker.ready()
        assert isinstance(said, ConfigError)
        assert "workers.host" in str(said)
        await worker.close()


async def test_without_ray_a_config_with_workers_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with open_store(tmp_path / "s.db") as store:
        record = store.open_run("r-1", name="r", kind="learn", config={})
        far = config(tmp_path).model_copy(update={"workers": WorkerSettings()})
        with pytest.raises(MissingExtra, match=r"pip install 'tokenprior\[ray\]'"):
            actors(far, None, record)
        record.close("done")


async def test_closing_it_ends_what_is_under_way(tmp_path: Path) -> None:
    asked = asyncio.Event()

    class Never:
        name = "scripted"

        async def answer(self, request: Request) -> Reply:
            asked.set()
            return await asyncio.Future()

    async with desk(Never(), tmp_path) as (opened, record), AsyncExitStack() as stack:
        settings = config(tmp_path)
        here = await make_agent(settings, (), model=Never(), ledger=record, stack=stack, temperature=0.5, seed=3)
        worker = Worker(settings, (opened.address, opened.token), "scripted")
        attempt: asyncio.Future[Rollout | Any] = asyncio.ensure_future(
            worker.attempt((0.5, 3, here.fingerprint), TASK, TokenPrior(), **PLACE)
        )
        await asked.wait()
        await worker.close()
        assert attempt.cancelled()
