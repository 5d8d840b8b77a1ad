"""The config file: what it says back when something in it is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from tokenprior.config import Config, EvaluateConfig, LearnConfig, load_config
from tokenprior.endpoint_settings import BudgetSettings
from tokenprior.errors import ConfigError
from tokenprior.forecast import forecast
from tokenprior.task import Task

GOOD = """\
tasks:
  path: data/t.jsonl
  fields: {question: q}
  split: {practice: 3, held_out: 4}
agent:
  model: embedded
verifier: exact
"""


def written(tmp_path: Path, content: str, name: str = "run.yaml") -> Path:
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    return path


def refusal(tmp_path: Path, content: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(written(tmp_path, content))
    text = str(caught.value)
    assert "\n" not in text
    assert "run.yaml" in text
    return text


def test_a_good_file_is_read_with_paths_relative_to_it(tmp_path: Path) -> None:
    config = load_config(written(tmp_path, GOOD))
    assert config.tasks.path == tmp_path / "data/t.jsonl"
    assert config.store == str(tmp_path / "tokenprior.db")
    assert config.name == "run"
    assert config.verifier == {"kind": "exact"}
    assert config.tasks.split is not None
    assert config.tasks.split.held_out == 4


@pytest.mark.parametrize(
    ("file", "name"), [("my run (1).yaml", "my-run-1"), ("数据.yaml", "run"), ("a" * 60 + ".yaml", "a" * 48)]
)
def test_a_file_may_be_called_what_a_run_may_not(tmp_path: Path, file: str, name: str) -> None:
    assert load_config(written(tmp_path, GOOD, file)).name == name


def test_a_store_address_and_absolute_paths_stay(tmp_path: Path) -> None:
    config = load_config(written(tmp_path, GOOD + "store: postgresql://h/db\n"))
    assert config.store == "postgresql://h/db"
    other = GOOD.replace("data/t.jsonl", "/data/t.jsonl") + "store: /var/x.db\n"
    assert load_config(written(tmp_path, other)).tasks.path == Path("/data/t.jsonl")
    assert load_config(written(tmp_path, other)).store == "/var/x.db"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (GOOD + "lern:\n  epochs: 2\n", "unknown key 'lern': did you mean 'learn'?"),
        (GOOD + "learn:\n  epoch: 2\n", "unknown key 'learn.epoch': did you mean 'epochs'?"),
        (GOOD + "learn:\n  library:\n    max_word: 9\n", "'learn.library.max_word': did you mean 'max_words'?"),
        (GOOD.replace("practice", "practise"), "did you mean 'practice'?"),
        (GOOD + "learn:\n  zzzz: 2\n", "unknown key 'learn.zzzz'; known here: "),
        (GOOD + "learn:\n  epochs: many\n", "key 'learn.epochs': got 'many'; input should be a valid integer"),
        (GOOD + "learn:\n  group_size: 0\n", "key 'learn.group_size': got 0; input should be greater"),
        (GOOD + "learn:\n  temperature: -1\n", "key 'learn.temperature': got -1"),
        (GOOD + "learn:\n  preset: papper\n", "key 'learn.preset': got 'papper'; input should be 'paper'"),
        (GOOD + "budget:\n  usd: 0\n", "key 'budget.usd': got 0"),
        (GOOD + "name: a b\n", "key 'name': got 'a b'"),
        (GOOD.replace("question: q", "prompt: q"), "prompt"),
        (GOOD.replace("agent:\n  model: embedded\n", ""), "key 'agent' is missing"),
        ("agent: {model: m}\n", "key 'verifier' is missing"),
        ("agent: {model: m}\nverifier: exact\n", "expected `tasks`, or `logs` of attempts that were made already"),
        (GOOD.replace("model: embedded", "kind: function\n  function: a.py:f"), "expected `learner`, the model that"),
        (GOOD.replace("embedded", "http://h/v1#*"), "that writes the lessons: http://h/v1#* names none"),
        (GOOD.replace("embedded", "openai:*"), "that writes the lessons: openai:* names none"),
        (GOOD + "prices:\n  m: {input: 1, outptu: 2}\n", "unknown key 'prices.m.outptu': did you mean 'output'?"),
        (GOOD.replace("model: embedded", "modle: m"), "unknown key 'agent.modle': did you mean 'model'?"),
        (GOOD.replace("model: embedded", "kind: robot"), "key 'agent': got {'kind': 'robot'}"),
        (GOOD.replace("model: embedded", "model: m\n  tools: [python]\n  limits: {turn: 2}"), "did you mean 'turns'?"),
        (GOOD.replace("model: embedded", "model: m\n  tools: [python]\n  limits: {turns: 0}"), "limits.turns': got 0"),
        (GOOD.replace("model: embedded", "model: m\n  command: [ls]"), "unknown key 'agent.command'"),
        (GOOD + "learn:\n  epochs: [1\n", "run.yaml:10: not YAML: expected ',' or ']'"),
        (GOOD + "\tx: 1\n", "run.yaml:8: not YAML: found character '\\t'"),
        ("a: \x07\n", "not YAML: unacceptable character"),
        ("when: 2026-99-99\n", "not YAML"),
        ("- a\n", "expected keys such as `tasks:` and `agent:`, got list"),
        ("", "got NoneType"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_one_line(tmp_path: Path, content: str, words: str) -> None:
    assert words in refusal(tmp_path, content)


def test_a_file_that_is_not_there_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot be read: No such file .*tokenprior init"):
        load_config(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path / "latin.yaml")


def test_the_preset_is_what_the_paper_used_and_given_keys_win() -> None:
    paper = LearnConfig(preset="paper").resolved()
    assert (paper.epochs, paper.batch_size, paper.group_size, paper.temperature, paper.compact) == (
        3,
        None,
        5,
        0.7,
        False,
    )
    mixed = LearnConfig(preset="paper", group_size=3, epochs=1).resolved()
    assert (mixed.group_size, mixed.epochs, mixed.compact) == (3, 1, False)
    plain = LearnConfig()
    assert plain.resolved() == plain
    assert paper.resolved() == paper
    assert EvaluateConfig().temperature == 0.3


def test_settings_are_frozen_and_know_their_limits() -> None:
    config = LearnConfig()
    with pytest.raises(ValueError, match="frozen"):
        config.epochs = 5  # type: ignore[misc]
    limits = BudgetSettings(usd=1.5, calls=3).limits
    assert (limits.usd, limits.calls, limits.tokens, limits.minutes) == (1.5, 3, None, None)
    assert LearnConfig().library.bounds.max_words == 32


@pytest.mark.parametrize(
    ("lines", "kind"),
    [
        ("model: m", "chat"),
        ("model: m\n  tools: [python, {kind: corpus, path: docs}]", "tools"),
        ("kind: program\n  model: m\n  command: [node, agent.js]", "program"),
        ("kind: function\n  model: m\n  function: a.py:f", "function"),
    ],
)
def test_an_agent_is_of_a_kind_and_tools_make_it_one(tmp_path: Path, lines: str, kind: str) -> None:
    assert load_config(written(tmp_path, GOOD.replace("model: embedded", lines))).agent.kind == kind


def test_a_tool_may_be_named_by_its_kind_alone(tmp_path: Path) -> None:
    config = load_config(written(tmp_path, GOOD.replace("model: embedded", "model: m\n  tools: [python]")))
    assert config.agent.kind == "tools"
    assert config.agent.tools == ({"kind": "python"},)


def test_changes_stand_in_place_of_what_the_file_says(tmp_path: Path) -> None:
    path = written(tmp_path, GOOD + "learn: {epochs: 2}\n")
    config = load_config(path, changes={"learn.group_size": 1, "budget.calls": 9, "name": "other"})
    assert (config.learn.epochs, config.learn.group_size, config.budget.calls, config.name) == (2, 1, 9, "other")
    with pytest.raises(ConfigError, match=r"unknown key 'learn\.grup_size': did you mean 'group_size'"):
        load_config(path, changes={"learn.grup_size": 1})


def test_a_data_set_of_the_hub_is_no_file_and_logs_are_one(tmp_path: Path) -> None:
    config = load_config(written(tmp_path, GOOD.replace("data/t.jsonl", "hub:owner/name#train")))
    assert config.tasks is not None
    assert str(config.tasks.path) == "hub:owner/name#train"
    logs = load_config(written(tmp_path, "logs: {path: a.jsonl}\nagent: {model: m}\nverifier: recorded\n")).logs
    assert logs is not None
    assert logs.path == tmp_path / "a.jsonl"


def test_a_function_without_a_model_is_forecast_to_call_none() -> None:
    tasks = [Task(id="t", question="q")]
    calls = {}
    for model in (None, "m"):
        agent = {"kind": "function", "function": "a.py:f", "model": model}
        given = {"tasks": {"path": "t"}, "agent": agent, "learner": "m", "verifier": "exact", "learn": {"gate": "none"}}
        made = forecast(Config.model_validate(given), tasks)
        calls[model] = made.usage.calls - made.learning_calls
        assert made.rollouts == 15
    assert calls == {None: 0, "m": 15 * 20}
