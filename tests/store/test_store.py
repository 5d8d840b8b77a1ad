"""The store: opened, migrated, locked, shared by many at once, and clear about what goes wrong."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from old_store import store_of
from tokenprior.errors import ConfigError, NotFound, RunLocked, StoreError
from tokenprior.experience import Experience
from tokenprior.library import Applied, Library
from tokenprior.models.base import CallKey, Reply, Request
from tokenprior.operation import Add, Delete
from tokenprior.reward import Reward
from tokenprior.rollout import Failure, Message, Rollout, StopReason, Usage
from tokenprior.statistics import Interval
from tokenprior.store import RunStore, Store, open_store, schema
from tokenprior.store.open import NEWEST
from tokenprior.store.record import StepEnd
from tokenprior.store.writer import Writer
from tokenprior.trial import Trial

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["file", "server"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    server = request.param == "server"
    with open_store(request.getfixturevalue("postgres").store() if server else tmp_path / "s.db") as opened:
        yield opened


def start(store: Store, run: str = "r-1", **config: Any) -> RunStore:
    return store.open_run(run, name=run.split("-")[0], kind="learn", config=config)


def request(text: str = "hello") -> Request:
    return Request(key=CallKey(phase="rollout"), messages=(Message(role="user", content=text),))


def rollout(index: int = 0, **changes: Any) -> Rollout:
    messages = (Message(role="user", content="q"), Message(role="assistant", content="a"))
    return Rollout(**{"task_id": "t", "index": index, "messages": messages, "output": "a", **changes})


# What is in it.


def shape(engine: sa.Engine) -> dict[str, Any]:
    """Everything that a database says of its tables, in an order of its own."""
    inspected = sa.inspect(engine)

    def one(table: str) -> dict[str, Any]:
        columns = [
            {**column, "type": str(column["type"]), "default": str(column.get("default")).split("::")[0]}
            for column in inspected.get_columns(table)
        ]
        return {
            "columns": columns,
            "primary_key": inspected.get_pk_constraint(table)["constrained_columns"],
            "unique": sorted(each["column_names"] for each in inspected.get_unique_constraints(table)),
            "indexes": sorted((str(each["name"]), each["column_names"]) for each in inspected.get_indexes(table)),
            "foreign_keys": inspected.get_foreign_keys(table),
        }

    return {table: one(table) for table in inspected.get_table_names() if table != "alembic_version"}


def test_the_schema_is_what_the_migrations_make(tmp_path: Path) -> None:
    with open_store(tmp_path / "migrated.db"):
        pass
    migrated = sa.create_engine(f"sqlite:///{tmp_path / 'migrated.db'}")
    declared = sa.create_engine("sqlite://")
    schema.metadata.create_all(declared)
    assert shape(migrated) == shape(declared)
    assert set(shape(migrated)) == set(schema.metadata.tables)
    migrated.dispose()
    declared.dispose()


def test_the_newest_schema_is_the_last_migration(tmp_path: Path) -> None:
    import tokenprior.store

    versions = Path(tokenprior.store.__file__).parent / "migrations" / "versions"
    assert max(path.name[1:5] for path in versions.glob("m*.py")) == NEWEST
    open_store(tmp_path / "s.db").close()
    with sqlite3.connect(tmp_path / "s.db") as raw:
        assert raw.execute("SELECT version_num FROM alembic_version").fetchall() == [(NEWEST,)]
    raw.close()


def test_opening_again_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "s.db"
    with open_store(path) as store:
        start(store).close("done")
    with open_store(path) as store:
        assert [record.id for record in store.runs()] == ["r-1"]


async def test_what_was_written_comes_back_the_same(store: Store) -> None:
    record = start(store)
    failed = rollout(1, output="", stop=StopReason.FAILED, failure=Failure(kind="timeout", detail="no reply"))
    kept = rollout(usage=Usage(calls=1, input_tokens=3, cost_usd=None), latency_s=0.5, metadata={"a": [1, None]})
    await record.shelf.save("rollout", 0, "h", kept, None, None)
    assert await record.shelf.find("rollout", 0, "t", {0: "h"}) == {0: (kept, None, None)}
    reward = Reward(value=0.5, reason="half", extracted="a", feedback="so so")
    await record.shelf.save("rollout", 0, "h", kept, "v1", reward)
    await record.shelf.save("rollout", 0, "h", failed, "v1", Reward.unscored("it failed"))
    both = {0: (kept, "v1", reward), 1: (failed, "v1", Reward.unscored("it failed"))}
    assert await record.shelf.find("rollout", 0, "t", {0: "h", 1: "h", 2: "h"}) == both
    for phase, step, made_of in (("evaluate", 0, "h"), ("rollout", 1, "h"), ("rollout", 0, "g")):
        assert await record.shelf.find(phase, step, "t", {0: made_of}) == {}  # type: ignore[arg-type]
    assert await record.shelf.judged("rollout", 0) == {"t": 1}, "one failed"
    record.close("done")


async def test_texts_that_no_database_takes_are_kept_all_the_same(store: Store) -> None:
    """Models write lone surrogates and zero bytes; a step must not be lost to them."""
    record = start(store)
    call = await record.call_sent("m", request("in \ud800 \x00"), Usage(calls=1))
    await record.call_failed(call, "http-500", "broken \udfff \x00", Usage(calls=1))
    call = await record.call_sent("m", request("in \ud800"), Usage(calls=1))
    await record.call_done(call, Reply(text="out \ud800 \x00"))
    found = await record.finished_call("m", request("in \ud800"))
    assert found is not None
    assert found.text == "out \ud800 \x00"
    strange = rollout(output="\ud800", metadata={"\udc00": "\udc00"})
    await record.shelf.save("rollout", 0, "h", strange, "v", Reward(value=1.0, feedback="\udc00"))
    kept = await record.shelf.find("rollout", 0, "t", {0: "h"})
    assert kept[0][0] == strange
    record.close("failed", "ended by \ud800")
    assert "ended by" in store.runs()[0].detail


def test_asking_for_what_is_not_there_names_what_is(store: Store) -> None:
    start(store, "alpha-1").close("done")
    assert store.find_run("alpha").id == store.find_run("alpha-1").id == store.find_run("alph").id == "alpha-1"
    with pytest.raises(NotFound, match="alpha-1"):
        store.find_run("beta")
    assert store.library("alpha-1") == Library()
    with pytest.raises(NotFound, match="no step 3"):
        store.library("alpha-1", 3)


# Files that are no stores, or cannot be used.


@pytest.mark.parametrize("content", [b"just words, long enough to have a header" * 99, b"\x00" * 4096])
def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"notes\.txt: cannot be opened: .*not a database"):
        open_store(path)
    assert path.read_bytes() == content


@pytest.mark.parametrize("version", [None, "ae1027a6acf"])
def test_the_database_of_another_program_is_refused_and_left_alone(tmp_path: Path, version: str | None) -> None:
    path = tmp_path / "other.db"
    with sqlite3.connect(path) as raw:
        raw.execute("CREATE TABLE customers (id INTEGER)")
        if version:
            raw.execute("CREATE TABLE alembic_version (version_num TEXT)")
            raw.execute("INSERT INTO alembic_version VALUES (?)", (version,))
    raw.close()
    with pytest.raises(StoreError, match="another program's database"):
        open_store(path)
    with sqlite3.connect(path) as raw:
        tables = {name for (name,) in raw.execute("SELECT name FROM sqlite_master")}
    raw.close()
    assert tables == ({"customers", "alembic_version"} if version else {"customers"})


def test_a_store_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    open_store(tmp_path / "s.db").close()
    with sqlite3.connect(tmp_path / "s.db") as raw:
        raw.execute("UPDATE alembic_version SET version_num = '9999'")
    raw.close()
    with pytest.raises(StoreError, match=r"newer tokenprior \(schema 9999\): pip install -U"):
        open_store(tmp_path / "s.db")


def test_a_folder_in_place_of_a_file_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="unable to open"):
        open_store(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="cannot be made"):
        open_store(tmp_path / "file" / "s.db")


@pytest.mark.parametrize("address", ["nosuch://x/y", "postgresql+nodriver://u:secretpass@h/d", "://"])
def test_an_address_that_nothing_can_open_is_a_clear_error_without_its_password(address: str) -> None:
    with pytest.raises(ConfigError) as caught:
        open_store(address)
    assert "secretpass" not in str(caught.value)


def test_a_read_only_folder_is_a_clear_error(tmp_path: Path) -> None:
    """Root writes anywhere but here."""
    folder = Path("/proc/self/fdinfo") if os.geteuid() == 0 else tmp_path / "locked"
    if os.geteuid() != 0:
        folder.mkdir(mode=0o500)
    with pytest.raises(StoreError, match="is the folder writable"):
        open_store(folder / "s.db")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MB, where the tests may mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    try:
        mounted = os.geteuid() == 0 and subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except OSError:
        mounted = False
    if not mounted:
        pytest.skip("no disk can be mounted here")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


async def fill(record: RunStore) -> int:
    """Write calls until there is no room; returns how many were finished."""
    for done in range(10_000):
        call = await record.call_sent("m", request(f"{done}"), Usage(calls=1))
        await record.call_done(call, Reply(text="x" * 20_000))
    raise AssertionError("the disk never got full")


async def finished(record: RunStore) -> int:
    return sum([await record.finished_call("m", request(f"{number}")) is not None for number in range(200)])


async def test_a_full_disk_is_a_clear_error_and_what_was_written_is_safe(small_disk: Path) -> None:
    with open_store(small_disk / "s.db") as store:
        record = start(store)
        ballast = small_disk / "ballast"
        ballast.write_bytes(b"x" * 500_000)
        with pytest.raises(StoreError, match=r"full.*free some space"):
            await fill(record)
        before = await finished(record)
        assert before > 0
        ballast.unlink()
        call = await record.call_sent("m", request("more"), Usage(calls=1))
        await record.call_done(call, Reply(text="there is room again"))
        assert await finished(record) == before
        record.close("stopped")
    with open_store(small_disk / "s.db") as store:
        record = start(store)
        assert await finished(record) == before
        record.close("done")


@pytest.mark.parametrize("store", ["file"], indirect=True)
async def test_a_store_that_may_grow_no_more_is_a_clear_error_and_goes_on_later(store: Store) -> None:
    record = start(store)
    pages = store.writer.run_now(lambda connection: connection.exec_driver_sql("PRAGMA page_count").scalar_one())
    store.writer.run_now(lambda connection: connection.exec_driver_sql(f"PRAGMA max_page_count = {pages + 40}").all())
    with pytest.raises(StoreError, match=r"full.*free some space"):
        await fill(record)
    before = await finished(record)
    assert before > 0
    # Many at once: each says that the disk is full, none says anything else, and the small ones get through.
    many = [record.call_sent("m", request("y" * size), Usage(calls=1)) for size in (10, 200_000, 10, 300_000, 10)]
    ends = await asyncio.gather(*many, return_exceptions=True)
    assert ["full" in str(end) if isinstance(end, StoreError) else "written" for end in ends] in (
        ["written", True, "written", True, "written"],
        [True] * 5,
    )
    store.writer.run_now(lambda connection: connection.exec_driver_sql("PRAGMA max_page_count = 100000").all())
    await record.call_sent("m", request("more"), Usage(calls=1))
    assert await finished(record) == before
    record.close("done")


def test_a_read_only_file_is_a_clear_error(small_disk: Path) -> None:
    with open_store(small_disk / "s.db") as store:
        start(store).close("done")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(StoreError, match="is the folder writable"):
        open_store(small_disk / "s.db")
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)


# One process at a run.


HOLD = """
import sys
from tokenprior.store import open_store
with open_store(sys.argv[1]) as store:
    record = store.open_run("r-1", name="r", kind="learn", config={})
    print("held", flush=True)
    sys.stdin.readline()
    record.close("done")
