"""Adaptive groups: settings that fit or are told in one line, and a loop that spares, adds and lets rest."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

import world
from test_learn import wire
from tokenprior.adaptive import GroupPlan, Visit
from tokenprior.cli.learn import adaptive_words
from tokenprior.config import Config, LearnConfig
from tokenprior.effects import Observation
from tokenprior.errors import ConfigError
from tokenprior.forecast import forecast
from tokenprior.learn import LearnResult, learn
from tokenprior.models.base import Request
from tokenprior.models.budget import Limits
from tokenprior.models.scripted import ScriptedModel
from tokenprior.prior import TokenPrior
from tokenprior.rollout import Rollout
from tokenprior.settings import explain
from tokenprior.store import open_store
from tokenprior.task import Task

ALL = {"first": 3, "most": 7, "rest_solved": 1, "rest_failed": 1}


async def run(
    store: Path, script: Any = world.both, *, limits: Limits | None = None, number: int = 1, **changes: object
) -> tuple[LearnResult, ScriptedModel, list[Observation]]:
    """Eight tasks in steps of four, three epochs, groups of five with one pair."""
    model = ScriptedModel(script)
    with open_store(store) as opened:
        record = opened.open_run(f"r-{number}", name="r", kind="learn", config={})
        wired = wire(model, record, limits or Limits())
        try:
            plain: dict[str, object] = {"epochs": 3, "group_size": 5, "inclusion_pairs": 1}
            result = await learn(
                world.tasks(8),
                agent=world.agent(wired),
                verifier=world.SmallLetters(),
                model=wired,
                record=record,
                config=world.config(**{**plain, **changes}),
            )
            ends = [await record.finished_step(step["step"]) for step in result.steps]
        finally:
            record.close("done")
    return result, model, [one for end in ends if end for one in end.observations]


def attempts(model: ScriptedModel) -> Counter[tuple[int, str]]:
    """How many attempts each step made at each task."""
    return Counter((r.key.step, r.key.task) for r in model.requests if r.key.phase == "rollout")


@pytest.mark.parametrize(
    ("learn", "words"),
    [
        ({"first": 2}, "adaptive.first is 2: expected at least 3 (the 2 attempts of inclusion_pairs and one more)"),
        ({"first": 5}, "less than group_size (5)"),
        ({"most": 5}, "adaptive.most is 5: expected more than group_size (5)"),
        ({"firts": 3}, "did you mean 'first'?"),
    ],
)
def test_settings_that_do_not_fit_are_told_in_one_line(learn: dict[str, int], words: str) -> None:
    with pytest.raises(ValidationError) as raised:
        LearnConfig.model_validate({"adaptive": learn})
    said = explain(raised.value, LearnConfig)
    assert words in said
    assert "\n" not in said


def test_rewards_that_have_no_say_decide_about_no_attempt() -> None:
    with pytest.raises(ValidationError, match="no say without ground_truth"):
        LearnConfig.model_validate({"ground_truth": False, "adaptive": {"rest_solved": 1}})
    plan = LearnConfig.model_validate({"ground_truth": False, "adaptive": {"first": 1}}).group_plan
    assert plan.always == (0,)


def test_the_preset_has_no_pairs_that_the_first_attempts_would_have_to_hold() -> None:
    config = LearnConfig.model_validate({"preset": "paper", "adaptive": {"first": 2}})
    assert config.resolved().group_plan.always == (0, 1)


def test_what_is_off_is_in_no_id_of_a_run() -> None:
    assert "adaptive" not in LearnConfig().model_dump(mode="json")
    assert "adaptive" in LearnConfig.model_validate({"adaptive": {"first": 3}}).model_dump(mode="json")


def test_one_attempt_that_is_missing_makes_an_all_success_group_no_proof() -> None:
    plan = GroupPlan(size=3, rest_solved=2)
    assert plan.outcome([1.0, 1.0, 1.0]) == "all_success"
    assert plan.outcome([1.0, None, 1.0]) == "unscored"
    assert plan.outcome([1.0, None, 0.0]) == "mixed"
    assert [plan.rests(Visit(epoch=0, kind="all_success"), epoch) for epoch in (1, 2, 3)] == [True, True, False]


@pytest.mark.anyio
async def test_a_group_ends_where_its_attempts_differ_and_another_one_has_all_of_them(tmp_path: Path) -> None:
    result, model, _ = await run(tmp_path / "s.db", adaptive={"first": 3})
    made = attempts(model)
    spared = sum(5 - count for count in made.values())
    assert set(made.values()) == {3, 5}
    assert spared == sum(step["adaptive"]["spared"] for step in result.steps) > 0
    assert sum(made.values()) == sum(step["rollouts"] for step in result.steps)
    mixed = sum(step["groups"].get("mixed", 0) for step in result.steps)
    assert mixed >= spared / 2, "what was spared of is mixed"


@pytest.mark.anyio
async def test_what_a_run_of_the_same_name_made_in_full_is_not_made_again(tmp_path: Path) -> None:
    await run(tmp_path / "s.db", epochs=1, batch_size=None)
    _, model, _ = await run(tmp_path / "s.db", number=2, epochs=1, batch_size=None, adaptive={"first": 3})
    assert not attempts(model), "attempts keep their place in a group"


@pytest.mark.anyio
async def test_effects_are_measured_at_every_task_from_the_first_attempts_alone(tmp_path: Path) -> None:
    _, _, plain = await run(tmp_path / "plain.db")
    result, model, observed = await run(tmp_path / "s.db", adaptive={"first": 3})
    assert len(observed) == len(plain) > 0
    assert {len(one.attempts) for one in observed} == {3}
    whole = [step["mean"] for step in result.steps]
    first = Counter(r.key.step for r in model.requests if r.key.phase == "rollout" and r.key.rollout == 0)
    assert all(round(mean * first[step], 6).is_integer() for step, mean in enumerate(whole)), "one attempt a group"


@pytest.mark.anyio
async def test_a_group_of_a_task_that_was_mixed_goes_on_until_its_attempts_differ(tmp_path: Path) -> None:
    result, model, _ = await run(tmp_path / "s.db", adaptive={"most": 7})
    made = attempts(model)
    assert set(made.values()) == {5, 7}
    assert {step for (step, _), count in made.items() if count == 7} <= {2, 3, 4, 5}, (
        "in the first epoch nothing is known"
    )
    assert sum(step["adaptive"]["added"] for step in result.steps) == sum(count - 5 for count in made.values())


@pytest.mark.anyio
async def test_solved_tasks_rest_for_an_epoch_and_come_back(tmp_path: Path) -> None:
    def solves(request: Request) -> str:
        if request.key.phase == "rollout" and request.key.task in ("t0", "t1", "t2"):
            return request.messages[-1].content.removeprefix("Repeat: ")
        return world.both(request)

    result, model, _ = await run(tmp_path / "s.db", solves, adaptive={"rest_solved": 1}, inclusion_pairs=0)
    epochs = {task: [step // 2 for step, one in sorted(attempts(model)) if one == task] for task in ("t0", "t1", "t2")}
    assert epochs == {"t0": [0, 2], "t1": [0, 2], "t2": [0, 2]}
    assert sum(step["adaptive"]["resting"].get("all_success", 0) for step in result.steps) >= 3
    assert all(step["scored"] + step["unscored"] == step["rollouts"] for step in result.steps), "none is a failure"


@pytest.mark.anyio
async def test_a_step_whose_tasks_all_rest_asks_nothing_and_changes_nothing(tmp_path: Path) -> None:
    def solves(request: Request) -> str:
        assert request.key.phase == "rollout"
        return request.messages[-1].content.removeprefix("Repeat: ")

    result, model, _ = await run(tmp_path / "s.db", solves, adaptive={"rest_solved": 1})
    assert [step["tasks"] for step in result.steps] == [4, 4, 0, 0, 4, 4]
    assert [step["mean"] for step in result.steps] == [1.0, 1.0, None, None, 1.0, 1.0]
    assert len(model.requests) == 2 * 8 * 5
    assert not len(result.library)
    again, nothing, _ = await run(tmp_path / "s.db", [], adaptive={"rest_solved": 1})
    assert not nothing.requests
    assert again.steps == result.steps


@pytest.mark.anyio
async def test_the_order_in_which_calls_return_changes_nothing(tmp_path: Path) -> None:
    ends = set()
    for seed in range(3):
        rng = random.Random(seed)

        async def slow(request: Request, rng: random.Random = rng) -> str:
            await asyncio.sleep(rng.random() / 500)
            return world.both(request)

        result, _, _ = await run(tmp_path / f"{seed}.db", slow, adaptive=ALL)
        ends.add((result.library.dumps(), str(result.steps)))
    assert len(ends) == 1
    assert any(step["adaptive"]["resting"] for step in result.steps)
    assert any(step["adaptive"]["spared"] for step in result.steps)


@pytest.mark.anyio
async def test_a_run_that_is_cut_short_again_and_again_ends_the_same_and_pays_nothing_twice(tmp_path: Path) -> None:
    undisturbed, whole, _ = await run(tmp_path / "other.db", adaptive=ALL)
    paid = 0
    for calls in range(7, len(whole.requests), 7):
        _, model, _ = await run(tmp_path / "s.db", limits=Limits(calls=calls), adaptive=ALL)
        paid += len(model.requests)
    finished, model, _ = await run(tmp_path / "s.db", adaptive=ALL)
    assert (finished.library.dumps(), finished.steps) == (undisturbed.library.dumps(), undisturbed.steps)
    assert paid + len(model.requests) == len(whole.requests)


@pytest.mark.anyio
async def test_attempts_that_were_made_already_cannot_adapt(tmp_path: Path) -> None:
    class Past:
        fingerprint = "past"

        def count(self, task: Task) -> int:
            return 2

        async def attempt(self, task: Task, prior: TokenPrior, **_: object) -> Rollout:
            raise AssertionError("nothing is attempted")

    with open_store(tmp_path / "s.db") as opened:
        record = opened.open_run("r-1", name="r", kind="learn", config={})
        with pytest.raises(ConfigError, match="attempts of logs are made"):
            await learn(
                world.tasks(2),
                agent=Past(),
                verifier=world.SmallLetters(),
                model=ScriptedModel([]),
                record=record,
                config=world.config(adaptive={"rest_solved": 1}),
            )
        record.close("failed")


@pytest.mark.anyio
async def test_the_forecast_is_still_the_most_that_a_run_can_take(tmp_path: Path) -> None:
    result, _, _ = await run(tmp_path / "s.db", adaptive={"most": 7})
    config = Config.model_validate(
        {
            "tasks": {"path": "x.jsonl"},
            "agent": {"model": "openai:x"},
            "verifier": "exact",
            "learn": {"epochs": 3, "batch_size": 4, "gate": "none", "adaptive": {"most": 7}},
        }
    )
    made = forecast(config, world.tasks(8))
    assert made.rollouts == 3 * 8 * 7 > sum(step["rollouts"] for step in result.steps)


def test_what_was_left_out_is_said_in_words() -> None:
    figures = {"resting": {"all_fail": 2, "all_success": 1}, "spared": 1, "added": 4}
    assert adaptive_words(figures) == "3 tasks left to rest (2 all_fail and 1 all_success); 1 attempt spared, 4 added"
    assert (
        adaptive_words({"resting": {}, "spared": 0, "added": 0}) == "0 tasks left to rest; 0 attempts spared, 0 added"
    )
