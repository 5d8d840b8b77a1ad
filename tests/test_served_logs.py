"""Requests that were served and rewarded are attempts to learn from, and what is learned leads back to them."""

from __future__ import annotations

import asyncio
import json
import re
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from act_home import Home, cli, home
from act_upstream import Said, Upstream, teacher
from tokenprior.errors import ConfigError, DataError
from tokenprior.exports import import_library
from tokenprior.library import Library
from tokenprior.logs import LoggedTask, load_logs
from tokenprior.logs.served import attempts
from tokenprior.reward import Reward
from tokenprior.served import Served
from tokenprior.store import open_store
from tokenprior.store.served import ServedLog

LESSON = "When a change is asked for, look up the reservation before you ask the customer for its number."
GATE = [{"id": f"gate-{n}", "question": f"Change booking 9{n}.", "answer": f"looked up 9{n}"} for n in range(12)]


def request(identity: str, task: str | None, output: str, reward: float | None = 1.0, **changes: Any) -> Served:
    asked = changes.pop("asked", f"Change booking {task}.")
    exchange = {"messages": [{"role": "user", "content": asked}], "output": output}
    return replace(
        Served(
            id=identity,
            library="support",
            version="1a2b3c4d5e6f",
            held_out=False,
            share=0.3,
            unit=identity,
            source="proxy",
            served_at=float(identity.strip("r")),
            task=task,
            exchange=exchange,
            reward=None if reward is None else Reward(value=reward, feedback="" if reward else "did not look it up"),
        ),
        **changes,
    )


def filled(path: Path, *served: Served) -> Path:
    with open_store(path) as store:
        asyncio.run(ServedLog(store.writer).note(served))
    return path


def shape(logged: tuple[LoggedTask, ...]) -> list[tuple[str, list[tuple[str, float | None]]]]:
    return [(one.task.id, [(r.output, w.value) for r, w in one.attempts]) for one in logged]


def test_rewarded_requests_are_attempts_by_task_in_the_order_they_were_served(tmp_path: Path) -> None:
    path = filled(
        tmp_path / "s.db",
        request("r3", "7", "looked up 7"),
        request("r1", "7", "Your number?", 0.0, held_out=True),
        request("r2", "8", "looked up 8", 0.5),
        request("r4", "7", "nobody said", None),
        request("r5", "7", "not kept", exchange=None),
    )
    logged = load_logs(path)
    assert shape(logged) == [("7", [("Your number?", 0.0), ("looked up 7", 1.0)]), ("8", [("looked up 8", 0.5)])]
    rollout, reward = logged[0].attempts[0]
    assert logged[0].task.question == "Change booking 7."
    assert [m.role for m in rollout.messages] == ["user", "assistant"]
    assert rollout.metadata == {"source": "served:r1"}
    assert reward.feedback == "did not look it up"
    assert load_logs(path, form="served") == logged


def test_one_name_for_two_questions_makes_two_tasks_and_no_name_one_for_each_question(tmp_path: Path) -> None:
    path = filled(
        tmp_path / "s.db",
        request("r1", "daily", "a", asked="Monday?"),
        request("r2", "daily", "b", asked="Tuesday?"),
        request("r3", "daily", "c", asked="Tuesday?"),
        request("r4", None, "d", asked="Sunday?"),
        request("r5", None, "e", asked="Sunday?"),
    )
    made = shape(load_logs(path))
    assert [[output for output, _ in told] for _, told in made] == [["a"], ["b", "c"], ["d", "e"]]
    assert made[0][0] == "daily"
    assert made[1][0].startswith("daily~")


def test_one_library_alone_may_be_read(tmp_path: Path) -> None:
    path = filled(tmp_path / "s.db", request("r1", "7", "a"), request("r2", "7", "b", library="sales"))
    assert shape(load_logs(path, fields={"library": "sales"})) == [("7", [("b", 1.0)])]
    with pytest.raises(
        DataError, match=r"s\.db: no attempts in it: expected requests with a reward, served with traffic\.keep"
    ):
        load_logs(path, fields={"library": "nobody"})
    with pytest.raises(ConfigError, match=r"of the form served has only \['library'\]"):
        load_logs(path, fields={"task": "x"})


def test_a_conversation_that_ends_with_the_output_does_not_say_it_twice() -> None:
    said = [["user", "2+2?"], ["assistant", " 4\n"]]
    (found,) = attempts([request("r1", "7", "4", exchange={"messages": said, "output": "4"})])
    assert [message.role for message in found.messages] == ["user", "assistant"]


def test_a_conversation_of_the_responses_api_is_read_with_its_calls() -> None:
    items = [
        {"role": "system", "content": "Be short."},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "2+2?"}]},
        {"type": "reasoning", "summary": []},
        {"type": "function_call", "call_id": "c", "name": "add", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "4"},
    ]
    (found,) = attempts([request("r1", "7", "", exchange={"messages": items, "output": "Four."})])
    assert found.question == "2+2?"
    assert [message.role for message in found.messages] == ["system", "user", "assistant", "tool", "assistant"]
    assert (found.messages[2].tool_calls[0].name, found.messages[3].answers) == ("add", "c")


