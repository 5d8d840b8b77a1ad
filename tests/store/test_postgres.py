"""A store on a server: the same runs, rows and answers as in a file, several drivers, and servers that go away."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import sqlalchemy as sa
from test_served import request as served_request
from test_store import HOLD, request, shape, start

import kill_target
import pages_site
import story
from dropping_proxy import Cut, DroppingProxy
from fake_openai import FakeOpenAI
from postgres_server import PASSWORD, PostgresServer
from tokenprior.adaptive import GroupPlan
from tokenprior.errors import ConfigError, RunLocked, StoreError
from tokenprior.models.base import Reply
from tokenprior.models.base import Request as ModelRequest
from tokenprior.operation import Modify
from tokenprior.reward import Reward
from tokenprior.rollout import Usage
from tokenprior.serve.pages.control import Control, control_of
from tokenprior.serve.pages.security import Keys
from tokenprior.serve.pages.site import Site
from tokenprior.store import Store, attempts, calls, look, open_store, schema
from tokenprior.store.archive import OF_RUNS, archive, archive_served
from tokenprior.store.compared import comparison_of, comparisons_of, not_measured
from tokenprior.store.edits import edit
from tokenprior.store.life import gone_of, life_of
from tokenprior.store.practised import practised
from tokenprior.store.report import report_of
from tokenprior.store.served import ServedLog, effects_in
from tokenprior.store.story import story_of

pytestmark = pytest.mark.anyio

TARGET = Path(kill_target.__file__)
# What depends on the clock, and on the port of the endpoint.
PASSING = ("sent_at", "latency_s", "model", "request_hash", "input_hash")


# The same as in a file.


def rows(store: Store, run: str = "r-1") -> dict[str, list[str]]:
    """All that a run wrote but for what is passing, and for the order of calls, which is that of replies."""
    found: dict[str, list[str]] = {}
    for table in OF_RUNS:
        kept = store.rows(table.name, run)
        for row in kept:
            for name in (*PASSING, *(["id"] if table is schema.calls else [])):
                row.pop(name, None)
            for name in ("rollout", "reply"):
                if row.get(name):
                    row[name] = row[name] | {"latency_s": 0.0}
        found[table.name] = sorted(json.dumps(row, sort_keys=True) for row in kept)
    return found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, list[str]], Counter[str]]:
    """A run in a file: its library, its rows, and the requests that the endpoint saw."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with FakeOpenAI() as api:
        asyncio.run(kill_target.run(str(folder / "s.db"), api.url, folder / "out.json"))
    with open_store(folder / "s.db") as store:
        return (folder / "out.json").read_text(), rows(store), api.seen


def test_the_schema_of_a_server_is_what_the_migrations_make(postgres: PostgresServer) -> None:
    migrated, declared = postgres.store(), postgres.store()
    open_store(migrated).close()
    engines = [sa.create_engine(address) for address in (migrated, declared)]
    schema.metadata.create_all(engines[1])
    assert shape(engines[0]) == shape(engines[1])
    for engine in engines:
        engine.dispose()


@pytest.mark.parametrize("place", ["file", "server"])
def test_of_many_that_open_a_new_store_at_once_one_makes_it(
    request: pytest.FixtureRequest, tmp_path: Path, place: str
) -> None:
    where = str(tmp_path / "s.db") if place == "file" else request.getfixturevalue("postgres").store()
    with ThreadPoolExecutor(6) as pool:
        for store in pool.map(open_store, [where] * 6):
            assert store.runs() == []
            store.close()


def test_a_run_on_a_server_ends_with_the_library_and_the_rows_of_one_in_a_file(
    postgres: PostgresServer, tmp_path: Path, undisturbed: tuple[str, dict[str, list[str]], Counter[str]]
) -> None:
    address = postgres.store()
    with FakeOpenAI() as api:
        asyncio.run(kill_target.run(address, api.url, tmp_path / "out.json"))
        asyncio.run(kill_target.run(address, api.url, tmp_path / "again.json"))
    with open_store(address) as store:
        assert ((tmp_path / "out.json").read_text(), rows(store), api.seen) == undisturbed
        assert [record.state for record in store.runs()] == ["done"]
    assert (tmp_path / "again.json").read_text() == undisturbed[0]
    assert postgres.execute("SELECT * FROM writers", address) == []