"""


def test_a_run_is_worked_on_by_one_process_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    command = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with open_store(path) as store:
            with pytest.raises(RunLocked, match=r"run r-1 in .*s\.db is being worked on by another process"):
                start(store)
            assert store.holder("r-1") == holder.pid
            start(store, "r-2").close("done")
            assert store.find_run("r-1").state == "running", "reading is not forbidden"
            holder.stdin.write("\n")
            holder.stdin.flush()
            holder.wait(20)
            start(store).close("done")


def test_a_killed_process_leaves_no_lock(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    command = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        holder.kill()
        holder.wait(20)
    with open_store(path) as store:
        assert store.find_run("r-1").state == "running", "nobody was left to say otherwise"
        assert store.holder("r-1") is None, "whoever has its number now is somebody else"
        start(store).close("done")


def test_nobody_of_this_machine_holds_a_run_that_another_machine_works_on(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    with open_store(path) as store:
        record = start(store)
        (tmp_path / "s.db.r-1.lock").write_text("1 elsewhere.invalid")
        assert store.holder("r-1") is None
        record.close("done")
        assert store.holder("r-1") is None


def test_the_same_process_cannot_open_a_run_twice_and_leaves_no_lock_files(tmp_path: Path) -> None:
    with open_store(tmp_path / "s.db") as store:
        record = start(store)
        with pytest.raises(RunLocked):
            start(store)
        record.close("done")
        start(store).close("done")
    assert [path.name for path in tmp_path.iterdir()] == ["s.db"]


def test_a_run_that_cannot_be_begun_is_not_left_locked(store: Store) -> None:
    with pytest.raises(StoreError):
        store.open_run("r-1", name=None, kind="learn", config={})  # type: ignore[arg-type]
    start(store).close("done")


# Many operations at once.


def insert(number: int) -> Any:
    values = {"run": "r", "step": number, "task": "t", "advantage": "{}"}
    return lambda connection: connection.execute(schema.advantages.insert().values(values)) and number


def numbers(store: Store) -> list[int]:
    return [row["step"] for row in store.rows("advantages", "r")]


class Held:
    """Keeps the writer's thread busy, so that what comes meanwhile shares one commit."""

    def __init__(self, writer: Writer) -> None:
        self._go = threading.Event()
        self._began = threading.Event()
        self._holding = asyncio.ensure_future(writer.run(self._hold))

    def _hold(self, _: sa.Connection) -> None:
        self._began.set()
        assert self._go.wait(20)

    async def __aenter__(self) -> None:
        assert await asyncio.to_thread(self._began.wait, 20)

    async def __aexit__(self, *_: object) -> None:
        self._go.set()
        await self._holding


