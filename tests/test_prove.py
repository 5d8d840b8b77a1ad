"""The gate: what ships, what goes back, what stays in doubt, and how much doubt a whole run may spend."""

from __future__ import annotations

import asyncio
import json
import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import world
from tokenprior.config import LearnConfig, PriorSettings
from tokenprior.errors import BudgetReached, ConfigError, TokenpriorError
from tokenprior.experience import Effect, Experience, Provenance
from tokenprior.group import Group
from tokenprior.learn import LearnResult, learn
from tokenprior.library import Library, estimate_tokens
from tokenprior.models.base import Phase, Request
from tokenprior.models.scripted import ScriptedModel
from tokenprior.prior import TokenPrior
from tokenprior.progress import Tracker
from tokenprior.prove import Gate, allowance, decide, prove
from tokenprior.reward import Reward
from tokenprior.rollout import Failure, Rollout, StopReason, Usage
from tokenprior.store import open_store
from tokenprior.task import Task
from tokenprior.trial import Trial

pytestmark = pytest.mark.anyio

GOOD = "When a word is to be repeated, write it in small letters."
BAD = "When anything at all is asked, answer with its opposite, in capitals."
IDLE = "When the sun shines outside, hum one quiet song before starting."
FINE = "When an answer is ready, check every digit against what was asked."
LESSONS = (GOOD, BAD, IDLE, FINE)

Op = Mapping[str, Any]


def add(text: str) -> Op:
    return {"op": "Add", "name": "", "text": text, "reason": "planned"}


def library_of(*texts: str, effects: Mapping[int, Effect] | None = None) -> Library:
    known = effects or {}
    return Library(
        experiences=tuple(Experience(id=f"G{i}", text=text, effect=known.get(i)) for i, text in enumerate(texts))
    )


@dataclass
class Toy:
    """An agent whose chance to be right is a base and what the lessons in its prior add: the truth is known."""

    effects: Mapping[str, float] = field(default_factory=dict)
    base: float = 0.5
    seed: int = 0
    stop_at: int | None = None
    made: list[tuple[Phase, int, str, int, TokenPrior]] = field(default_factory=list)

    @property
    def fingerprint(self) -> str:
        return f"toy-{self.seed}"

    async def attempt(self, task: Task, prior: TokenPrior, *, phase: Phase, step: int, index: int) -> Rollout:
        if self.stop_at is not None and len(self.made) >= self.stop_at:
            raise BudgetReached("calls", self.stop_at, self.stop_at)
        self.made.append((phase, step, task.id, index, prior))
        chance = self.base + sum(effect for words, effect in self.effects.items() if words in prior.text)
        right = world.chance(self.seed, phase, step, task.id, index, prior.text) < chance
        return Rollout(task_id=task.id, index=index, messages=(), output="right" if right else "wrong")

    def at_gate(self) -> list[tuple[str, int, str]]:
        """Task, index and text of each attempt in the gate."""
        return [(task, index, prior.text) for phase, _, task, index, prior in self.made if phase == "gate"]


class Right:
    """Wants the output "right"."""

    fingerprint = "right-1"

    async def verify(self, task: Task, rollout: Rollout) -> Reward:
        return Reward(value=float(rollout.output == "right"))


def planned(plan: Mapping[int, Sequence[Op]]) -> ScriptedModel:
    """A learning model that brings the operations planned for a step, whatever the attempts were."""

    def answer(request: Request) -> str:
        step = request.key.step
        if request.key.phase == "contrast":
            lesson = {"name": "n", "lesson": f"When this is task {step}, think of the planned change number {step}."}
            return json.dumps({"difference": "", "lessons": [lesson]})
        said = request.messages[-1].content
        numbers = [int(n) for n in re.findall(r"^(\d+)\. ", said, re.MULTILINE)]
        keep = [{"op": "Keep", "id": max(re.findall(r"\[(G\d+)\]", said), default="G0"), "lessons": numbers}]
        return json.dumps([{**op, "lessons": numbers} for op in plan.get(step, keep)] or keep)

    return ScriptedModel(answer)