def test_a_killed_run_goes_on_and_pays_for_nothing_twice(
    postgres: PostgresServer, tmp_path: Path, undisturbed: tuple[str, dict[str, list[str]], Counter[str]]
) -> None:
    address, out = postgres.store(), tmp_path / "out.json"
    command = [sys.executable, str(TARGET), address]
    with FakeOpenAI(delay_s=0.01) as api:
        for phase in ("rollout", "contrast"):
            with subprocess.Popen([*command, api.url, str(out)]) as process:
                api.on_call = lambda call, phase=phase, kill=process.kill: kill() if call.key.phase == phase else None
                assert process.wait(60) == -signal.SIGKILL
        api.on_call = None
        asyncio.run(kill_target.run(address, api.url, out))
    assert out.read_text() == undisturbed[0]
    with open_store(address) as store:
        known = store.rows("calls", "r-1")
    assert {row["state"] for row in known} == {"done", "unknown"}
    finished = Counter((row["key"], row["request_hash"]) for row in known if row["state"] == "done")
    assert set(finished.values()) == {1}
    assert sum(api.seen.values()) - len(finished) <= sum(row["state"] == "unknown" for row in known)


# Several at once.


async def test_two_drivers_work_on_two_runs_and_neither_on_that_of_the_other(postgres: PostgresServer) -> None:
    address = postgres.store()
    with open_store(address) as one, open_store(address) as two:
        first, second = start(one, "a-1"), start(two, "b-1")
        for store, run in ((one, "b-1"), (two, "a-1"), (one, "a-1")):
            with pytest.raises(RunLocked, match=rf"run {run} in postgresql.* is being worked on by another process"):
                start(store, run)

        async def work(record: Any) -> None:
            for number in range(40):
                call = await record.call_sent("m", request(f"{number}"), Usage(calls=1))
                await record.call_done(call, Reply(text=f"{record.run} {number}"))

        await asyncio.gather(work(first), work(second), work(first))
        first.close("done")
        second.close("stopped")
        assert {record.id: record.state for record in two.runs()} == {"a-1": "done", "b-1": "stopped"}
        assert [len(one.rows("calls", run)) for run in ("a-1", "b-1")] == [80, 40]
        start(two, "a-1").close("done")


def test_the_holder_of_a_run_is_known_until_it_is_killed(postgres: PostgresServer) -> None:
    address = postgres.store()
    command = [sys.executable, "-c", HOLD, address]
    with (
        open_store(address) as store,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder,
    ):
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        site = Site(store=store, keys=Keys.drawn())
        assert store.is_at(address)
        assert not store.is_at("tokenprior.db")
        assert store.holder("r-1") == holder.pid
        assert not store.held_elsewhere("r-1")
        assert control_of(site, store.find_run("r-1")) == Control(stops=True, goes_on=False)
        postgres.execute("UPDATE writers SET process = '1 elsewhere'", address)
        assert store.holder("r-1") is None
        assert store.held_elsewhere("r-1")
        told = control_of(site, store.find_run("r-1"))
        assert (told.stops, told.words) == (False, "Another machine works on it: press Ctrl-C where it runs")
        with pytest.raises(RunLocked):
            start(store)
        holder.kill()
        holder.wait(20)
        assert "it was killed" in control_of(site, store.find_run("r-1")).words
        start(store).close("done")
        assert store.holder("r-1") is None


async def test_edits_of_several_people_stand_one_behind_the_other(postgres: PostgresServer, tmp_path: Path) -> None:
    address = postgres.store()
    await story.fill(tmp_path / "s.db", "demo")
    with open_store(tmp_path / "s.db") as kept, open_store(address) as store:
        archive(kept, "demo-1a2b", store)

    def reword(number: int) -> None:
        with open_store(address) as own:
            change = Modify(id="G0", name="", text=f"When {number}, repeat it in small letters.", lessons=(), reason="")
            edit(own, "demo-1a2b", [change], author="ada", reason=f"{number}")
            own.pin("demo-1a2b", None, "")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(reword, range(4)))
    with open_store(address) as store:
        assert [row["sequence"] for row in store.rows("edits", "demo-1a2b")] == list(range(4))
        assert [row["sequence"] for row in store.rows("pins", "demo-1a2b")] == list(range(8))


