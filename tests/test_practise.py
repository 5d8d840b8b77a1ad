"""Practise: groups are begun in the order of the step, so many at once, and flow on their own."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import pytest

import world
from tokenprior.advantage import LeakGuard
from tokenprior.attempt import AT_ONCE, groups_at_once
from tokenprior.epoch import plan_steps
from tokenprior.errors import BudgetReached
from tokenprior.group import Group
from tokenprior.library import Library
from tokenprior.models.base import Request
from tokenprior.models.budget import Budget, Limits
from tokenprior.models.recorded import MeteredModel, ReplayedModel
from tokenprior.models.scripted import ScriptedModel
from tokenprior.practise import practise
from tokenprior.progress import Tracker
from tokenprior.reward import Reward
from tokenprior.rollout import Failure, Rollout, StopReason
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


async def test_after_a_stop_what_was_begun_is_ended_first_and_no_call_is_made_twice(tmp_path: Path) -> None:
    tasks, size = world.tasks(12), 3
    (step,) = plan_steps(tasks, epochs=1, batch_size=None, seed=3)
    config = world.config(group_size=size)

    async def practised(model: ScriptedModel, limits: Limits, places: int = AT_ONCE) -> list[Group]:
        wired = ReplayedModel(MeteredModel(model, record, Budget(limits, spent=record.spent()), {}), record)
        groups, _ = await practise(
            step,
            Library(),
            agent=world.agent(wired),
            verifier=world.SmallLetters(),
            model=wired,
            record=record,
            config=config,
            guard=LeakGuard(tasks),
            tracker=Tracker(None, record.spent),
            places=places,
        )
        return groups

    stopped, went_on, undisturbed = (ScriptedModel(world.both) for _ in range(3))
    with open_store(tmp_path / "s.db") as store:
        record = store.open_run("r-1", name="r", kind="learn", config={})
        with pytest.raises(BudgetReached):
            await practised(stopped, Limits(calls=17))
        there = await record.shelf.judged("rollout", 0)
        assert size in there.values()
        groups = await practised(went_on, Limits(), places=size)
        record.close("done")
        record = store.open_run("other-1", name="other", kind="learn", config={})
        assert groups == await practised(undisturbed, Limits())
        record.close("done")
    made = [str(request.key) for model in (stopped, went_on) for request in model.requests]
    assert sorted(made) == sorted(str(request.key) for request in undisturbed.requests), "no call is made twice"
    asked = list(dict.fromkeys(request.key.task for request in went_on.requests if request.key.phase == "rollout"))
    assert asked == sorted(asked, key=lambda task: (task not in there, [t.id for t in step.tasks].index(task)))


async def test_what_a_step_keeps_of_its_groups_has_no_texts_and_gives_the_same_figures(tmp_path: Path) -> None:
    tasks = world.tasks(4)
    (step,) = plan_steps(tasks, epochs=1, batch_size=None, seed=3)
    model = ScriptedModel(world.both)
    with open_store(tmp_path / "s.db") as store:
        record = store.open_run("r-1", name="r", kind="learn", config={})
        groups, advantages = await practise(
            step,
            Library(),
            agent=world.agent(model),
            verifier=world.SmallLetters(),
            model=model,
            record=record,
            config=world.config(compact=False),
            guard=LeakGuard(tasks),
            tracker=Tracker(None, record.spent),
        )
        record.close("done")
        kept = {row["task"]: row for row in store.rows("advantages", "r-1")}
    assert not any(r.messages or r.output or r.metadata for group in groups for r in group.rollouts)
    assert not any(reward.feedback for group in groups for reward in group.rewards)
    assert all(advantage.lessons and not advantage.summaries for advantage in advantages)
    assert all(kept[advantage.groups[0]]["advantage"]["summaries"] for advantage in advantages)


def test_a_group_without_its_texts_says_the_same_of_its_rewards() -> None:
    task = world.tasks(1)[0]
    failed = Failure(kind="timeout", detail="no reply")
    group = Group(
        task=task,
        rollouts=(
            Rollout(task_id="t0", index=0, messages=(), output="long", included=("G1",), metadata={"a": 1}),
            Rollout(task_id="t0", index=1, messages=(), output="", stop=StopReason.FAILED, failure=failed),
        ),
        rewards=(Reward(value=0.5, extracted="x" * 999, feedback="wanted amber0"), Reward.unscored("it failed")),
    )
    light = group.without_texts()
    assert light.rewards_G == group.rewards_G
    assert (light.failed, light.unscored, light.kind()) == (group.failed, group.unscored, group.kind())
    assert [r.included for r in light.rollouts] == [("G1",), ()]
    assert light.rollouts[1].failure == failed
    assert "amber0" not in str(light.rewards)
    assert len(str(light)) < 1000