async def gated(
    store: Path,
    plan: Mapping[int, Sequence[Op]],
    agent: Toy,
    *,
    gate_tasks: int = 40,
    practice: int = 8,
    start: Library | None = None,
    verifier: Right | None = None,
    gate_agent: Toy | None = None,
    **changes: object,
) -> tuple[LearnResult, ScriptedModel]:
    """A whole run, of one step for each plan unless the config says otherwise."""
    model = planned(plan)
    every = world.tasks(practice + gate_tasks)
    wanted = {"epochs": max(len(plan), 1), "batch_size": None, "gate": "proven", "gate_error": 0.05, "group_size": 4}
    wanted |= changes
    with open_store(store) as opened:
        record = opened.open_run("r-1", name="r", kind="learn", config={})
        try:
            result = await learn(
                every[:practice],
                agent=agent,
                verifier=verifier or Right(),
                model=model,
                record=record,
                config=world.config(**wanted),
                gate=Gate(tasks=every[practice:], agent=gate_agent or agent),
                start=start,
                tracker=Tracker(None, Usage),
            )
        finally:
            record.close("done")
    return result, model


def trials(result: LearnResult) -> list[tuple[int, str, str]]:
    """Step, part and decision of each trial."""
    return [(report["step"], t["part"], t["decision"]) for report in result.steps for t in report["trials"]]


def texts(library: Library) -> list[str]:
    return [experience.text for experience in library]


# The paper's plain mode.


async def plain(store: Path, start: Library | None) -> tuple[LearnResult, list[Request]]:
    model = ScriptedModel(world.both)
    with open_store(store) as opened:
        record = opened.open_run("r-1", name="r", kind="learn", config={})
        result = await learn(
            world.tasks(8),
            agent=world.agent(model),
            verifier=world.SmallLetters(),
            model=model,
            record=record,
            config=world.config(),
            gate=Gate(tasks=world.tasks(12)[8:], agent=world.agent(model)),
            start=start,
        )
        record.close("done")
    return result, model.requests


async def test_without_gate_and_pairs_every_attempt_sees_the_whole_library_and_no_gate_task_is_attempted(
    tmp_path: Path,
) -> None:
    result, requests = await plain(tmp_path / "s.db", None)
    assert Counter(r.key.phase for r in requests).keys() == {"rollout", "contrast", "revise"}
    before = [Library()]
    with open_store(tmp_path / "s.db") as opened:
        before += [opened.library("r-1", step) for step in range(len(result.steps))]
    for request in requests:
        if request.key.phase == "rollout":
            prior = TokenPrior.of(before[request.key.step])
            assert request.messages[0].content == prior.conditioned("Do what is asked.")
    assert result.library == result.learning
    assert all(report["trials"] == [] and report["effects"] == {} for report in result.steps)


@pytest.mark.parametrize("mean", [0.2, -0.2])
async def test_without_gate_and_pairs_measured_effects_of_a_start_library_change_no_request(
    tmp_path: Path, mean: float
) -> None:
    effect = Effect(mean=mean, low=mean - 0.1, high=mean + 0.1, shrunk=mean / 2, tasks=50, rollouts=100)
    asked = []
    for name, effects in (("with", {0: effect}), ("without", {})):
        _, requests = await plain(tmp_path / f"{name}.db", library_of(IDLE, FINE, effects=effects))
        asked.append(sorted(f"{r.key} {json.dumps(r.content())}" for r in requests))
    assert asked[0] == asked[1]


# What ships.


async def test_a_candidate_that_helps_ships(tmp_path: Path) -> None:
    result, _ = await gated(tmp_path / "s.db", {0: [add(GOOD)]}, Toy({GOOD: 0.4}))
    assert trials(result) == [(0, "whole", "ships")]
    assert texts(result.library) == [GOOD]
    (figures,) = result.steps[0]["trials"]
    assert figures["p"] <= figures["level"] == 0.05
    assert figures["wins"] + figures["losses"] + figures["ties"] == 40
    assert figures["gain"]["low"] <= 0.4 <= figures["gain"]["high"]
    assert result.steps[0]["shipped_version"] == result.library.version


