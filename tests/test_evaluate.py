"""What a prior is worth: paired, unscored counted apart, and in words that claim no more than is known."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

import world
from tokenprior.config import EvaluateConfig
from tokenprior.errors import ConfigError
from tokenprior.evaluate import ArmReport, Comparison, best_constant, compare, evaluate, paired
from tokenprior.experience import Experience
from tokenprior.library import Library
from tokenprior.models.base import CallFailed, Request
from tokenprior.models.scripted import ScriptedModel
from tokenprior.reward import Reward
from tokenprior.rollout import Rollout, StopReason, Usage
from tokenprior.statistics import Interval
from tokenprior.store import open_store
from tokenprior.task import Task, TaskSet

pytestmark = pytest.mark.anyio

LEARNED = Library(experiences=(Experience(id="G0", text="When a word is to be repeated, write it in small letters."),))
CONFIG = EvaluateConfig(resamples=200)


class Judging:
    """Wants the answer, and cannot judge some tasks."""

    fingerprint = "judging-1"

    def __init__(self, unjudged: Sequence[str] = ()) -> None:
        self.unjudged = unjudged

    async def verify(self, task: Task, rollout: Rollout) -> Reward:
        if task.id in self.unjudged:
            return Reward.unscored("the judge is silent")
        return Reward(value=float(rollout.output == task.answer))


async def compared(
    tmp_path: Path,
    script: object,
    *,
    tasks: TaskSet | None = None,
    arms: dict[str, Library] | None = None,
    unjudged: Sequence[str] = (),
    config: EvaluateConfig = CONFIG,
) -> tuple[Comparison, ScriptedModel]:
    model = ScriptedModel(script)  # type: ignore[arg-type]  # a list or a function
    with open_store(tmp_path / "s.db") as store:
        record = store.open_run("c-1", name="c", kind="compare", config={})
        try:
            made = await compare(
                tasks or world.tasks(6),
                {"no prior": Library(), "learned": LEARNED} if arms is None else arms,
                agent=world.agent(model),
                verifier=Judging(unjudged),
                record=record,
                config=config,
            )
        finally:
            record.close("done")
    return made, model


def right(request: Request) -> str:
    return request.messages[-1].content.removeprefix("Repeat: ")


def right_with_the_lesson(request: Request) -> str:
    return right(request) if "small letters" in request.messages[0].content else "?"


async def test_arms_are_paired_by_task_and_a_gain_is_called_one(tmp_path: Path) -> None:
    made, _ = await compared(tmp_path, right_with_the_lesson)
    baseline, learned = made.arms
    assert (baseline.arm, baseline.experiences, learned.experiences) == ("no prior", 0, 1)
    assert baseline.score is not None
    assert learned.score is not None
    assert (baseline.score.mean, learned.score.mean) == (0.0, 1.0)
    (difference,) = made.differences
    assert (difference.wins, difference.losses, difference.ties) == (6, 0, 0)
    assert difference.verdict.startswith("learned helps: +1.000 [+1.000, +1.000] against no prior (6 tasks better")


async def test_arms_differ_in_nothing_but_the_prior_and_are_interleaved_task_by_task(tmp_path: Path) -> None:
    _, model = await compared(tmp_path, right)
    asked = [(request.key.task, len(request.messages[0].content)) for request in model.requests]
    assert [task for task, _ in asked] == [f"t{i}" for i in range(6) for _ in range(2)]
    assert asked[0][1] < asked[1][1]
    for bare, prior in zip(model.requests[::2], model.requests[1::2], strict=True):
        assert bare.messages[1:] == prior.messages[1:]
        assert prior.messages[0].content.startswith(bare.messages[0].content + "\n\n")
        assert (bare.key, bare.seed, bare.temperature, bare.max_tokens) == (
            prior.key,
            prior.seed,
            prior.temperature,
            prior.max_tokens,
        )


async def test_unscored_and_failed_attempts_stand_beside_the_mean_and_not_in_it(tmp_path: Path) -> None:
    def script(request: Request) -> str:
        if request.key.task == "t1":
            raise CallFailed("timeout", "too slow", retryable=False)
        return right(request)

    made, _ = await compared(tmp_path, script, unjudged=["t0"], config=CONFIG.model_copy(update={"k": 2}))
    arm = made.arms[0]
    assert arm.score is not None
    assert (arm.score.mean, arm.score.n) == (1.0, 4)
    assert (arm.scored, arm.unscored, arm.failed) == (8, 2, {"timeout": 2})
    assert arm.tasks["t0"] == (None, None)
    assert arm.tasks["t1"] == (None, None)
    assert arm.tasks["t2"] == (1.0, 1.0)
    (difference,) = made.differences
    assert (difference.wins, difference.losses, difference.ties) == (0, 0, 4)
    assert difference.verdict.startswith("Too few tasks differ to tell learned from no prior: +0.000")
    assert "2 left out, unscored in one arm" in difference.verdict


async def test_nothing_scored_is_no_score_and_nothing_to_compare(tmp_path: Path) -> None:
    made, _ = await compared(tmp_path, right, unjudged=[f"t{i}" for i in range(6)])
    assert made.arms[0].score is None
    assert made.differences[0].gain is None
    assert made.differences[0].verdict == "learned against no prior: nothing to compare."
    assert made.to_json()["arms"][0]["score"] is None


async def test_the_same_comparison_again_asks_nothing(tmp_path: Path) -> None:
    before, _ = await compared(tmp_path, right_with_the_lesson)
    after, model = await compared(tmp_path, [])
    assert model.requests == []
    assert after == before


async def test_evaluate_is_compare_with_one_arm(tmp_path: Path) -> None:
    model = ScriptedModel(right)
    with open_store(tmp_path / "s.db") as store:
        record = store.open_run("e-1", name="e", kind="evaluate", config={})
        arm = await evaluate(
            world.tasks(3), LEARNED, agent=world.agent(model), verifier=Judging(), record=record, config=CONFIG
        )
        record.close("done")
    assert arm.arm == "library"
    assert arm.library_version == LEARNED.version
    assert arm.usage.calls == 3
    assert arm.to_json()["tasks"] == {"t0": [1.0], "t1": [1.0], "t2": [1.0]}


async def test_no_tasks_and_no_arms_are_clear_errors(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no arms"):
        await compared(tmp_path, [], arms={})
    with open_store(tmp_path / "t.db") as store:
        record = store.open_run("e-1", name="e", kind="evaluate", config={})
        with pytest.raises(ConfigError, match="no tasks"):
            await evaluate([], LEARNED, agent=world.agent(), verifier=Judging(), record=record)
        record.close("failed")


def report(arm: str, **tasks: tuple[float | None, ...]) -> ArmReport:
    return ArmReport(
        arm=arm,
        library_version="",
        experiences=0,
        omitted=0,
        score=None,
        scored=0,
        unscored=0,
        failed={},
        cut_off=0,
        usage=Usage(),
        latency_s=0.0,
        tasks=tasks,
    )


async def test_a_difference_counts_tasks_that_both_arms_have_scored() -> None:
    ours = report("ours", a=(1.0, 0.0), b=(None, 1.0), c=(None,), d=(1.0,), e=(0.0,))
    theirs = report("theirs", a=(0.0, 0.0), b=(1.0,), c=(0.0,), e=(1.0,))
    difference = paired(ours, theirs, CONFIG)
    assert (difference.wins, difference.losses, difference.ties) == (1, 1, 1)
    assert difference.gain is not None
    assert difference.gain.n == 3
    assert difference.gain.mean == pytest.approx(-0.5 / 3)


async def test_a_loss_is_called_one_and_one_task_is_no_evidence() -> None:
    tasks = [f"t{number}" for number in range(6)]
    six = paired(report("a", **dict.fromkeys(tasks, (0.0,))), report("b", **dict.fromkeys(tasks, (1.0,))), CONFIG)
    assert six.verdict.startswith("a hurts: -1.000")
    tasks.pop()
    five = paired(report("a", **dict.fromkeys(tasks, (0.0,))), report("b", **dict.fromkeys(tasks, (1.0,))), CONFIG)
    assert five.verdict.startswith("Too few tasks differ to tell a from b: -1.000")
    alone = paired(report("a", x=(1.0,)), report("b", x=(0.0,)), CONFIG)
    assert alone.gain == Interval(mean=1.0, low=None, high=None, n=1)
    assert "helps" not in alone.verdict


async def test_the_best_constant_answer_is_the_one_accepted_most_often() -> None:
    tasks = [Task(id=str(i), question="q", answer=a) for i, a in enumerate(["x", ["x", "y"], "y", "x", {"k": 1}])]
    assert best_constant(tasks) == ("x", 3 / 5)
    assert best_constant([Task(id="a", question="q")]) is None
    assert best_constant([Task(id="a", question="q", answer=["z", "z"])]) == ("z", 1.0)


async def test_attempts_cut_off_at_their_limit_are_counted(tmp_path: Path) -> None:
    from tokenprior.models.base import Reply

    made, _ = await compared(tmp_path, lambda request: Reply(text=right(request), stop=StopReason.LENGTH))
    assert [arm.cut_off for arm in made.arms] == [6, 6]
