"""JSON against a schema."""

from __future__ import annotations

import asyncio

import pytest

from tokenprior.errors import ConfigError
from tokenprior.reward import Reward
from tokenprior.rollout import Rollout, StopReason
from tokenprior.task import Task
from tokenprior.verifiers import JsonSchema, Take

ORDER = {
    "type": "object",
    "properties": {"items": {"type": "array", "items": {"type": "string"}}, "total": {"type": "number", "minimum": 0}},
    "required": ["items", "total"],
}


def judged(verifier: JsonSchema, output: str, answer: object = None, stop: StopReason = StopReason.DONE) -> Reward:
    rollout = Rollout(task_id="t", index=0, messages=(), output=output, stop=stop)
    return asyncio.run(verifier.verify(Task(id="t", question="q", answer=answer), rollout))


@pytest.mark.parametrize(
    ("output", "value", "words"),
    [
        ('{"items": ["a"], "total": 1}', 1.0, "Correct."),
        ('{"items": ["a", 2], "total": -1}', 0.0, "At $.items[1]: 2 is not of type 'string'."),
        ('{"items": ["a", 2], "total": -1}', 0.0, "At $.total: -1 is less than the minimum of 0."),
        ("{}", 0.0, "At $: 'items' is a required property."),
        ('{"items": [1,2,3,4,5], "total": 1}', 0.0, "2 more errors."),
        ('{"items": ["a",], "total": 1}', 0.0, "It is not JSON: "),
        ('{"items": [], "total": NaN}', 0.0, "NaN is not allowed"),
        ('```json\n{"items": [], "total": 1}\n```', 0.0, "without backticks or words around it"),
        ("[" * 100_000, 0.0, "nested too deeply"),
        ("", 0.0, "Nothing was found in the whole output"),
    ],
)
def test_feedback_names_the_place_and_what_is_wrong(output: str, value: float, words: str) -> None:
    reward = judged(JsonSchema(schema=ORDER), output)
    assert reward.value == value
    assert words in reward.feedback


def test_a_fence_is_read_where_it_is_asked_for() -> None:
    verifier = JsonSchema(schema=ORDER, take=Take.parse("fence"))
    assert judged(verifier, 'Here:\n```json\n{"items": [], "total": 1}\n```').value == 1.0


def test_the_schema_may_be_the_answer_of_the_task() -> None:
    assert judged(JsonSchema(), "3", {"type": "integer"}).value == 1.0
    assert judged(JsonSchema(), "3", {"type": "nothing"}).value is None
    assert judged(JsonSchema(), "3", "integer").reason == "task has no reference answer that is a JSON schema"


def test_an_invalid_schema_of_the_config_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"schema is not valid: at \$.type"):
        JsonSchema(schema={"type": "nothing"})


def test_nothing_is_fetched() -> None:
    reward = judged(JsonSchema(schema={"$ref": "http://127.0.0.1:9/schema.json"}), "{}")
    assert reward.value is None
    assert "nothing is fetched" in reward.reason


def test_a_cut_off_attempt_is_called_so() -> None:
    assert "cut off" in judged(JsonSchema(schema=ORDER), '{"items": [', None, StopReason.LENGTH).feedback
