"""`tokenprior compare` with several configs and models: where which library helps, in one table."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import story
import world
from fake_openai import FakeOpenAI
from tokenprior.store import open_store

SMALL = "When a word is to be repeated, write it in small letters."
POLITE = "When a word is given, be polite."
FILES = ("--arm", "small=small.json", "--arm", "polite=polite.json")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeOpenAI]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with FakeOpenAI(world.both) as running:
        yield running


@pytest.fixture
def home(tmp_path: Path, server: FakeOpenAI, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two domains: in the one small letters are right, in the other capitals; each with a store of its own."""
    (tmp_path / "small.json").write_text(json.dumps({"G0": SMALL}))
    (tmp_path / "polite.json").write_text(json.dumps({"G0": POLITE}))
    for name, answer in (("small", str), ("capitals", str.upper)):
        rows = [{"question": task.question, "answer": answer(task.answer or "")} for task in world.tasks(34)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
        write(tmp_path, name, server.model)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(home: Path, name: str, model: str, **changes: Any) -> None:
    config = {
        "store": f"{name}.db",
        "tasks": {"path": f"{name}.jsonl", "split": {"practice": 10, "held_out": 24}},
        "agent": {"model": model, "instructions": "Do what is asked.", "max_tokens": 50},
        "verifier": "exact",
        "learn": {"epochs": 1, "group_size": 2, "gate": "none"},
        "evaluate": {"resamples": 200},
    }
    (home / f"{name}.yaml").write_text(json.dumps(config | changes))


def table_of(said: str) -> list[list[str]]:
    """The last table: what stands in its cells."""
    lines = said.splitlines()
    start = max(at for at, line in enumerate(lines) if line.startswith("arm "))
    return [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in lines[start : start + 4]]


def test_two_configs_and_two_arms_make_one_table_of_where_what_helps(home: Path, server: FakeOpenAI) -> None:
    command = ("compare", "small.yaml", "capitals.yaml", *FILES, "--json", "out.json", "--html", "out.html")
    said = story.said(*command)
    title, scores, small, polite = table_of(said)
    assert (title, scores[0]) == (["arm", "small", "capitals"], "no prior")
    assert [small[1][0], small[1].split()[-1], small[2][0], small[2].split()[-1]] == ["+", "helps", "-", "hurts"]
    assert [cell.split()[-1] for cell in polite[1:]] == ["unclear", "unclear"]
    assert "small helps: +" in said
    assert "small hurts: -" in said
    assert "with a chance of 5% of a wrong verdict in it" in said
    report = json.loads((home / "out.json").read_text())
    assert report["format"] == "tokenprior-transfer-1"
    assert [[arm["arm"] for arm in one["arms"]] for one in report["comparisons"]] == [
        ["no prior", "small", "polite"]
    ] * 2
    assert [one["made"]["name"] for one in report["comparisons"]] == ["small", "capitals"]
    assert (home / "out-1.html").exists()
    assert (home / "out-2.html").exists()
    assert server.calls == 2 * 3 * 24
    assert story.said(*command) == said
    assert server.calls == 2 * 3 * 24, "what was paid for is not asked for again"
    for name in ("small", "capitals"):
        with open_store(home / f"{name}.db") as store:
            assert [(run.name, run.kind) for run in store.runs()] == [(name, "compare")]


def test_each_model_takes_the_place_of_the_agents_own_and_the_judge_stays(home: Path, server: FakeOpenAI) -> None:
    models = [f"{server.url}#one", f"{server.url}#two"]
    rubric = {"kind": "judge", "rubric": "Is it polite?"}
    write(home, "small", server.model, verifier=rubric)
    story.run("compare", "small.yaml", *FILES, "--model", models[0], "--model", models[1])
    asked = Counter(body["model"] for body in server.bodies)
    assert asked["one"] == asked["two"] == 3 * 24
    assert asked["fake"], "the judge is the config's learning model, as without --model"
    assert set(asked) == {"one", "two", "fake"}


def test_columns_of_models_bear_their_names_and_one_model_is_an_ordinary_comparison(
    home: Path, server: FakeOpenAI
) -> None:
    one, two = f"{server.url}#one", f"{server.url}#two"
    said = story.said("compare", "small.yaml", *FILES, "--model", one, "--model", two)
    assert table_of(said)[0] == ["arm", f"small, {one}", f"small, {two}"]
    alone = story.said("compare", "small.yaml", *FILES, "--model", one, "--json", "out.json")
    assert alone in said
    made = json.loads((home / "out.json").read_text())
    assert (made["format"], made["made"]["model"]) == ("tokenprior-comparison-1", one)


def test_without_arms_each_column_has_what_its_config_learned_as_it_is_written(home: Path, server: FakeOpenAI) -> None:
    story.said("learn", "small.yaml")
    said = story.said("compare", "small.yaml", "--model", server.model, "--model", f"{server.url}#two")
    assert table_of(said)[2][0] == "learned"
    assert all(cell.endswith("helps") for cell in table_of(said)[2][1:])
    assert "this config has not learned" not in said
    assert "learned" not in str(server.bodies[-1]["model"])


def test_a_run_is_found_in_the_store_of_any_of_the_configs(home: Path) -> None:
    story.said("learn", "small.yaml")
    said = story.said("compare", "capitals.yaml", "small.yaml", "--arm", "lower=small")
    assert [cell.split()[-1] for cell in table_of(said)[2][1:]] == ["hurts", "helps"]
    assert story.error("compare", "capitals.yaml", "small.yaml", "--arm", "lower=none") == (
        "none: expected a library file, or a run in one of the stores capitals.db, small.db"
    )


@pytest.mark.parametrize(
    ("changes", "more", "problem"),
    [
        ({"verifier": "exakt"}, (), "exakt"),
        ({"tasks": {"path": "none.jsonl"}}, (), "none.jsonl"),
        ({"tasks": {"path": "small.jsonl"}}, (), "no held-out tasks"),
        ({"learn": {"prior": {"relevant": 1}}}, ("--control", "placebo"), "a placebo concerns no task"),
        ({"budget": {"usd": 1}}, (), "the price of a model is not known"),
        ({"agent": {"model": "deepseek:chat"}}, (), "DEEPSEEK_API_KEY is not set"),
        ({"agent": {"kind": "program", "command": ["x"], "model": "no:such"}, "learner": "embedded"}, (), "no:such"),
        ({"agent": {"model": "embedded:none"}}, (), "no embedded model is called 'none'"),
        ({"agnet": 1}, (), "unknown key 'agnet'"),
    ],
)
def test_a_second_config_that_is_wrong_is_refused_before_the_first_asks_for_anything(
    home: Path,
    server: FakeOpenAI,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    more: tuple[str, ...],
    problem: str,
) -> None:
    monkeypatch.delenv("DEEPSEEK_API_KEY", raising=False)
    write(home, "capitals", server.model, **changes)
    assert problem in story.error("compare", "small.yaml", "capitals.yaml", *FILES, *more)
    assert server.calls == 0
    with open_store(home / "small.db") as store:
        assert store.runs() == []


def test_what_cannot_be_put_side_by_side_is_said(home: Path, server: FakeOpenAI) -> None:
    assert "small.yaml is named twice" in story.error("compare", "small.yaml", "small.yaml", *FILES)
    (home / "agent.py").write_text("def answer(task, prior):\n    return task.question\n")
    agent = {"kind": "function", "function": "agent.py:answer"}
    write(home, "capitals", server.model, agent=agent, learner=server.model)
    problem = story.error("compare", "capitals.yaml", *FILES, "--model", server.model)
    assert problem == "capitals.yaml: --model takes the place of agent.model, and this agent names none"
    assert server.calls == 0
