"""Attempt: what is kept when, and what is asked of the store."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

import pytest

import world
from tokenprior.attempt import attempt, due_first
from tokenprior.models.base import Phase
from tokenprior.models.scripted import ScriptedModel
from tokenprior.prior import TokenPrior
from tokenprior.reward import Reward
from tokenprior.rollout import Rollout
from tokenprior.store import open_store
from tokenprior.task import Task

pytestmark = pytest.mark.anyio

TASK = world.tasks(1)[0]
PRIORS = [TokenPrior()] * 2


class Noted:
    """A shelf that holds nothing, and notes what it is given."""

    def __init__(self) -> None:
        self.saved: list[tuple[int, float | None, str | None]] = []

    async def find(
        self, phase: Phase, step: int, task: str, made_of: Mapping[int, str]
    ) -> dict[int, tuple[Rollout, str | None, Reward | None]]:
        return {}

    async def save(
        self, phase: Phase, step: int, made_of: str, rollout: Rollout, verifier: str | None, reward: Reward | None
    ) -> None:
        self.saved.append((rollout.index, reward.value if reward else None, verifier))


class Slow(world.SmallLetters):
    """Asks somebody, who takes their time."""

    def __init__(self) -> None:
        self.asked, self.answered = asyncio.Event(), asyncio.Event()

    async def verify(self, task: Task, rollout: Rollout) -> Reward:
        self.asked.set()
        await self.answered.wait()
        return await super().verify(task, rollout)


async def test_an_attempt_whose_verdict_is_there_at_once_is_saved_once_with_it() -> None:
    shelf = Noted()
    group = await attempt(TASK, PRIORS, agent=world.agent(), verifier=world.SmallLetters(), shelf=shelf)
    values = [reward.value for reward in group.rewards]
    assert sorted(shelf.saved) == [(index, value, "small-letters-1") for index, value in enumerate(values)]


async def test_while_a_verdict_is_waited_for_what_was_paid_for_is_safe() -> None:
    shelf, verifier = Noted(), Slow()
    made = asyncio.ensure_future(attempt(TASK, PRIORS, agent=world.agent(), verifier=verifier, shelf=shelf))
    await verifier.asked.wait()
    await asyncio.sleep(0)
    assert sorted(shelf.saved) == [(0, None, None), (1, None, None)]
    verifier.answered.set()
    await made
    assert len(shelf.saved) == 4


async def test_a_cancelled_verdict_leaves_its_attempt_and_nothing_running(tmp_path: Path) -> None:
    verifier, agent, others = Slow(), world.agent(), asyncio.all_tasks()
    with open_store(tmp_path / "s.db") as store:
        record = store.open_run("r-1", name="r", kind="learn", config={})
        made = asyncio.ensure_future(attempt(TASK, PRIORS[:1], agent=agent, verifier=verifier, shelf=record.shelf))
        await verifier.asked.wait()
        await asyncio.sleep(0)
        assert await record.shelf.judged("rollout", 0) == {}, "what was asked of the store before is done"
        assert len(store.rows("rollouts", "r-1")) == 1
        made.cancel()
        with pytest.raises(asyncio.CancelledError):
            await made
        assert asyncio.all_tasks() == others
        nobody = world.agent(ScriptedModel([], name="scripted"))
        again = await attempt(TASK, PRIORS[:1], agent=nobody, verifier=world.SmallLetters(), shelf=record.shelf)
        record.close("done")
    assert all(reward.is_scored for reward in again.rewards)


async def test_nothing_is_looked_up_that_is_known_not_to_be_there(tmp_path: Path) -> None:
    with open_store(tmp_path / "s.db") as store:
        record = store.open_run("r-1", name="r", kind="learn", config={})
        kept: list[list[int]] = []
        for count in (0, 2, 3):
            found = await record.shelf.find("rollout", 0, TASK.id, dict.fromkeys(range(3), "h"))
            kept.append(sorted(found))
            for index in range(count):
                rollout = Rollout(task_id=TASK.id, index=index, messages=(), output="x")
                await record.shelf.save("rollout", 0, "h", rollout, "v", Reward(value=1.0))
        assert kept == [[], [], [0, 1]], "what was saved since is found, another step or hash is not"
        assert await record.shelf.find("rollout", 1, TASK.id, {0: "h"}) == {}
        assert await record.shelf.find("rollout", 0, TASK.id, {0: "g"}) == {}
        record.close("done")


async def test_a_run_of_the_same_name_takes_over_what_another_made_and_keeps_it_as_its_own(tmp_path: Path) -> None:
    with open_store(tmp_path / "s.db") as store:
        first = store.open_run("r-1", name="r", kind="learn", config={})
        made = await attempt(TASK, PRIORS, agent=world.agent(), verifier=world.SmallLetters(), shelf=first.shelf)
        first.close("done")
        nobody = world.agent(ScriptedModel([], name="scripted"))
        for run, name in (("r-2", "r"), ("other-1", "other")):
            record = store.open_run(run, name=name, kind="learn", config={})
            if name == "r":
                shelf = record.shelf
                assert await attempt(TASK, PRIORS, agent=nobody, verifier=world.SmallLetters(), shelf=shelf) == made
            record.close("done")
        rows = {run: store.rows("rollouts", run) for run in ("r-1", "r-2", "other-1")}
    assert [len(of) for of in rows.values()] == [2, 2, 0]
    assert [row["rollout"] for row in rows["r-1"]] == [row["rollout"] for row in rows["r-2"]]


async def test_what_is_due_comes_first_and_what_was_begun_before_it_and_results_keep_their_order() -> None:
    tasks = world.tasks(6)
    begun: list[str] = []

    async def do(task: Task) -> str:
        begun.append(task.id)
        return task.id

    made = await due_first(
        do,
        tasks,
        tasks=lambda task: [task],
        there={"t0": 2, "t2": 1, "t3": 2, "t4": 1},
        least=dict.fromkeys((task.id for task in tasks), 2),
        at_once=1,
    )
    assert made == [task.id for task in tasks]
    assert [task for task in begun if task not in ("t0", "t3")] == ["t2", "t4", "t1", "t5"]
    assert [task for task in begun if task in ("t0", "t3")] == ["t0", "t3"]
