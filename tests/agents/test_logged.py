"""Learning from a log: the agent gives what was recorded, the verifier its reward, and no policy is called."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

import world
from tokenprior.agents.logged import LoggedAgent
from tokenprior.errors import ConfigError
from tokenprior.learn import LearnResult, learn
from tokenprior.logs import load_logs
from tokenprior.models.base import Request
from tokenprior.models.budget import Budget, Limits
from tokenprior.models.recorded import MeteredModel, ReplayedModel
from tokenprior.models.scripted import ScriptedModel
from tokenprior.prior import TokenPrior
from tokenprior.rollout import Rollout, StopReason
from tokenprior.store import open_store
from tokenprior.task import Task
from tokenprior.verifiers.recorded import Recorded

pytestmark = pytest.mark.anyio

LOGGED = load_logs(Path(__file__).parent.parent.parent / "examples/logs/airline_sample.jsonl")


async def attempt(agent: LoggedAgent, task: Task, index: int, **changes: object) -> Rollout:
    return await agent.attempt(task, TokenPrior(), **{"phase": "rollout", "step": 0, "index": index, **changes})  # type: ignore[arg-type]


def learner(request: Request) -> str:
    """The learning model: one lesson from each group, all of them added."""
    if request.key.phase == "summary":
        return "It looked the reservation up and then cancelled it."
    if request.key.phase == "contrast":
        lesson = (
            f"When a customer of kind {request.key.task} asks, look the reservation up before you promise anything."
        )
        return json.dumps({"difference": "order", "lessons": [{"name": "Look first", "lesson": lesson}]})
    assert request.key.phase == "revise", "a log is learned from, no policy is called"
    add = {
        "op": "Add",
        "name": "Look first",
        "text": "When asked to cancel, look the reservation up first.",
        "lessons": [1, 2, 3],
    }
    return json.dumps([add])


async def learned(store: Path, model: ScriptedModel) -> LearnResult:
    with open_store(store) as opened:
        record = opened.open_run("r-1", name="r", kind="learn", config={})
        wired = ReplayedModel(MeteredModel(model, record, Budget(Limits(), spent=record.spent()), {}), record)
        try:
            return await learn(
                [one.task for one in LOGGED],
                agent=LoggedAgent(LOGGED),
                verifier=Recorded(LOGGED),
                model=wired,
                record=record,
                config=world.config(epochs=1, batch_size=3, group_size=4),
            )
        finally:
            record.close("done")


async def test_a_library_is_learned_from_a_log_and_knows_its_groups_and_attempts(tmp_path: Path) -> None:
    model = ScriptedModel(learner)
    result = await learned(tmp_path / "s.db", model)
    (experience,) = result.library
    assert set(experience.provenance.groups) == {"1", "5", "16"}
    assert {"1#0", "1#3", "5#1", "16#2"} <= set(experience.provenance.rollouts)
    assert {request.key.phase for request in model.requests} == {"summary", "contrast", "revise"}
    report = result.steps[0]
    assert (report["rollouts"], report["scored"], report["groups"]) == (12, 12, {"mixed": 3})
    assert report["mean"] == 0.25
    again = ScriptedModel(learner)
    assert (await learned(tmp_path / "s.db", again)).library == result.library
    assert again.requests == [], "nothing is paid twice"


async def test_the_learning_model_sees_what_tools_were_called_and_gave(tmp_path: Path) -> None:
    model = ScriptedModel(learner)
    await learned(tmp_path / "s.db", model)
    said = world.texts(request for request in model.requests if request.key.phase == "summary")
    assert "assistant calls cancel_reservation(" in said
    assert "cancel_reservation gave: {" in said


async def test_the_agent_gives_the_attempt_of_each_index_and_a_failure_where_there_is_none() -> None:
    agent = LoggedAgent(LOGGED)
    task = LOGGED[0].task
    assert agent.count(task) == 4
    assert agent.count(Task(id="?", question="?")) == 0
    assert [await attempt(agent, task, i) for i in range(4)] == [rollout for rollout, _ in LOGGED[0].attempts]
    beyond = await attempt(agent, task, 4)
    assert beyond.failure is not None
    assert (beyond.failure.kind, beyond.stop, beyond.index) == ("not-logged", StopReason.FAILED, 4)


async def test_a_log_cannot_be_tried_out_and_knows_only_its_own_tasks() -> None:
    agent = LoggedAgent(LOGGED)
    with pytest.raises(ConfigError, match="cannot be made again for the phase 'gate'"):
        await attempt(agent, LOGGED[0].task, 0, phase="gate")
    with pytest.raises(ConfigError, match="the log holds no task 'x'"):
        await attempt(agent, Task(id="x", question="?"), 0)
    with pytest.raises(ConfigError, match="the logs hold task '1' twice"):
        LoggedAgent([*LOGGED, LOGGED[0]])


async def test_recorded_gives_the_logged_reward_and_judges_nothing_else() -> None:
    verifier = Recorded(LOGGED)
    task = LOGGED[0].task
    assert [await verifier.verify(task, rollout) for rollout, _ in LOGGED[0].attempts] == [
        reward for _, reward in LOGGED[0].attempts
    ]
    other = replace(LOGGED[0].attempts[0][0], output="something else")
    assert (await verifier.verify(task, other)).reason == "no attempt of the log"
    assert (await verifier.verify(task, replace(other, index=9))).reason == "no attempt of the log"


def test_fingerprints_are_those_of_the_content_not_of_the_place() -> None:
    first = LOGGED[0]
    rollout, reward = first.attempts[0]
    moved = replace(first, attempts=((replace(rollout, metadata={"source": "other:9"}), reward), *first.attempts[1:]))
    changed = replace(first, attempts=((replace(rollout, output="no"), reward), *first.attempts[1:]))
    judged = replace(first, attempts=((rollout, replace(reward, value=0.5)), *first.attempts[1:]))
    assert LoggedAgent([moved]).fingerprint == LoggedAgent([first]).fingerprint != LoggedAgent([changed]).fingerprint
    assert Recorded([moved]).fingerprint == Recorded([first]).fingerprint != Recorded([judged]).fingerprint
