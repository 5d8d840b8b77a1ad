"""Tips are lessons without rollouts: they see questions and nothing else, and are guarded as lessons are."""

from __future__ import annotations

import json

import pytest

import world
from tokenprior.advantage import LeakGuard
from tokenprior.errors import ModelError
from tokenprior.library import Library
from tokenprior.models.base import CallFailed, Request
from tokenprior.models.scripted import ScriptedModel
from tokenprior.task import Task
from tokenprior.tips import QUESTIONS, tips

pytestmark = pytest.mark.anyio

TASKS = [Task(id=f"t{i}", question=f"How many of {world.WORDS[i]}?", answer=f"secret-{i}") for i in range(12)]


def reply(*texts: str) -> str:
    return json.dumps({"lessons": [{"name": "", "lesson": text} for text in texts]})


async def written(script: object, *, count: int = 2) -> tuple[Library, ScriptedModel]:
    model = ScriptedModel(script)  # type: ignore[arg-type]  # a list or a function
    made = await tips(
        TASKS,
        instructions="Count what you see.",
        count=count,
        model=model,
        config=world.config(),
        guard=LeakGuard(TASKS),
    )
    return made, model


async def test_tips_are_written_in_one_call_that_sees_few_questions_and_no_answer() -> None:
    made, model = await written([reply("When things are counted, count them twice.", "When none is seen, say zero.")])
    assert [(e.id, e.text) for e in made] == [
        ("G0", "When things are counted, count them twice."),
        ("G1", "When none is seen, say zero."),
    ]
    assert {(e.provenance.operation, e.provenance.groups) for e in made} == {("Tips", ())}
    (request,) = model.requests
    assert request.key.phase == "tips"
    said = world.texts([request])
    assert "Count what you see." in said
    assert "Write 2 lessons." in said
    assert said.count("How many of ") == QUESTIONS
    assert "secret" not in said


async def test_a_tip_that_gives_an_answer_away_or_says_a_thing_again_is_not_kept() -> None:
    twice = "When things are counted, count them twice."
    made, _ = await written([reply("When lost, write secret-3 at once.", twice, twice)], count=3)
    assert [e.text for e in made] == [twice]


async def test_more_tips_than_were_asked_for_are_too_many() -> None:
    made, _ = await written([reply("When in doubt, count again.", "When all is done, check the sum.")], count=1)
    assert [e.text for e in made] == ["When in doubt, count again."]


async def test_a_reply_that_cannot_be_read_is_asked_for_again_and_then_there_are_no_tips() -> None:
    made, model = await written(["I would rather not.", "No."])
    assert made == Library()
    assert len(model.requests) == 2


async def test_nothing_is_called_for_no_tips() -> None:
    made, model = await written([], count=0)
    assert (made, model.requests) == (Library(), [])


async def test_an_outage_is_not_a_library() -> None:
    def away(request: Request) -> str:
        raise CallFailed("connection", "gone", retryable=True)

    with pytest.raises(ModelError, match="no call for the tips arm came through"):
        await written(away)