async def test_one_that_does_worse_is_refused_and_learning_goes_back_and_its_ids_are_not_given_again(
    tmp_path: Path,
) -> None:
    plan = {0: [add(BAD)], 1: [add(GOOD)]}
    result, _ = await gated(tmp_path / "s.db", plan, Toy({BAD: -0.4, GOOD: 0.4}))
    assert trials(result) == [(0, "whole", "refused"), (1, "whole", "ships")]
    assert result.steps[0]["experiences"] == 0
    assert [(e.id, e.text) for e in result.library] == [("G1", GOOD)]


async def test_one_that_is_not_proven_stays_in_learning_and_ships_nothing(tmp_path: Path) -> None:
    result, _ = await gated(tmp_path / "s.db", {0: [add(IDLE)]}, Toy(seed=3), start=library_of(FINE), gate_tasks=20)
    assert trials(result) == [(0, "whole", "open")]
    assert texts(result.learning) == [FINE, IDLE]
    assert texts(result.library) == [FINE]


async def test_what_ships_at_the_end_is_the_best_proven_and_not_the_last(tmp_path: Path) -> None:
    plan = {0: [add(GOOD)], 1: [add(BAD)], 2: [add(IDLE)]}
    result, _ = await gated(tmp_path / "s.db", plan, Toy({GOOD: 0.4, BAD: -0.4}))
    assert [decision for _, _, decision in trials(result)][:2] == ["ships", "refused"]
    assert texts(result.library) == [GOOD]
    assert {report["shipped_version"] for report in result.steps} == {result.library.version}


async def test_of_a_candidate_with_a_good_and_a_bad_lesson_the_good_half_ships(tmp_path: Path) -> None:
    plan = {0: [add(BAD), add(GOOD)]}
    result, _ = await gated(tmp_path / "s.db", plan, Toy({BAD: -0.4, GOOD: 0.4}))
    assert [(part, decision) for _, part, decision in trials(result)][1:] == [
        ("1 of 2", "refused"),
        ("2 of 2", "ships"),
    ]
    assert [(e.id, e.text) for e in result.library] == [("G1", GOOD)]
    assert result.learning == result.library, "the bad half is gone from learning too"
    assert [t["level"] for t in result.steps[0]["trials"]] == [0.025, 0.0125, 0.0125]


async def test_without_parts_the_whole_level_is_for_the_candidate(tmp_path: Path) -> None:
    plan = {0: [add(BAD), add(GOOD)]}
    result, _ = await gated(tmp_path / "s.db", plan, Toy({BAD: -0.4, GOOD: 0.4}), gate_parts=False)
    assert [(t["part"], t["level"]) for t in result.steps[0]["trials"]] == [("whole", 0.05)]


@pytest.mark.parametrize(("effect", "ships"), [(0.1, True), (-0.4, False)])
async def test_no_harm_ships_what_did_no_worse_without_proof(tmp_path: Path, effect: float, ships: bool) -> None:
    result, _ = await gated(tmp_path / "s.db", {0: [add(IDLE)]}, Toy({IDLE: effect}), gate="no-harm")
    assert trials(result) == [(0, "whole", "ships" if ships else "refused")]
    assert texts(result.library) == ([IDLE] if ships else [])
    assert result.steps[0]["trials"][0]["level"] == 0


# What is tried, and what is not made again.


async def test_a_candidate_that_comes_again_is_tried_with_more_attempts_and_none_of_the_old_is_made_again(
    tmp_path: Path,
) -> None:
    agent = Toy()
    result, _ = await gated(tmp_path / "s.db", {0: [add(IDLE)], 1: [], 2: []}, agent, gate_tasks=20)
    assert [(step, part) for step, part, _ in trials(result)] == [(0, "whole"), (1, "whole"), (2, "whole")]
    assert Counter(index for _, index, _ in agent.at_gate()) == dict.fromkeys(range(6), 2 * 20), "2, 4 and 6 a task"
    assert len({json.dumps(t["gain"]) for report in result.steps for t in report["trials"]}) == 3, "new evidence"


async def test_every_look_at_the_same_candidate_spends_a_level_of_its_own(tmp_path: Path) -> None:
    result, _ = await gated(tmp_path / "s.db", {0: [add(IDLE)], 1: [], 2: []}, Toy(), gate_tasks=20)
    levels = [t["level"] for report in result.steps for t in report["trials"]]
    assert levels == pytest.approx([0.05 / 3] * 3)
    assert not any(decision == "ships" for _, _, decision in trials(result))


