"""Rollouts on a real Ray cluster of three nodes on this machine, and what comes of it when nodes and workers die."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web

import world
from fake_openai import FakeOpenAI
from tokenprior.agents.ray import Actors, Cluster, MakeActor, connected
from tokenprior.config import load_config
from tokenprior.errors import TokenpriorError
from tokenprior.learn import LearnResult
from tokenprior.models.base import Request
from tokenprior.session import session

ray = pytest.importorskip("ray", reason="Ray has no wheel for this Python or system")

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
SMALL = 80 * 1024 * 1024


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Three nodes of one CPU each; the first is that of the driver."""
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": SMALL}
    made = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    try:
        for _ in range(2):
            made.add_node(**node)
        yield made
    finally:
        made.shutdown()


def address_of(cluster: Any) -> str:
    """By loopback; Ray itself finds out by which other address this machine is known."""
    return f"localhost:{cluster.address.rpartition(':')[2]}"


def written(folder: Path, agent: dict[str, Any], workers: dict[str, Any] | None = None, **more: Any) -> Path:
    """A config in a folder of its own, with its tasks."""
    folder.mkdir(exist_ok=True)
    rows = [{"question": task.question, "answer": task.answer} for task in world.tasks(20)]
    (folder / "tasks.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    config = {
        "name": "far",
        "tasks": {"path": "tasks.jsonl", "split": {"practice": 8, "gate": 6, "held_out": 6}},
        "agent": {"instructions": "Do what is asked.", **agent},
        "verifier": "exact",
        "learn": {"epochs": 2, "group_size": 3, "batch_size": 4, "gate": "no-harm"},
        **({"workers": workers} if workers else {}),
        **more,
    }
    (folder / "far.yaml").write_text(yaml.safe_dump(config))
    return folder / "far.yaml"


def learned(path: Path) -> LearnResult:
    async def run() -> LearnResult:
        async with session(load_config(path)) as opened:
            return await opened.learn()

    return asyncio.run(run())


def failures(path: Path) -> Counter[str]:
    """How the rollouts in the store failed, and how many did not."""
    with sqlite3.connect(path.with_name("tokenprior.db")) as db:
        rows = [json.loads(row) for (row,) in db.execute("select rollout from rollouts")]
    return Counter(row["failure"][0] if row["failure"] else "none" for row in rows)


class Held(FakeOpenAI):
    """Answers nothing before `MANY` calls are there, and `then` was done."""

    MANY = 10

    def hold(self, then: Callable[[], object]) -> None:
        self.held, self.then, self.go = 0, then, asyncio.Event()

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        self.held += 1
        if self.held == self.MANY:
            await asyncio.to_thread(self.then)
            self.go.set()
        await self.go.wait()
        return await super()._chat(request)


def test_a_node_that_is_killed_changes_no_byte_and_no_call_is_paid_twice(cluster: Any, tmp_path: Path) -> None:
    with Held() as endpoint:
        endpoint.hold(lambda: None)
        agent = {"model": endpoint.model, "max_tokens": 50}
        at_home = learned(written(tmp_path / "near", agent))
        near, endpoint.seen = endpoint.seen, Counter()
        doomed = cluster.add_node(num_cpus=1, object_store_memory=SMALL)
        endpoint.hold(lambda: cluster.remove_node(doomed, allow_graceful=False))
        # Three workers have room for nine attempts: with ten calls under way some are from the node that dies.
        workers = {"address": address_of(cluster), "actors": 4, "attempts": 3}
        away = learned(written(tmp_path / "far", agent, workers))
    assert not [node for node in cluster.worker_nodes if node is doomed]
    assert away.library.dumps() == at_home.library.dumps()
    assert endpoint.seen == near, "the very calls, each as often as on one machine"


def test_tools_run_on_the_workers_and_give_what_they_give_here(cluster: Any, tmp_path: Path) -> None:
    def answer(request: Request) -> str:
        if request.key.phase != "rollout":
            return world.learner(request)
        asked = request.messages[1].content
        if len(request.messages) > 2:
            return request.messages[-1].content.split("\n")[2].strip()
        return f"```python\nprint({asked.removeprefix('Repeat: ')!r}.lower())\n```"

    with FakeOpenAI(answer) as endpoint:
        agent = {"model": endpoint.model, "tools": ["python"], "calls": "fenced", "max_tokens": 50}
        learn = {"epochs": 1, "group_size": 2, "gate": "none"}
        tasks = {"path": "tasks.jsonl", "split": {"practice": 2, "held_out": 18}}
        near = written(tmp_path / "near", agent, learn=learn, tasks=tasks)
        far = written(tmp_path / "far", agent, {"address": address_of(cluster)}, learn=learn, tasks=tasks)
        assert learned(far).library.dumps() == learned(near).library.dumps()
    assert failures(far) == failures(near) == {"none": 4}


FATAL = """
import os

def answer(task, prior):
    if task.question.endswith("0"):
        os._exit(1)
    return task.question.removeprefix("Repeat: ")
"""


def test_an_attempt_that_ends_its_worker_every_time_is_a_failure_and_the_run_goes_on(
    cluster: Any, tmp_path: Path
) -> None:
    with FakeOpenAI() as endpoint:
        learn = {"epochs": 1, "group_size": 1, "gate": "none", "inclusion_pairs": 0}
        path = written(
            tmp_path / "far",
            {"kind": "function", "function": "agent.py:answer", "instructions": ""},
            {"address": address_of(cluster), "actors": 2, "send_folder": True},
            learner=endpoint.model,
            learn=learn,
            tasks={"path": "tasks.jsonl"},
        )
        path.with_name("agent.py").write_text(FATAL)
        result = learned(path)
    assert result.stopped is None
    assert failures(path) == {"worker": 2, "none": 18}  # words 0 and 10 of the twenty


class Nowhere:
    """Stands in a module that no worker can import."""

    async def ready(self) -> None: ...


@pytest.mark.parametrize(
    ("patience_s", "words"),
    [(40.0, "5 in a row ended before they began: .*No module named 'test_ray'"), (0.01, "none was there for 0.01 s")],
    ids=["lost before they are ready", "never there"],
)
def test_a_cluster_on_which_no_worker_comes_to_work_stops_the_run_in_words(
    cluster: Any, patience_s: float, words: str
) -> None:
    async def start(connected: Cluster, _: AsyncExitStack) -> tuple[MakeActor, int]:
        return connected.maker(Nowhere, (), room=1), 3

    async def run() -> None:
        async with Actors(connected(address_of(cluster)), start, room=1, patience_s=patience_s) as actors:
            await actors.attempt()

    with pytest.raises(TokenpriorError, match=words):
        asyncio.run(run())
