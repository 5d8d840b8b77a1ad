"""Frameworks: objects of pydantic-ai, openai-agents, LangChain and DSPy are agents. Those not installed are skipped."""

from __future__ import annotations

import asyncio
import gc
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import BaseModel
from pydantic_ai import Agent

from tokenprior.agents.base import AttemptLimits
from tokenprior.agents.frameworks import adapt, framework_of
from tokenprior.agents.function import FunctionAgent
from tokenprior.agents.gateway import Gateway
from tokenprior.agents.seat import Seat
from tokenprior.errors import BudgetReached, ConfigError
from tokenprior.models.base import CallFailed, Reply, Request
from tokenprior.models.budget import Budget, Limits
from tokenprior.models.recorded import MeteredModel, ReplayedModel
from tokenprior.models.scripted import Script, ScriptedModel
from tokenprior.prior import TokenPrior
from tokenprior.rollout import Rollout, StopReason, ToolCall
from tokenprior.store import RunStore, Store, open_store
from tokenprior.task import Task

pytestmark = pytest.mark.anyio

EXAMPLES = Path(__file__).parent.parent.parent / "examples/frameworks"
TASK = Task(id="t1", question="What is 17 * 23?", answer="391", metadata={"hint": "It is odd."})
PRIOR = TokenPrior(text="Lessons from experience. Follow those:\n[G0] Be brief.")
PICTURE = "data:image/png;base64,iVBORw0KGgo="

# LangChain leaves its clients unclosed; DSPy brings warnings of its dependencies.
THEIRS = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(tmp_path / "s.db") as made:
        yield made


@pytest.fixture
def record(store: Store) -> Iterator[RunStore]:
    made = store.open_run("r-1", name="r", kind="learn", config={})
    yield made
    made.close("done")


@dataclass(frozen=True)
class Example:
    source: str
    needs: tuple[str, ...]
    turns: int = 2

    def load(self, gateway: Gateway, **settings: Any) -> FunctionAgent:
        for module in self.needs:
            pytest.importorskip(module)
        return FunctionAgent.load(self.source, folder=EXAMPLES, gateway=gateway, **settings)


EXAMPLE = pytest.mark.parametrize(
    "example",
    [
        pytest.param(Example("with_pydantic_ai.py:agent", ("pydantic_ai",)), id="pydantic-ai"),
        # Not `agents` alone: this folder would do for that.
        pytest.param(Example("with_openai_agents.py:agent", ("agents.agent",)), id="openai-agents"),
        pytest.param(
            Example("with_langgraph.py:make", ("langchain.agents", "langchain_openai")), id="langgraph", marks=THEIRS
        ),
        pytest.param(Example("with_dspy.py:module", ("dspy",), turns=3), id="dspy", marks=THEIRS),
    ],
)


def says(**fields: Any) -> str:
    """A reply as DSPy reads it."""
    return "\n\n".join(f"[[ ## {name} ## ]]\n{value}" for name, value in [*fields.items(), ("completed", "")])


def solve(request: Request) -> str | Reply:
    """Calls the tool of the examples, and then says what it gave."""
    last, body = request.messages[-1], request.body or {}
    if last.role == "tool":
        return last.content
    if body.get("tools"):
        call = ToolCall(id="c1", name="multiply", arguments='{"a": 17, "b": 23}')
        return Reply(text="", tool_calls=(call,))
    if "next_tool_name" in request.messages[0].content:
        if "observation_0" in last.content:
            return says(next_thought="done", next_tool_name="finish", next_tool_args="{}")
        return says(next_thought="multiply", next_tool_name="multiply", next_tool_args='{"a": 17, "b": 23}')
    return says(reasoning="the tool said so", answer="391")


@asynccontextmanager
async def opened(model: ScriptedModel, record: RunStore | None = None, name: str = "m") -> AsyncIterator[Gateway]:
    ledger = ReplayedModel(MeteredModel(model, record, Budget(Limits()), {}), record) if record else model
    async with Gateway(ledger, model_name=name) as gateway:
        yield gateway
        if "langchain_openai" in sys.modules:
            # Its clients close themselves when they are collected, which has to be in the loop they were made in.
            gc.collect()
            await asyncio.sleep(0.01)


async def attempt(agent: FunctionAgent, task: Task = TASK, prior: TokenPrior = PRIOR, index: int = 0) -> Rollout:
    return await agent.attempt(task, prior, phase="rollout", step=0, index=index)


