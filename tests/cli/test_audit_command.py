"""tokenprior audit, against a real server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_cli import one_line, tokenprior

import world
from fake_openai import FakeOpenAI

LESSON = "When a word is to be repeated, write it in small letters."
IDLE = "When the tide is out, gather mussels from the rocks."


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeOpenAI]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")  # the dead proxy of `tokenprior` is for all but this server
    with FakeOpenAI() as running:
        yield running


@pytest.fixture
def home(tmp_path: Path, server: FakeOpenAI) -> Path:
    rows = [{"question": task.question, "answer": task.answer} for task in world.tasks(60)]
    (tmp_path / "tasks.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    (tmp_path / "two.json").write_text(json.dumps({"G0": LESSON, "G1": IDLE}))
    config = {
        "tasks": {"path": "tasks.jsonl", "split": {"practice": 10, "gate": 30, "held_out": 20}},
        "agent": {"model": server.model, "instructions": "Do what is asked.", "max_tokens": 50},
        "verifier": "exact",
    }
    (tmp_path / "run.yaml").write_text(json.dumps(config))
    return tmp_path


def test_an_audit_tells_what_each_lesson_does_and_more_rollouts_go_on(home: Path, server: FakeOpenAI) -> None:
    before = server.calls
    said, _ = tokenprior("audit", "run.yaml", "--library", "two.json", "--rollouts", "60", cwd=home)
    assert server.calls - before == 60
    assert f"[G0] {LESSON}\n      effect +0." in said
    assert "60 attempts on the gate tasks, 0 unscored" in said
    assert "Not enough evidence for G1" in said
    said, _ = tokenprior(
        "audit", "run.yaml", "--library", "two.json", "--rollouts", "90", "--to", "out.json", "--drop", cwd=home
    )
    assert server.calls - before == 90, "what was paid for is not asked for again"
    assert "out.json: 2 of 2 lessons" in said
    written = json.loads((home / "out.json").read_text())
    assert written["experiences"][0]["effect"]["low"] > 0


def test_an_audit_of_practice_tasks_says_that_it_flatters(home: Path) -> None:
    config = json.loads((home / "run.yaml").read_text())
    config["tasks"]["split"] = {"practice": 10, "held_out": 20}
    (home / "run.yaml").write_text(json.dumps(config))
    said, _ = tokenprior("audit", "run.yaml", "--library", "two.json", "--rollouts", "20", cwd=home)
    assert "20 attempts on the practice tasks, 0 unscored" in said
    assert "their effects are flattered" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--library", "two.json", "--drop"], "--drop: there is no file to leave lessons out of"),
        (["--library", "two.json", "--rollouts", "6"], "2 lessons cannot be told apart on 30 tasks with 6 rollouts"),
        (["--library", "none.json"], "none.json: cannot be read"),
        ([], "no run"),
    ],
)
def test_what_cannot_be_audited_is_one_line(home: Path, arguments: list[str], said: str) -> None:
    _, error = tokenprior("audit", "run.yaml", *arguments, cwd=home, code=2)
    assert said in one_line(error)