def broken(kind: str) -> Any:
    def operation(connection: sa.Connection) -> None:
        insert(99)(connection)
        if kind == "sql":
            connection.exec_driver_sql("SELECT * FROM nowhere")
        elif kind == "same key":
            insert(99)(connection)
        elif kind == "ours":
            raise NotFound("not there")
        elif kind == "rollback":
            # What SQLite does by itself on a full disk: the whole transaction is gone.
            connection.exec_driver_sql("ROLLBACK")
            raise sa.exc.OperationalError("x", {}, Exception("database or disk is full"))
        elif kind == "surrogate":
            connection.execute(schema.advantages.insert().values(run="r", step=98, task="\ud800", advantage=""))
        else:
            raise KeyError("bug")

    return operation


@pytest.mark.parametrize("kind", ["sql", "same key", "ours", "rollback", "surrogate", "bug"])
async def test_one_bad_operation_takes_no_neighbour_with_it(store: Store, kind: str) -> None:
    async with Held(store.writer):
        work = [store.writer.run(each) for each in (insert(0), insert(1), broken(kind), insert(2), insert(3))]
        running = asyncio.gather(*work, return_exceptions=True)
        await asyncio.sleep(0)
    ends = await running
    assert [end for end in ends if not isinstance(end, Exception)] == [0, 1, 2, 3]
    assert isinstance(ends[2], NotFound if kind == "ours" else StoreError)
    assert numbers(store) == [0, 1, 2, 3], "and nothing of the bad one is left behind"


