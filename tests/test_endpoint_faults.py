"""A whole run at an endpoint that does everything wrong: it ends, and every rollout is accounted for."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import world
from fake_openai import EMPTY, FINAL, PASSING, RATE_LIMITS, REFUSED, FakeOpenAI
from tokenprior.endpoint_settings import EndpointSettings
from tokenprior.errors import ModelError
from tokenprior.learn import LearnResult, learn
from tokenprior.library import Library
from tokenprior.models.budget import Budget, Limits
from tokenprior.models.connect import Connections
from tokenprior.models.retried import RetryPolicy
from tokenprior.store import open_store

pytestmark = pytest.mark.anyio

TASKS, EPOCHS, GROUP = 8, 2, 3
EVERY = TASKS * EPOCHS * GROUP
QUICK = RetryPolicy(attempts=4, backoff_s=0.002, max_backoff_s=0.02, patience_s=60.0)


async def run(
    store: Path, server: FakeOpenAI, *, limits: Limits | None = None, timeout_s: float = 30.0, **changes: Any
) -> LearnResult:
    """One learning run, connected as a session connects it."""
    with open_store(store) as opened:
        record = opened.open_run("r-1", name="r", kind="learn", config={})
        try:
            budget = Budget(limits or Limits(), spent=record.spent())
            settings = EndpointSettings(concurrency=8)
            async with Connections(settings, ledger=record, budget=budget, prices={}, policy=QUICK) as connections:
                model = await connections.model(server.model)
                return await learn(
                    world.tasks(TASKS),
                    agent=replace(world.agent(model), timeout_s=timeout_s),
                    verifier=world.SmallLetters(),
                    model=model,
                    record=record,
                    config=world.config(learning_timeout_s=timeout_s, epochs=EPOCHS, group_size=GROUP, **changes),
                )
        finally:
            record.close("done")


def check(result: LearnResult, store: Path) -> dict[str, int]:
    """Every rollout is accounted for, and the library can be read back. Returns the failures by kind."""
    total = 0
    failed: dict[str, int] = {}
    for report in result.steps:
        total += report["scored"] + report["unscored"] + sum(report["failed"].values())
        for kind, count in report["failed"].items():
            failed[kind] = failed.get(kind, 0) + count
    assert total == EVERY
    with open_store(store) as opened:
        rows = opened.rows("rollouts", "r-1")
        assert len(rows) == EVERY
        assert all(row["reward"] is not None for row in rows)
        assert opened.library("r-1").dumps() == result.library.dumps()
        states = {row["state"] for row in opened.rows("calls", "r-1")}
        assert states <= {"done", "failed"}, "no call is left open"
    assert Library.from_json(result.library.to_json()) == result.library
    return failed


async def test_faults_that_pass_change_nothing_in_the_result(tmp_path: Path) -> None:
    with FakeOpenAI() as server:
        good = await run(tmp_path / "good.db", server)
    with FakeOpenAI(faults=[*RATE_LIMITS, *PASSING], first=2, seed=1) as server:
        result = await run(tmp_path / "bad.db", server)
        assert set(server.met) == {*RATE_LIMITS, *PASSING}, "all of them were met"
        assert server.most_in_flight <= 8
    assert check(result, tmp_path / "bad.db") == {}
    assert result.library.dumps() == good.library.dumps()
    assert len(result.library) == 1


@pytest.mark.parametrize("seed", [1, 2])
async def test_a_mix_of_all_faults_ends_with_everything_accounted_for(tmp_path: Path, seed: int) -> None:
    faults = [*RATE_LIMITS, *PASSING, *REFUSED, *EMPTY, "slow"]
    with FakeOpenAI(faults=faults, first=2, share=0.6, seed=seed) as server:
        result = await run(tmp_path / "s.db", server, timeout_s=0.8, compact=False if seed == 2 else None)
        assert len(server.met) >= len(faults) - 2
    failed = check(result, tmp_path / "s.db")
    assert {"http-400", "http-413", "timeout"} >= set(failed)
    assert sum(failed.values()) > 0
    assert result.stopped is None
    assert len(result.steps) == 4


async def test_an_endpoint_that_never_brings_a_reply_ends_the_run_with_the_step_undone(tmp_path: Path) -> None:
    step = 4 * GROUP
    with FakeOpenAI(faults=["500", "garbage", "close"], first=None) as server:
        with pytest.raises(ModelError, match="every attempt of the step failed"):
            await run(tmp_path / "s.db", server)
        assert server.calls == step * QUICK.attempts, "nothing else is asked when there is nothing to learn from"
        with open_store(tmp_path / "s.db") as store:
            failures = [row["rollout"]["failure"] for row in store.rows("rollouts", "r-1")]
        assert len(failures) == step
        assert all(failures)
        server.faults = ()
        assert check(await run(tmp_path / "s.db", server), tmp_path / "s.db") == {}


@pytest.mark.parametrize("share", [0.5, 1.0])
async def test_garbage_from_the_learning_model_costs_lessons_and_nothing_else(tmp_path: Path, share: float) -> None:
    with FakeOpenAI(garbage=share, seed=3) as server:
        result = await run(tmp_path / "s.db", server)
    assert check(result, tmp_path / "s.db") == {}
    assert sum(sum(report["drops"].values()) for report in result.steps) > 0, "and every drop is counted"
    if share == 1.0:
        assert len(result.library) == 0


@pytest.mark.parametrize("fault", FINAL)
async def test_a_refusal_for_good_ends_the_run_and_the_same_call_goes_on(tmp_path: Path, fault: str) -> None:
    with FakeOpenAI(faults=[fault], first=1, share=0.05, seed=5) as server:
        with pytest.raises(ModelError, match=f"HTTP {fault}"):
            await run(tmp_path / "s.db", server)
        calls, server.faults = server.calls, ()
        result = await run(tmp_path / "s.db", server)
        repeated = sum(count - 1 for count in server.seen.values())
        assert calls > 0
        assert repeated == server.met[fault], "only what was refused is asked again"
    check(result, tmp_path / "s.db")
    assert len(result.library) == 1


async def test_a_hard_budget_holds_under_faults(tmp_path: Path) -> None:
    with FakeOpenAI(faults=[*RATE_LIMITS, *PASSING], first=1, seed=2) as server:
        result = await run(tmp_path / "s.db", server, limits=Limits(calls=30))
        assert server.calls == 30
    assert result.stopped is not None
    assert "calls limit 30" in result.stopped


async def test_no_key_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENPRIOR_API_KEY", "house-key-0123456789")
    with FakeOpenAI(faults=["500", "400"], first=1, share=0.5) as server:
        await run(tmp_path / "s.db", server)
        assert server.headers[0]["authorization"] == "Bearer house-key-0123456789"
    for name in os.listdir(tmp_path):
        with open(tmp_path / name, "rb") as file:  # noqa: ASYNC230 (a small file, and nothing else is running)
            assert b"house-key" not in file.read()
