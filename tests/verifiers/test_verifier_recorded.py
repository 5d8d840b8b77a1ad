"""The rewards of a log, and another verifier for what no log holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tokenprior.errors import ConfigError
from tokenprior.logs import load_logs
from tokenprior.rollout import Rollout, StopReason
from tokenprior.task import Task
from tokenprior.verifiers import asks_a_model, make_verifier
from tokenprior.verifiers.recorded import Recorded

pytestmark = pytest.mark.anyio

LOGGED = load_logs(Path(__file__).parent.parent.parent / "examples/logs/airline_sample.jsonl")


async def test_tasks_that_are_not_the_logs_are_judged_by_the_verifier_beside_it() -> None:
    verifier = make_verifier({"kind": "recorded", "otherwise": "exact"}, logged=LOGGED)
    (rollout, reward), *_ = LOGGED[0].attempts
    assert await verifier.verify(LOGGED[0].task, rollout) == reward
    # A gate task may bear the id of a logged one and be another.
    task = Task(id=LOGGED[0].task.id, question="Two?", answer="2")
    right = Rollout(task_id=task.id, index=0, messages=(), output="2", stop=StopReason.DONE)
    assert (await verifier.verify(task, right)).value == 1.0
    assert verifier.fingerprint != Recorded(LOGGED).fingerprint


@pytest.mark.parametrize(
    ("otherwise", "words"),
    [
        ({"kind": "recorded"}, "otherwise is the verifier of attempts that no log holds"),
        (7, "otherwise is the verifier of attempts that no log holds"),
        ("exakt", "exakt"),
    ],
)
def test_what_cannot_stand_beside_it_is_said_in_one_line(otherwise: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        make_verifier({"kind": "recorded", "otherwise": otherwise}, logged=LOGGED)
    assert "\n" not in str(caught.value)


def test_an_option_that_it_does_not_have_is_refused() -> None:
    with pytest.raises(ConfigError, match="unknown option 'take'"):
        make_verifier({"kind": "recorded", "take": "last_line"}, logged=LOGGED)


def test_a_judge_beside_it_asks_a_model() -> None:
    assert asks_a_model({"kind": "recorded", "otherwise": {"kind": "judge"}})
    assert asks_a_model({"kind": "recorded", "otherwise": "judge"})
    assert not asks_a_model({"kind": "recorded", "otherwise": "exact"})
