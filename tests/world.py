"""A small world to learn in: tasks, a scripted policy that follows lessons, and a scripted learning model.

The policy answers in capitals unless the prior tells it to write small letters; so there is one thing to learn, and
whether it was learned shows in the rewards. Everything is a function of the request, so any order of calls gives the
same run.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

from tokenprior.agents.chat import ChatAgent
from tokenprior.config import LearnConfig
from tokenprior.models.base import Model, Request
from tokenprior.models.scripted import ScriptedModel
from tokenprior.reward import Reward
from tokenprior.rollout import Rollout
from tokenprior.task import Task, TaskSet, content_hash

WORDS = ("amber birch cedar delta ember fjord grove heron inlet jetty kelp larch maple north ocean pearl").split()  # noqa: SIM905  (easier to read)


def tasks(count: int) -> TaskSet:
    """Tasks that ask for one word to be repeated."""
    return TaskSet(
        Task(id=f"t{i}", question=f"Repeat: {WORDS[i % 16]}{i}", answer=f"{WORDS[i % 16]}{i}") for i in range(count)
    )


class SmallLetters:
    """Wants the answer letter for letter."""

    fingerprint = "small-letters-1"

    async def verify(self, task: Task, rollout: Rollout) -> Reward:
        right = rollout.output == task.answer
        return Reward(value=float(right), extracted=rollout.output, feedback="" if right else f"wanted {task.answer}")


def chance(*parts: object) -> float:
    """A number in [0, 1) that depends on the parts alone."""
    return int(content_hash(list(parts))[:8], 16) / 16**8


def policy(request: Request) -> str:
    """Right by chance a third of the time, and nearly always with the lesson in its prompt."""
    word = request.messages[-1].content.removeprefix("Repeat: ")
    learned = "small letters" in request.messages[0].content
    return word if chance(request.seed, word) < (0.95 if learned else 0.35) else word.upper()


def learner(request: Request) -> str:
    """Writes the one lesson there is for a group, and adds it once to the library."""
    if request.key.phase == "contrast":
        lesson = {"name": "Small letters", "lesson": "When a word is to be repeated, write it in small letters."}
        return json.dumps({"difference": "case", "lessons": [lesson]})
    if request.key.phase == "summary":
        return f"The attempt wrote something ({chance(str(request.key)):.3f})."
    text = request.messages[-1].content
    numbers = [int(n) for n in re.findall(r"^(\d+)\. ", text, re.MULTILINE)]
    if "[G0]" in text:
        return json.dumps([{"op": "Keep", "id": "G0", "lessons": numbers, "reason": "said already"}])
    add = {
        "op": "Add",
        "name": "Small letters",
        "text": "When a word is to be repeated, write it in small letters.",
        "lessons": numbers,
        "reason": "all groups say so",
    }
    return json.dumps([add])


def both(request: Request) -> str:
    """Policy and learning model in one."""
    return learner(request) if request.key.phase in ("summary", "contrast", "revise") else policy(request)


def agent(model: Model | None = None, *, seed: int | None = 1) -> ChatAgent:
    return ChatAgent(model=model or ScriptedModel(policy), instructions="Do what is asked.", max_tokens=50, seed=seed)


def config(**changes: object) -> LearnConfig:
    plain = {"epochs": 2, "batch_size": 4, "group_size": 3, "gate": "none", "inclusion_pairs": 0}
    return LearnConfig(**{**plain, **changes})  # type: ignore[arg-type]


def texts(requests: Iterable[Request]) -> str:
    """All words of some requests, to look for what must not be there."""
    return "\n".join(message.content for request in requests for message in request.messages)
