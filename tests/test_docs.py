"""Documents are tests: what they say is so."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tokenprior.config import Config

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
    shown = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert shown
    for text in [*shown, *(path.read_text() for path in (ROOT / "examples").rglob("*.yaml"))]:
        Config.model_validate(yaml.safe_load(text))


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


@pytest.mark.parametrize("example", ["own_pieces.py"])
def test_examples_run(example: str, tmp_path: Path) -> None:
    made = command(str(ROOT / "examples" / example), cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    assert "When greeting somebody, write in small letters." in made.stdout
