"""What the pages ask: readings beside a writer, figures without texts, and the story of the steps."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from pathlib import Path

import pytest
import sqlalchemy as sa

import story
from old_store import store_of
from tokenprior.adaptive import GroupPlan
from tokenprior.errors import StoreError
from tokenprior.models.base import CallKey, Reply, Request
from tokenprior.progress import Progress
from tokenprior.reward import Reward
from tokenprior.rollout import Failure, Message, Rollout, StopReason, Usage
from tokenprior.statistics import t_mean
from tokenprior.store import Store, look, open_store, schema
from tokenprior.store.life import gone_of
from tokenprior.store.story import story_of

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("look") / "s.db"
    asyncio.run(story.fill(path, "story", inclusion_pairs=1))
    return path


# Reading beside a writer.


def test_a_reading_waits_for_no_writer_and_takes_nothing_from_it(tmp_path: Path) -> None:
    with open_store(tmp_path / "s.db") as store:
        store.open_run("r-1", name="r", kind="learn", config={}).close("done")
        with sqlite3.connect(tmp_path / "s.db", isolation_level=None) as other:
            other.execute("BEGIN IMMEDIATE")
            other.execute("UPDATE runs SET state = 'failed'")
            assert [run.state for run in store.runs()] == ["done"], "what is not committed is not seen"
            other.execute("COMMIT")
            assert [run.state for run in store.runs()] == ["failed"]

            def looking(connection: sa.Connection) -> list[str]:
                connection.execute(sa.select(schema.runs)).all()
                other.execute("UPDATE runs SET state = 'stopped'")
                return list(connection.execute(sa.select(schema.runs.c.state)).scalars())

            assert store.read(looking) == ["failed"], "one reading sees one state of the store"
        other.close()


def test_a_reading_cannot_write(tmp_path: Path) -> None:
    with open_store(tmp_path / "s.db") as store:
        with pytest.raises(StoreError, match="make the file and its folder writable"):
            store.read(lambda connection: connection.execute(schema.runs.delete()))
        store.close()
        with pytest.raises(StoreError, match="the store is closed"):
            store.runs()


async def test_a_run_reads_what_it_wrote(tmp_path: Path) -> None:
    with open_store(tmp_path / "s.db") as store:
        record = store.open_run("r-1", name="r", kind="learn", config={})
        for index in range(20):
            rollout = Rollout(task_id="t", index=index, messages=(), output="a")
            await record.shelf.save("rollout", 0, "h", rollout, "v", Reward(value=1.0))
            assert len(store.rows("rollouts", "r-1")) == index + 1
        record.close("done")


# Figures.


def attempt(task: str, index: int, failure: Failure | None = None) -> Rollout:
    stop = StopReason.FAILED if failure else StopReason.DONE
    return Rollout(task_id=task, index=index, messages=(), output="", stop=stop, failure=failure)


async def fill(store: Store) -> None:
    record = store.open_run("r-1", name="r", kind="learn", config={})
    timeout = Failure(kind="timeout", detail="no reply in 30 s")
    await record.shelf.save("rollout", 0, "h", attempt("a", 0), "v", Reward(value=1.0))
    await record.shelf.save("rollout", 0, "h", attempt("a", 1), "v", Reward(value=0.0))
    await record.shelf.save("rollout", 0, "h", attempt("b", 0), None, Reward.unscored("no answer: nothing there"))
    await record.shelf.save("rollout", 0, "h", attempt("b", 1, timeout), None, Reward.unscored("it failed"))
    await record.shelf.save("rollout", 0, "h", attempt("c", 0), None, None)
    await record.shelf.save("gate", 0, "h", attempt("g", 0, timeout), None, None)
    for phase, step, cost in (("rollout", 0, 0.5), ("contrast", 0, 0.25), ("rollout", 1, 1.0), ("gate", 0, None)):
        request = Request(
            key=CallKey(phase=phase, step=step, task="a/b"), messages=(Message(role="user", content="q"),)
        )
        call = await record.call_sent("m", request, Usage(calls=1))
        usage = Usage(calls=1, input_tokens=10, output_tokens=2, cost_usd=cost)
        await record.call_done(call, Reply(text="r", usage=usage))
    record.close("done")


async def test_attempts_without_a_reward_are_counted_by_reason(tmp_path: Path) -> None:
    with open_store(tmp_path / "s.db") as store:
        await fill(store)
        totals = look.totals(store, "r-1")
        assert totals.attempts == {"rollout": (5, 2), "gate": (1, 0)}
        assert totals.troubles == {
            ("gate", "failed: timeout"): 1,
            ("rollout", "failed: timeout"): 1,
            ("rollout", "unscored: no answer"): 1,
        }
        assert {phase: usage.cost_usd for phase, usage in totals.spent.items()} == {
            "rollout": 1.5,
            "contrast": 0.25,
            "gate": None,
        }
        assert totals.all_spent.calls == 4
        assert totals.all_spent.cost_usd is None, "one price that is not known makes the sum unknown"
        (found,) = look.troubled(store, "r-1", "rollout", "failed: timeout", after=None, limit=9)
        assert (found["task"], found["attempt"], found["why"]) == ("b", 1, "timeout: no reply in 30 s")
        after = ("rollout", 0, "b", 1, "h")
        assert look.troubled(store, "r-1", "rollout", "failed: timeout", after=after, limit=9) == []


async def test_an_older_store_has_its_figures_filled_in(tmp_path: Path) -> None:
    """As if it had been written before the columns were there."""
    path = tmp_path / "s.db"
    store_of(path, "0003")
    with open_store(tmp_path / "new.db") as store:
        await fill(store)
        wanted = {table: store.rows(table, "r-1") for table in ("rollouts", "calls")}
    new = sqlite3.connect(tmp_path / "new.db")
    new.execute("ATTACH ? AS old", (str(path),))
    for table in ("runs", "rollouts", "calls"):
        columns = ", ".join(row[1] for row in new.execute(f"PRAGMA old.table_info({table})"))
        new.execute(f"INSERT INTO old.{table} ({columns}) SELECT {columns} FROM main.{table}")
    new.commit()
    new.close()
    with open_store(path) as store:
        assert {table: store.rows(table, "r-1") for table in ("rollouts", "calls")} == wanted
        assert look.totals(store, "r-1").attempts == {"rollout": (5, 2), "gate": (1, 0)}


async def test_word_of_where_a_run_stands_comes_with_each_phase_and_now_and_then(tmp_path: Path) -> None:
    with open_store(tmp_path / "s.db") as store:
        record = store.open_run("r-1", name="r", kind="learn", config={})
        began = store.find_run("r-1").updated_at
        for done in range(50):
            record.note(Progress(phase="rollouts", step=1, steps=2, done=done, total=50, spent=Usage(calls=done)))
        record.spent()  # what the writer was told before is committed with it
        (line,) = look.runs(store, limit=9)
        assert line.doing.startswith("step 1 of 2, rollouts: ")
        assert line.run.updated_at > began
        record.note(Progress(phase="gate", step=1, steps=2))
        record.spent()
        assert look.doing(store.find_run("r-1")) == "step 1 of 2, gate"
        assert [one.run.id for one in look.runs(store, since=line.run.updated_at, limit=9)] == ["r-1"]
        record.close("done")
        assert look.doing(store.find_run("r-1")) == ""
        now = store.find_run("r-1").updated_at
        assert look.runs(store, since=now, limit=9) == []


async def test_a_session_leaves_word_of_where_it_stands(tmp_path: Path) -> None:
    """The snapshot that a page shows is the one that the terminal shows."""
    from tokenprior.config import load_config
    from tokenprior.session import session

    rows = [{"question": f"Repeat: w{i}", "answer": f"w{i}"} for i in range(4)]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "c.yaml").write_text(
        "tasks: {path: t.jsonl}\nagent: {kind: function, function: 'a.py:agent'}\nlearner: 'http://127.0.0.1:9/v1#m'\n"
        "verifier: exact\nlearn: {gate: none, epochs: 1, group_size: 2}\nstore: s.db\n"
    )
    (tmp_path / "a.py").write_text("async def agent(task, prior):\n    return task.question[8:]\n")
    seen: list[str] = []
    async with session(
        load_config(tmp_path / "c.yaml"), on_progress=lambda progress: seen.append(progress.phase)
    ) as live:
        await live.learn()
    with open_store(tmp_path / "s.db") as store:
        (run,) = store.runs()
    assert run.progress["phase"] in seen
    assert run.progress["steps"] == 1


def test_curves_have_an_interval_over_tasks(told: Path) -> None:
    with open_store(told) as store:
        steps = look.steps(store, "story-1a2b", plan=None)
        assert [one.step for one in steps] == list(range(6))
        rows = store.rows("rollouts", "story-1a2b", schema.rollouts.c.phase == "rollout", schema.rollouts.c.step == 3)
        tasks: dict[str, list[float]] = {}
        for row in rows:
            tasks.setdefault(row["task"], []).append(row["reward"]["value"])
        assert steps[3].practice == t_mean([sum(values) / len(values) for values in tasks.values()])
        assert steps[2].gate is not None
        assert steps[2].gate["decision"] == "refused"
        first = look.steps(store, "story-1a2b", plan=GroupPlan(size=3, pairs=1))[3].practice
        assert first is not None
        means = [row["reward"]["value"] for row in rows if row["attempt"] == 0]
        assert first.mean == pytest.approx(sum(means) / len(means))


# The story.


def test_the_story_says_of_every_change_what_became_of_it(told: Path) -> None:
    with open_store(told) as store:
        chapters = story_of(store, "story-1a2b", limit=10)
        assert [one.step for one in chapters] == [5, 4, 3, 2, 1, 0]
        fates = {
            one.step: [(change.op, change.ids, change.fate) for change in one.changes if change.done]
            for one in chapters
        }
        assert fates[0] == [("Add", ("G0",), "ships"), ("Add", ("G1",), "ships")]
        assert ("Modify", ("G1",), "open") in fates[1]
        assert fates[2] == [("Add", ("G2",), "dropped")]
        assert fates[3] == [("Merge", ("G0", "G1"), "open")]
        merged = next(change for change in chapters[2].changes if change.op == "Merge")
        assert (merged.before, merged.after) == (f"Small letters: {story.SMALL}", f"Small letters: {story.BOTH}")
        refused = [change for change in chapters[4].changes if not change.done]
        assert [(change.ids, change.reason) for change in refused] == [(("G9",), "there is no G9")]
        assert chapters[-1].shipped_before != chapters[-1].shipped_after
        assert chapters[0].shipped_before == chapters[0].shipped_after != chapters[0].learning_after
        assert all(len(set(group["rewards"].values())) > 1 for one in chapters for group in one.winners)


def test_a_part_of_the_story_is_that_part_of_the_whole(told: Path) -> None:
    with open_store(told) as store:
        whole = story_of(store, "story-1a2b", limit=10)
        assert story_of(store, "story-1a2b", limit=2) == whole[:2]
        assert story_of(store, "story-1a2b", before=3, limit=2) == whole[3:5]
        assert story_of(store, "story-1a2b", before=0, limit=2) == []


async def test_a_lesson_deleted_for_its_effect_is_told_as_such(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    await story.fill(path, "loud", story.loud, gate="none", inclusion_pairs=2, group_size=4, epochs=3)
    with open_store(path) as store:
        chapters = story_of(store, "loud-1a2b", limit=20)
        (deleted,) = [change for one in chapters for change in one.changes if change.measured]
        assert (deleted.op, deleted.ids, deleted.fate) == ("Delete", ("G0",), "ships")
        (gone,) = gone_of(store, "loud-1a2b")
        assert (gone["id"], gone["step"]) == ("G0", 2)
        assert gone["why"].startswith("deleted: measured: -0.688")


def test_lessons_that_are_gone_say_how_they_went(told: Path) -> None:
    with open_store(told) as store:
        assert [(one["id"], one["step"]) for one in gone_of(store, "story-1a2b")] == [("G2", 2)]
        assert "dropped at the gate: the candidate is refused" in gone_of(store, "story-1a2b")[0]["why"]


async def test_a_run_without_a_step_has_no_story_and_no_curves(tmp_path: Path) -> None:
    with open_store(tmp_path / "s.db") as store:
        store.open_run("r-1", name="r", kind="learn", config={}).close("stopped")
        assert story_of(store, "r-1", limit=5) == []
        assert look.steps(store, "r-1", plan=None) == []
        assert look.totals(store, "r-1").all_spent == Usage()
        stands = look.standing(store, store.find_run("r-1"))
        assert (stands.finished, stands.mean, stands.compared) == (0, None, None)
        assert gone_of(store, "r-1") == []