async def test_what_was_refused_is_not_learned_from_when_it_is_proposed_again(tmp_path: Path) -> None:
    drop = [{"op": "Delete", "id": "G0", "reason": "planned"}]
    result, _ = await gated(tmp_path / "s.db", {0: drop, 1: drop}, Toy({GOOD: 0.4}), start=library_of(GOOD))
    assert trials(result) == [(0, "whole", "refused"), (1, "whole", "refused")]
    assert texts(result.library) == [GOOD]
    assert texts(result.learning) == [GOOD]


async def test_what_a_second_look_refuses_is_learned_from_no_longer(tmp_path: Path) -> None:
    """Where the step began stands the candidate itself, so going back there goes nowhere."""
    agent = Toy({IDLE: -0.08}, seed=3)
    result, _ = await gated(tmp_path / "s.db", {0: [add(IDLE)], 1: []}, agent, gate_tasks=20)
    assert trials(result) == [(0, "whole", "open"), (1, "whole", "refused")]
    assert texts(result.learning) == []


async def test_no_attempt_in_the_gate_is_made_twice_and_the_baseline_serves_all_steps(tmp_path: Path) -> None:
    agent = Toy({BAD: -0.4})
    plan = {0: [add(BAD), add(FINE)], 1: [add(IDLE)], 2: [add(FINE)]}
    await gated(tmp_path / "s.db", plan, agent, gate_tasks=20)
    made = Counter(agent.at_gate())
    assert set(made.values()) == {1}
    assert sum(text == "" for _, _, text in made) == 20 * 2
    assert len(made) > 4 * 20 * 2, "there were more trials than one"


async def test_what_differs_in_nothing_from_what_ships_is_not_tried(tmp_path: Path) -> None:
    agent = Toy()
    result, _ = await gated(tmp_path / "s.db", {0: []}, agent, start=library_of(FINE))
    assert trials(result) == []
    assert {text for _, _, text in agent.at_gate()} == {TokenPrior.of(library_of(FINE)).text}, (
        "only what ships is ready"
    )


@dataclass(slots=True, kw_only=True)
class Waiting(Toy):
    """Its last practice attempt of step 0 ends when the gate has had its first."""

    last: int = 8 * 4
    at_the_gate: asyncio.Event = field(default_factory=asyncio.Event)

    async def attempt(self, task: Task, prior: TokenPrior, *, phase: Phase, step: int, index: int) -> Rollout:
        made = await Toy.attempt(self, task, prior, phase=phase, step=step, index=index)
        if phase == "gate":
            self.at_the_gate.set()
        elif len([one for one in self.made if one[0] == "rollout"]) == self.last:
            await self.at_the_gate.wait()
        return made


@dataclass(slots=True, kw_only=True)
class Bounded(Toy):
    concurrency: int = 4


async def test_what_ships_is_attempted_while_practice_goes_on_and_that_changes_nothing_else(tmp_path: Path) -> None:
    plan = {0: [add(GOOD), add(BAD)], 1: [add(IDLE)]}
    effects = {GOOD: 0.4, BAD: -0.4}
    early, late = Waiting(effects=effects), Bounded(effects=effects)
    results = [
        (await gated(tmp_path / f"{number}.db", plan, agent, gate_tasks=20))[0]
        for number, agent in enumerate((early, late))
    ]
    assert results[0].library.dumps() == results[1].library.dumps()
    assert results[0].steps == results[1].steps
    assert Counter(map(str, early.made)) == Counter(map(str, late.made))
    first = [[phase for phase, *_ in agent.made].index("gate") for agent in (early, late)]
    assert first[0] <= 8 * 4 <= first[1], "who bounds its own attempts is not asked for two things at once"