async def tried(agent: Any, said: Script, task: Task = TASK) -> tuple[Rollout, ScriptedModel]:
    """An attempt of an agent object, or of a function that makes one."""
    model = ScriptedModel(said)
    async with opened(model) as gateway:
        code = "mine" if framework_of(agent) else ""
        return await attempt(FunctionAgent(function=agent, code=code, gateway=gateway), task), model


@EXAMPLE
async def test_every_call_has_the_prior_and_is_in_the_ledger_and_is_paid_for_once(
    example: Example, store: Store, record: RunStore
) -> None:
    model = ScriptedModel(solve)
    async with opened(model, record) as gateway:
        agent = example.load(gateway)
        rollout = await attempt(agent)
        assert rollout.failure is None
        assert (rollout.output, rollout.stop) == ("391", StopReason.DONE)
        assert rollout.usage.calls == rollout.metadata["turns"] == len(model.requests) == example.turns
        for request in model.requests:
            assert request.body is not None
            assert request.body["model"] == "m"
            assert [message.role for message in request.messages].count("system") == 1
            assert request.messages[0].content.endswith("\n\n" + PRIOR.text)
        assert rollout.messages[:-1] == model.requests[-1].messages
        rows = store.rows("calls", "r-1")
        assert [row["state"] for row in rows] == ["done"] * example.turns
        again = await attempt(agent)
    assert (again.messages, again.output, again.usage) == (rollout.messages, rollout.output, rollout.usage)
    assert len(model.requests) == example.turns


@EXAMPLE
async def test_attempts_side_by_side_do_not_mix(example: Example, record: RunStore) -> None:
    async def slowly(request: Request) -> str | Reply:
        await asyncio.sleep(0.02)
        return solve(request)

    model = ScriptedModel(slowly)
    async with opened(model, record) as gateway:
        agent = example.load(gateway)
        tasks = [Task(id=f"t{n}", question=f"What is 17 * 23, number {n}?") for n in range(4)]
        priors = [TokenPrior(text=f"Lessons: lesson {n}.") for n in range(4)]
        rollouts = await asyncio.gather(
            *(attempt(agent, task, prior) for task, prior in zip(tasks, priors, strict=True))
        )
    assert [rollout.metadata["turns"] for rollout in rollouts] == [example.turns] * 4
    assert {rollout.output for rollout in rollouts} == {"391"}
    seen = set()
    for request in model.requests:
        text = "\n".join(message.content for message in request.messages)
        said = [n for n in range(4) if f"lesson {n}." in text or f"number {n}?" in text]
        assert len(said) == 1
        assert request.key.task == f"t{said[0]}"
        seen |= set(said)
    assert seen == {0, 1, 2, 3}


@EXAMPLE
async def test_a_call_that_fails_is_a_failure_of_the_attempt(example: Example) -> None:
    def fails(request: Request) -> str:
        raise CallFailed("http-400", "no such thing", retryable=False)

    async with opened(ScriptedModel(fails)) as gateway:
        rollout = await attempt(example.load(gateway))
    assert rollout.failure is not None
    assert (rollout.failure.kind, rollout.output) == ("agent", "")
    assert "no such thing" in rollout.failure.detail


@EXAMPLE
async def test_limits_and_budgets_hold(example: Example) -> None:
    def broke(request: Request) -> str:
        raise BudgetReached("usd", 1, 1)

    model = ScriptedModel(solve)
    async with opened(model) as gateway:
        rollout = await attempt(example.load(gateway, limits=AttemptLimits(turns=1)))
    assert (rollout.stop, rollout.failure, len(model.requests)) == (StopReason.LIMIT, None, 1)
    async with opened(ScriptedModel(broke)) as gateway:
        with pytest.raises(BudgetReached):
            await attempt(example.load(gateway))


@EXAMPLE
async def test_a_slow_attempt_is_a_timeout_and_holds_nothing_up(example: Example) -> None:
    async def slow(request: Request) -> str:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(request.key.task)
        return ""

    ended: list[str] = []
    async with opened(ScriptedModel(slow)) as gateway:
        started = time.monotonic()
        rollout = await attempt(example.load(gateway, limits=AttemptLimits(seconds=0.7)))
        assert time.monotonic() - started < 5
    assert rollout.failure is not None
    assert (rollout.failure.kind, ended) == ("timeout", ["t1"])


