"""Documents are tests: what they say is so."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import yaml

import world
from fake_openai import FakeOpenAI
from tokenprior.config import Config
from tokenprior.serve.proxy.settings import ServeConfig

ROOT = Path(__file__).parent.parent


def command(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=120,
        env={**os.environ, "COLUMNS": "80"},
    )


def test_the_list_of_commands_is_what_the_commands_say() -> None:
    made = command("-m", "typer", "tokenprior.cli", "utils", "docs", "--name", "tokenprior")
    assert made.returncode == 0, made.stderr
    assert (ROOT / "docs/cli.md").read_text().strip() == made.stdout.strip(), "generate docs/cli.md again"


def test_the_tree_in_the_architecture_is_the_tree() -> None:
    tree = re.search(r"```\nsrc/tokenprior/\n(.*?)```", (ROOT / "ARCHITECTURE.md").read_text(), re.DOTALL)
    assert tree
    named = set(re.findall(r"\b\w+\.py\b", re.sub(r"base\.py", "", tree[1])))
    named |= {f"{folder}/" for folder in re.findall(r"^    (\w+)/", tree[1], re.MULTILINE)}
    source = ROOT / "src/tokenprior"
    there = {path.name for path in source.glob("*.py")}
    there |= {f"{path.name}/" for path in source.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert named == there


def test_the_configs_that_documents_show_are_configs() -> None:
    documents = "\n".join(path.read_text() for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")))
    shown = re.findall(r"```yaml\n(.*?)```", documents, re.DOTALL)
    assert len(shown) >= 6
    around = {"tasks": {"path": "tasks.jsonl"}, "agent": {"model": "embedded"}, "verifier": "exact"}
    for text in [*shown, *(path.read_text() for path in (ROOT / "examples").rglob("*.yaml"))]:
        value = yaml.safe_load(text)
        if "upstream" in value:
            ServeConfig.model_validate(value)
        else:
            Config.model_validate(around | value)


def test_the_python_that_the_readme_shows_compiles_and_names_what_exists() -> None:
    import tokenprior

    for text in re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL):
        compile(text, "README.md", "exec")
        for name in re.findall(r"\btp\.(\w+)", text):
            assert hasattr(tokenprior, name)


def test_links_between_documents_lead_somewhere() -> None:
    for document in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name} links to {target}"


def test_the_example_with_own_pieces_runs(tmp_path: Path) -> None:
    made = command(str(ROOT / "examples/own_pieces.py"), cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    assert "When greeting somebody, write in small letters." in made.stdout


def test_the_quickstart_runs_and_the_command_line_does_the_same(tmp_path: Path) -> None:
    rows = [{"question": task.question, "answer": task.answer} for task in world.tasks(42)]
    (tmp_path / "tasks.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    with FakeOpenAI() as server:
        config = {
            "tasks": {"path": "tasks.jsonl", "split": {"practice": 10, "gate": 12, "held_out": 20}},
            "agent": {"model": server.model, "instructions": "Do what is asked.", "max_tokens": 50},
            "verifier": "exact",
            "learn": {"epochs": 1, "group_size": 3},
        }
        (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
        made = command(str(ROOT / "examples/quickstart.py"), "run.yaml", cwd=tmp_path)
        assert made.returncode == 0, made.stderr
        assert "learned helps:" in made.stdout
        asked = server.calls
        learned = command("-m", "tokenprior", "learn", "run.yaml", cwd=tmp_path)
        compared = command("-m", "tokenprior", "compare", "run.yaml", "--json", "out.json", cwd=tmp_path)
        assert server.calls == asked, "the command line goes on where the program was"
    assert learned.returncode == 0, learned.stderr
    assert "[G0] Small letters:" in learned.stdout
    assert compared.returncode == 0, compared.stderr
    assert compared.stdout.splitlines()[-1] in made.stdout
    assert {arm["arm"] for arm in json.loads((tmp_path / "out.json").read_text())["arms"]} == {"no prior", "learned"}