async def test_an_attempt_of_what_ships_that_failed_ahead_of_its_time_is_not_made_again(tmp_path: Path) -> None:
    @dataclass(slots=True, kw_only=True)
    class Failing(Toy):
        async def attempt(self, task: Task, prior: TokenPrior, *, phase: Phase, step: int, index: int) -> Rollout:
            made = await Toy.attempt(self, task, prior, phase=phase, step=step, index=index)
            if phase == "gate" and not prior.text and index == 0:
                failure = Failure(kind="timeout", detail="no reply")
                return replace(made, output="", stop=StopReason.FAILED, failure=failure)
            return made

    agent = Failing(effects={GOOD: 0.4})
    result, _ = await gated(tmp_path / "s.db", {0: [add(GOOD)]}, agent, gate_tasks=20)
    assert set(Counter(agent.at_gate()).values()) == {1}
    assert result.steps[0]["trials"][0]["scored"] < 1


async def test_a_budget_that_ends_in_what_was_begun_early_ends_the_run_in_good_order(tmp_path: Path) -> None:
    plan, effects = {0: [add(GOOD)]}, {GOOD: 0.4}
    whole = Toy(effects=effects)
    undisturbed, _ = await gated(tmp_path / "whole.db", plan, whole, gate_tasks=20)
    stopped = Toy(effects=effects, stop_at=8 * 4 + 5)
    result, _ = await gated(tmp_path / "s.db", plan, stopped, gate_tasks=20)
    assert result.stopped is not None
    rest = Toy(effects=effects)
    result, _ = await gated(tmp_path / "s.db", plan, rest, gate_tasks=20)
    assert result.library.dumps() == undisturbed.library.dumps()
    assert Counter(map(str, stopped.made + rest.made)) == Counter(map(str, whole.made))


async def test_no_gate_task_reaches_the_learning_model(tmp_path: Path) -> None:
    agent = Toy({GOOD: 0.4, BAD: -0.4})
    _, model = await gated(tmp_path / "s.db", {0: [add(BAD)], 1: [add(GOOD)]}, agent, gate_tasks=20, inclusion_pairs=1)
    said = world.texts(model.requests)
    every = world.tasks(28)
    assert every[0].question in said
    assert not [task.id for task in every[8:] if task.question in said]
    assert {task for task, _, _ in agent.at_gate()} == {task.id for task in every[8:]}
    assert not {task for phase, _, task, _, _ in agent.made if phase != "gate"} & {task.id for task in every[8:]}


async def test_what_is_used_says_the_same_until_something_else_ships(tmp_path: Path) -> None:
    """Where not all lessons fit, their effects choose; a choice that was never tried is not used."""
    start = library_of(IDLE, FINE, BAD)
    rendering = PriorSettings(tokens=estimate_tokens(TokenPrior.of(start.only(["G0", "G1"])).text) + 3)
    before = TokenPrior.of(start, rendering.rendering)
    assert before.included == ("G0", "G1")
    result, _ = await gated(
        tmp_path / "s.db",
        {0: []},
        Toy({FINE: -0.1}, seed=4),
        practice=16,
        start=start,
        inclusion_pairs=2,
        prior=rendering,
    )
    assert result.steps[0]["effects"]["G1"]["shrunk"] < 0
    assert trials(result) == []
    assert TokenPrior.of(result.library, rendering.rendering).text == before.text


# Levels.


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(
    st.sampled_from([0.01, 0.05, 0.5]),
    st.lists(st.lists(st.floats(0.0, 1.0), max_size=3), min_size=1, max_size=30),
)
def test_the_levels_of_all_trials_that_find_nothing_never_sum_to_more_than_the_error_of_the_run(
    gate_error: float, steps: list[list[float]]
) -> None:
    config = LearnConfig(gate_error=gate_error)
    figures: list[dict[str, Any]] = []
    for number, p_values in enumerate(steps):
        level = allowance(figures, steps_left=len(steps) - number, config=config)
        assert 0 <= level <= gate_error + 1e-12
        # As `prove` parts it: all for a whole without parts; else half for it, and half for the parts together.
        shares = {0: [], 1: [1.0], 2: [0.5, 0.5], 3: [0.5, 0.25, 0.25]}[len(p_values)]
        for share, p in zip(shares, p_values, strict=True):
            figures.append({"level": level * share, "p": p})
            if p <= level * share:
                break
        lost = sum(one["level"] for one in figures if one["p"] > one["level"])
        assert lost <= gate_error + 1e-12


