"""What is shared comes first: prompts of one step begin with the same bytes, so that a server can cache them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

import pytest

import world
from tokenprior.advantage import Lesson
from tokenprior.experience import Experience
from tokenprior.learn import learn
from tokenprior.library import Library
from tokenprior.models.scripted import ScriptedModel
from tokenprior.prompts import contrast, joint, revise, shown, summary
from tokenprior.reward import Reward
from tokenprior.rollout import Message, Rollout
from tokenprior.store import open_store
from tokenprior.task import Task
from tokenprior.verifiers.judge import Judge

pytestmark = pytest.mark.anyio

TASKS = [Task(id=name, question=f"What of {name}?", answer=name.upper()) for name in ("one", "two", "three")]
LIBRARY = Library(
    experiences=tuple(
        Experience(id=f"G{number}", name="", text=f"When it is {number}, count to {number}.") for number in range(40)
    )
)


def rollout(task: Task, index: int = 0) -> Rollout:
    messages = (Message(role="user", content=task.question), Message(role="assistant", content=f"{task.id}{index}"))
    return Rollout(task_id=task.id, index=index, messages=messages, output=f"{task.id}{index}")


def contrasted(task: Task, question: contrast.Question = "mixed", library: Library = LIBRARY) -> tuple[Message, ...]:
    attempts = [(rollout(task, index), Reward(value=float(index)), None) for index in range(2)]
    return contrast.messages(task, attempts, library, question, limit=2_000, lessons=2, words=32)


def whole(prompt: Sequence[Message]) -> str:
    return "\n\n".join(f"{message.role}: {message.content}" for message in prompt)


def shared(*prompts: Sequence[Message]) -> str:
    """The bytes with which all prompts begin."""
    texts = sorted(whole(prompt) for prompt in prompts)
    same = takewhile(lambda pair: pair[0] == pair[1], zip(texts[0], texts[-1], strict=False))
    return "".join(character for character, _ in same)


def test_all_contrasts_of_a_step_begin_with_the_library_whatever_their_question() -> None:
    kinds: list[contrast.Question] = ["mixed", "all_fail", "all_success", "no_ground_truth"]
    start = shared(*(contrasted(task, kind) for task in TASKS for kind in kinds))
    assert shown.lessons(LIBRARY) in start
    assert len({contrasted(task, kind)[0] for task in TASKS for kind in kinds}) == 1, "the whole system message"
    assert len(start) > 0.6 * len(whole(contrasted(TASKS[0])))


@pytest.mark.parametrize("kind", ["mixed", "all_fail", "all_success", "no_ground_truth"])
def test_what_a_contrast_asks_for_stands_at_its_end_behind_all_material(kind: contrast.Question) -> None:
    last = whole(contrasted(TASKS[0], kind)).rpartition(">>>")[2]
    assert last.strip().endswith('"lesson": "When ..., ..."}]}')
    assert "First say in one sentence" in last
    assert "write at most 2 lessons" in last
    assert 'One sentence of at most 32 words: "When' in last, "from further above a small model does not mind it"


def test_joint_contrasts_share_the_library_and_ask_at_the_end() -> None:
    first, second = (
        joint.messages([(task.question, "yes") for task in tasks], LIBRARY, limit=500, words=32)
        for tasks in (TASKS[:2], TASKS[1:])
    )
    assert first[0] == second[0]
    assert shown.lessons(LIBRARY) in first[0].content
    assert first[1].content.endswith("and name none of the words above.")


def test_summaries_of_one_group_share_all_but_the_attempt_and_those_of_a_run_the_words() -> None:
    first, second = (summary.messages(TASKS[0], rollout(TASKS[0], at), Reward(value=0.0), limit=2_000) for at in (0, 1))
    other = summary.messages(TASKS[1], rollout(TASKS[1]), Reward(value=0.0), limit=2_000)
    start = shared(first, second)
    assert TASKS[0].question in start
    assert "ONE" in start
    assert first[0] == other[0]
    assert first[1].content.endswith("Retell this attempt in at most 150 words, step by step and without advice.")


def test_updates_of_one_library_share_it_and_end_with_the_rules() -> None:
    first, second = (
        revise.messages(LIBRARY, [(1, Lesson(name="", text=text))], words=32, entries=50)
        for text in ("When up, go down.", "When down, go up.")
    )
    assert shown.lessons(LIBRARY) in shared(first, second)
    assert first[1].content.endswith("Reply with a JSON list of operations only.")


async def test_judgements_share_the_rubric_and_those_of_one_task_the_task_and_its_answer() -> None:
    model = ScriptedModel(['{"score": 5, "reason": ""}'] * 3)
    judge = Judge(model=model, rubric="Kindness.")
    for task, index in ((TASKS[0], 0), (TASKS[0], 1), (TASKS[1], 0)):
        await judge.verify(task, rollout(task, index))
    first, second, other = (request.messages for request in model.requests)
    assert "ONE" in shared(first, second)
    assert "Kindness." in shared(first, other)
    assert first[0] == other[0]


async def test_in_a_run_all_contrasts_of_a_step_and_all_its_attempts_have_one_system_message(tmp_path: Path) -> None:
    model = ScriptedModel(world.both)
    with open_store(tmp_path / "s.db") as store:
        record = store.open_run("p-1", name="p", kind="learn", config={})
        await learn(
            world.tasks(12),
            agent=world.agent(model),
            verifier=world.SmallLetters(),
            model=model,
            record=record,
            config=world.config(),
            start=LIBRARY,
        )
        record.close("done")
    systems: dict[tuple[str, int], set[str]] = {}
    for request in model.requests:
        if request.key.phase in ("rollout", "contrast"):
            systems.setdefault((request.key.phase, request.key.step), set()).add(request.messages[0].content)
    assert len([place for place in systems if place[0] == "contrast"]) > 1, "several steps have something to compare"
    assert {len(words) for words in systems.values()} == {1}
    assert all(shown.lessons(LIBRARY) in words for found in systems.values() for words in found)