# Servers that go away.


class Restart:
    """Restarts a server at the n-th call of a phase, and starts it only when somebody has missed it."""

    def __init__(self, postgres: PostgresServer, how: signal.Signals, missed: threading.Event) -> None:
        self._postgres, self._how, self._missed = postgres, how, missed
        self._thread: threading.Thread | None = None

    def on_call(self, call: ModelRequest) -> None:
        if call.key.phase == "summary" and self._thread is None:
            self._thread = threading.Thread(target=self._restart)
            self._thread.start()

    def _restart(self) -> None:
        self._postgres.stop(self._how)
        assert self._missed.wait(20)
        self._postgres.start()

    def finish(self) -> None:
        assert self._thread is not None
        self._thread.join()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT])
def test_a_run_outlives_a_restart_of_the_server_and_pays_for_nothing_twice(
    postgres: PostgresServer,
    tmp_path: Path,
    undisturbed: tuple[str, dict[str, list[str]], Counter[str]],
    caplog: pytest.LogCaptureFixture,
    how: signal.Signals,
) -> None:
    address, missed = postgres.store(), threading.Event()
    caplog.handler.addFilter(lambda entry: missed.set() or True)
    restart = Restart(postgres, how, missed)
    with FakeOpenAI() as api:
        api.on_call = restart.on_call
        asyncio.run(kill_target.run(address, api.url, tmp_path / "out.json"))
        restart.finish()
    assert "the store does not answer, trying again" in caplog.text
    assert PASSWORD not in caplog.text
    with open_store(address) as store:
        assert ((tmp_path / "out.json").read_text(), rows(store), api.seen) == undisturbed


def count_up(connection: sa.Connection) -> int:
    """An operation that would show if it were done twice."""
    number: int = connection.execute(sa.select(sa.func.count()).select_from(schema.advantages)).scalar_one()
    connection.execute(schema.advantages.insert().values(run="r", step=number, task="t", advantage="{}"))
    return number


@pytest.mark.parametrize("cut", ["before", "after", "ghost"])
async def test_a_commit_whose_answer_was_lost_is_neither_lost_nor_done_twice(
    postgres: PostgresServer, cut: Cut
) -> None:
    address = postgres.store()
    with DroppingProxy(postgres) as proxy, open_store(proxy.through(address)) as store:
        record = start(store)
        made: list[int] = []
        for _ in range(3):
            made.append(await store.writer.run(count_up))
            proxy.next_cut = cut
            made += await asyncio.gather(*(store.writer.run(count_up) for _ in range(20)))
        assert proxy.cuts == 3
        assert sorted(made) == list(range(63))
        assert [row["step"] for row in store.rows("advantages", "r")] == list(range(63))
        record.close("done")
        assert store.runs()[0].state == "done"


@pytest.mark.parametrize("done", [False, True])
async def test_a_run_that_another_process_took_while_the_server_was_away_is_left_alone(
    postgres: PostgresServer, done: bool
) -> None:
    address = postgres.store()
    with open_store(address) as one, open_store(address) as two:
        record = start(one)
        mine = await record.call_sent("m", request("mine"), Usage(calls=1))
        postgres.restart(signal.SIGQUIT)
        other = start(two)
        if done:
            other.close("done")
        with pytest.raises(RunLocked):
            await record.call_sent("m", request("more"), Usage(calls=1))
        with pytest.raises(RunLocked):
            await record.call_done(mine, Reply(text="late"))
        with pytest.raises(RunLocked):
            record.close("failed")
        assert [row["state"] for row in two.rows("calls", "r-1")] == ["unknown"]
        assert two.runs()[0].state == ("done" if done else "running")
        if not done:
            await other.call_sent("m", request("theirs"), Usage(calls=1))
            other.close("done")
        start(one).close("done")


