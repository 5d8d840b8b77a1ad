"""The effect of each lesson: the design, the estimate, and what learning does with it."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import world
from test_prove import BAD, FINE, GOOD, IDLE, Toy, add, gated, library_of, texts, trials
from tokenprior.config import LearnConfig
from tokenprior.effects import ENOUGH, Observation, estimate, halves, measure, observed
from tokenprior.experience import Effect
from tokenprior.group import Group
from tokenprior.library import Bounds
from tokenprior.operation import Add, Delete, Keep, Merge, Modify
from tokenprior.practise import group_priors
from tokenprior.reward import Reward
from tokenprior.rollout import Rollout
from tokenprior.store import codec, open_store
from tokenprior.task import Task

pytestmark = pytest.mark.anyio

LAW = settings(max_examples=200, deadline=None, derandomize=True, database=None)
counts = st.integers(1, 40)
seeds = st.integers(0, 1000).map(str)


def names(count: int) -> list[str]:
    return [f"G{i}" for i in range(count)]


# The design.


@LAW
@given(counts, st.integers(0, 10_000), seeds)
def test_each_lesson_is_in_exactly_one_of_the_two_parts(count: int, row: int, seed: str) -> None:
    part, rest = halves(names(count), row=row, seed=seed)
    assert part | rest == set(names(count))
    assert not part & rest
    assert halves(names(count), row=row, seed=seed) == (part, rest)


@LAW
@given(counts, st.integers(0, 5), st.integers(1, 2), seeds)
def test_over_whole_designs_lessons_are_balanced_alone_and_in_pairs(
    count: int, first: int, designs: int, seed: str
) -> None:
    size = 1 << count.bit_length()
    rows = [halves(names(count), row=first + row, seed=seed) for row in range(size * designs)]
    alone = Counter(i for part, _ in rows for i in part)
    assert alone == dict.fromkeys(names(count), size * designs // 2)
    together = Counter(two for parts in rows for part in parts for two in combinations(sorted(part), 2))
    assert set(together.values()) <= {2 * size * designs // 4}
    assert len(together) == count * (count - 1) // 2


@LAW
@given(counts, seeds)
def test_there_are_few_different_parts(count: int, seed: str) -> None:
    parts = {part for row in range(200) for part in halves(names(count), row=row, seed=seed)}
    assert len(parts) <= 2 << count.bit_length()


def test_one_step_and_another_give_a_lesson_other_columns() -> None:
    rows = {seed: [halves(names(6), row=row, seed=seed) for row in range(8)] for seed in ("0/0", "0/1", "0/2")}
    assert len({str(sorted(map(sorted, parts))) for row in zip(*rows.values(), strict=True) for parts in row}) > 8


@pytest.mark.parametrize(("size", "pairs", "whole"), [(1, 3, 1), (2, 1, 0), (4, 1, 2), (5, 2, 1), (5, 9, 1), (3, 0, 3)])
def test_a_group_keeps_its_size_and_pairs_come_last(size: int, pairs: int, whole: int) -> None:
    library = library_of(GOOD, BAD, IDLE, FINE)
    config = LearnConfig(group_size=size, inclusion_pairs=pairs)
    priors = group_priors(library, world.tasks(1)[0], config, place=3)
    assert len(priors) == size
    assert [prior.included for prior in priors[:whole]] == [("G0", "G1", "G2", "G3")] * whole
    for one, other in zip(priors[whole::2], priors[whole + 1 :: 2], strict=True):
        assert sorted([*one.included, *other.included]) == names(4)
        assert list(one.included) == sorted(one.included), "in the order of the library"


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_small_batches_tell_lessons_apart_as_large_ones_do(batch: int) -> None:
    """The design has to go on from step to step: its first row shows everything or nothing."""
    library = library_of(GOOD, BAD, IDLE)
    config = LearnConfig(group_size=2, inclusion_pairs=1)
    made = []
    for number, task in enumerate(world.tasks(40)):
        step, place = divmod(number, batch)
        priors = group_priors(library, task, config, place=step * batch + place)
        attempts = tuple((frozenset(prior.included), 0.5 * ("G1" in prior.included)) for prior in priors)
        made.append(Observation(task=task.id, step=step, attempts=attempts))
    found = estimate(made, since(3))
    assert found.keys() == {"G0", "G1", "G2"}
    assert found["G1"].mean == pytest.approx(0.5)


def test_an_empty_library_has_no_parts() -> None:
    priors = group_priors(library_of(), world.tasks(1)[0], LearnConfig(inclusion_pairs=2), place=0)
    assert {prior.text for prior in priors} == {""}
    assert len(priors) == 5


# The estimate.


def seen(
    count: int,
    tasks: int,
    reward: Callable[[str, frozenset[str], int], float],
    *,
    whole: int = 1,
    pairs: int = 1,
    step: int = 0,
) -> list[Observation]:
    """Groups as learning makes them: some attempts with everything, then pairs of parts."""
    made = []
    for place in range(tasks):
        task = f"t{place}"
        parts = [frozenset(names(count))] * whole
        for pair in range(pairs):
            parts += halves(names(count), row=place * pairs + pair, seed=str(step))
        attempts = tuple((part, reward(task, part, index)) for index, part in enumerate(parts))
        made.append(Observation(task=task, step=step, attempts=attempts))
    return made


def since(count: int, step: int = 0) -> dict[str, int]:
    return dict.fromkeys(names(count), step)


@LAW
@given(st.lists(st.floats(-1.0, 1.0), min_size=1, max_size=8), st.integers(0, 3), st.integers(1, 2), st.integers(0, 99))
def test_without_noise_known_effects_come_back_exactly(effects: list[float], whole: int, pairs: int, seed: int) -> None:
    true = dict(zip(names(len(effects)), effects, strict=True))
    rng = random.Random(seed)
    base = {f"t{i}": rng.random() for i in range(40)}
    observations = seen(
        len(effects), 40, lambda task, part, _: base[task] + sum(true[i] for i in part), whole=whole, pairs=pairs
    )
    found = estimate(observations, since(len(effects)))
    assert found.keys() == true.keys()
    for i, effect in found.items():
        assert effect.mean == pytest.approx(true[i], abs=1e-6)
        assert effect.high - effect.low == pytest.approx(0, abs=1e-6)
        assert (effect.tasks, effect.rollouts) == (40, 40 * (whole + 2 * pairs))


def test_the_interval_holds_the_truth_in_95_of_100_runs() -> None:
    """Lessons work on some tasks more than on others, and attempts at one task are alike."""
    rng = random.Random(11)
    true = {"G0": 0.2, "G1": -0.1, "G2": 0.0}
    held, runs = Counter[str](), 400
    for _ in range(runs):
        level = {f"t{i}": rng.uniform(0.3, 0.7) for i in range(30)}
        on_task = {(t, i): rng.gauss(mean, 0.2) for t in level for i, mean in true.items()}

        def reward(
            task: str,
            part: frozenset[str],
            _: int,
            level: Mapping[str, float] = level,
            on_task: Mapping[tuple[str, str], float] = on_task,
        ) -> float:
            return float(rng.random() < level[task] + sum(on_task[task, i] for i in part))

        for i, effect in estimate(seen(3, 30, reward, whole=1, pairs=1), since(3)).items():
            # A chance is cut off at 0 and 1, so the truth is what the same tasks show in the long run: nearly `true`.
            held[i] += effect.low <= true[i] * 0.97 <= effect.high
    for i in true:
        assert 0.92 <= held[i] / runs <= 0.98, held


def test_lessons_that_always_came_and_went_together_are_left_out_and_the_others_are_not() -> None:
    def glued(part: frozenset[str]) -> frozenset[str]:
        return part - {"G1"} | ({"G1"} if "G0" in part else set())

    made = seen(3, 20, lambda task, part, _: 0.5 * ("G2" in part) + 0.3 * ("G0" in part))
    glue = [replace(o, attempts=tuple((glued(part), reward) for part, reward in o.attempts)) for o in made]
    found = estimate(glue, since(3))
    assert found.keys() == {"G2"}
    assert found["G2"].mean == pytest.approx(0.5)


def test_what_never_varied_has_no_effect() -> None:
    made = seen(2, 20, lambda task, part, _: 0.5 * ("G0" in part))
    always = [replace(o, attempts=tuple((part | {"G7"}, reward) for part, reward in o.attempts)) for o in made]
    assert estimate(always, since(2) | {"G7": 0, "G8": 0}).keys() == {"G0", "G1"}
    assert estimate([], since(2)) == {}


@pytest.mark.parametrize("count", [1, 3, 7])
def test_too_few_tasks_say_nothing(count: int) -> None:
    rng = random.Random(0)
    for tasks, told in ((count + ENOUGH - 1, False), (count + ENOUGH, True)):
        made = seen(count, tasks, lambda *_: rng.random(), pairs=2)
        assert (len(estimate(made, since(count))) > 0) is told
        again = [replace(o, step=1) for o in made]
        assert (len(estimate([*made, *again], since(count))) > 0) is told, "the same tasks again are no more tasks"


def test_what_was_seen_of_a_lesson_before_it_got_its_words_does_not_count() -> None:
    def group(task: Task, included: Sequence[str], reward: float) -> Group:
        seen_by = [tuple(included), ()]
        return Group(
            task=task,
            rollouts=tuple(
                Rollout(task_id=task.id, index=i, messages=(), output="x", included=ids)
                for i, ids in enumerate(seen_by)
            ),
            rewards=(Reward(value=reward), Reward(value=0.5)),
        )

    before, after = library_of(GOOD), library_of(BAD)
    tasks = world.tasks(12)
    old = observed([group(task, ["G0"], 1.0) for task in tasks], before, 0)
    new = observed([group(task, ["G0"], 0.1) for task in tasks], after, 1)
    assert measure(before, [*old, *new])["G0"].mean == pytest.approx(0.5)
    assert measure(after, [*old, *new])["G0"].mean == pytest.approx(-0.4)
    assert measure(after, [*old, *new])["G0"].rollouts == 24
    assert measure(after, old) == {}


def test_shrinking_never_overshoots_and_leaves_nothing_where_all_is_noise() -> None:
    rng = random.Random(5)
    zero = 0
    for _ in range(100):
        for effect in estimate(seen(6, 30, lambda *_: float(rng.random() < 0.5)), since(6)).values():
            assert abs(effect.shrunk) <= abs(effect.mean)
            assert effect.shrunk * effect.mean >= 0
            zero += effect.shrunk == 0
    assert zero > 200, "where the scatter is no more than chance brings, nothing is left of it"
    real = estimate(seen(2, 60, lambda task, part, _: rng.random() / 5 + 0.5 * ("G0" in part)), since(2))
    assert real["G0"].shrunk > 0.9 * real["G0"].mean


@pytest.mark.parametrize("reward", [0.1, 0.7, 0.3])
@pytest.mark.parametrize("whole", [0, 1, 2, 3])
def test_where_nothing_differs_no_lesson_hurts(reward: float, whole: int) -> None:
    """Rounding errors are no evidence: 0.1 + 0.1 + 0.1 is not 0.3."""
    found = estimate(seen(3, 20, lambda *_: reward, whole=whole), since(3))
    assert not [effect for effect in found.values() if effect.hurts], found
    assert all(effect.mean == pytest.approx(0, abs=1e-9) for effect in found.values())


@pytest.mark.parametrize("gain", [0.1, 0.3, -0.2])
def test_a_lesson_that_does_nothing_does_not_hurt_beside_one_that_does_something_always(gain: float) -> None:
    for whole in (0, 1, 2):
        found = estimate(seen(3, 24, lambda task, part, _: 0.4 + gain * ("G0" in part), whole=whole), since(3))
        assert found["G0"].hurts is (gain < 0)
        assert not found["G1"].hurts, found["G1"]
        assert not found["G2"].hurts, found["G2"]


def test_only_groups_whose_scored_attempts_saw_different_things_are_observed() -> None:
    task = world.tasks(1)[0]

    def group(*attempts: tuple[Sequence[str], float | None]) -> Group:
        return Group(
            task=task,
            rollouts=tuple(
                Rollout(task_id=task.id, index=i, messages=(), output="x", included=tuple(included))
                for i, (included, _) in enumerate(attempts)
            ),
            rewards=tuple(Reward.unscored("away") if v is None else Reward(value=v) for _, v in attempts),
        )

    alike = group((["G0"], 1.0), (["G0"], 0.0))
    half = group((["G0"], 1.0), ([], None), (["G0"], 0.0))
    differs = group((["G0"], 1.0), ([], 0.0), (["G0", "G1"], None))
    library = library_of(GOOD, BAD)
    found = observed([alike, half, differs], library, 4)
    assert [(o.task, o.step, o.attempts) for o in found] == [
        (task.id, 4, ((frozenset({library["G0"].key}), 1.0), (frozenset(), 0.0)))
    ]


# What learning does with it.

PLANTED = {BAD: -0.2, GOOD: 0.2}


async def planted(store: Path, *, epochs: int = 2, **changes: object) -> tuple[dict[str, object], ...]:
    result, _ = await gated(
        store,
        {},
        Toy(PLANTED, seed=2, base=0.5),
        practice=100,
        gate_tasks=0,
        start=library_of(BAD, GOOD, IDLE),
        **{"gate": "none", "inclusion_pairs": 2, "epochs": epochs, "group_size": 4, **changes},
    )
    assert texts(result.library) == [GOOD, IDLE]
    return result.steps


async def test_a_planted_lesson_that_costs_a_fifth_is_dropped_in_one_epoch_and_one_that_brings_it_stays(
    tmp_path: Path,
) -> None:
    (report,) = await planted(tmp_path / "s.db", epochs=1)
    with open_store(tmp_path / "s.db") as store:
        (deleted,) = [row for row in store.rows("operations", "r-1") if row["operation"]["op"] == "Delete"]
        library = store.library("r-1")
    assert deleted["operation"]["id"] == "G0"
    assert deleted["outcome"] == "done"
    effects = report["effects"]
    assert isinstance(effects, dict)
    effect = Effect(**effects["G0"])
    assert deleted["reason"] == f"measured: {effect}"
    assert effect.low <= -0.2 <= effect.high < 0
    assert (effect.tasks, effect.rollouts) == (100, 400)
    kept = library["G1"].effect
    assert kept is not None
    assert 0 < kept.low <= 0.2 <= kept.high


async def test_effects_survive_a_resumed_run_and_are_of_all_steps(tmp_path: Path) -> None:
    steps = await planted(tmp_path / "s.db", epochs=2)
    again = await planted(tmp_path / "s.db", epochs=2)
    assert again == steps
    effects = steps[1]["effects"]
    assert isinstance(effects, dict)
    assert effects["G1"]["rollouts"] == 800, "both epochs"
    assert effects["G1"]["tasks"] == 100
    with open_store(tmp_path / "s.db") as store:
        assert store.library("r-1")["G1"].effect == Effect(**effects["G1"])


async def test_a_run_cut_between_its_steps_estimates_as_one_that_was_not(tmp_path: Path) -> None:
    whole = await planted(tmp_path / "whole.db", epochs=2)
    agent = Toy(PLANTED, seed=2, stop_at=650)
    settings: dict[str, object] = {"gate": "none", "inclusion_pairs": 2, "epochs": 2}
    start = library_of(BAD, GOOD, IDLE)
    stopped, _ = await gated(
        tmp_path / "s.db",
        {},
        agent,
        practice=100,
        gate_tasks=0,
        start=start,
        **settings,  # type: ignore[arg-type]
    )
    assert stopped.stopped
    assert len(stopped.steps) == 1
    assert await planted(tmp_path / "s.db", epochs=2) == whole


async def test_a_reworded_lesson_is_measured_anew_from_the_step_after(tmp_path: Path) -> None:
    modify = {"op": "Modify", "id": "G0", "name": "", "text": GOOD, "reason": "planned"}
    plan = {0: [modify], 1: []}
    result, _ = await gated(
        tmp_path / "s.db",
        plan,
        Toy(seed=3),
        practice=12,
        gate_tasks=0,
        start=library_of(IDLE),
        gate="none",
        inclusion_pairs=1,
    )
    assert texts(result.library) == [GOOD]
    assert [report["effects"]["G0"]["rollouts"] for report in result.steps] == [12 * 4, 12 * 4]


async def test_what_was_seen_of_other_words_does_not_count_when_a_half_that_ships_brings_the_old_words_back(
    tmp_path: Path,
) -> None:
    """Step 0 rewords G0, which stays in doubt; in step 1 the half without the rewording ships."""
    worse = "When the word is long, spell it backwards and twice."
    modify = {"op": "Modify", "id": "G0", "name": "", "text": worse, "reason": "planned"}
    keep = {"op": "Keep", "id": "G0"}
    result, _ = await gated(
        tmp_path / "s.db",
        {0: [modify], 1: [add(GOOD)], 2: [keep]},
        Toy(base=0.4, seed=1),
        practice=12,
        start=library_of(IDLE),
        gate_agent=Toy({GOOD: 0.6, f"{worse}\n[G1] {GOOD}": -0.7}, base=0.4, seed=2),
        inclusion_pairs=1,
    )
    assert [one for one in trials(result) if one[0] < 2 and one[2] != "refused"] == [
        (0, "whole", "open"),
        (1, "2 of 2", "ships"),
    ]
    assert texts(result.library) == [IDLE, GOOD]
    # Steps 0 and 2 showed the old words, each in 12 groups of 4; step 1 showed the others.
    assert result.steps[2]["effects"]["G0"]["rollouts"] == 2 * 12 * 4


def test_new_words_have_no_effect_yet_and_kept_ones_keep_theirs() -> None:
    effect = Effect(mean=0.1, low=0.0, high=0.2, shrunk=0.05, tasks=30, rollouts=60)
    library = library_of(GOOD, BAD, IDLE, FINE, effects=dict.fromkeys(range(4), effect))
    done = library.apply(
        [
            Modify(id="G0", name="", text="When a word is short, say it once and stop there."),
            Merge(ids=("G1", "G2"), name="", text="When two rules were merged, follow the better half of both."),
            Keep(id="G3"),
            Add(name="", text="When nobody has measured a rule, call it new and unproven."),
        ],
        bounds=Bounds(),
    )
    assert len(done.done) == 4
    assert [(e.id, e.effect) for e in done.library] == [("G0", None), ("G1", None), ("G3", effect), ("G4", None)]


def test_over_its_bounds_a_library_drops_what_brings_least_and_of_equals_the_youngest() -> None:
    def brings(shrunk: float) -> Effect:
        return Effect(mean=shrunk, low=-1.0, high=1.0, shrunk=shrunk, tasks=30, rollouts=60)

    effects = {0: brings(-0.05), 1: brings(0.1), 3: brings(-0.01)}
    library = library_of(GOOD, BAD, IDLE, FINE, effects=effects)
    applied = library.apply(
        [Add(name="", text="When a rule is new, let it stand last.")], bounds=Bounds(max_experiences=1)
    )
    assert [done.id for done in applied.done if isinstance(done, Delete)] == ["G0", "G3", "G4", "G2"]
    assert [e.id for e in applied.library] == ["G1"]


def test_without_ground_truth_no_reward_chooses_which_lessons_stay() -> None:
    library = library_of(GOOD, BAD)
    config = LearnConfig(group_size=4, inclusion_pairs=2, ground_truth=False)
    priors = group_priors(library, world.tasks(1)[0], config, place=1)
    assert [prior.included for prior in priors] == [("G0", "G1")] * 4


def test_new_words_are_not_measured_by_what_was_seen_of_old_ones() -> None:
    """24 tasks with other words are no evidence of lessons that varied at a few tasks since."""
    rng = random.Random(7)
    old = [replace(o, attempts=tuple((frozenset(f"old{i}" for i in part), y) for part, y in o.attempts))
           for o in seen(6, 24, lambda *_: float(rng.random() < 0.5))]  # fmt: skip
    few = [replace(o, step=1) for o in seen(6, 9, lambda *_: float(rng.random() < 0.5))]
    assert estimate([*old, *few], names(6)) == {}
    hurting = told = 0
    for _ in range(150):
        new = [replace(o, step=1) for o in seen(6, 12, lambda *_: float(rng.random() < 0.5))]
        found = estimate([*old, *new], names(6))
        told += len(found)
        hurting += sum(effect.hurts for effect in found.values())
    assert told == 900
    assert hurting / told < 0.045


def test_observations_are_kept_with_each_part_written_once_and_those_of_before_are_read() -> None:
    whole, part = frozenset({"a", "b"}), frozenset({"a"})
    seen = tuple(
        Observation(task=f"t{n}", step=2, attempts=((whole, 1.0), (part, 0.5), (whole, 0.0))) for n in range(2)
    )
    kept = codec.observations_to_json(seen)
    assert kept["parts"] == [["a", "b"], ["a"]]
    assert codec.observations_from_json(json.loads(codec.dumps(kept))) == seen
    before = [[one.task, 2, [[sorted(included), reward] for included, reward in one.attempts]] for one in seen]
    assert codec.observations_from_json(before) == seen
