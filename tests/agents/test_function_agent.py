"""Function: a Python function of the user's is an agent."""

from __future__ import annotations

import asyncio
import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tokenprior.agents.base import AttemptLimits
from tokenprior.agents.function import FunctionAgent
from tokenprior.agents.gateway import Gateway
from tokenprior.agents.seat import Seat
from tokenprior.errors import BudgetReached, ConfigError, ModelError
from tokenprior.models.base import CallFailed, Request
from tokenprior.models.scripted import ScriptedModel
from tokenprior.prior import TokenPrior
from tokenprior.rollout import Message, Rollout, StopReason
from tokenprior.task import Task

pytestmark = pytest.mark.anyio

TASK = Task(id="t1", question="What is it?", answer="the-answer", metadata={"level": 3})
PRIOR = TokenPrior(text="Lessons from experience. Follow those:\n[G0] Be brief.")


async def attempt(agent: FunctionAgent, index: int = 0) -> Rollout:
    return await agent.attempt(TASK, PRIOR, phase="rollout", step=0, index=index)


def ask(seat: Seat, text: str) -> str:
    body = {"model": "m", "messages": [{"role": "user", "content": text}]}
    headers = {"Authorization": f"Bearer {seat.api_key}"}
    request = urllib.request.Request(f"{seat.base_url}/chat/completions", json.dumps(body).encode(), headers)
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request) as reply:
            return str(json.load(reply)["choices"][0]["message"]["content"])
    except urllib.error.HTTPError as error:
        error.close()
        raise


async def waiting(task: Task, prior: TokenPrior) -> str:
    await asyncio.sleep(0)
    return f"{task.question} {prior.text}"


class Mine:
    fingerprint = "mine-1"

    async def __call__(self, task: Task, prior: TokenPrior) -> str:
        return f"{task.question} {prior.text}"


@pytest.mark.parametrize(
    "function",
    [
        lambda task, prior: f"{task.question} {prior.text}",
        lambda task, prior, loud=False: f"{task.question} {prior.text}",
        lambda task, prior: waiting(task, prior),
        waiting,
        Mine(),
    ],
)
async def test_what_a_function_returns_is_the_output(function: Callable[..., Any]) -> None:
    rollout = await attempt(FunctionAgent(function=function), index=3)
    assert rollout.output == f"{TASK.question} {PRIOR.text}"
    assert (rollout.task_id, rollout.index, rollout.stop) == ("t1", 3, StopReason.DONE)
    assert [message.role for message in rollout.messages] == ["user", "assistant"]
    assert rollout.usage.calls == 0


async def test_a_function_is_not_told_the_answer() -> None:
    rollout = await attempt(FunctionAgent(function=lambda task, prior: f"{task.answer} {task.metadata['level']}"))
    assert rollout.output == "None 3"


async def test_a_function_may_give_its_messages() -> None:
    said: list[Any] = [{"role": "developer", "content": "x"}, Message(role="assistant", content="y")]
    rollout = await attempt(FunctionAgent(function=lambda task, prior: ("out", said)))
    assert rollout.messages == (Message(role="system", content="x"), Message(role="assistant", content="y"))
    assert rollout.output == "out"


def raising(error: BaseException) -> Callable[..., Any]:
    def function(task: Task, prior: TokenPrior) -> str:
        raise error

    return function


async def raising_async(task: Task, prior: TokenPrior) -> str:
    raise asyncio.CancelledError


@pytest.mark.parametrize(
    ("function", "kind", "words"),
    [
        (raising(ValueError("key sk-live-0123456789abcdef")), "agent", "ValueError: key [redacted]"),
        (raising(SystemExit(3)), "agent", "SystemExit: 3"),
        (raising(StopIteration()), "agent", "StopIteration"),
        (raising(TimeoutError("its own")), "agent", "TimeoutError: its own"),
        (raising(CallFailed("http-500", "down", retryable=True)), "http-500", "down"),
        (raising_async, "agent", "CancelledError"),
        (lambda task, prior: 7, "agent", "gave a int, expected a text"),
        (lambda task, prior: ("x", [{"role": "wizard"}]), "agent", "messages of the function"),
        (lambda task, prior: ("x", 3), "agent", "messages of the function"),
    ],
)
async def test_what_goes_wrong_is_a_failure_of_the_attempt(function: Callable[..., Any], kind: str, words: str) -> None:
    rollout = await attempt(FunctionAgent(function=function))
    assert rollout.failure is not None
    assert rollout.failure.kind == kind
    assert words in rollout.failure.detail
    assert (rollout.output, rollout.stop) == ("", StopReason.FAILED)


async def test_errors_that_end_a_run_pass() -> None:
    with pytest.raises(BudgetReached):
        await attempt(FunctionAgent(function=raising(BudgetReached("usd", 1, 1))))