def test_a_reader_does_not_mind_a_restart(postgres: PostgresServer) -> None:
    with open_store(postgres.store()) as store:
        start(store).close("done")
        postgres.restart(signal.SIGINT)
        assert [record.state for record in store.runs()] == ["done"]
        postgres.stop(signal.SIGQUIT)
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(store.runs)
            postgres.start()
            assert [record.state for record in asked.result(30)] == ["done"]


# What goes wrong, and what is not told.


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda address: address.replace("home@", "nope@"), "password authentication failed"),
        (lambda address: address.replace("/postgres?", "/nosuch?"), "does not exist"),
        (lambda address: address.replace("host=%2Ftmp", "host=%2Fnowhere"), "No such file"),
    ],
)
def test_a_server_that_cannot_be_reached_is_a_clear_error_without_its_password(
    postgres: PostgresServer, change: Callable[[str], str], said: str
) -> None:
    with pytest.raises(StoreError, match=rf"cannot be opened: .*{said}.*is the server up") as caught:
        open_store(change(postgres.address("postgres")))
    assert "pass%2F" not in str(caught.value)
    assert "pass/w" not in str(caught.value)


@pytest.mark.parametrize(
    "address", ["postgresql://u:se/cr?et@h:port/d", "postgresql+psycopg2://u:se/cr?et@h/d", "mysql://u:secret@h/d"]
)
def test_an_address_that_is_none_is_a_clear_error_without_its_password(address: str) -> None:
    with pytest.raises(ConfigError, match="expected a file, or postgresql") as caught:
        open_store(address)
    assert "se/cr" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_the_password_of_an_address_is_stored_nowhere(postgres: PostgresServer) -> None:
    address = postgres.store()
    raw = address.replace("pass%2Fw%3Frd%23of%3Atests%40home", "pa/ss?w#r:d")
    with open_store(address) as store:
        start(store, where=raw, other=address).close("failed", f"{raw} and {address}")
        kept = json.dumps(store.runs()[0].config) + store.runs()[0].detail + store.shown
    assert "pass%2F" not in kept
    assert "pa/ss" not in kept
    assert "tokenprior:" not in kept


async def test_another_program_s_database_is_refused_and_left_alone(postgres: PostgresServer) -> None:
    address = postgres.store()
    postgres.execute("CREATE TABLE customers (id INTEGER)", address)
    with pytest.raises(StoreError, match="another program's database"):
        open_store(address)
    tables = "SELECT table_name FROM information_schema.tables WHERE table_schema = current_schema()"
    assert postgres.execute(tables, address) == [("customers",)]


async def test_figures_and_names_of_any_size_are_kept(postgres: PostgresServer) -> None:
    with open_store(postgres.store()) as store:
        record = start(store, "r" * 300)
        call = await record.call_sent("m" * 500, request(), Usage(calls=1))
        huge = Usage(calls=1, input_tokens=2**40, output_tokens=2**40, cached_tokens=0, cost_usd=1e300)
        await record.call_done(call, Reply(text="a\0b", usage=huge))
        assert record.spent().input_tokens == 2**40
        assert isinstance(look.totals(store, "r" * 300).all_spent.input_tokens, int)
        assert json.dumps(calls.summed(store, "r" * 300))
        record.close("done")


# Whoever reads.


