"""Drafts: a config for a user's data, whatever stands in it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from tokenprior.config import load_config
from tokenprior.draft import Draft, draft_for
from tokenprior.errors import DataError


def data(folder: Path, count: int, *, ids: bool = False) -> Path:
    rows = [{"Prompt": f"question {i}", "label": "yes"} | ({"id": f"t{i}"} if ids else {}) for i in range(count)]
    path = folder / "my tasks.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def test_a_draft_names_the_fields_and_parts_the_tasks(tmp_path: Path) -> None:
    draft = draft_for(data(tmp_path, 90), tmp_path)
    assert (Path(draft.data).name, draft.tasks) == ("my tasks.jsonl", 90)
    assert draft.fields == {"question": "Prompt", "answer": "label"}
    assert (draft.practice, draft.gate, draft.held_out) == (30, 30, 30)
    assert "  gate: proven  " in draft.text("x.yaml")


def test_with_few_tasks_there_is_no_gate(tmp_path: Path) -> None:
    draft = draft_for(data(tmp_path, 12), tmp_path)
    assert (draft.practice, draft.gate, draft.held_out) == (6, 0, 6)
    assert "  gate: none  " in draft.text("x.yaml")


def test_what_a_draft_says_is_what_the_config_holds(tmp_path: Path) -> None:
    plain = draft_for(data(tmp_path, 90, ids=True), tmp_path)
    hostile = "a: b # c\n\"'{}\\boxed{} \u2028 yes"
    draft = replace(
        plain,
        model="http://127.0.0.1:8000/v1#m",
        instructions=hostile,
        learner="openai:gpt-5.2",
        verifier="math",
        take="after:Answer:",
        usd=2.5,
        minutes=7,
        store="../runs.db",
    )
    path = tmp_path / "x.yaml"
    path.write_text(draft.text("x.yaml"))
    config = load_config(path)
    assert config.agent.model == "http://127.0.0.1:8000/v1#m"
    assert config.agent.instructions == hostile
    assert (config.learner, config.verifier) == ("openai:gpt-5.2", {"kind": "math", "take": "after:Answer:"})
    assert (config.budget.usd, config.budget.minutes) == (2.5, 7)
    assert config.store == str(tmp_path / "../runs.db")
    assert config.tasks is not None
    assert config.tasks.fields == {"question": "Prompt", "answer": "label", "id": "id"}
    assert config.source is not None
    assert config.source.file == path.resolve()


def test_a_verifier_that_takes_all_has_no_take(tmp_path: Path) -> None:
    draft = replace(draft_for(data(tmp_path, 90), tmp_path), verifier="judge", take="")
    assert yaml.safe_load(draft.text("x.yaml"))["verifier"] == {"kind": "judge"}


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", '{"colour": "red"}\n', "looks like a question"),
        ("a.jsonl", "no json\n", "cannot be read as .jsonl"),
        ("a.csv", "colour,size\nred,1\n", "looks like a question"),
    ],
)
def test_data_without_a_question_is_refused_in_one_line(tmp_path: Path, name: str, content: str, said: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=said) as caught:
        draft_for(tmp_path / name, tmp_path)
    assert "\n" not in str(caught.value)


def test_a_draft_is_a_value() -> None:
    draft = Draft(data="a", tasks=1, fields={"question": "q"}, practice=1, gate=0, held_out=0)
    assert draft.text("a.yaml") == draft.text("a.yaml")