def test_a_level_comes_back_after_a_trial_that_shipped_and_not_after_one_that_did_not() -> None:
    config = LearnConfig(gate_error=0.06)
    shipped, lost = {"p": 0.001, "level": 0.02}, {"p": 0.5, "level": 0.02}
    assert allowance([], steps_left=3, config=config) == pytest.approx(0.02)
    assert allowance([shipped], steps_left=2, config=config) == pytest.approx(0.03)
    assert allowance([lost], steps_left=2, config=config) == pytest.approx(0.02)
    assert allowance([lost, lost, lost], steps_left=1, config=config) == pytest.approx(0.0)


async def test_a_run_that_is_stopped_anywhere_in_the_gate_ends_as_one_that_was_not(tmp_path: Path) -> None:
    plan = {0: [add(BAD), add(FINE)], 1: [add(GOOD)]}
    effects = {BAD: -0.3, GOOD: 0.4}
    whole = Toy(effects)
    undisturbed, _ = await gated(tmp_path / "whole.db", plan, whole, gate_tasks=12, inclusion_pairs=1)
    assert len(trials(undisturbed)) > 2
    first_gate = next(place for place, made in enumerate(whole.made) if made[0] == "gate")
    made: list[Any] = []
    for stop_at in (first_gate + 5, 20, 33, 7):  # attempts that each invocation may make
        stopped = Toy(effects, stop_at=stop_at)
        result, _ = await gated(tmp_path / "s.db", plan, stopped, gate_tasks=12, inclusion_pairs=1)
        assert result.stopped
        made += stopped.made
    rest = Toy(effects)
    result, _ = await gated(tmp_path / "s.db", plan, rest, gate_tasks=12, inclusion_pairs=1)
    made += rest.made
    assert result.library.dumps() == undisturbed.library.dumps()
    assert result.steps == undisturbed.steps, "the same trials at the same levels"
    assert Counter(map(str, made)) == Counter(map(str, whole.made)), "nothing is attempted twice"


# The rate of errors, and power: 40 gate tasks, 2 attempts at each.


class Shelf:
    """Keeps attempts in memory, for `prove` alone."""

    def __init__(self) -> None:
        self.kept: dict[tuple[object, ...], tuple[Rollout, str | None, Reward | None]] = {}

    @property
    def shelf(self) -> Shelf:
        return self

    async def find(
        self, phase: str, step: int, task: str, made_of: Mapping[int, str]
    ) -> dict[int, tuple[Rollout, str | None, Reward | None]]:
        places = {index: (phase, step, task, index, hashed) for index, hashed in made_of.items()}
        return {index: self.kept[place] for index, place in places.items() if place in self.kept}

    async def save(
        self, phase: str, step: int, made_of: str, rollout: Rollout, verifier: str | None, reward: Reward | None
    ) -> None:
        self.kept[(phase, step, rollout.task_id, rollout.index, made_of)] = (rollout, verifier, reward)


async def simulated(
    effects: Mapping[str, float], steps: Sequence[Sequence[str]], *, seed: int, **changes: Any
) -> Library:
    """The gate's part of a run: in each step some lessons are added to where learning stands."""
    config = LearnConfig(seed=seed, **changes)
    shelf, agent = Shelf(), Toy(effects, base=0.25, seed=seed)
    shipped = learning = Library()
    figures: list[dict[str, Any]] = []
    for number, lessons in enumerate(steps):
        new = [Experience(id=f"G{learning.next_number + i}", text=text) for i, text in enumerate(lessons)]
        candidate = replace(learning, experiences=(*learning, *new))
        made = await prove(
            candidate,
            shipped,
            gate=Gate(tasks=TASKS_40, agent=agent),
            verifier=Right(),
            record=shelf,  # type: ignore[arg-type]
            config=config,
            level=allowance(figures, steps_left=len(steps) - number, config=config),
            tried=Counter(figure["candidate"] for figure in figures if figure["against"] == shipped.version),
            tracker=Tracker(None, Usage),
        )
        figures += [trial.to_json() for trial in made]
        if proven := [trial.candidate for trial in made if trial.decision == "ships"]:
            shipped = learning = proven[0]
        elif made[0].decision == "refused":
            learning = replace(learning, next_number=candidate.next_number)
        else:
            learning = candidate
    return shipped