async def test_a_slow_function_is_a_timeout_and_holds_nothing_up() -> None:
    async def slow(task: Task, prior: TokenPrior) -> str:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append("async")
        return ""

    ended: list[str] = []
    go_on = threading.Event()
    limits = AttemptLimits(seconds=0.1)
    for function in (slow, lambda task, prior: go_on.wait(60) and ""):
        started = time.monotonic()
        rollout = await attempt(FunctionAgent(function=function, limits=limits))
        assert rollout.failure is not None
        assert (rollout.failure.kind, rollout.latency_s < 1) == ("timeout", True)
        assert time.monotonic() - started < 1
    assert ended == ["async"]
    go_on.set()


async def test_a_cancelled_attempt_cancels_the_function() -> None:
    async def slow(task: Task, prior: TokenPrior) -> str:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append("async")
        return ""

    ended: list[str] = []
    trying = asyncio.ensure_future(attempt(FunctionAgent(function=slow)))
    await asyncio.sleep(0.05)
    trying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await trying
    assert ended == ["async"]


async def test_no_more_are_called_at_once_than_may() -> None:
    inside: list[int] = []

    async def function(task: Task, prior: TokenPrior) -> str:
        inside.append(1)
        most = len(inside)
        await asyncio.sleep(0.01)
        inside.pop()
        return str(most)

    agent = FunctionAgent(function=function, concurrency=2)
    assert max(rollout.output for rollout in await asyncio.gather(*(attempt(agent, i) for i in range(8)))) == "2"


async def test_a_function_with_a_seat_has_its_calls_counted_and_its_prompts_left_alone() -> None:
    def function(task: Task, prior: TokenPrior, seat: Seat) -> str:
        return ask(seat, prior.conditioned(task.question)) + ask(seat, "more")

    model = ScriptedModel(lambda request: "said ")
    async with Gateway(model) as gateway:
        rollout = await attempt(FunctionAgent(function=function, gateway=gateway))
    assert rollout.output == "said said "
    assert rollout.usage.calls == rollout.metadata["turns"] == 2
    prompts = [request.messages for request in model.requests]
    assert prompts[0] == (Message(role="user", content=PRIOR.conditioned(TASK.question)),)
    assert prompts[1] == (Message(role="user", content="more"),)
    assert rollout.messages == (*prompts[1], Message(role="assistant", content="said "))


async def test_what_stops_the_run_stops_a_function_with_a_seat_at_once() -> None:
    def function(task: Task, prior: TokenPrior, seat: Seat) -> str:
        try:
            return ask(seat, "x")
        except OSError:
            go_on.wait(60)
        return "fine"

    def refuses(request: Request) -> str:
        raise ModelError("the key is wrong")

    go_on = threading.Event()
    async with Gateway(ScriptedModel(refuses)) as gateway:
        with pytest.raises(ModelError):
            await asyncio.wait_for(attempt(FunctionAgent(function=function, gateway=gateway)), 5)
    go_on.set()


async def test_a_function_at_its_limit_ends_as_such() -> None:
    def function(task: Task, prior: TokenPrior, seat: Seat) -> str:
        return ask(seat, "x") + ask(seat, "x")

    async with Gateway(ScriptedModel(lambda request: "said")) as gateway:
        rollout = await attempt(FunctionAgent(function=function, gateway=gateway, limits=AttemptLimits(turns=1)))
    assert (rollout.stop, rollout.output, rollout.failure) == (StopReason.LIMIT, "", None)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda task: "", "cannot be called as (task, prior)"),
        (lambda a, b, c, d: "", "cannot be called as (task, prior)"),
        (lambda task, prior, seat: "", "takes a seat"),
        (lambda task, prior, gateway=None: "", "takes a seat"),
        ("text", "expected a function"),
    ],
)
def test_a_wrong_function_is_refused_before_anything_runs(function: Any, words: str) -> None:
    with pytest.raises(ConfigError) as error:
        FunctionAgent(function=function)
    assert words in str(error.value)


def test_a_function_of_a_file_is_loaded_and_known_by_its_content(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("def agent(task, prior):\n    return 'one'\n")
    first = FunctionAgent.load(f"{file}:agent")
    assert first.fingerprint == FunctionAgent.load(f"{file}:agent", limits=AttemptLimits(turns=1)).fingerprint
    file.write_text("def agent(task, prior):\n    return 'two'\n")
    second = FunctionAgent.load("mine.py:agent", folder=tmp_path)
    assert second.fingerprint != first.fingerprint
    assert second.function(TASK, PRIOR) == "two"


def test_with_a_seat_the_fingerprint_covers_the_model_and_the_limits() -> None:
    def function(task: Task, prior: TokenPrior, seat: Seat) -> str:
        return ""

    gateways = [Gateway(ScriptedModel([], name=name)) for name in ("a", "b")]
    prints = {FunctionAgent(function=function, gateway=gateway).fingerprint for gateway in gateways}
    prints.add(FunctionAgent(function=function, gateway=gateways[0], limits=AttemptLimits(turns=1)).fingerprint)
    assert len(prints) == 3
