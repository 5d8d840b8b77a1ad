"""Whole runs move between stores, files and servers alike; nothing is lost on the way, wherever it is cut off."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from test_served import request as served_request
from test_store import request, start

import kill_target
import story
from fake_openai import FakeOpenAI
from tokenprior.errors import ConfigError, NotFound, RunLocked, StoreError
from tokenprior.models.base import Reply
from tokenprior.reward import Reward
from tokenprior.rollout import Usage
from tokenprior.store import Store, open_store, schema
from tokenprior.store.archive import OF_RUNS, archive, archive_served, reused, size_of, vacuum
from tokenprior.store.record import RunStore
from tokenprior.store.served import ServedLog, effects_in

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with a run and all its calls."""
    path = tmp_path_factory.mktemp("learned") / "s.db"
    with FakeOpenAI() as api:
        asyncio.run(kill_target.run(str(path), api.url))
    return path


@pytest.fixture
def kept(learned: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    path = tmp_path / "kept.db"
    path.write_bytes(learned.read_bytes())
    return path


def everything(store: Store, run: str = "r-1") -> dict[str, Any]:
    """All rows of a run but for the numbers of its calls."""
    rows = {table.name: store.rows(table.name, run) for table in OF_RUNS}
    for call in rows["calls"]:
        del call["id"]
    return rows | {"runs": [record for record in store.runs() if record.id == run]}


async def write(record: RunStore, *texts: str) -> None:
    for text in texts:
        call = await record.call_sent("m", request(text), Usage(calls=1))
        await record.call_done(call, Reply(text=text))


def test_every_table_is_of_a_run_or_is_known_not_to_be() -> None:
    others = {"runs", "served", "writers", "holders"}
    assert {table.name for table in OF_RUNS} | others == set(schema.metadata.tables)


@pytest.mark.parametrize("way", ["file to file", "file to server", "server to file", "server to server"])
def test_a_run_moves_with_all_its_rows_and_goes_on_there(
    request: pytest.FixtureRequest, kept: Path, tmp_path: Path, way: str
) -> None:
    ends = way.split(" to ")
    where = [
        str(tmp_path / f"{number}.db") if end == "file" else request.getfixturevalue("postgres").store()
        for number, end in enumerate(ends)
    ]
    with open_store(kept) as first, open_store(where[0]) as source:
        archive(first, "r-1", source)
        with open_store(where[1]) as target:
            before = everything(source)
            counts = archive(source, "r-1", target)
            assert counts == {table.name: len(before[table.name]) for table in OF_RUNS}
            assert counts["calls"] == 70
            assert everything(target) == before
            assert source.runs() == []
            assert not any(source.rows(table.name, "r-1") for table in OF_RUNS)
            assert source.library("r-1") == first.library("r-1")
    with FakeOpenAI() as api:
        api.port, port = 9, api.port
        asyncio.run(kill_target.run(where[1], api.url, tmp_path / "out.json"))
        api.port = port
        assert not api.seen, "all of it is found again"
    assert "small letters" in (tmp_path / "out.json").read_text()


def test_a_copy_leaves_the_run_where_it_is(kept: Path, tmp_path: Path) -> None:
    with open_store(kept) as source, open_store(tmp_path / "old.db") as target:
        before = everything(source)
        archive(source, "r-1", target, keep=True)
        archive(source, "r-1", target, keep=True)
        assert everything(source) == everything(target) == before
        archive(source, "r-1", target)
        assert source.runs() == []
        assert everything(target) == before


@contextmanager
def refusing(path: Path, what: str) -> Iterator[None]:
    """A store that takes nothing of a kind, as if its process ended there: what was committed before stays."""
    with sqlite3.connect(path) as raw:
        raw.execute(f"CREATE TRIGGER cut BEFORE {what} BEGIN SELECT RAISE(ABORT, 'cut off'); END")
    raw.close()
    yield
    with sqlite3.connect(path) as raw:
        raw.execute("DROP TRIGGER cut")
    raw.close()


@pytest.mark.parametrize("table", ["calls", "steps", "runs"])
def test_a_copy_that_was_cut_off_is_begun_anew(kept: Path, tmp_path: Path, table: str) -> None:
    path = tmp_path / "old.db"
    with open_store(kept) as source, open_store(path) as target:
        before = everything(source)
        with refusing(path, f"INSERT ON {table}"), pytest.raises(StoreError, match="cut off"):
            archive(source, "r-1", target)
        assert everything(source) == before
        assert target.runs() == []
        archive(source, "r-1", target)
        assert everything(target) == before
        assert source.runs() == []


@pytest.mark.parametrize("table", ["calls", "steps", "runs"])
def test_what_was_cut_off_while_it_was_taken_out_goes_on(kept: Path, tmp_path: Path, table: str) -> None:
    path = tmp_path / "old.db"
    with open_store(kept) as source, open_store(path) as target, open_store(tmp_path / "other.db") as other:
        before = everything(source)
        with refusing(kept, f"DELETE ON {table}"), pytest.raises(StoreError, match="cut off"):
            archive(source, "r-1", target)
        assert everything(target) == before
        assert source.runs()[0].state == "moving"
        with pytest.raises(StoreError, match="is on its way to another store: `tokenprior store archive r-1"):
            start(source)
        with pytest.raises(StoreError, match=r"was being moved to another store than .*other\.db"):
            archive(source, "r-1", other)
        archive(source, "r-1", target)
        assert everything(target) == before
        assert source.runs() == []
        assert not any(source.rows(one.name, "r-1") for one in OF_RUNS)


async def test_a_run_at_work_stays(kept: Path, tmp_path: Path) -> None:
    with open_store(kept) as source, open_store(tmp_path / "old.db") as target:
        record = start(source)
        with pytest.raises(RunLocked):
            archive(source, "r-1", target)
        record.close("done")
        archive(source, "r-1", target)
        start(target).close("done")


async def test_another_state_of_the_run_over_there_is_not_overwritten(kept: Path, tmp_path: Path) -> None:
    with open_store(kept) as source, open_store(tmp_path / "old.db") as target:
        archive(source, "r-1", target, keep=True)
        for store, text in ((source, "more"), (target, "other")):
            record = start(store)
            await write(record, text)
            record.close("done")
            before = everything(source), everything(target)
            with pytest.raises(StoreError, match=r"run r-1 is in .*old\.db already, and another there \(table calls\)"):
                archive(source, "r-1", target)
            assert (everything(source), everything(target)) == before


@pytest.mark.parametrize("alias", ["same", "symbolic", "hard"])
def test_a_store_is_not_moved_into_itself(kept: Path, tmp_path: Path, alias: str) -> None:
    other = tmp_path / "alias.db" if alias != "same" else kept
    if alias != "same":
        os.symlink(kept, other) if alias == "symbolic" else os.link(kept, other)
    with open_store(kept) as source, open_store(other) as target:
        before = everything(source)
        with pytest.raises(ConfigError, match="name another"):
            archive(source, "r-1", target)
        assert everything(source) == before


def test_a_run_with_a_batch_at_a_provider_stays(kept: Path, tmp_path: Path) -> None:
    row = {"run": "r-1", "number": 0, "model": "m", "by_program": 0, "made_at": 1.0, "file": "f", "batch": "b"}
    with open_store(kept) as source, open_store(tmp_path / "old.db") as target:
        add = schema.batches.insert().values(**row, calls="[1]")
        source.writer.run_now(lambda connection: connection.execute(add) and None)
        with pytest.raises(StoreError, match="in a batch at a provider"):
            archive(source, "r-1", target)
        end = schema.batches.update().values(ended_at=2.0)
        source.writer.run_now(lambda connection: connection.execute(end) and None)
        assert archive(source, "r-1", target)["batches"] == 1


async def test_what_others_of_the_name_could_find_again_is_known(tmp_path: Path) -> None:
    with open_store(tmp_path / "s.db") as store:
        for run, texts in (("r-1", ("a", "b")), ("r-2", ("c",)), ("s-1", ())):
            record = start(store, run)
            await write(record, *texts)
            record.close("done")
        (one,) = reused(store, ["r-1", "s-1"])
        assert (one.run, one.others, one.calls, one.rollouts) == ("r-1", ("r-2",), 2, 0)
        assert reused(store, ["r-1", "r-2"]) == []


async def test_many_rows_move_in_pages_and_keep_their_order(tmp_path: Path) -> None:
    with open_store(tmp_path / "s.db") as source, open_store(tmp_path / "old.db") as target:
        record, beside = start(source), start(source, "other-1")
        numbers = [number * 7919 % 1201 for number in range(600)]
        await asyncio.gather(*(write(one, f"{number}") for number in numbers for one in (record, beside)))
        record.close("done")
        beside.close("done")
        before = everything(source)
        archive(source, "r-1", target)
        assert everything(target) == before
        assert len(source.rows("calls", "other-1")) == 600


async def test_served_requests_move_too(tmp_path: Path) -> None:
    with open_store(tmp_path / "s.db") as source, open_store(tmp_path / "old.db") as target:
        noted = [served_request(f"{number}", reward=Reward(value=1.0)) for number in range(3)]
        await ServedLog(source.writer).note(noted)
        before = effects_in(source)
        assert archive_served(source, target, keep=True) == 3
        assert archive_served(source, target) == 3
        assert archive_served(source, target) == 0
        assert effects_in(target) == before


@pytest.mark.parametrize("place", ["file", "server"])
def test_room_is_counted_by_run_and_given_back(
    request: pytest.FixtureRequest, kept: Path, tmp_path: Path, place: str
) -> None:
    where = request.getfixturevalue("postgres").store() if place == "server" else tmp_path / "there.db"
    with open_store(kept) as first, open_store(where) as store:
        archive(first, "r-1", store)
        record = start(store, "small-1")
        size = size_of(store)
        assert [one.run.id for one in size.runs] == ["r-1", "small-1"]
        assert size.runs[0].rows["calls"] == 70
        assert 20_000 < size.runs[0].size_bytes < size.size_bytes
        with pytest.raises(RunLocked):
            vacuum(store)
        record.close("done")
        archive(store, "r-1", first)
        before, after = vacuum(store)
        assert after < before
        assert size_of(store).free_bytes == 0
        assert [one.run.id for one in size_of(store).runs] == ["small-1"]


def test_the_commands_say_what_they_do(kept: Path, tmp_path: Path) -> None:
    old = tmp_path / "old.db"
    with open_store(kept) as store:
        start(store, "r-2").close("done")
    assert "r-1                                      learn    done " in story.said("store", "size", "--store", kept)
    assert "no run of the id 'r'" in story.error("store", "archive", "r", "--to", old, "--store", kept)
    assert "either ids of runs or --all" in story.error("store", "archive", "--to", old, "--store", kept)
    said = story.said("store", "archive", "r-1", "--to", old, "--store", kept).splitlines()
    assert said[0] == (
        "r-1: other runs of its name stay (r-2), and can no longer re-use its 70 paid calls and 48 attempts if they go "
        "on"
    )
    assert said[1].startswith(f"r-1: moved to {old}, checked: 5 advantages, 70 calls")
    assert "before" in story.said("store", "vacuum", "--store", kept)
    with open_store(kept) as store:
        record = start(store, "busy-1")
        busy = story.error("store", "archive", "--all", "--to", tmp_path / "copy.db", "--keep", "--store", kept)
        assert busy == "left as they are, for processes are at work on them: busy-1"
        record.close("done")
    with open_store(tmp_path / "copy.db") as store:
        assert [record.id for record in store.runs()] == ["r-2"]
    assert "r-2: moved to" in story.said("store", "archive", "--all", "--to", old, "--store", kept)
    with open_store(old) as store:
        assert {record.id for record in store.runs()} == {"r-1", "r-2", "busy-1"}
    with pytest.raises(NotFound), open_store(kept) as source, open_store(old) as target:
        archive(source, "r-1", target)
