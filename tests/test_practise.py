"""Practise: groups are begun in the order of the step, so many at once, and flow on their own."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import pytest

import world
from tokenprior.advantage import LeakGuard
from tokenprior.attempt import groups_at_once
from tokenprior.epoch import plan_steps
from tokenprior.library import Library
from tokenprior.models.base import Request
from tokenprior.models.scripted import ScriptedModel
from tokenprior.practise import practise
from tokenprior.progress import Tracker
from tokenprior.store import open_store

pytestmark = pytest.mark.anyio


def test_a_group_holds_as_many_places_as_it_has_attempts() -> None:
    assert groups_at_once(8, places=64) == 8
    assert groups_at_once(100, places=64) == 1, "a group larger than all places goes on its own"


async def test_groups_come_in_the_order_of_the_step_so_many_at_once_and_one_that_waits_delays_itself_alone(
    tmp_path: Path,
) -> None:
    tasks, size = world.tasks(9), 3
    (step,) = plan_steps(tasks, epochs=1, batch_size=None, seed=3)
    first, last = step.tasks[0].id, step.tasks[-1].id
    begun: Counter[str] = Counter()
    asked: list[str] = []
    now, most = 0, 0
    full, everyone = asyncio.Event(), asyncio.Event()

    async def script(request: Request) -> str:
        nonlocal now, most
        if request.key.phase == "contrast":
            asked.append(request.key.task)
            return world.learner(request)
        begun[request.key.task] += 1
        now += 1
        most = max(most, now)
        if now == 2 * size:
            full.set()
        await full.wait()
        if (request.key.task, request.key.rollout) == (last, size - 1):
            everyone.set()
        if (request.key.task, request.key.rollout) == (first, size - 1):
            await everyone.wait()
            assert asked, "the others were contrasted all the while"
        now -= 1
        return world.policy(request)

    model = ScriptedModel(script)
    with open_store(tmp_path / "s.db") as store:
        record = store.open_run("r-1", name="r", kind="learn", config={})
        groups, advantages = await practise(
            step,
            Library(),
            agent=world.agent(model),
            verifier=world.SmallLetters(),
            model=model,
            record=record,
            config=world.config(group_size=size, learn_from=("mixed", "all_fail", "all_success")),
            guard=LeakGuard(tasks),
            tracker=Tracker(None, record.spent),
            places=2 * size,
        )
        record.close("done")
    assert [group.task.id for group in groups] == list(begun) == [task.id for task in step.tasks]
    assert [advantage.groups for advantage in advantages] == [(task.id,) for task in step.tasks]
    assert most == 2 * size
