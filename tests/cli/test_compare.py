"""`tokenprior compare` in a process of its own: arms from files and runs, controls, early stopping, and the reports."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_cli import one_line, tokenprior

import world
from fake_openai import FakeOpenAI
from tokenprior.models.base import Request
from tokenprior.prompts import tips
from tokenprior.store import open_store

LESSON = "When a word is to be repeated, write it in small letters."


def answer(request: Request) -> str:
    if request.messages[0].content == tips.SYSTEM:
        return json.dumps({"lessons": [{"name": "Care", "lesson": "When a word is given, read it with care."}]})
    return world.both(request)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeOpenAI]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")  # the dead proxy of `tokenprior` is for all but this server
    with FakeOpenAI(answer) as running:
        yield running


@pytest.fixture
def home(tmp_path: Path, server: FakeOpenAI) -> Path:
    rows = [{"question": task.question, "answer": task.answer} for task in world.tasks(90)]
    (tmp_path / "tasks.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    (tmp_path / "small.json").write_text(json.dumps({"G0": LESSON}))
    config = {
        "tasks": {"path": "tasks.jsonl", "split": {"practice": 10, "held_out": 80}},
        "agent": {"model": server.model, "instructions": "Do what is asked.", "max_tokens": 50},
        "verifier": "exact",
        "learn": {"epochs": 1, "group_size": 2, "gate": "none"},
        "evaluate": {"resamples": 200},
    }
    (tmp_path / "run.yaml").write_text(json.dumps(config))
    return tmp_path


def arms_of(home: Path) -> dict[str, dict[str, object]]:
    return {arm["arm"]: arm for arm in json.loads((home / "out.json").read_text())["arms"]}


def test_arms_come_from_files_and_runs_and_controls_stand_beside_them(home: Path, server: FakeOpenAI) -> None:
    tokenprior("learn", "run.yaml", cwd=home)
    said, _ = tokenprior(
        "compare", "run.yaml", "--arm", "file=small.json", "--arm", "run=run", "--arm", "step=run:0",
        "--control", "placebo", "--control", "tips", "--control", "shuffled", "--json", "out.json", cwd=home,
    )  # fmt: skip
    arms = arms_of(home)
    assert list(arms) == ["no prior", "file", "run", "step", "placebo", "tips", "shuffled"]
    assert arms["run"]["library_version"] == arms["step"]["library_version"]
    assert all(arm["experiences"] == 1 for name, arm in arms.items() if name not in ("no prior", "run", "step"))
    assert "file helps: +" in said
    assert "Not enough evidence that placebo differs from no prior" in said
    asked = server.calls
    tokenprior("compare", "run.yaml", "--arm", "file=small.json", "--control", "tips", cwd=home)
    assert server.calls == asked, "what was paid for is not asked for again"


def test_stopping_early_says_so_and_without_it_the_same_command_goes_on(home: Path, server: FakeOpenAI) -> None:
    command = ["compare", "run.yaml", "--arm", "file=small.json", "--json", "out.json"]
    said, _ = tokenprior(*command, "--stop-early", cwd=home)
    made = json.loads((home / "out.json").read_text())
    done = made["tasks_done"]
    assert made["stopped_early"]
    assert done < made["tasks_total"] == 80
    assert said.rstrip().endswith(f"stopped after {done} of 80 tasks.")
    assert server.calls == 2 * done
    tokenprior(*command, cwd=home)
    assert server.calls == 2 * 80
    assert not json.loads((home / "out.json").read_text())["stopped_early"]


def test_k_attempts_bring_pass_at_k_in_the_table(home: Path) -> None:
    said, _ = tokenprior("compare", "run.yaml", "--arm", "file=small.json", "--k", "4", cwd=home)
    table = [line for line in said.splitlines() if line.startswith(("arm ", "no prior (", "file ("))]
    assert len(table) == 3
    assert "pass@4" in table[0]
    assert max(map(len, table)) <= 120


def test_the_page_is_written_with_what_it_was_made_of(home: Path, server: FakeOpenAI) -> None:
    tokenprior("compare", "run.yaml", "--arm", "<b>=small.json", "--html", "out.html", "--json", "out.json", cwd=home)
    page = (home / "out.html").read_text(encoding="utf-8")
    assert "&lt;b&gt; helps: +" in page
    assert "<b>" not in page
    assert server.model in page
    assert {"name", "date", "model", "verifier", "tokenprior"} <= json.loads((home / "out.json").read_text())[
        "made"
    ].keys()


def test_evaluate_is_compare_with_one_arm(home: Path) -> None:
    said, _ = tokenprior("evaluate", "run.yaml", "--library", "small.json", cwd=home)
    assert "library helps: +" in said


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--arm", "placebo=small.json", "--control", "placebo"], "there is an arm 'placebo' already"),
        (["--arm", "a=small.json", "--control", "tips", "--control", "tips"], "there is an arm 'tips' already"),
        (["--arm", "a=small.json", "--arm", "a=small.json"], "there is another arm 'a'"),
        (["--arm", "no prior=small.json"], "an arm may not be called 'no prior'"),
        (["--arm", "a"], "expected NAME=FILE, NAME=RUN[:STEP]"),
        (["--arm", "a=none.json"], "none.json: cannot be read"),
        (["--arm", "a=none"], "no such store"),
    ],
)
def test_a_mistake_is_one_line(home: Path, server: FakeOpenAI, arguments: list[str], problem: str) -> None:
    _, error = tokenprior("compare", "run.yaml", *arguments, cwd=home, code=2)
    assert problem in one_line(error)
    assert server.calls == 0


def test_where_nothing_was_proven_it_names_the_lessons_that_wait(home: Path) -> None:
    config = json.loads((home / "run.yaml").read_text())
    config["tasks"]["split"] = {"practice": 10, "gate": 1, "held_out": 40}
    config["learn"] = {"epochs": 1, "group_size": 3}
    (home / "run.yaml").write_text(json.dumps(config))
    learned, _ = tokenprior("learn", "run.yaml", cwd=home)
    assert "Nothing was proven" in learned
    said, noted = tokenprior("compare", "run.yaml", cwd=home)
    assert "learned puts the same words before the agent as no prior" in said
    (arm,) = re.findall(r"add --arm (waiting=\S+)", noted)
    said, _ = tokenprior("compare", "run.yaml", "--arm", arm, cwd=home)
    assert "waiting helps: +" in said


def test_a_gate_without_gate_tasks_is_said_before_anything_is_asked_for(home: Path, server: FakeOpenAI) -> None:
    config = json.loads((home / "run.yaml").read_text())
    config["learn"] = {"epochs": 1, "group_size": 2}
    (home / "run.yaml").write_text(json.dumps(config))
    for more in ([], ["--dry-run"]):
        _, error = tokenprior("learn", "run.yaml", *more, cwd=home, code=2)
        assert "no gate tasks: set tasks.split.gate" in one_line(error)
    assert server.calls == 0
    with open_store(home / "tokenprior.db") as store:
        assert store.runs() == []
