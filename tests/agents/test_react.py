"""An agent with tools: what it asks, what it does with what tools give, where it stops, and what a resume repeats."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import world
from tokenprior.agents.base import AttemptLimits
from tokenprior.agents.react import ReactAgent
from tokenprior.agents.toolbox import ANEW, IN_DOUBT
from tokenprior.attempt import attempt as one_attempt
from tokenprior.errors import ConfigError, ModelError
from tokenprior.library import Bounds, Library
from tokenprior.models.base import CallFailed, Reply, Request
from tokenprior.models.recorded import ReplayedModel
from tokenprior.models.scripted import ScriptedModel
from tokenprior.operation import Add
from tokenprior.prior import TokenPrior
from tokenprior.rollout import Message, Rollout, StopReason, ToolCall, Usage
from tokenprior.store import RunStore, open_store
from tokenprior.task import Task
from tokenprior.tools.base import ToolFailed
from tool_world import ToyServer, ToyTool

TASK = Task(id="t1", question="What is it?")


@pytest.fixture
def record(tmp_path: Path) -> Iterator[RunStore]:
    with open_store(tmp_path / "store.db") as store:
        run = store.open_run("run-1", name="run", kind="learn", config={})
        yield run
        run.close("done")


def calling(*words: str, name: str = "say", text: str = "") -> Reply:
    calls = tuple(ToolCall(id=f"random-{w}", name=name, arguments=f'{{"word": "{w}"}}') for w in words)
    return Reply(text=text, tool_calls=calls, usage=Usage(calls=1, input_tokens=10, output_tokens=5))


def attempt(agent: ReactAgent, prior: TokenPrior | None = None, *, task: Task = TASK, index: int = 0) -> Rollout:
    return asyncio.run(agent.attempt(task, prior or TokenPrior(), phase="rollout", step=0, index=index))


def test_what_tools_give_joins_the_conversation_until_the_model_answers(record: RunStore) -> None:
    tool = ToyTool()
    model = ScriptedModel([calling("a", text="Let me see."), calling("b"), "It is ab."])
    agent = ReactAgent(model=model, tools=(tool,), ledger=record, instructions="Find out.")
    library = Library().apply([Add(name="", text="When lost, ask.", reason="r")], bounds=Bounds()).library
    rollout = attempt(agent, TokenPrior.of(library))
    assert rollout.output == "It is ab."
    assert rollout.stop is StopReason.DONE
    assert tool.called == ["a", "b"]
    assert (tool.sessions, tool.open) == (1, 0)
    assert [message.role for message in rollout.messages] == [
        "system", "user", "assistant", "tool", "assistant", "tool", "assistant",
    ]  # fmt: skip
    assert rollout.messages[0].content.startswith("Find out.\n\n")
    assert "When lost, ask." in rollout.messages[0].content
    assert rollout.messages[2].tool_calls[0].id == rollout.messages[3].answers == "call_0_0"
    assert rollout.messages[3].content == "heard a"
    assert model.requests[0].tools[0]["name"] == "say"
    assert [request.key.turn for request in model.requests] == [0, 1, 2]
    assert rollout.metadata["turns"] == 3
    assert [call["name"] for call in rollout.metadata["tools"]] == ["say", "say"]
    assert rollout.usage.calls == 3


def test_a_model_that_was_never_taught_tools_writes_blocks(record: RunStore) -> None:
    tool = ToyTool()
    model = ScriptedModel(["Let me ask.\n```say\nhello\n```\n```output\nmade up", "```\nno tool\n```\nDone."])
    agent = ReactAgent(model=model, tools=(tool,), ledger=record, instructions="Find out.", calls="fenced")
    rollout = attempt(agent)
    assert tool.called == ["hello"]
    assert not model.requests[0].tools
    assert (
        "write a ```say block with the word; what it gives comes back to you. Says a word."
        in rollout.messages[0].content
    )
    assert rollout.messages[2].content == "Let me ask.\n```say\nhello\n```"
    assert rollout.messages[3] == Message(role="user", content="Output of say:\n```\nheard hello\n```")
    assert rollout.output == "```\nno tool\n```\nDone."


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (ToolCall(id="1", name="sing", arguments="{}"), "There is no tool 'sing'; there are: say."),
        (ToolCall(id="1", name="say", arguments="loud"), "The arguments are not JSON"),
        (ToolCall(id="1", name="say", arguments="[1]"), "The arguments must be a JSON object"),
        (ToolCall(id="1", name="say", arguments="[" * 100_000), "The arguments"),
        (ToolCall(id="1", name="say", arguments='{"word": 7}'), "The arguments do not fit at word: 7 is not of type"),
        (ToolCall(id="1", name="say", arguments="{}"), "'word' is a required property"),
    ],
)
def test_a_call_that_cannot_be_made_is_told_to_the_model(record: RunStore, call: ToolCall, said: str) -> None:
    tool = ToyTool()
    agent = ReactAgent(model=ScriptedModel([Reply(text="", tool_calls=(call,)), "ok"]), tools=(tool,), ledger=record)
    rollout = attempt(agent)
    assert said in rollout.messages[2].content
    assert not tool.called
    assert rollout.metadata["tools"][0]["failed"] is True
    assert rollout.output == "ok"


def test_arguments_that_are_nearly_json_are_mended(record: RunStore) -> None:
    tool = ToyTool()
    call = ToolCall(id="1", name="say", arguments="{'word': 'a',}")
    attempt(ReactAgent(model=ScriptedModel([Reply(text="", tool_calls=(call,)), "ok"]), tools=(tool,), ledger=record))
    assert tool.called == ["a"]


def test_a_tool_that_fails_or_breaks_ends_no_attempt(record: RunStore) -> None:
    def act(word: str) -> str:
        raise ToolFailed("nothing found") if word == "a" else RuntimeError("sk-1234567890abcdef broke")

    model = ScriptedModel([calling("a"), calling("b"), "ok"])
    rollout = attempt(ReactAgent(model=model, tools=(ToyTool(act=act),), ledger=record))
    assert rollout.messages[2].content == "nothing found"
    assert rollout.messages[4].content == "The tool broke: RuntimeError: [redacted] broke"
    assert rollout.output == "ok"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (TimeoutError("no answer on the socket"), "The tool broke: TimeoutError: no answer on the socket"),
        (SystemExit(2), "The tool broke: SystemExit: 2"),
        (asyncio.CancelledError(), "The tool broke: CancelledError: "),
    ],
)
def test_what_a_tool_raises_ends_neither_the_attempt_nor_the_run(
    record: RunStore, error: BaseException, said: str
) -> None:
    def act(word: str) -> str:
        raise error

    rollout = attempt(ReactAgent(model=ScriptedModel([calling("a"), "ok"]), tools=(ToyTool(act=act),), ledger=record))
    assert rollout.messages[2].content == said
    assert rollout.output == "ok"


@pytest.mark.parametrize(
    "schema", [{"properties": {"word": {"pattern": "\\p{L}"}}}, {"$ref": "https://127.0.0.1:1/schema"}]
)
def test_a_schema_that_cannot_be_read_leaves_the_judgement_to_the_tool(
    record: RunStore, schema: dict[str, Any]
) -> None:
    tool = ToyTool(parameters=schema)
    rollout = attempt(ReactAgent(model=ScriptedModel([calling("a"), "ok"]), tools=(tool,), ledger=record))
    assert (rollout.output, tool.called) == ("ok", ["a"])


def test_a_tool_that_cannot_be_closed_takes_no_attempt_with_it(record: RunStore) -> None:
    tool = ToyTool(close_error=RuntimeError("its server died"))
    assert attempt(ReactAgent(model=ScriptedModel([calling("a"), "ok"]), tools=(tool,), ledger=record)).output == "ok"


def test_a_secret_of_the_environment_reaches_neither_model_nor_store(
    record: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_API_KEY", "very-private-value")
    tool = ToyTool(act=lambda word: "it is very-private-value; see https://example.org/?token=abc")
    model = ScriptedModel([calling("a"), "ok"])
    attempt(ReactAgent(model=model, tools=(tool,), ledger=record))
    said = "it is [redacted]; see https://example.org/?token=abc"
    assert model.requests[1].messages[-1].content == said
    known = asyncio.run(record._writer.run(lambda c: c.exec_driver_sql("SELECT result FROM tool_calls").scalar()))
    assert "very-private-value" not in known


@pytest.mark.parametrize(
    ("limits", "turns"),
    [(AttemptLimits(turns=3), 3), (AttemptLimits(tokens=30), 2), (AttemptLimits(usd=0.02), 2)],
)
def test_an_attempt_ends_at_its_limits_with_what_it_has(record: RunStore, limits: AttemptLimits, turns: int) -> None:
    usage = Usage(calls=1, input_tokens=10, output_tokens=5, cost_usd=0.01)
    model = ScriptedModel(lambda request: replace(calling("a", text="Going on."), usage=usage))
    rollout = attempt(ReactAgent(model=model, tools=(ToyTool(),), ledger=record, limits=limits))
    assert rollout.stop is StopReason.LIMIT
    assert rollout.output == "Going on."
    assert rollout.metadata["turns"] == len(model.requests) == turns
    assert getattr(limits, rollout.metadata["limit"]) is not None


def test_seconds_count_what_tools_take(record: RunStore) -> None:
    async def act(word: str) -> str:
        await asyncio.sleep(30)
        return "never"

    limits = AttemptLimits(seconds=0.05)
    model = ScriptedModel(lambda request: calling("a"))
    rollout = attempt(ReactAgent(model=model, tools=(ToyTool(act=act),), ledger=record, limits=limits))
    assert rollout.stop is StopReason.LIMIT
    assert rollout.messages[2].content.startswith("No result within")


def test_a_limit_in_money_needs_a_price(record: RunStore) -> None:
    reply = replace(calling("a"), usage=Usage(calls=1, cost_usd=None))
    agent = ReactAgent(model=ScriptedModel([reply]), tools=(ToyTool(),), ledger=record, limits=AttemptLimits(usd=1.0))
    with pytest.raises(ConfigError, match="price"):
        attempt(agent)


def test_a_model_that_fails_half_way_fails_the_attempt_and_keeps_the_conversation(record: RunStore) -> None:
    def script(request: Request) -> Reply:
        if request.key.turn:
            raise CallFailed("timeout", "too long", retryable=False)
        return calling("a")

    rollout = attempt(ReactAgent(model=ScriptedModel(script), tools=(ToyTool(),), ledger=record))
    assert rollout.failure is not None
    assert rollout.failure.kind == "timeout"
    assert len(rollout.messages) == 3
    assert rollout.output == ""


def test_a_reply_that_was_cut_off_ends_the_attempt(record: RunStore) -> None:
    model = ScriptedModel([Reply(text="so far", stop=StopReason.LENGTH)])
    rollout = attempt(ReactAgent(model=model, tools=(ToyTool(),), ledger=record))
    assert (rollout.stop, rollout.output) == (StopReason.LENGTH, "so far")


def test_calls_side_by_side_keep_their_order_and_stateful_ones_wait_for_each_other(record: RunStore) -> None:
    running = most = 0
    stateful = False
    together = asyncio.Event()

    async def act(word: str) -> str:
        nonlocal running, most
        running += 1
        most = max(most, running)
        if not stateful:
            await asyncio.wait_for(together.wait(), 10) if running < 3 else together.set()
        await asyncio.sleep(0)
        running -= 1
        return word

    model = ScriptedModel([calling("a", "b", "c"), "ok"])
    rollout = attempt(ReactAgent(model=model, tools=(ToyTool(act=act),), ledger=record))
    assert [message.content for message in rollout.messages[2:5]] == ["a", "b", "c"]
    assert most == 3
    most, stateful = 0, True
    model = ScriptedModel([calling("a", "b"), "ok"])
    attempt(ReactAgent(model=model, tools=(ToyTool(act=act, stateful=True),), ledger=record), index=1)
    assert most == 1


class Killed(BaseException):
    """Stands for the end of the program in the middle of a call."""


def interrupted(record: RunStore, tool: ToyTool, *more: str) -> ReactAgent:
    """An attempt that was killed while its second call of the tool was being made."""
    hears = tool.act

    def dies(word: str) -> Any:
        if word == "b":
            raise Killed
        return hears(word)

    tool.act = dies
    replies = [*map(calling, ("a", "b", *more)), "done"]
    model = ScriptedModel(lambda request: replies[request.key.turn])
    metered = _Ledgered(model, record)
    agent = ReactAgent(model=ReplayedModel(metered, record), tools=(tool,), ledger=record)
    with pytest.raises(Killed):
        attempt(agent)
    tool.act = hears
    return agent


class _Ledgered:
    """Writes replies down as `MeteredModel` does."""

    name = "scripted"

    def __init__(self, inner: ScriptedModel, record: RunStore) -> None:
        self.inner, self.record = inner, record

    async def answer(self, request: Request) -> Reply:
        call = await self.record.call_sent(self.name, request, Usage(calls=1))
        reply = await self.inner.answer(request)
        await self.record.call_done(call, reply)
        return reply


def test_a_resumed_attempt_takes_results_that_were_noted_and_makes_the_cut_off_call_again(record: RunStore) -> None:
    tool = ToyTool()
    agent = interrupted(record, tool)
    rollout = attempt(agent)
    assert tool.called == ["a", "b", "b"]
    assert [message.content for message in rollout.messages if message.role == "tool"] == ["heard a", "heard b"]
    assert rollout.output == "done"


def test_a_call_with_side_effects_that_was_cut_off_is_not_made_again_and_the_model_is_told(record: RunStore) -> None:
    tool = ToyTool(repeatable=False)
    agent = interrupted(record, tool)
    rollout = attempt(agent)
    assert tool.called == ["a", "b"]
    assert rollout.messages[4].content == IN_DOUBT
    assert rollout.metadata["tools"][1]["doubt"] is True
    again = attempt(agent)
    assert again.messages == rollout.messages
    assert tool.called == ["a", "b"]


def test_a_stateful_tool_has_the_calls_before_made_again_unseen(record: RunStore) -> None:
    tool = ToyTool(stateful=True)
    agent = interrupted(record, tool)
    rollout = attempt(agent)
    assert tool.called == ["a", "b", "a", "b"]
    assert rollout.output == "done"


def test_a_stateful_tool_that_may_not_be_called_again_is_said_to_have_been_started_anew(record: RunStore) -> None:
    tool = ToyTool(stateful=True, repeatable=False)
    agent = interrupted(record, tool, "c")
    rollout = attempt(agent)
    assert tool.called == ["a", "b", "c"]
    assert rollout.messages[4].content == IN_DOUBT
    assert rollout.messages[6].content == f"{ANEW}heard c"
    assert attempt(agent).messages == rollout.messages


def test_tools_that_share_a_session_have_all_its_calls_made_again_in_their_order(record: RunStore) -> None:
    server = ToyServer()
    tools = tuple(ToyTool(name=name, stateful=True, server=server) for name in ("open", "click"))
    for tool in tools:
        tool.called = server.called
    calls = [calling("a", name="open"), calling("b", name="click"), calling("c", name="open"), "done"]
    dead = True

    def hears(word: str) -> str:
        if word == "c" and dead:
            raise Killed
        if word == "b":
            raise RuntimeError("it breaks, now as then")
        return "heard"

    for tool in tools:
        tool.act = hears
    metered = _Ledgered(ScriptedModel(lambda request: calls[request.key.turn]), record)
    agent = ReactAgent(model=ReplayedModel(metered, record), tools=tools, ledger=record)
    with pytest.raises(Killed):
        attempt(agent)
    server.called.clear()
    dead = False
    rollout = attempt(agent)
    assert server.called == ["a", "b", "c"]
    assert [message.content for message in rollout.messages if message.role == "tool"] == [
        "heard", "The tool broke: RuntimeError: it breaks, now as then", "heard",
    ]  # fmt: skip


def test_what_is_made_again_unseen_costs_the_attempt_no_time(record: RunStore) -> None:
    tool = ToyTool(stateful=True)
    agent = interrupted(record, tool)

    async def slow(word: str) -> str:
        await asyncio.sleep(0.3 if word == "a" else 0.0)
        return f"heard {word}"

    tool.act = slow
    assert attempt(agent).latency_s < 0.3


@pytest.mark.parametrize("repeatable", [True, False])
def test_another_run_of_the_same_name_takes_what_this_one_noted(tmp_path: Path, repeatable: bool) -> None:
    tool = ToyTool(repeatable=repeatable)
    with open_store(tmp_path / "store.db") as store:
        first = store.open_run("run-1", name="run", kind="learn", config={})
        agent = interrupted(first, tool)
        first.close("failed")
        second = store.open_run("run-2", name="run", kind="learn", config={})
        agent = replace(agent, ledger=second)
        rollout = attempt(agent)
        assert tool.called == ["a", "b", *(["b"] if repeatable else [])]
        assert rollout.messages[4].content == ("heard b" if repeatable else IN_DOUBT)
        assert attempt(agent).messages == rollout.messages
        assert {row["state"] for row in store.rows("tool_calls", "run-2")} == {"done"}
        second.close("done")


def test_another_prior_makes_its_own_calls(record: RunStore) -> None:
    tool = ToyTool()
    agent = ReactAgent(
        model=ScriptedModel(lambda request: [calling("a"), "done"][request.key.turn]), tools=(tool,), ledger=record
    )
    attempt(agent)
    attempt(agent, TokenPrior(text="Lessons"))
    assert tool.called == ["a", "a"]


def test_what_stops_a_run_is_raised(record: RunStore) -> None:
    def script(request: Request) -> Reply:
        raise ModelError("refused")

    with pytest.raises(ModelError):
        attempt(ReactAgent(model=ScriptedModel(script), tools=(ToyTool(),), ledger=record))


def test_tools_of_one_name_are_refused(record: RunStore) -> None:
    with pytest.raises(ConfigError, match="two tools are called 'say'"):
        ReactAgent(model=ScriptedModel([]), tools=(ToyTool(), ToyTool()), ledger=record)


def test_images_of_the_task_are_in_its_question(record: RunStore) -> None:
    task = replace(TASK, images=("data:image/png;base64,AAAA",))
    model = ScriptedModel(["a cat"])
    rollout = attempt(ReactAgent(model=model, tools=(), ledger=record), task=task)
    assert rollout.messages[0].images == task.images
    assert model.requests[0].messages[0].images == task.images


def test_equal_attempts_have_equal_requests_whatever_ids_the_endpoint_makes_up(record: RunStore) -> None:
    seen = []
    for name in ("x", "y"):
        reply = Reply(text="", tool_calls=(ToolCall(id=name, name="say", arguments='{"word": "a"}'),))
        model = ScriptedModel([reply, "ok"])
        attempt(ReactAgent(model=model, tools=(ToyTool(),), ledger=record))
        seen.append(model.requests[1].content())
    assert seen[0] == seen[1]


def test_more_seconds_take_an_attempt_further_and_as_many_end_it_where_they_did(record: RunStore) -> None:
    replies = [replace(calling("a"), latency_s=6.0), replace(calling("b"), latency_s=6.0), "done"]
    scripted = ScriptedModel(lambda request: replies[request.key.turn])
    tool = ToyTool()

    def made(seconds: float) -> Rollout:
        model = ReplayedModel(_Ledgered(scripted, record), record)
        agent = ReactAgent(model=model, tools=(tool,), ledger=record, limits=AttemptLimits(seconds=seconds))
        work = one_attempt(TASK, [TokenPrior()], agent=agent, verifier=world.SmallLetters(), shelf=record.shelf)
        (rollout,) = asyncio.run(work).rollouts
        return rollout

    first = made(10.0)
    assert (first.stop, first.metadata["limit"]) == (StopReason.LIMIT, "seconds")
    assert made(10.0) == first
    assert (len(scripted.requests), tool.called) == (2, ["a", "b"])
    assert made(20.0).output == "done"
    assert (len(scripted.requests), tool.called) == (3, ["a", "b"])


def test_no_more_attempts_than_allowed_hold_a_session_at_once(record: RunStore) -> None:
    most = 0

    async def act(word: str) -> str:
        nonlocal most
        most = max(most, tool.open)
        await asyncio.sleep(0.01)
        return word

    tool = ToyTool(act=act)
    model = ScriptedModel(lambda request: [calling("a"), "ok"][request.key.turn])
    agent = ReactAgent(model=model, tools=(tool,), ledger=record, concurrency=3)

    async def run() -> None:
        work = (agent.attempt(TASK, TokenPrior(), phase="rollout", step=0, index=index) for index in range(12))
        await asyncio.gather(*work)

    asyncio.run(run())
    assert most == 3
    with pytest.raises(ConfigError, match="concurrency is 0"):
        replace(agent, concurrency=0)


def test_what_a_model_is_told_of_a_tool_is_in_the_fingerprint(
    record: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fingerprint(**changes: Any) -> str:
        tools = (ToyTool(parameters={"type": "object", **changes.pop("parameters", {})}),)
        return ReactAgent(model=ScriptedModel([]), tools=tools, ledger=record, **changes).fingerprint

    before = {calls: fingerprint(calls=calls) for calls in ("native", "fenced")}
    assert fingerprint(concurrency=3, limits=AttemptLimits(seconds=3.0)) == before["native"]
    assert fingerprint(parameters={"required": ["word"]}) != before["native"]
    monkeypatch.setattr("tokenprior.agents.fenced.explained", lambda specs: "in other words")
    assert fingerprint(calls="native") == before["native"]
    assert fingerprint(calls="fenced") != before["fenced"]
