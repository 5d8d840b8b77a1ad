"""Learning from attempts of the past, by the config and the command line: nothing is attempted, all is traced."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from act_home import Home, cli, home
from act_upstream import Said, Upstream, teacher

SAMPLE = Path(__file__).parents[1] / "examples" / "logs" / "airline_sample.jsonl"
LESSON = "When a change is asked for, look up the reservation before you ask the customer for its number."
LIVE = [{"id": f"live-{n}", "question": f"Change booking {n}.", "answer": f"looked up {n}"} for n in range(6)]


def everybody(said: Said) -> str:
    if said.part != "policy":
        return str(teacher(LESSON)(said))
    number = "".join(re.findall(r"\d+", said.question))
    return f"looked up {number}" if LESSON in said.system else "What is your number?"


def written(folder: Path, server: Upstream) -> Home:
    shutil.copy(SAMPLE, folder / "log.jsonl")
    (folder / "live.jsonl").write_text("".join(json.dumps(task) + "\n" for task in LIVE))
    return home(
        folder,
        logs={"path": "log.jsonl"},
        agent={"kind": "chat", "model": server.model},
        verifier="recorded",
    )


@pytest.fixture
def learned(tmp_path: Path) -> Home:
    """What learning from the sample leaves."""
    with Upstream(everybody) as server:
        made = written(tmp_path, server)
        ended = cli("learn", made.file)
        assert ended.code == 0, ended.err
        assert not server.asked("policy"), "nothing is attempted"
        assert len(server.asked("contrast")) == 3
        assert len(server.asked("revise")) == 1
    return made


def test_a_library_is_learned_from_a_log_and_names_the_attempts_it_came_from(learned: Home) -> None:
    (experience,) = learned.library()
    assert experience.text == LESSON
    logged = [json.loads(line) for line in SAMPLE.read_text().splitlines()]
    assert len(experience.provenance.groups) == 3
    assert len(experience.provenance.rollouts) == len(logged) == 12
    rows = learned.rows("rollouts")
    assert sorted(row["reward"]["value"] for row in rows) == sorted(row["reward"] for row in logged)
    assert all(not row["rollout"].get("included") for row in rows), "no attempt saw a library"
    assert all("source" in row["rollout"]["metadata"] for row in rows)
    why = cli("why", "run", "G0", "--store", learned.store)
    assert why.code == 0, why.err
    for group in experience.provenance.groups:
        assert group in why.out
    assert "effect not measured" in why.out
    told = json.loads(cli("why", "run", "G0", "--json", "--store", learned.store).out)
    assert {one["task"] for one in told["groups"]} == set(experience.provenance.groups)
    attempt = told["look"][0]["attempt"]
    assert attempt in experience.provenance.rollouts
    shown = cli("show", "run", attempt, "--store", learned.store)
    assert shown.code == 0
    assert "-- reward" in shown.out


def test_the_same_command_reads_what_was_done_and_another_log_is_another_run(tmp_path: Path) -> None:
    with Upstream(everybody) as server:
        made = written(tmp_path, server)
        first = cli("learn", made.file)
        calls = len(server.said)
        assert cli("learn", made.file).out == first.out
        assert len(server.said) == calls
        lines = SAMPLE.read_text().splitlines()
        (tmp_path / "log.jsonl").write_text("\n".join(lines[:4]) + "\n")
        other = cli("learn", made.file)
        assert other.code == 0, other.err
        assert other.out.splitlines()[-3] != first.out.splitlines()[-3]
        assert len(server.said) > calls


def test_what_a_log_taught_is_compared_with_a_live_agent_on_tasks_of_a_file(tmp_path: Path) -> None:
    with Upstream(everybody) as server:
        made = written(tmp_path, server)
        assert cli("learn", made.file).code == 0
        (tmp_path / "live.yaml").write_text(
            json.dumps(
                {
                    "name": "live",
                    "store": "s.db",
                    "tasks": {"path": "live.jsonl", "split": {"practice": 1, "held_out": 5}},
                    "agent": {"kind": "chat", "model": server.model},
                    "verifier": "exact",
                }
            )
        )
        ended = cli("compare", tmp_path / "live.yaml", "--arm", "log=run", "--json", tmp_path / "c.json")
        assert ended.code == 0, ended.err
        assert len(server.asked("policy")) == 10
    report = json.loads((tmp_path / "c.json").read_text())
    assert report["differences"][0]["gain"]["mean"] == 1.0


def test_one_config_may_hold_the_log_and_held_out_tasks_of_a_live_agent(tmp_path: Path) -> None:
    with Upstream(everybody) as server:
        made = written(tmp_path, server)
        held = ["--set", "tasks.path=live.jsonl", "--set", "tasks.split.practice=1", "--set", "tasks.split.held_out=5"]
        learned = cli("learn", made.file, *held)
        assert learned.code == 0, learned.err
        assert not server.asked("policy")
        # The rewards of the log are of the log; what is live has to be judged.
        arm = ["--set", "verifier=exact", "--arm", f"log={made.run().id}"]
        compared = cli("compare", made.file, *held, *arm, "--json", tmp_path / "c.json")
        assert compared.code == 0, compared.err
        assert len(server.asked("policy")) == 10
    assert json.loads((tmp_path / "c.json").read_text())["differences"][0]["gain"]["mean"] == 1.0


def test_a_dry_run_and_the_doctor_know_logs(tmp_path: Path) -> None:
    with Upstream(everybody) as server:
        made = written(tmp_path, server)
        dry = cli("learn", made.file, "--dry-run")
        assert dry.code == 0, dry.err
        assert dry.out.startswith("3 practice and 0 gate tasks: 0 rollouts")
        assert not server.said
        doctor = cli("doctor", made.file)
        assert doctor.code == 0, doctor.err
        assert "verifier: recorded" in doctor.out
        assert len(server.said) == 1
