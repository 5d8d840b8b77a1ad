"""The examples of use are programs: each runs as it is, and its calls bear the prior of the library beside it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import tokenprior as tp
from many_apis import ManyApis

EXAMPLES = Path(__file__).parent.parent.parent / "examples/use"
NEEDS = {"with_anthropic": "anthropic", "with_langchain": "langchain_openai"}


def system_of(body: dict[str, Any]) -> Any:
    return body.get("instructions") or body.get("system") or body["messages"][0]["content"]


@pytest.mark.parametrize("example", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_an_example_runs_with_the_prior(example: Path, server: ManyApis) -> None:
    if needed := NEEDS.get(example.stem):
        pytest.importorskip(needed)
    there = {"OPENAI_BASE_URL": server.url, "ANTHROPIC_BASE_URL": server.root}
    keys = {"OPENAI_API_KEY": "k", "ANTHROPIC_API_KEY": "k"}
    ended = subprocess.run(
        [sys.executable, example],
        cwd=EXAMPLES,
        env={**os.environ, **there, **keys},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ended.returncode, set(ended.stdout.splitlines())) == (0, {"fine"}), ended.stderr
    prior = tp.TokenPrior.of(tp.import_library(EXAMPLES / "library.json")).text
    assert server.bodies
    for body in server.bodies:
        assert system_of(body).startswith("Process")
        assert system_of(body).endswith(f"\n\n{prior}")
