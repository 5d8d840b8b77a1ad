"""What a prior is worth: paired, unscored counted apart, and in words that claim no more than is known."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

import world
from tokenprior.arm import ArmReport, Design, best_constant
from tokenprior.comparison import Comparison, Difference, differ, is_decided
from tokenprior.config import EvaluateConfig, PriorSettings
from tokenprior.errors import ConfigError
from tokenprior.evaluate import compare, evaluate
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
        return Reward(value=float(rollout.output == task.answer), extracted=rollout.output)


async def compared(
    tmp_path: Path,
    script: object,
    *,
    tasks: TaskSet | None = None,
    arms: dict[str, Library] | None = None,
    unjudged: Sequence[str] = (),
    verifier: Judging | None = None,
    config: EvaluateConfig = CONFIG,
    run: str = "c-1",
) -> tuple[Comparison, ScriptedModel]:
    model = ScriptedModel(script)  # type: ignore[arg-type]  # a list or a function
    with open_store(tmp_path / "s.db") as store:
        record = store.open_run(run, name="c", kind="compare", config={})
        try:
            made = await compare(
                tasks or world.tasks(6),
                {"no prior": Library(), "learned": LEARNED} if arms is None else arms,
                agent=world.agent(model),
                verifier=verifier or Judging(unjudged),
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
    assert difference.p == difference.p_adjusted == 2 / 2**6
    assert difference.verdict == (
        "learned helps: +1.000 [+1.000, +1.000] against no prior (6 tasks better, 0 worse, 0 equal; p = 0.031)."
    )


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
    assert difference.verdict.startswith("Not enough evidence that learned differs from no prior: +0.000")
    assert "2 left out, unscored in one arm; p = 1.000" in difference.verdict
    assert arm.passes[2].n == 4
    assert arm.passes[2].mean == 1.0


async def test_nothing_scored_is_no_score_and_nothing_to_compare(tmp_path: Path) -> None:
    made, _ = await compared(tmp_path, right, unjudged=[f"t{i}" for i in range(6)])
    assert made.arms[0].score is None
    assert made.differences[0].gain is None
    assert made.differences[0].verdict == "learned against no prior: nothing to compare."
    assert made.differences[0].p is None
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


def report(arm: str, tasks: dict[str, tuple[float | None, ...]], **changes: object) -> ArmReport:
    plain = ArmReport(
        arm=arm,
        library_version="",
        prior=f"the words of {arm}",
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
    return replace(plain, **changes)  # type: ignore[arg-type]  # fields of an ArmReport


def against(theirs: Sequence[float], *ours: Sequence[float]) -> tuple[Difference, ...]:
    """Arms `arm 0`, `arm 1` and so on against `base`, each with one attempt a task."""
    named = {"base": theirs, **{f"arm {number}": values for number, values in enumerate(ours)}}
    reports = [report(arm, {f"t{i}": (value,) for i, value in enumerate(values)}) for arm, values in named.items()]
    return differ(reports, Design(resamples=200))


async def test_a_difference_counts_tasks_that_both_arms_have_scored() -> None:
    ours = report("ours", {"a": (1.0, 0.0), "b": (None, 1.0), "c": (None,), "d": (1.0,), "e": (0.0,)})
    theirs = report("theirs", {"a": (0.0, 0.0), "b": (1.0,), "c": (0.0,), "e": (1.0,)})
    (difference,) = differ([theirs, ours], Design(resamples=200))
    assert (difference.wins, difference.losses, difference.ties, difference.missing) == (1, 1, 1, 2)
    assert difference.gain is not None
    assert difference.gain.n == 3
    assert difference.gain.mean == pytest.approx(-0.5 / 3)


async def test_a_loss_is_called_one_and_a_few_tasks_are_no_evidence() -> None:
    (six,) = against([1.0] * 6, [0.0] * 6)
    assert six.outcome == "hurts"
    assert six.verdict.startswith("arm 0 hurts: -1.000 [-1.000, -1.000] against base (0 tasks better, 6 worse")
    (five,) = against([1.0] * 5, [0.0] * 5)
    assert five.p == 2 / 2**5
    assert five.verdict == (
        "Not enough evidence that arm 0 differs from base: -1.000 [-1.000, -1.000] (0 tasks better, 5 worse, 0 equal; "
        "p = 0.062); about 1 more task would settle a difference this large."
    )
    (alone,) = against([0.0], [1.0])
    assert alone.gain == Interval(mean=1.0, low=None, high=None, n=1)
    assert alone.verdict == (
        "Not enough evidence that arm 0 differs from base: +1.000 (1 task better, 0 worse, 0 equal; p = 1.000)."
    )


async def test_not_enough_evidence_says_what_would_settle_it() -> None:
    (difference,) = against([0.0] * 20, [1.0, 1.0, 1.0, -1.0] + [0.0] * 16)
    assert difference.outcome == "unclear"
    assert difference.tasks_needed is not None
    assert difference.detectable is not None
    more, least = difference.tasks_needed - 20, f"{difference.detectable:.3f}"
    assert difference.verdict.endswith(
        f"about {more} more tasks would settle a difference this large, "
        f"and with these 20 tasks only one of {least} or more is seen in 4 of 5 tries."
    )


async def test_several_arms_are_judged_together_and_one_of_equal_words_costs_nothing() -> None:
    better = [1.0] * 7
    one, other = against([0.0] * 7, better, [0.0] * 7)
    assert one.p == 2 / 2**7
    assert one.p_adjusted == 2 * one.p
    assert "; adjusted p = 0.031)" in one.verdict
    assert other.p_adjusted == 1.0
    base, arm = report("base", {"a": (0.0,)}), report("arm", {"a": (1.0,)})
    same = replace(base, arm="empty")
    said, alone = differ([base, same, arm], Design(resamples=200))
    assert said.verdict == "empty puts the same words before the agent as base: there is no difference."
    assert said.p is said.p_adjusted is None
    assert alone.p_adjusted == alone.p


async def test_one_answer_for_all_is_no_gain_and_the_verdict_says_so() -> None:
    tasks = {f"t{i}": (0.0,) for i in range(20)}
    right = {f"t{i}": (float(i < 12),) for i in range(20)}
    base = report("base", tasks)
    score = Interval(mean=0.6, low=0.4, high=0.8, n=20)
    (told,) = differ([base, report("arm", right, score=score, commonest=("False", 0.95))], Design(), constant=None)
    assert told.outcome == "helps"
    assert told.verdict.endswith(
        " But 95% of its answers are 'False': it may have learned an answer, and not a way to it."
    )
    (told,) = differ([base, report("arm", right, score=score)], Design(), constant=("False", 0.6))
    assert told.verdict.endswith(" But one answer for all tasks does as well: 'False' is right for 60% of them.")
    (told,) = differ([base, report("arm", right, score=score)], Design(), constant=("False", 0.59))
    assert told.warning == ""


async def test_pass_at_is_over_tasks_with_enough_scored_attempts(tmp_path: Path) -> None:
    def script(request: Request) -> str:
        return right(request) if request.key.rollout == 0 else "no"

    made, _ = await compared(tmp_path, script, config=CONFIG.model_copy(update={"k": 6}))
    arm = made.arms[0]
    assert {j: round(interval.mean, 3) for j, interval in arm.passes.items()} == {1: 0.167, 2: 0.333, 4: 0.667, 6: 1.0}
    assert arm.commonest == ("no", 5 / 6)
    assert made.to_json()["arms"][0]["pass_at"]["6"]["mean"] == 1.0
    made, _ = await compared(tmp_path, right)
    assert made.arms[0].passes == {}


async def test_what_counts_as_a_success_can_be_set(tmp_path: Path) -> None:
    class Half(Judging):
        fingerprint = "half-1"

        async def verify(self, task: Task, rollout: Rollout) -> Reward:
            return Reward(value=0.5)

    for success_at, passed in ((1.0, 0.0), (0.5, 1.0)):
        config = CONFIG.model_copy(update={"k": 2, "success_at": success_at})
        made, _ = await compared(tmp_path, right, config=config, verifier=Half())
        assert made.arms[0].passes[2].mean == passed


EARLY = CONFIG.model_copy(update={"stop_early": True})


async def test_a_clear_answer_stops_early_and_the_same_call_stops_there_again(tmp_path: Path) -> None:
    made, model = await compared(tmp_path, right_with_the_lesson, tasks=world.tasks(100), config=EARLY)
    assert made.stopped_early
    assert made.tasks_done == 16
    assert len(model.requests) == 2 * made.tasks_done
    assert list(made.arms[0].tasks) == list(made.arms[1].tasks) != [f"t{i}" for i in range(16)]
    (difference,) = made.differences
    assert difference.p is not None
    assert difference.p <= 0.05
    assert difference.gain is not None
    assert difference.gain.low is not None
    assert 0 < difference.gain.low < 1.0 == difference.gain.mean
    assert difference.verdict.startswith("learned helps: +1.000 [")
    assert difference.verdict.endswith(", stopped after 16 of 100 tasks.")
    assert (made.to_json()["tasks_done"], made.to_json()["stopped_early"]) == (16, True)
    again, model = await compared(tmp_path, [], tasks=world.tasks(100), config=EARLY)
    assert model.requests == []
    assert again == made


async def test_without_stopping_early_the_same_comparison_goes_on_from_there(tmp_path: Path) -> None:
    early, _ = await compared(tmp_path, right_with_the_lesson, tasks=world.tasks(100), config=EARLY)
    made, model = await compared(tmp_path, right_with_the_lesson, tasks=world.tasks(100), run="c-2")
    assert len(model.requests) == 2 * (100 - early.tasks_done)
    assert not made.stopped_early
    assert made.differences[0].p == pytest.approx(2 / 2**100)


async def test_what_is_not_clear_takes_all_tasks_and_is_judged_as_what_may_stop(tmp_path: Path) -> None:
    made, _ = await compared(tmp_path, right, tasks=world.tasks(40), config=EARLY)
    assert not made.stopped_early
    (difference,) = made.differences
    assert difference.p_adjusted == 1.0
    assert difference.gain is not None
    assert difference.gain.low is not None
    assert difference.gain.low < 0.0 == difference.gain.mean
    assert difference.detectable is None


async def test_arms_of_equal_words_are_not_waited_for_and_alone_they_take_all_tasks(tmp_path: Path) -> None:
    arms = {"no prior": Library(), "empty": Library(), "learned": LEARNED}
    made, _ = await compared(tmp_path, right_with_the_lesson, tasks=world.tasks(60), arms=arms, config=EARLY)
    assert made.stopped_early
    arms.pop("learned")
    made, _ = await compared(tmp_path, right_with_the_lesson, tasks=world.tasks(60), arms=arms, config=EARLY)
    assert made.tasks_done == 60
    assert made.differences[0].outcome == "same words"


async def test_between_alike_arms_an_early_stop_is_as_rare_as_it_should_be() -> None:
    rng = random.Random(5)
    design = Design(reward_range=(0.0, 1.0))
    stopped = 0
    for _ in range(200):
        values = [float(rng.random() < 0.4) - float(rng.random() < 0.4) for _ in range(160)]
        stopped += any(is_decided(values[:end], design, compared=1) for end in range(16, 161, 16))
    assert stopped <= 10


async def test_a_reward_outside_the_range_that_evidence_rests_on_names_the_setting(tmp_path: Path) -> None:
    class Grades(Judging):
        async def verify(self, task: Task, rollout: Rollout) -> Reward:
            return Reward(value=7.0)

    with pytest.raises(ConfigError, match=r"reward 7 is outside evaluate\.reward_range, 0 to 1: set it to"):
        await compared(tmp_path, right, config=EARLY, verifier=Grades())
    wide = EARLY.model_copy(update={"reward_range": (1.0, 10.0)})
    made, _ = await compared(tmp_path, right, config=wide, verifier=Grades())
    assert made.arms[0].score is not None
    assert made.arms[0].score.mean == 7.0
    made, _ = await compared(tmp_path, right, verifier=Grades())
    assert made.differences[0].outcome == "unclear"


def test_a_range_of_rewards_has_its_lowest_first() -> None:
    for wrong in ((1.0, 0.0), (0.0, 0.0), (0.0, float("inf"))):
        with pytest.raises(ValueError, match="reward_range"):
            EvaluateConfig(reward_range=wrong)


async def test_the_best_constant_answer_is_the_one_accepted_most_often() -> None:
    tasks = [Task(id=str(i), question="q", answer=a) for i, a in enumerate(["x", ["x", "y"], "y", "x", {"k": 1}])]
    assert best_constant(tasks) == ("x", 3 / 5)
    assert best_constant([Task(id="a", question="q")]) is None
    assert best_constant([Task(id="a", question="q", answer=["z", "z"])]) == ("z", 1.0)


async def test_attempts_cut_off_at_their_limit_are_counted(tmp_path: Path) -> None:
    from tokenprior.models.base import Reply

    made, _ = await compared(tmp_path, lambda request: Reply(text=right(request), stop=StopReason.LENGTH))
    assert [arm.cut_off for arm in made.arms] == [6, 6]


def test_a_control_costs_the_others_no_evidence() -> None:
    names = [f"t{i}" for i in range(6)]
    base, ours = report("base", dict.fromkeys(names, (0.0,))), report("ours", dict.fromkeys(names, (1.0,)))
    theirs = report("placebo", dict.fromkeys(names, (0.0,)) | {"t5": (1.0,)})
    (alone,) = differ([base, ours], Design(resamples=200))
    beside, control = differ([base, ours, theirs], Design(resamples=200), controls=["placebo"])
    corrected, _ = differ([base, ours, theirs], Design(resamples=200))
    assert beside.p_adjusted == alone.p_adjusted == 2 / 64
    assert corrected.p_adjusted == 4 / 64
    assert control.p_adjusted == control.p


def test_an_arm_that_lost_many_attempts_bears_a_warning() -> None:
    names = [f"t{i}" for i in range(20)]
    base = report("base", dict.fromkeys(names, (0.0,)))
    lossy = report("lossy", dict.fromkeys(names[:15], (1.0,)) | dict.fromkeys(names[15:], (None,)))
    (told,) = differ([base, lossy], Design(resamples=200))
    assert told.verdict.endswith(
        "But 25% of its attempts failed or could not be scored, perhaps those at the harder tasks."
    )


def test_rounding_tells_no_arms_apart() -> None:
    names = [f"t{i}" for i in range(10)]
    base = report("base", dict.fromkeys(names, (0.3, 0.2, 0.1)))
    (told,) = differ([base, report("arm", dict.fromkeys(names, (0.1, 0.2, 0.3)))], Design(resamples=200))
    assert (told.wins, told.losses, told.ties, told.p) == (0, 0, 10, 1.0)


def test_a_gain_that_a_placebo_has_too_bears_a_warning() -> None:
    names = [f"t{i}" for i in range(12)]
    base, ours = report("base", dict.fromkeys(names, (0.0,))), report("ours", dict.fromkeys(names, (1.0,)))
    placebo = report("placebo", dict.fromkeys(names, (1.0,)))
    told, _ = differ([base, ours, placebo], Design(resamples=200), controls=["placebo"])
    assert told.outcome == "helps"
    assert "But placebo, which teaches nothing, does as well" in told.verdict
    idle = report("placebo", dict.fromkeys(names, (0.0,)))
    told, _ = differ([base, ours, idle], Design(resamples=200), controls=["placebo"])
    assert told.warning == ""


async def test_arms_that_choose_the_same_words_for_a_task_make_its_attempts_once(tmp_path: Path) -> None:
    said = iter(range(10_000))
    tasks = TaskSet([Task(id="a", question="about parcels", answer="x"), Task(id="b", question="about trains")])
    first = Experience(id="G0", text="When parcels are late, ask the carrier.")
    arms = {
        "no prior": Library(),
        "one": Library(experiences=(first,)),
        "two": Library(experiences=(first, Experience(id="G1", text="When trains are late, take the bus."))),
    }
    config = EvaluateConfig(resamples=200, k=2, prior=PriorSettings(relevant=2))
    made, model = await compared(tmp_path, lambda request: str(next(said)), tasks=tasks, arms=arms, config=config)
    asked = [(request.key, request.messages) for request in model.requests]
    assert len(asked) == len(set(asked)) == 8
    assert [sum(map(len, arm.tasks.values())) for arm in made.arms] == [4, 4, 4]
    again, model = await compared(tmp_path, [], tasks=tasks, arms=arms, config=config)
    assert again == made
    assert not model.requests