TASKS_40 = list(world.tasks(40))


async def test_where_no_lesson_does_anything_hardly_a_run_ships_one() -> None:
    """60 runs of two steps: three of them are expected at most, more than 7 have a chance of 1 in 100 at 5%."""
    shipped = [await simulated({}, [[IDLE, FINE], [GOOD]], seed=seed, gate_error=0.05) for seed in range(60)]
    assert sum(len(library) > 0 for library in shipped) <= 7


async def test_a_lesson_worth_a_third_ships_from_40_gate_tasks_in_nine_runs_of_ten() -> None:
    shipped = [await simulated({GOOD: 0.35}, [[GOOD], [IDLE]], seed=seed) for seed in range(30)]
    assert sum(GOOD in texts(library) for library in shipped) >= 27


# Odd cases.


def groups(values: Sequence[Sequence[float | None]]) -> list[Group]:
    return [
        Group(
            task=TASKS_40[place],
            rollouts=tuple(
                Rollout(task_id=TASKS_40[place].id, index=i, messages=(), output="x") for i in range(len(rewards))
            ),
            rewards=tuple(Reward.unscored("away") if v is None else Reward(value=v) for v in rewards),
        )
        for place, rewards in enumerate(values)
    ]


def decided(
    here: Sequence[Sequence[float | None]], there: Sequence[Sequence[float | None]], level: float = 0.05, **changes: Any
) -> Trial:
    return decide(
        library_of(IDLE),
        Library(),
        part=changes.pop("part", "whole"),
        groups=groups(here),
        baseline=groups(there),
        level=level,
        config=LearnConfig(**changes),
    )


def test_too_few_scored_gate_tasks_prove_nothing() -> None:
    won, lost = [[1.0, 1.0]] * 40, [[0.0, 0.0]] * 40
    assert decided(won, lost).decision == "ships"
    for missing, decision in ((8, "ships"), (9, "open")):
        here = [*won[missing:], *[[None, None]] * missing]
        trial = decided(here, lost)
        assert (trial.decision, trial.missing, trial.wins) == (decision, missing, 40 - missing)


def test_a_task_counts_by_its_scored_attempts_and_only_if_both_sides_have_some() -> None:
    trial = decided([[1.0, None], [None, None], [1.0, 0.5]], [[0.0, 0.0], [0.0, 0.0], [None, 0.75]])
    assert (trial.wins, trial.missing) == (1, 1)
    assert trial.wins + trial.losses + trial.ties == trial.gain.n == 2


def test_what_one_side_lost_is_left_out_of_the_other() -> None:
    """Means of one attempt and of two differ lopsidedly: with a base rate of 0.9, and a candidate of no effect that
    loses one attempt of every task, 8 of 100 simulated runs shipped it at a `gate_error` of 5."""
    assert decided([[1.0, None]] * 20, [[1.0, 0.0]] * 20).gain.mean == 0
    assert decided([[None, 1.0]] * 20, [[1.0, 0.0]] * 20).gain.mean == 1


def test_no_scored_gate_task_at_all_is_an_error_and_no_result() -> None:
    with pytest.raises(TokenpriorError, match="no gate task was scored") as caught:
        decided([[None], [1.0]], [[1.0], [None]])
    assert "\n" not in str(caught.value)


async def test_an_outage_in_the_gate_is_not_recorded_and_the_same_call_goes_on(tmp_path: Path) -> None:
    class Away(Right):
        async def verify(self, task: Task, rollout: Rollout) -> Reward:
            gate = task.id in {t.id for t in world.tasks(48)[8:]}
            return Reward.unscored("the judge was away") if gate else await super().verify(task, rollout)

    plan, agent = {0: [add(GOOD)]}, Toy({GOOD: 0.4})
    with pytest.raises(TokenpriorError, match="no gate task was scored"):
        await gated(tmp_path / "s.db", plan, agent, verifier=Away())
    result, _ = await gated(tmp_path / "s.db", plan, agent)
    assert trials(result) == [(0, "whole", "ships")]
    assert set(Counter(agent.at_gate()).values()) == {1}, "what was attempted is only judged again"