async def test_many_writers_share_commits_and_all_is_there(store: Store) -> None:
    async with Held(store.writer):
        running = asyncio.gather(*(store.writer.run(insert(number)) for number in range(700)))
        await asyncio.sleep(0)
    assert await running == list(range(700))
    assert numbers(store) == list(range(700))


async def test_a_caller_that_is_cancelled_disturbs_nobody(store: Store) -> None:
    async with Held(store.writer):
        calls = [asyncio.ensure_future(store.writer.run(insert(number))) for number in range(3)]
        await asyncio.sleep(0)
        calls[1].cancel()
        await asyncio.sleep(0)
    ends = await asyncio.gather(*calls, return_exceptions=True)
    assert (ends[0], ends[2]) == (0, 2)
    assert {0, 2} <= set(numbers(store))


async def test_closing_finishes_what_was_asked_for(tmp_path: Path) -> None:
    store = open_store(tmp_path / "s.db")
    async with Held(store.writer):
        running = asyncio.gather(*(store.writer.run(insert(number)) for number in range(5)))
        await asyncio.sleep(0)
    store.close()
    assert await running == [0, 1, 2, 3, 4]
    store.close()
    with pytest.raises(StoreError, match="closed"):
        store.runs()
    with open_store(tmp_path / "s.db") as again:
        assert numbers(again) == [0, 1, 2, 3, 4]


# Secrets.

SECRET = "house-secret-0123456789"