@EXAMPLE
async def test_an_agent_works_as_long_as_its_attempt_may(example: Example) -> None:
    if "langgraph" in example.source or "dspy" in example.source:
        pytest.skip("its own count of steps is the user's")

    def long(request: Request) -> str | Reply:
        done = sum(message.role == "tool" for message in request.messages)
        call = ToolCall(id=f"c{done}", name="multiply", arguments='{"a": 1, "b": 1}')
        return "at last" if done == 60 else Reply(text="", tool_calls=(call,))

    async with opened(ScriptedModel(long)) as gateway:
        rollout = await attempt(example.load(gateway, limits=AttemptLimits(turns=100)))
    assert (rollout.output, rollout.metadata["turns"]) == ("at last", 61)


@EXAMPLE
async def test_an_agent_is_known_by_the_file_it_stands_in(example: Example, tmp_path: Path) -> None:
    async with opened(ScriptedModel([])) as gateway:
        known = example.load(gateway).fingerprint
        file, _, name = example.source.partition(":")
        (tmp_path / file).write_text((EXAMPLES / file).read_text())
        assert FunctionAgent.load(example.source, folder=tmp_path, gateway=gateway).fingerprint == known
        (tmp_path / file).write_text((EXAMPLES / file).read_text().replace("alone", "only"))
        assert FunctionAgent.load(f"{tmp_path / file}:{name}", gateway=gateway).fingerprint != known


class Product(BaseModel):
    value: int
    sure: bool


async def test_pydantic_ai_gives_typed_output_as_json_and_sees_images() -> None:
    def typed(request: Request) -> Reply:
        return Reply(text="", tool_calls=(ToolCall(id="c", name="final_result", arguments='{"value":1,"sure":true}'),))

    task = Task(id="t", question="See.", images=(PICTURE, "https://x.test/a.png"))
    rollout, model = await tried(Agent(output_type=Product), typed, task)
    assert rollout.output == '{"value":1,"sure":true}'
    assert model.requests[0].messages[1].images == task.images


async def test_an_agent_of_pydantic_ai_asks_the_model_of_the_config_and_no_other() -> None:
    rollout, model = await tried(Agent("test"), lambda request: "fine")
    assert rollout.output == "fine"
    assert [request.body and request.body["model"] for request in model.requests] == ["m"]
    assert model.requests[0].messages[0].content == PRIOR.text


async def test_openai_agents_hands_over_gives_typed_output_and_sees_images() -> None:
    pytest.importorskip("agents.agent")
    from agents import Agent as OpenAIAgent

    def hands_over(request: Request) -> str | Reply:
        tools = [tool["function"]["name"] for tool in (request.body or {}).get("tools", ())]
        if "transfer_to_second" in tools:
            return Reply(text="", tool_calls=(ToolCall(id="c", name="transfer_to_second", arguments="{}"),))
        assert (request.body or {})["response_format"]["type"] == "json_schema"
        return '{"value": 1, "sure": true}'

    second = OpenAIAgent(name="second", model="gpt-none", instructions="You are the second.", output_type=Product)
    first = OpenAIAgent(name="first", handoffs=[second])
    task = Task(id="t", question="See.", images=(PICTURE,))
    rollout, model = await tried(first, hands_over, task)
    assert (rollout.failure, rollout.output) == (None, '{"value":1,"sure":true}')
    assert [request.messages[0].content for request in model.requests] == [
        PRIOR.text,
        PRIOR.conditioned("You are the second."),
    ]
    assert model.requests[0].messages[1].images == task.images


async def test_an_agent_that_is_a_tool_of_another_has_the_prior_too() -> None:
    pytest.importorskip("agents.agent")
    from agents import Agent as OpenAIAgent

    def asks(request: Request) -> str | Reply:
        if not (request.body or {}).get("tools") or request.messages[-1].role == "tool":
            return request.messages[-1].content
        return Reply(text="", tool_calls=(ToolCall(id="c", name="inner", arguments='{"input": "deep"}'),))

    inner = OpenAIAgent(name="inner", instructions="You are within.")
    outer = OpenAIAgent(name="outer", tools=[inner.as_tool("inner", "Asks the inner one.")])
    rollout, model = await tried(outer, asks)
    assert (rollout.failure, rollout.output) == (None, "deep")
    assert model.requests[1].messages[0].content == PRIOR.conditioned("You are within.")


