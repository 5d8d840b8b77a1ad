"""The audit: rollouts spent on what each lesson of a library does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pytest

import world
from test_prove import BAD, FINE, GOOD, IDLE, Right, Toy, library_of
from tokenprior.audit import Audit, audit
from tokenprior.errors import BudgetReached, ConfigError
from tokenprior.library import Library
from tokenprior.progress import Tracker
from tokenprior.reward import Reward
from tokenprior.rollout import Rollout, Usage
from tokenprior.store import open_store
from tokenprior.task import Task

pytestmark = pytest.mark.anyio

TRUE = {BAD: -0.35, GOOD: 0.35}
LIBRARY = library_of(IDLE, BAD, FINE, GOOD)


async def audited(
    store: Path,
    agent: Toy,
    *,
    library: Library = LIBRARY,
    rollouts: int = 400,
    tasks: int = 40,
    verifier: Right | None = None,
    **changes: object,
) -> Audit:
    with open_store(store) as opened:
        record = opened.open_run("a-1", name="a", kind="audit", config={})
        try:
            return await audit(
                world.tasks(tasks),
                library,
                agent=agent,
                verifier=verifier or Right(),
                record=record,
                config=world.config(**changes),
                rollouts=rollouts,
                tracker=Tracker(None, Usage),
            )
        finally:
            record.close("done")


async def test_finds_what_is_planted_and_tells_it_from_what_does_nothing(tmp_path: Path) -> None:
    found = await audited(tmp_path / "s.db", Toy(TRUE))
    effects = {e.text: e.effect for e in found.library if e.effect}
    assert effects.keys() == {IDLE, BAD, FINE, GOOD}
    for text, effect in effects.items():
        assert effect.low <= TRUE.get(text, 0.0) <= effect.high
    assert effects[BAD].hurts
    assert effects[GOOD].low > 0
    assert set(found.settled) == {"G1", "G3"}
    assert found.library.version == LIBRARY.version, "not a word is changed"
    assert (found.rollouts, found.unscored) == (400, 0)


async def test_what_is_settled_is_varied_no_longer_and_stands_as_it_would_ship(tmp_path: Path) -> None:
    agent = Toy(TRUE)
    await audited(tmp_path / "s.db", agent)
    first = [prior.included for _, step, _, _, prior in agent.made if step == 0]
    last = [prior.included for _, step, _, _, prior in agent.made if step == 4]
    for identity in ("G0", "G1", "G2", "G3"):
        assert 0 < sum(identity in included for included in first) < len(first)
    assert not any("G1" in included for included in last), "what hurts is left out"
    assert all("G3" in included for included in last), "what helps is always there"
    for identity in ("G0", "G2"):
        assert sum(identity in included for included in last) == len(last) / 2


async def test_ends_as_soon_as_nothing_is_in_doubt(tmp_path: Path) -> None:
    found = await audited(tmp_path / "s.db", Toy({GOOD: 0.45}), library=library_of(GOOD), rollouts=4_000)
    assert found.settled == ("G0",)
    assert found.rollouts <= 160


@pytest.mark.parametrize("rollouts", [16, 17, 79, 80, 101, 250])
async def test_never_makes_more_rollouts_than_it_was_given_and_none_without_its_pair(
    tmp_path: Path, rollouts: int
) -> None:
    agent = Toy()
    found = await audited(tmp_path / "s.db", agent, rollouts=rollouts)
    assert len(agent.made) == found.rollouts == rollouts // 2 * 2
    assert set(Counter((step, task) for _, step, task, _, _ in agent.made).values()) == {2}
    assert {phase for phase, *_ in agent.made} == {"audit"}


async def test_the_same_audit_again_makes_no_rollout_and_a_longer_one_only_the_rest(tmp_path: Path) -> None:
    before = await audited(tmp_path / "s.db", Toy(TRUE), rollouts=150)
    again = Toy(TRUE, stop_at=0)
    assert await audited(tmp_path / "s.db", again, rollouts=150) == before
    longer = Toy(TRUE)
    found = await audited(tmp_path / "s.db", longer, rollouts=300)
    assert len(longer.made) == 150
    whole = await audited(tmp_path / "other.db", Toy(TRUE), rollouts=300)
    assert found == whole


async def test_stopped_by_a_budget_it_goes_on_and_ends_the_same(tmp_path: Path) -> None:
    stopped = Toy(TRUE, stop_at=101)
    with pytest.raises(BudgetReached):
        await audited(tmp_path / "s.db", stopped, rollouts=300)
    rest = Toy(TRUE)
    found = await audited(tmp_path / "s.db", rest, rollouts=300)
    assert len(stopped.made) + len(rest.made) == 300
    assert found == await audited(tmp_path / "other.db", Toy(TRUE), rollouts=300)


async def test_failed_and_unscored_rollouts_are_counted_and_never_taken_for_zero(tmp_path: Path) -> None:
    class Unsure(Right):
        async def verify(self, task: Task, rollout: Rollout) -> Reward:
            away = task.id in {"t0", "t1", "t2"} and rollout.index == 0
            return Reward.unscored("the judge was away") if away else Reward(value=0.5)

    found = await audited(tmp_path / "s.db", Toy(), rollouts=80, verifier=Unsure())
    assert (found.rollouts, found.unscored) == (80, 3)
    for experience in found.library:
        assert experience.effect is not None
        assert experience.effect.mean == pytest.approx(0.0, abs=1e-9)
        assert experience.effect.tasks == 37


async def test_it_is_kept_in_the_store_with_its_effects(tmp_path: Path) -> None:
    found = await audited(tmp_path / "s.db", Toy(TRUE), rollouts=80)
    with open_store(tmp_path / "s.db") as store:
        (row,) = store.rows("evaluations", "a-1")
    assert (row["arm"], row["library_version"]) == ("audit", LIBRARY.version)
    assert Library.from_json(row["report"]) == found.library


@pytest.mark.parametrize(
    ("lack", "said"),
    [
        ({"tasks": 0}, "audit: 4 lessons cannot be told apart on 0 tasks with 400 rollouts"),
        ({"library": Library()}, "audit: the library is empty: nothing can be measured"),
        ({"rollouts": 15}, "audit: 4 lessons cannot be told apart on 40 tasks with 15 rollouts"),
        ({"rollouts": -3}, "audit: 4 lessons cannot be told apart on 40 tasks with -3 rollouts"),
    ],
)
async def test_what_cannot_be_measured_is_an_error_in_one_line(
    tmp_path: Path, lack: Mapping[str, object], said: str
) -> None:
    agent = Toy()
    with pytest.raises(ConfigError) as caught:
        await audited(tmp_path / "s.db", agent, **lack)  # type: ignore[arg-type]
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)
    assert agent.made == []


async def test_tasks_too_few_for_any_effect_cost_no_rollouts(tmp_path: Path) -> None:
    """An effect needs ENOUGH more tasks than lessons; no number of rollouts makes up for that."""
    agent = Toy(TRUE)
    with pytest.raises(ConfigError, match="tasks"):
        await audited(tmp_path / "s.db", agent, tasks=6, rollouts=400)
    assert agent.made == []