@pytest.fixture(scope="module")
def both(postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A file with runs of all kinds, and the same on a server."""
    path = tmp_path_factory.mktemp("both") / "s.db"

    async def fill() -> None:
        made = await story.fill(path, "demo")
        await pages_site.compared(path, "demo", made.library)
        await kill_target.run(str(path), api.url)
        with open_store(path) as store:
            change = Modify(id="G0", name="", text="When asked, repeat in small letters.", lessons=(), reason="")
            edit(store, "demo-1a2b", [change], author="Ada", reason="shorter")
            await ServedLog(store.writer).note(
                [
                    served_request("a", unit="ada", input_tokens=5, reward=Reward(value=1.0)),
                    served_request("b", held_out=True, status=500, reward=Reward(value=0.0)),
                    served_request("c", library="other"),
                ]
            )

    with FakeOpenAI() as api:
        asyncio.run(fill())
    address = postgres.store()
    with open_store(path) as source, open_store(address) as target:
        for record in reversed(source.runs()):
            archive(source, record.id, target, keep=True)
        assert archive_served(source, target, keep=True) == 3
    return path, address


PLANS = (None, GroupPlan(size=3, pairs=1))


def readings(store: Store) -> dict[str, Any]:
    """What every function that reads says of a store."""
    demo = store.find_run("demo")
    groups = attempts.groups(store, demo.id, limit=50)
    asked = [
        calls.calls(store, "r-1", wanted, limit=limit, before=before)
        for wanted in (
            calls.Wanted(),
            calls.Wanted(phase="contrast"),
            calls.Wanted(state="done", model="none"),
            calls.Wanted(task="t1"),
            calls.Wanted(text='SMALL letters"'),
            calls.Wanted(text="100%_"),
        )
        for limit, before in ((5, None), (30, 40))
    ]
    return {
        "runs": store.runs(),
        "lines": [look.runs(store, limit=9), look.runs(store, limit=1, before=(demo.created_at, demo.id), since=1.0)],
        "rows": {table.name: [store.rows(table.name, run.id) for run in store.runs()] for table in OF_RUNS},
        "standing": [look.standing(store, run) for run in store.runs()],
        "steps": [look.steps(store, run.id, plan=plan) for run in store.runs() for plan in PLANS],
        "totals": [look.totals(store, run.id) for run in store.runs()],
        "troubled": look.troubled(store, demo.id, "rollout", "x", after=("rollout", 0, "t", 0, ""), limit=3),
        "held out": look.held_out(store, "demo"),
        "versions": [store.versions(run.id) for run in store.runs()],
        "library": [store.library(demo.id, at) for at in (None, 0, 2, store.versions(demo.id)[1].version[:5])],
        "story": [story_of(store, run.id, limit=20, plan=plan) for run in store.runs() for plan in PLANS],
        "lives": [life_of(store, demo.id, one.id) for one in store.library(demo.id)],
        "gone": gone_of(store, demo.id),
        "report": report_of(store, demo, plan=None, gated=True),
        "comparison": [comparison_of(store, run.id) for run in store.runs()],
        "comparisons": [comparisons_of(store, "demo", limit=3), not_measured(store, demo, "demo-5e5f")],
        "calls": asked,
        "call": calls.call_of(store, "r-1", 5),
        "summed": calls.summed(store, "r-1"),
        "groups": [
            groups,
            attempts.groups(store, demo.id, step=1, kind="mixed", after=(1, groups[2].task), limit=3),
            attempts.groups(store, demo.id, kind="equal", limit=3),
            attempts.groups(store, demo.id, kind="trouble", limit=3),
        ],
        "group": [attempts.attempts_of(store, demo.id, "rollout", one.step, one.task) for one in groups[:9]],
        "became": [attempts.became_of(store, demo.id, one.step, one.task) for one in groups[:9]],
        "asked": attempts.asked_in(store, demo.id, "rollout", [one.task for one in groups[:9]]),
        "attempt": attempts.attempt_at(store, demo.id, ("rollout", 0, groups[0].task, 1, "")),
        "practised": practised(store, store.library(demo.id)),
        "served": effects_in(store),
    }


def test_every_reading_says_the_same_of_a_server_as_of_a_file(both: tuple[Path, str]) -> None:
    path, address = both
    with open_store(path) as file, open_store(address) as server:
        there, here = readings(server), readings(file)
        assert len(here["lives"]) == 2
        assert here["asked"]
        for name, value in here.items():
            assert there[name] == value, name


@pytest.mark.parametrize(
    "command",
    [
        ["runs"],
        ["show", "demo"],
        ["show", "demo", "operations"],
        ["show", "demo", "groups"],
        ["show", "demo", "t1#0"],
        ["why", "demo", "G0"],
        ["history", "demo"],
        ["diff", "demo", "r"],
        ["compare", "--live"],
    ],
)
def test_commands_say_the_same_of_a_server_as_of_a_file(both: tuple[Path, str], command: list[str]) -> None:
    path, address = both
    of_file, of_server = (story.run(*command, "--store", where) for where in (path, address))
    assert (of_file.exit_code, of_server.exit_code) == (0, 0), (of_file.output, of_server.output)
    said = [re.sub(r"--store \S+", "", one.stdout) for one in (of_file, of_server)]
    assert said[0] == said[1]


def test_what_changes_by_hand_changes_on_a_server(both: tuple[Path, str], tmp_path: Path) -> None:
    _, address = both
    first = story.said("export", "demo", "--form", "json", "--store", address)
    assert "undo" in story.said("rollback", "demo", "--store", address)
    assert story.said("export", "demo", "--form", "json", "--store", address) != first
    story.said("pin", "demo", "--off", "--store", address)
    story.said("report", "demo", "--to", tmp_path / "report.html", "--store", address)
    assert "small letters" in (tmp_path / "report.html").read_text()
    assert PASSWORD not in story.error("show", "nobody", "--store", address)


async def test_pages_open_on_a_server(both: tuple[Path, str], tmp_path: Path) -> None:
    _, address = both
    with pages_site.served(address, tmp_path) as site:
        port = site.base.rpartition(":")[2]
        async with aiohttp.ClientSession(cookies={f"tokenprior_{port}": site.keys.token}) as client:
            async with client.get(site.base) as page:
                assert page.status == 200
                assert "demo" in await page.text()
            for place in ("", "/library", "/versions", "/groups", "/calls", "/comparison", "/report", "/lessons/G0"):
                run = "r-1" if place == "/calls" else "demo-5e5f" if place == "/comparison" else "demo-1a2b"
                async with client.get(f"{site.base}/runs/{run}{place}") as page:
                    assert page.status == 200, (place, await page.text())
                    assert PASSWORD not in await page.text()


async def test_a_reward_finds_its_request_on_a_server(postgres: PostgresServer) -> None:
    with open_store(postgres.store()) as store:
        log = ServedLog(store.writer)
        await log.note([served_request("a", reply_id="x"), served_request("bb", reply_id="x", task="\0" * 9)])
        found = await log.reward("x", Reward(value=0.5))
        assert found is not None
        assert (found.id, found.task) == ("bb", "\\x00" * 9)
        assert await log.reward("nobody", Reward(value=0.5)) is None


async def test_who_may_only_read_reads_and_is_told_so_when_they_write(postgres: PostgresServer) -> None:
    address = postgres.store()
    with open_store(address) as store:
        start(store).close("done")
    postgres.execute("CREATE ROLE looker LOGIN PASSWORD 'look-only'", address)
    place = postgres.schema(address)
    postgres.execute(f"GRANT USAGE ON SCHEMA {place} TO looker", address)
    postgres.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA {place} TO looker", address)
    try:
        with open_store(re.sub(r"tokenprior:[^@]*", "looker:look-only", address)) as store:
            assert store.find_run("r").state == "done"
            with pytest.raises(StoreError, match="permission denied"):
                start(store)
    finally:
        postgres.execute("DROP OWNED BY looker", address)
        postgres.execute("DROP ROLE looker")


async def test_who_closes_a_store_does_not_wait_for_its_server(
    postgres: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    missed = threading.Event()
    caplog.handler.addFilter(lambda entry: missed.set() or True)
    store = open_store(postgres.store())
    assert await store.writer.run(count_up) == 0
    postgres.stop(signal.SIGQUIT)
    try:
        waiting = [asyncio.ensure_future(store.writer.run(count_up)) for _ in range(3)]
        assert await asyncio.to_thread(missed.wait, 20)
        await asyncio.to_thread(store.close)
        for end in await asyncio.gather(*waiting, return_exceptions=True):
            assert isinstance(end, StoreError)
            assert "the store does not answer" in str(end)
            assert "the same command goes on" in str(end)
    finally:
        postgres.start()