def test_what_is_no_conversation_has_failed_and_says_why() -> None:
    bad = [
        {"messages": [{"role": "critic", "content": "?"}], "output": ""},
        {"output": ""},
        {"messages": 1, "output": ""},
    ]
    for exchange in bad:
        (found,) = attempts([request("r1", "7", "", exchange=exchange)])
        assert found.failure is not None
        assert found.failure.kind == "unreadable"


def test_another_database_or_a_broken_one_is_named_in_one_line(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "other.db") as connection:
        connection.execute("CREATE TABLE notes (text)")
    with pytest.raises(DataError, match=r"other\.db: no such table: served: expected a store"):
        load_logs(tmp_path / "other.db")
    (tmp_path / "broken.db").write_bytes(b"SQLite format 3\0" + b"\1" * 5000)
    with pytest.raises(DataError, match=r"broken\.db: file is not a database: expected a store"):
        load_logs(tmp_path / "broken.db")
    (tmp_path / "text.db").write_text("hello")
    with pytest.raises(DataError, match=r"text\.db: file is not a database"):
        load_logs(tmp_path / "text.db", form="served")
    with pytest.raises(DataError, match=r"none\.db"):
        load_logs(tmp_path / "none.db", form="served")


def everybody(said: Said) -> str:
    """A policy that does as the lesson says, and a learning model that finds it."""
    if said.part != "policy":
        return str(teacher(LESSON)(said))
    number = "".join(re.findall(r"\d+", said.question))
    return f"looked up {number}" if LESSON in said.system else "What is your number?"


def traffic(path: Path) -> None:
    """Three tickets, each answered well and badly."""
    filled(
        path,
        *(
            request(f"r{10 * task + good}", str(task), f"looked up {task}" if good else "Your number?", float(good))
            for task in (1, 2, 3)
            for good in (0, 1)
        ),
    )


def loop(folder: Path, server: Upstream, **settings: Any) -> Home:
    (folder / "served.json").write_text(Library().dumps())
    return home(
        folder,
        logs={"path": "s.db", "fields": {"library": "support"}},
        agent={"kind": "chat", "model": server.model},
        **{"verifier": "recorded", **settings},
    )


def test_what_is_learned_from_feedback_leads_back_to_the_requests_that_were_served(tmp_path: Path) -> None:
    traffic(tmp_path / "s.db")
    with Upstream(everybody) as server:
        made = loop(tmp_path, server)
        ended = cli("learn", made.file, "--start", tmp_path / "served.json")
        assert ended.code == 0, ended.err
        assert not server.asked("policy"), "what was served is not attempted again"
        assert "did not look it up" in str(server.asked("contrast")[0].messages)
    (experience,) = made.library()
    assert experience.text == LESSON
    assert set(experience.provenance.groups) == {"1", "2", "3"}
    why = json.loads(cli("why", "run", "G0", "--json", "--store", made.store).out)
    shown = cli("show", "run", why["look"][0]["attempt"], "--store", made.store)
    assert re.search(r"^-- read from served:r\d+$", shown.out, re.MULTILINE), shown.out
    assert {row["rollout"]["metadata"]["source"] for row in made.rows("rollouts")} == {
        f"served:r{10 * task + good}" for task in (1, 2, 3) for good in (0, 1)
    }


def test_the_loop_closes_behind_a_gate_and_goes_on_with_what_came_in_since(tmp_path: Path) -> None:
    traffic(tmp_path / "s.db")
    served = tmp_path / "served.json"
    with Upstream(everybody) as server:
        made = loop(
            tmp_path,
            server,
            tasks=GATE,
            split={"practice": 1, "gate": 11},
            learn={"gate": "proven"},
            verifier={"kind": "recorded", "otherwise": "exact"},
        )
        learned = cli("learn", made.file, "--start", served)
        assert learned.code == 0, learned.err
        assert "proven on the gate tasks" in learned.out
        exported = cli("export", "run", "--form", "json", "--to", served, "--store", made.store)
        assert exported.code == 0, exported.err
        calls = len(server.said)
        again = cli("learn", made.file, "--start", served)
        assert again.code == 0, again.err
        assert "[G0] " + LESSON in again.out
        assert all(said.part != "policy" or LESSON in said.system for said in server.said[calls:])
        filled(tmp_path / "s.db", request("r99", "9", "looked up 9"), request("r98", "9", "Your number?", 0.0))
        later = cli("learn", made.file, "--start", served)
        assert later.code == 0, later.err
        assert "9" in {row["task"] for row in made.rows("rollouts")}
    assert import_library(served).version == made.library().version