class TestLangChain:
    pytestmark = THEIRS

    @pytest.fixture(autouse=True)
    def _needed(self) -> None:
        pytest.importorskip("langchain.agents")
        pytest.importorskip("langchain_openai")

    @staticmethod
    def model(seat: Seat) -> Any:
        from langchain_openai import ChatOpenAI

        return ChatOpenAI(model="m", base_url=seat.base_url, api_key=seat.api_key, max_retries=0)  # type: ignore[arg-type]

    async def test_an_agent_gives_typed_output_and_sees_images(self) -> None:
        from langchain.agents import create_agent
        from langchain.agents.structured_output import ToolStrategy

        def typed(request: Request) -> Reply:
            return Reply(text="", tool_calls=(ToolCall(id="c", name="Product", arguments='{"value":1,"sure":true}'),))

        def make(seat: Seat) -> Any:
            return create_agent(self.model(seat), response_format=ToolStrategy(Product))

        task = Task(id="t", question="See.", images=(PICTURE,))
        rollout, model = await tried(make, typed, task)
        assert (rollout.failure, rollout.output) == (None, '{"value":1,"sure":true}')
        assert model.requests[0].messages[1].images == task.images

    async def test_a_chain_gets_the_question_and_what_else_its_prompt_names(self) -> None:
        from langchain_core.output_parsers import JsonOutputParser, StrOutputParser
        from langchain_core.prompts import ChatPromptTemplate

        async def make(seat: Seat) -> Any:
            prompt = ChatPromptTemplate.from_messages([("system", "Be kind."), ("user", "{query} {hint}")])
            return prompt | self.model(seat) | StrOutputParser()

        rollout, model = await tried(make, lambda request: request.messages[-1].content)
        assert rollout.output == f"{TASK.question} It is odd."
        assert model.requests[0].messages[0].content == PRIOR.conditioned("Be kind.")

        def make_json(seat: Seat) -> Any:
            return ChatPromptTemplate.from_template("Q: {text}") | self.model(seat) | JsonOutputParser()

        rollout, _ = await tried(make_json, lambda request: json.dumps({"got": request.messages[-1].content}))
        assert json.loads(rollout.output) == {"got": f"Q: {TASK.question}"}

    async def test_a_model_alone_gets_the_question(self) -> None:
        rollout, _ = await tried(lambda seat: self.model(seat), lambda request: request.messages[-1].content)
        assert rollout.output == TASK.question

    async def test_a_graph_gets_its_question_and_gives_what_it_found(self) -> None:
        from langgraph.graph import StateGraph
        from typing_extensions import TypedDict

        class State(TypedDict):
            question: str
            hint: str
            answer: str

        def make(seat: Seat) -> Any:
            async def node(state: State) -> dict[str, str]:
                assert "hint" not in state
                reply = await self.model(seat).ainvoke(state["question"])
                return {"answer": str(reply.content)}

            return StateGraph(State).add_node("ask", node).set_entry_point("ask").compile()

        rollout, _ = await tried(make, lambda request: "it is 391")
        assert (rollout.failure, rollout.output) == (None, "it is 391")

    async def test_a_prompt_in_which_the_question_has_no_place_stops_the_run(self) -> None:
        from langchain_core.prompts import ChatPromptTemplate

        def make(seat: Seat) -> Any:
            return ChatPromptTemplate.from_template("{one} {two}") | self.model(seat)

        with pytest.raises(ConfigError, match="name the one for the question"):
            await tried(make, lambda request: "")

    async def test_one_that_holds_its_model_is_refused_and_one_that_leads_elsewhere_fails(self) -> None:
        from langchain_core.runnables import RunnableLambda

        with pytest.raises(ConfigError, match=r"make\(seat\)"):
            await tried(RunnableLambda(lambda text: "x"), lambda request: "")
        rollout, _ = await tried(lambda seat: RunnableLambda(lambda text: "x"), lambda request: "")
        assert rollout.failure is not None
        assert (rollout.failure.kind, rollout.output) == ("agent", "")
        assert "called no model by its seat" in rollout.failure.detail