@pytest.fixture
def secret(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("HOUSE_API_KEY", SECRET)
    return SECRET


async def test_secrets_do_not_reach_configs_requests_and_errors(tmp_path: Path, secret: str) -> None:
    shown = ["sk-proj-abcdefghijk1", "hf_abcdefghijklmno9", "http://user:hunter22@h", secret]
    with open_store(tmp_path / "s.db") as store:
        record = start(store, model=f"http://user:hunter22@h/v1#m {secret}", prices={secret: 1})
        model = f"http://user:hunter22@h/v1#{secret}"
        call = await record.call_sent(model, request(f"use {' and '.join(shown)} "), Usage(calls=1))
        await record.call_failed(call, "http-401", f"no: {shown}", Usage(calls=1))
        record.close("failed", f"the key {secret} is wrong")
    kept = (tmp_path / "s.db").read_bytes()  # closed, so no journal is left beside it
    assert not [one for one in (*shown, "hunter22") if one.encode() in kept]
    with open_store(tmp_path / "s.db") as store:
        assert store.runs()[0].config["prices"] == {"[redacted]": 1}
        assert store.rows("calls", "r-1")[0]["request"]["messages"][0][0] == "user"


@pytest.mark.parametrize(
    "text",
    [
        'curl -H "Authorization: Bearer abcdefghijkl" x',
        "Bearer abcdefghijkl\\",
        "Bearer abcdefgh\nnext line",
        "http://a",
        ":b@c",
        '"sk-abcdefghijkl"',
    ],
)
async def test_what_is_left_after_redaction_can_still_be_read(store: Store, text: str) -> None:
    """Cut out of a finished JSON text, these would take a quote with them and make all runs unreadable."""
    record = start(store, instructions=text, more=[text, {text: text}], other=":b@c")
    messages = (Message(role="user", content=text), Message(role="assistant", content=":b@c"))
    await record.call_sent("m", Request(key=CallKey(phase="rollout"), messages=messages), Usage(calls=1))
    record.close("done")
    assert json.dumps(store.runs()[0].config)
    assert len(store.rows("calls", "r-1")[0]["request"]["messages"]) == 2


async def test_redaction_does_not_change_what_a_call_is_found_by(store: Store, secret: str) -> None:
    record = start(store)
    call = await record.call_sent("m", request(f"a {secret}"), Usage(calls=1))
    await record.call_done(call, Reply(text="ok"))
    assert await record.finished_call("m", request(f"a {secret}")) is not None
    assert await record.finished_call("m", request("a [redacted]")) is None
    record.close("done")


# Versions and pins.


def library(*texts: str) -> Library:
    return Library(experiences=tuple(Experience(id=f"G{i}", text=text) for i, text in enumerate(texts)))


FIRST, SECOND, THIRD = (library(f"When {word}, do it.") for word in ("first", "second", "third"))


def trial(candidate: Library, against: Library, decision: Any, part: str = "whole") -> Trial:
    return Trial(
        candidate=candidate,
        against=against.version,
        part=part,
        decision=decision,
        gain=Interval(mean=0.25, low=0.125, high=0.375, n=8),
        p=0.01,
        level=0.025,
        scored=1.0,
        wins=4,
        losses=1,
        ties=3,
        missing=0,
        needed=10,
    )


async def save(record: RunStore, step: int, learning: Library, shipped: Library, *trials: Trial, **rest: Any) -> None:
    applied = Applied(library=learning, done=rest.pop("done", ()), refused=())
    end = StepEnd(library=learning, shipped=shipped, report={"step": step}, **rest)
    await record.save_step(step, 0, applied, trials, end)


@pytest.fixture
async def told(store: Store) -> Store:
    """A run in which the first candidate ships, the second stays open, and the third is refused."""
    record = start(store)
    add = Add(name="", text="When first, do it.", lessons=(1,))
    await save(record, 0, FIRST, FIRST, trial(FIRST, Library(), "ships"), done=(add,))
    await save(record, 1, SECOND, FIRST, trial(SECOND, FIRST, "open"))
    await save(record, 2, SECOND, FIRST, trial(THIRD, FIRST, "refused"))
    record.close("done")
    return store


async def test_what_is_used_is_what_ships_and_every_other_library_can_be_asked_for(told: Store) -> None:
    assert told.library("r-1") == FIRST
    assert [told.library("r-1", step) for step in range(3)] == [FIRST, SECOND, SECOND]
    for one in (FIRST, SECOND, THIRD, Library()):
        assert told.library("r-1", one.version) == told.library("r-1", one.version[:6]) == one
    with pytest.raises(NotFound, match="no version 'ffffff'"):
        told.library("r-1", "ffffff")


async def test_a_pin_is_used_whatever_ships_until_it_is_taken_off(told: Store) -> None:
    told.pin("r-1", THIRD.version[:6], "to see")
    assert told.library("r-1") == THIRD
    told.pin("r-1", Library().version, "not at all, and sk-proj-abcdefghijk1")
    assert told.library("r-1") == Library()
    told.pin("r-1", None, "")
    assert told.library("r-1") == FIRST
    pins = told.rows("pins", "r-1")
    assert [one["version"] for one in pins] == [THIRD.version, Library().version, None]
    assert "sk-proj" not in pins[1]["reason"]
    with pytest.raises(NotFound, match="no version 'ffffff'"):
        told.pin("r-1", "ffffff", "")
    assert len(told.rows("pins", "r-1")) == 3


async def test_pinning_leaves_what_learning_goes_on_from_alone(told: Store) -> None:
    told.pin("r-1", THIRD.version, "")
    record = start(told)
    end = await record.finished_step(2)
    assert end is not None
    assert (end.library, end.shipped) == (SECOND, FIRST)
    record.close("done")


async def test_versions_are_told_from_the_oldest_on(told: Store) -> None:
    told.pin("r-1", THIRD.version, "")
    found = told.versions("r-1")
    assert [(one.version, one.step, one.origin) for one in found] == [
        (Library().version, -1, "start"),
        (FIRST.version, 0, "candidate"),
        (SECOND.version, 1, "candidate"),
        (THIRD.version, 2, "candidate"),
    ]
    assert [one.shipped for one in found] == [True, True, False, False]
    assert [one.ships for one in found] == [False, True, False, False]
    assert [one.learning for one in found] == [False, False, True, False]
    assert [one.pinned for one in found] == [False, False, False, True]
    assert found[1].sentences == (trial(FIRST, Library(), "ships").sentence,)
    assert json.loads(json.dumps([one.to_json() for one in found]))[1]["trial"]["wins"] == 4


async def test_versions_of_steps_without_a_trial(store: Store) -> None:
    record = start(store)
    await record.save_start(SECOND)
    measured = Delete(id="G0", reason="measured: -0.2 [-0.3, -0.1] over 9 tasks")
    await save(record, 0, FIRST, FIRST, trial(FIRST, SECOND, "ships"))
    await save(record, 1, SECOND, FIRST, trial(THIRD, FIRST, "refused"), done=(measured,))
    await save(record, 2, FIRST, FIRST)
    await save(record, 3, FIRST, FIRST)
    await save(record, 4, THIRD, THIRD)
    assert [(one.step, one.origin, one.deleted, one.experiences) for one in store.versions("r-1")] == [
        (-1, "start", (), len(SECOND)),
        (0, "candidate", (), 1),
        (1, "candidate", ("G0",), 1),
        (1, "pruned", ("G0",), 1),
        (2, "back", (), 1),
        (4, "learned", (), 1),
    ]
    assert store.versions("r-1")[0].version == SECOND.version
    assert store.versions("r-1")[3].sentences[1] == "lessons deleted, measured to hurt: G0"
    record.close("done")


async def test_a_store_from_before_the_gate_is_migrated_and_everything_in_it_shipped(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    store_of(path, "0001")
    with sqlite3.connect(path) as raw:
        run = ("r-1", "r", "learn", "{}", "done", "", 1.0, 1.0)
        raw.execute("INSERT INTO runs VALUES (?, ?, ?, ?, ?, ?, ?, ?)", run)
        for step, one in enumerate((FIRST, SECOND)):
            row = ("r-1", step, 0, one.version, one.dumps(), '{"step": 0}')
            raw.execute("INSERT INTO steps VALUES (?, ?, ?, ?, ?, ?)", row)
    raw.close()
    with open_store(path) as store:
        assert store.library("r-1") == SECOND
        assert store.library("r-1", 0) == store.library("r-1", FIRST.version) == FIRST
        assert [(one.step, one.shipped, one.ships) for one in store.versions("r-1")] == [
            (-1, True, False),
            (0, True, False),
            (1, True, True),
        ]
        store.pin("r-1", FIRST.version, "")
        assert store.library("r-1") == FIRST
        record = start(store)
        end = await record.finished_step(1)
        assert end is not None
        assert (end.library, end.shipped, end.observations) == (SECOND, SECOND, ())
        record.close("done")
    with open_store(path) as store:
        assert store.library("r-1") == FIRST
