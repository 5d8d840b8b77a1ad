"""A run with a past: lessons that were added, reworded, merged, refused by the gate and measured to hurt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from typer.testing import CliRunner, Result

import world
from tokenprior.cli import app
from tokenprior.errors import TokenpriorError
from tokenprior.learn import LearnResult, learn
from tokenprior.library import Library
from tokenprior.models.base import Request
from tokenprior.models.scripted import ScriptedModel
from tokenprior.prove import Gate
from tokenprior.store import open_store

SMALL = "When a word is to be repeated, write it in small letters."
PLAIN = "When a word is given, say nothing else."
PLAINER = "When one word is asked for, add no other."
LOUD = "When in doubt about a word, prefer capitals."
BOTH = "When one word is asked for, repeat it alone and in small letters."

OPERATIONS: dict[int, list[dict[str, Any]]] = {
    0: [
        {"op": "Add", "name": "Small letters", "text": SMALL, "reason": "all groups say so"},
        {"op": "Add", "name": "Alone", "text": PLAIN, "reason": "one group says so"},
    ],
    1: [
        {"op": "Modify", "id": "G1", "name": "", "text": PLAINER, "reason": "shorter"},
        {"op": "Modify", "id": "G9", "name": "", "text": "When there is none, say so.", "reason": "a slip"},
    ],
    2: [{"op": "Add", "name": "Loud", "text": LOUD, "reason": "a wrong turn"}],
    3: [{"op": "Merge", "ids": ["G0", "G1"], "name": "", "text": BOTH, "reason": "one and the same"}],
    4: [{"op": "Modify", "id": "G2", "name": "", "text": LOUD, "reason": "too late"}],
}


def policy(request: Request) -> str:
    """Right by chance a third of the time, more often told of small letters, and hardly ever told of capitals."""
    word, told = request.messages[-1].content.removeprefix("Repeat: "), request.messages[0].content
    right = 0.05 if "capitals" in told else 0.75 if "small letters" in told else 0.35
    return word if world.chance(request.seed, word) < right else word.upper()


def learner(request: Request) -> str:
    """Each step brings the operations of the story; the first lessons of a batch stand behind all of them."""
    if request.key.phase == "revise":
        return json.dumps([{**one, "lessons": [1, 2]} for one in OPERATIONS.get(request.key.step, [])])
    return world.learner(request)


def loud(request: Request) -> str:
    """A learning model that teaches one lesson that hurts."""
    if request.key.phase == "revise":
        adds = [{"op": "Add", "name": "Loud", "text": LOUD, "lessons": [1], "reason": "a wrong turn"}]
        return json.dumps(adds if request.key.step == 0 else [])
    return world.learner(request)


async def fill(
    path: Path, name: str, writes: Any = learner, *, start: Library | None = None, **changes: Any
) -> LearnResult:
    """Learn the story, or another, in a store, with 12 practice tasks and 28 at the gate."""
    tasks = list(world.tasks(40))
    agent = world.agent(ScriptedModel(policy))
    with open_store(path) as store:
        config = world.config(**{"gate": "proven", **changes})
        described = {"learn": config.model_dump(mode="json")}
        record = store.open_run(f"{name}-1a2b", name=name, kind="learn", config=described)
        made = await learn(
            tasks[:12],
            agent=agent,
            verifier=world.SmallLetters(),
            model=ScriptedModel(writes),
            record=record,
            config=config,
            gate=Gate(tasks=tasks[12:], agent=agent),
            start=start,
        )
        record.close("done")
    return made


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(one) for one in arguments])


def said(*arguments: str | Path) -> str:
    """What a command that goes well prints on standard output."""
    ended = run(*arguments)
    assert ended.exit_code == 0, (ended.output, ended.exception)
    return ended.stdout


def error(*arguments: str | Path) -> str:
    """The one line in which a command that goes wrong says why."""
    ended = run(*arguments)
    assert isinstance(ended.exception, TokenpriorError), (ended.output, ended.exception)
    assert "\n" not in str(ended.exception)
    return str(ended.exception)
