"""The loop: what it learns, how it goes on, how it stops."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

import world
from tokenprior.errors import ConfigError, ModelError
from tokenprior.learn import LearnResult, learn
from tokenprior.library import Library
from tokenprior.models.base import CallFailed, Request
from tokenprior.models.budget import Budget, Limits
from tokenprior.models.recorded import MeteredModel, ReplayedModel
from tokenprior.models.scripted import ScriptedModel
from tokenprior.store import RunStore, open_store

pytestmark = pytest.mark.anyio


async def run(
    store: Path, script: object = world.both, *, limits: Limits | None = None, name: str = "r", **changes: object
) -> tuple[LearnResult, ScriptedModel]:
    model = ScriptedModel(script)  # type: ignore[arg-type]
    with open_store(store) as opened:
        record = opened.open_run(f"{name}-1", name=name, kind="learn", config={})
        wired = wire(model, record, limits or Limits())
        try:
            result = await learn(
                world.tasks(8),
                agent=world.agent(wired),
                verifier=world.SmallLetters(),
                model=wired,
                record=record,
                config=world.config(**changes),
            )
        finally:
            record.close("done")
    return result, model


def wire(model: ScriptedModel, record: RunStore, limits: Limits) -> ReplayedModel:
    budget = Budget(limits, spent=record.spent())
    return ReplayedModel(MeteredModel(model, record, budget, {}), record)


async def test_learns_the_one_lesson_there_is_and_gets_better(tmp_path: Path) -> None:
    result, _ = await run(tmp_path / "s.db")
    assert [e.line for e in result.library] == [
        "Small letters: When a word is to be repeated, write it in small letters."
    ]
    first, last = result.steps[0]["mean"], result.steps[-1]["mean"]
    assert first < 0.6 < 0.8 < last
    assert result.library["G0"].provenance.groups, "a lesson knows the groups it came from"


async def test_the_same_call_again_asks_nothing(tmp_path: Path) -> None:
    before, _ = await run(tmp_path / "s.db")
    after, model = await run(tmp_path / "s.db", [])
    assert model.requests == []
    assert after.library.dumps() == before.library.dumps()


async def test_the_order_in_which_calls_return_changes_nothing(tmp_path: Path) -> None:
    libraries = set()
    for seed in range(3):
        rng = random.Random(seed)

        async def slow(request: Request, rng: random.Random = rng) -> str:
            await asyncio.sleep(rng.random() / 100)
            return world.both(request)

        result, _ = await run(tmp_path / f"{seed}.db", slow)
        libraries.add(result.library.dumps())
    assert len(libraries) == 1


async def test_stops_at_its_budget_with_a_valid_library_and_goes_on(tmp_path: Path) -> None:
    stopped, _ = await run(tmp_path / "s.db", limits=Limits(calls=40))
    assert stopped.stopped is not None
    assert "calls limit 40" in stopped.stopped
    assert isinstance(stopped.library, Library)
    finished, rest = await run(tmp_path / "s.db")
    undisturbed, whole = await run(tmp_path / "other.db")
    assert finished.library.dumps() == undisturbed.library.dumps()
    assert 40 + len(rest.requests) == len(whole.requests), "no call is paid twice"


async def test_no_tasks_is_a_clear_error(tmp_path: Path) -> None:
    with open_store(tmp_path / "s.db") as store:
        record = store.open_run("r-1", name="r", kind="learn", config={})
        model = ScriptedModel([])
        with pytest.raises(ConfigError, match="no tasks"):
            await learn([], agent=world.agent(model), verifier=world.SmallLetters(), model=model, record=record)
        record.close("failed")


async def test_an_outage_is_no_result_and_the_same_call_tries_again(tmp_path: Path) -> None:
    def down(request: Request) -> str:
        raise CallFailed("unreachable", "connection refused", retryable=True)

    with pytest.raises(
        ModelError, match=r"every attempt of the step failed \(12 unreachable; the first: connection refused\)"
    ):
        await run(tmp_path / "s.db", down)
    again, _ = await run(tmp_path / "s.db")
    undisturbed, _ = await run(tmp_path / "other.db")
    assert again.library.dumps() == undisturbed.library.dumps()


async def test_a_learning_model_that_is_away_stops_the_run_and_costs_no_rollout(tmp_path: Path) -> None:
    def away(request: Request) -> str:
        if request.key.phase == "contrast":
            raise CallFailed("connection", "gone", retryable=True)
        return world.both(request)

    with pytest.raises(ModelError, match="no call to the learning model came through"):
        await run(tmp_path / "s.db", away, epochs=1)
    _, model = await run(tmp_path / "s.db", epochs=1)
    first_step = [r for r in model.requests if r.key.step == 0]
    assert not any(r.key.phase == "rollout" for r in first_step), "what was paid for is not made again"