class TestDspy:
    pytestmark = THEIRS

    @pytest.fixture(autouse=True)
    def _needed(self) -> None:
        pytest.importorskip("dspy")

    @staticmethod
    async def tried(module: Any, said: Script, task: Task = TASK) -> tuple[Rollout, ScriptedModel]:
        model = ScriptedModel(said)
        async with opened(model, name="m") as gateway:
            return await attempt(FunctionAgent(function=module, code="mine", gateway=gateway), task), model

    async def test_one_output_is_the_answer_and_several_are_json(self) -> None:
        import dspy

        rollout, _ = await self.tried(
            dspy.ChainOfThought("text -> answer: bool"), lambda request: says(reasoning="so", answer="True")
        )
        assert rollout.output == "true"
        rollout, _ = await self.tried(
            dspy.Predict("question -> value: int, sure: bool"), lambda request: says(value=1, sure="True")
        )
        assert rollout.output == '{"value":1,"sure":true}'

    async def test_a_program_that_is_not_async_runs_and_gets_metadata_by_name(self) -> None:
        import dspy

        class Program(dspy.Module):  # type: ignore[misc]
            def __init__(self) -> None:
                super().__init__()
                self.first = dspy.Predict("question, hint -> answer")

            def forward(self, question: str, hint: str, tone: str = "kind") -> Any:
                return self.first(question=question, hint=hint + tone)

        rollout, model = await self.tried(Program(), lambda request: says(answer="391"))
        assert (rollout.failure, rollout.output) == (None, "391")
        assert "It is odd.kind" in model.requests[0].messages[1].content
        assert model.requests[0].messages[0].content.endswith(PRIOR.text)
        rollout, model = await self.tried(Program(), lambda request: "", Task(id="t", question="q"))
        assert rollout.failure is not None
        assert "no metadata for the inputs ['hint']" in rollout.failure.detail

    async def test_a_module_with_a_model_of_its_own_is_refused(self) -> None:
        import dspy

        module = dspy.Predict("question -> answer")
        module.set_lm(dspy.LM("openai/none", api_key="none"))
        with pytest.raises(ConfigError, match="a model of its own"):
            await self.tried(module, lambda request: "")


async def test_a_function_that_makes_an_agent_is_called_for_each_attempt() -> None:
    made: list[str] = []

    def make(seat: Seat) -> Agent:
        made.append(seat.api_key)
        return Agent(instructions="Be kind.")

    model = ScriptedModel(lambda request: "fine")
    async with opened(model, name="m") as gateway:
        agent = FunctionAgent(function=make, gateway=gateway)
        outputs = [(await attempt(agent, index=index)).output for index in range(2)]
    assert outputs == ["fine", "fine"]
    assert len(set(made)) == 2
    assert model.requests[0].messages[0].content == PRIOR.conditioned("Be kind.")


async def test_what_a_tool_raises_is_a_failure_of_the_attempt() -> None:
    agent = Agent()

    @agent.tool_plain
    def multiply(a: int, b: int) -> int:
        raise ZeroDivisionError(f"{a} and {b} with sk-live-0123456789abcdef")

    async with opened(ScriptedModel(solve), name="m") as gateway:
        rollout = await attempt(FunctionAgent(function=agent, code="mine", gateway=gateway))
    assert rollout.failure is not None
    assert rollout.failure.kind == "agent"
    assert rollout.failure.detail == "ZeroDivisionError: 17 and 23 with [redacted]"


def nothing(seat: Seat) -> object:
    return {}


def raises(seat: Seat) -> object:
    raise OSError("no disk")


async def test_a_function_that_makes_no_agent_stops_the_run_and_one_that_raises_fails() -> None:
    async with opened(ScriptedModel([])) as gateway:
        with pytest.raises(ConfigError, match="gave a dict, expected"):
            await attempt(FunctionAgent(function=nothing, gateway=gateway))
        rollout = await attempt(FunctionAgent(function=raises, gateway=gateway))
    assert rollout.failure is not None
    assert (rollout.failure.kind, rollout.failure.detail) == ("agent", "OSError: no disk")


@pytest.mark.parametrize(
    ("agent", "model", "code", "words"),
    [
        ({}, "m", "", "is a dict, expected a function (task, prior)"),
        (Agent(), "m", "", "known by the file it stands in"),
        (Agent(), None, "mine", "takes a seat at the gateway"),
        (nothing, None, "", "takes a seat at the gateway"),
        (Agent(), "*", "mine", "put it in place of the *"),
    ],
)
def test_a_wrong_object_is_refused_before_anything_runs(
    agent: Any, model: str | None, code: Literal["", "mine"], words: str
) -> None:
    gateway = Gateway(ScriptedModel([]), model_name=model) if model else None
    with pytest.raises(ConfigError) as error:
        FunctionAgent(function=agent, gateway=gateway, code=code)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_what_only_looks_like_an_agent_is_none() -> None:
    for thing in (Agent, "agent", nothing, type("Agent", (), {"__module__": "agents.agent"})()):
        assert framework_of(thing) is None
        assert adapt(thing, name="x", model="m") is None


def test_no_framework_is_imported_before_it_is_used() -> None:
    program = (
        "import sys; import tokenprior.agents.frameworks; "
        "print(sorted({name.split('.')[0] for name in sys.modules} & "
        "{'pydantic_ai', 'agents', 'langchain_core', 'langgraph', 'dspy', 'openai', 'pydantic_core'}))"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert ended.stdout == "[]\n"