@pytest.mark.parametrize("gate", ["proven", "no-harm"])
async def test_a_gate_without_gate_tasks_is_an_error_in_one_line(tmp_path: Path, gate: str) -> None:
    with pytest.raises(ConfigError, match=r"no gate tasks: set tasks\.split\.gate") as caught:
        await gated(tmp_path / "s.db", {0: []}, Toy(), gate_tasks=0, gate=gate)
    assert "\n" not in str(caught.value)


async def test_one_gate_task_one_attempt_and_an_empty_library_are_no_crash_and_no_proof(tmp_path: Path) -> None:
    result, _ = await gated(
        tmp_path / "s.db",
        {0: [add(GOOD)], 1: [add(IDLE)]},
        Toy({GOOD: 0.4}),
        gate_tasks=1,
        gate_k=1,
        group_size=1,
        inclusion_pairs=1,
        learn_from=("mixed", "all_fail", "all_success"),
    )
    assert result.stopped is None
    assert {decision for _, _, decision in trials(result)} <= {"open", "refused"}
    assert len(result.library) == 0
    json.dumps(result.steps, allow_nan=False)


# What a trial says.


def test_the_number_of_gate_tasks_that_would_prove_a_gain_is_more_than_did_not() -> None:
    """Whatever the level: 40 tasks with this gain have just failed to prove it."""
    rng = random.Random(1)
    for level in (0.05, 0.0125, 0.001):
        for _ in range(60):
            here = [[float(rng.random() < 0.5), float(rng.random() < 0.5)] for _ in range(40)]
            there = [[float(rng.random() < 0.3), float(rng.random() < 0.3)] for _ in range(40)]
            trial = decided(here, there, level)
            if trial.decision == "open" and trial.needed is not None:
                assert trial.needed > 40, (level, trial.sentence)


def test_a_trial_that_met_its_level_is_not_said_to_lack_proof_by_it() -> None:
    few = [[1.0, 1.0]] * 20 + [[None, None]] * 20
    trial = decided(few, [[0.0, 0.0]] * 40)
    assert trial.decision == "open"
    assert trial.p <= trial.level
    assert "needed" not in trial.sentence, trial.sentence
    assert "would prove" not in trial.sentence, trial.sentence


async def test_of_two_halves_that_may_ship_under_no_harm_the_other_is_not_measured_by_a_level_of_zero(
    tmp_path: Path,
) -> None:
    plan = {0: [add(FINE), add(BAD), add(GOOD), add(IDLE)]}
    agent = Toy({FINE: 0.4, BAD: 0.0, GOOD: 0.4, IDLE: 0.0, f"{BAD}\n[G2] {GOOD}": -1.2})
    result, _ = await gated(tmp_path / "s.db", plan, agent, gate="no-harm")
    assert sorted(decision for _, _, decision in trials(result)) == ["outdone", "refused", "ships"]
    assert not any("needed 0" in t["sentence"] for t in result.steps[0]["trials"]), result.steps[0]["trials"]


def test_each_decision_is_told_with_its_figures() -> None:
    won, lost, none = [[1.0]] * 40, [[0.0]] * 40, [[0.0], [1.0]] * 20
    sentence = decided(won, lost).sentence
    assert sentence.startswith("the candidate ships: +1.000 [+1.000, +1.000] (40 gate tasks better, 0 worse, 0 equal)")
    assert decided(lost, won).sentence.startswith("the candidate is refused, for it did worse: -1.000")
    assert decided(none, none, part="1 of 2").sentence.startswith("part 1 of 2 of its changes is not proven: +0.000")
    assert decided(none, none, gate="no-harm").sentence.startswith("the candidate ships, for it did no worse: +0.000")


# Provenance that a refused step must not lose.


async def test_what_goes_back_keeps_its_lessons_with_their_provenance(tmp_path: Path) -> None:
    start = library_of(FINE)
    start = replace(
        start, experiences=tuple(replace(e, provenance=Provenance(run="other", groups=("t9",))) for e in start)
    )
    result, _ = await gated(tmp_path / "s.db", {0: [add(BAD)]}, Toy({BAD: -0.4}), start=start)
    assert trials(result) == [(0, "whole", "refused")]
    assert result.learning.experiences == start.experiences
    assert result.learning.next_number == 2, "G1 was given"
