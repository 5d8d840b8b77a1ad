"""A folder as a user has it: tasks, a config, and a store that was filled by runs on a real endpoint on loopback."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

import world
from fake_openai import FakeOpenAI
from tokenprior.config import load_config
from tokenprior.library import Library
from tokenprior.session import session


def folder(path: Path, server: FakeOpenAI, *, tasks: int = 42, **learn: Any) -> Path:
    """Write tasks and a config, and return the config's path."""
    rows = [{"question": task.question, "answer": task.answer} for task in world.tasks(tasks)]
    (path / "tasks.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    config = {
        "tasks": {"path": "tasks.jsonl", "split": {"practice": 10, "gate": 12, "held_out": 20}},
        "agent": {"model": server.model, "instructions": "Do what is asked.", "max_tokens": 50},
        "verifier": "exact",
        "learn": {"epochs": 1, "group_size": 3, "batch_size": 5, **learn},
        "evaluate": {"k": 2, "resamples": 500},
        "endpoint": {"backoff_s": 0.01},
    }
    made = path / "run.yaml"
    made.write_text(yaml.safe_dump(config))
    return made


async def fill(config: Path, arms: Mapping[str, Library] | None = None) -> str:
    """Learn and compare, and return the run's id."""
    async with session(load_config(config)) as opened:
        result = await opened.learn()
        await opened.compare({"learned": result.library, **(arms or {})}, controls=["placebo"])
        return opened.learning_run
