"""Program: any command is an agent; what it starts is ended with it."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from streaming_upstream import StreamingUpstream
from tokenprior.agents.base import AttemptLimits
from tokenprior.agents.gateway import Gateway
from tokenprior.agents.program import ProgramAgent
from tokenprior.config import Config, load_config
from tokenprior.errors import BudgetReached, ConfigError, ModelError
from tokenprior.live import Live
from tokenprior.models.budget import Budget, Limits
from tokenprior.models.connect import Connections
from tokenprior.models.forward import ForwardModel
from tokenprior.models.recorded import MeteredModel, ReplayedModel
from tokenprior.models.retried import Limit, RetriedModel, RetryPolicy
from tokenprior.models.scripted import ScriptedModel
from tokenprior.prior import TokenPrior
from tokenprior.rollout import Rollout, StopReason
from tokenprior.session import session
from tokenprior.store import RunStore, Store, open_store
from tokenprior.task import Split, Task, TaskSet

pytestmark = pytest.mark.anyio

EXAMPLE = Path(__file__).parents[2] / "examples" / "program_agent.py"
TASK = Task(id="t1", question="What is 1 + 2?\n{output} $HOME", answer="the-answer", metadata={"level": 3})
PRIOR = TokenPrior(text="Lessons from experience. Follow those:\n[G0] Be brief.")

ASK = """
import json, os, sys, time, urllib.request

def ask(text, **more):
    body = {"model": "m", "messages": [{"role": "user", "content": text}]} | more
    headers = {"Authorization": "Bearer " + os.environ["OPENAI_API_KEY"], "Content-Type": "application/json"}
    url = os.environ["OPENAI_BASE_URL"] + "/chat/completions"
    with urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode(), headers)) as reply:
        return json.load(reply)["choices"][0]["message"]["content"]
"""
OPENAI = """
import json, sys
from openai import OpenAI

client = OpenAI()
tool = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
messages = [{"role": "system", "content": "Add."}, {"role": "user", "content": sys.argv[1]}]
calls, text = {}, ""
for chunk in client.chat.completions.create(model="m", messages=messages, tools=[tool], stream=True):
    for piece in chunk.choices[0].delta.tool_calls or ():
        call = calls.setdefault(piece.index, {"id": "", "name": "", "arguments": ""})
        call["id"] = piece.id or call["id"]
        call["name"] = piece.function.name or call["name"]
        call["arguments"] += piece.function.arguments or ""
made = [{"id": c["id"], "type": "function", "function": {"name": c["name"], "arguments": c["arguments"]}}
        for c in calls.values()]
messages.append({"role": "assistant", "tool_calls": made})
for c in calls.values():
    total = sum(json.loads(c["arguments"]).values())
    messages.append({"role": "tool", "tool_call_id": c["id"], "content": str(total)})
for chunk in client.chat.completions.create(model="m", messages=messages, tools=[tool], stream=True):
    text += chunk.choices[0].delta.content or ""
print(text)
"""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@asynccontextmanager
async def made(
    folder: Path, script: str, *arguments: str, gateway: Gateway | None = None, **settings: Any
) -> AsyncIterator[ProgramAgent]:
    (folder / "agent.py").write_text(script)
    command = (sys.executable, "agent.py", *arguments)
    if gateway is not None:
        yield ProgramAgent(command=command, gateway=gateway, folder=folder, **settings)
        return
    async with Gateway(ScriptedModel(lambda request: "said")) as opened:
        yield ProgramAgent(command=command, gateway=opened, folder=folder, **settings)


@asynccontextmanager
async def recorded(
    upstream: StreamingUpstream, path: Path, budget: Budget | None = None
) -> AsyncIterator[tuple[Gateway, Store]]:
    with open_store(path) as store:
        record: RunStore = store.open_run("r-1", name="r", kind="learn", config={})
        forward = ForwardModel.at(upstream.model)
        metered = MeteredModel(forward, record, budget or Budget(Limits()), {})
        policy = RetryPolicy(attempts=1, backoff_s=0.001)
        async with Gateway(ReplayedModel(RetriedModel(metered, Limit(64), policy), record)) as gateway:
            yield gateway, store
        await forward.aclose()
        record.close("done")


async def attempt(agent: ProgramAgent, index: int = 0, task: Task = TASK) -> Rollout:
    return await agent.attempt(task, PRIOR, phase="rollout", step=0, index=index)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
    except OSError:
        return False


async def test_a_program_with_openais_client_streams_calls_tools_and_sees_the_prior(tmp_path: Path) -> None:
    async with StreamingUpstream() as upstream:
        rollouts = []
        for _ in range(2):
            async with (
                recorded(upstream, tmp_path / "s.db") as (gateway, store),
                made(tmp_path, OPENAI, "{question}", gateway=gateway) as agent,
            ):
                rollouts.append(await attempt(agent))
                rows = store.rows("calls", "r-1")
        first, second = rollouts
        assert len(upstream.bodies) == 2, "the second time everything comes from the ledger"
    assert first.failure is None, first.failure
    assert first.output == second.output == "3 | ü taught | m"
    assert first.messages == second.messages
    assert [message.role for message in first.messages] == ["system", "user", "assistant", "tool", "tool", "assistant"]
    assert first.messages[0].content == PRIOR.conditioned("Add.")
    assert first.messages[1].content == TASK.question
    assert [call.arguments for call in first.messages[2].tool_calls] == ['{"a": 1, "b": 2}'] * 2
    assert first.usage == second.usage
    assert (first.usage.calls, first.usage.input_tokens, first.usage.output_tokens) == (2, 40, 14)
    assert first.metadata["turns"] == first.metadata["exchanges"] == 2
    assert first.metadata["exit"] == 0
    assert first.latency_s == second.latency_s > 0
    assert [(row["state"], row["attempt"]) for row in rows] == [("done", 0)] * 2


async def test_the_example_is_an_agent(tmp_path: Path) -> None:
    async with StreamingUpstream() as upstream, recorded(upstream, tmp_path / "s.db") as (gateway, _):
        agent = ProgramAgent(command=(sys.executable, str(EXAMPLE), "{question}"), gateway=gateway)
        rollout = await attempt(agent)
    assert rollout.failure is None, rollout.failure
    assert rollout.output == "2 | ü taught | default"
    assert "the number alone" in rollout.messages[0].content


async def test_programs_side_by_side_do_not_mix(tmp_path: Path) -> None:
    script = ASK + "print(ask('begin ' + sys.argv[1]) and ask('end ' + sys.argv[1]))"
    tasks = [Task(id=f"t{number}", question=f"question {number}") for number in range(32)]
    async with (
        StreamingUpstream() as upstream,
        recorded(upstream, tmp_path / "s.db") as (gateway, store),
        made(tmp_path, script, "{question}", gateway=gateway) as agent,
    ):
        rollouts = await asyncio.gather(*(attempt(agent, task=task) for task in tasks))
        assert len(store.rows("calls", "r-1")) == 64
    for task, rollout in zip(tasks, rollouts, strict=True):
        assert rollout.output == f"end {task.question} | ü taught | m"
        assert rollout.messages[-2].content == f"end {task.question}"
        assert rollout.metadata["exchanges"] == 2


async def test_no_more_run_at_once_than_may(tmp_path: Path) -> None:
    script = "import time; a = time.time(); time.sleep(0.1); print(a, time.time())"
    async with made(tmp_path, script, concurrency=2) as agent:
        rollouts = await asyncio.gather(*(attempt(agent, index) for index in range(6)))
    spans = [tuple(map(float, rollout.output.split())) for rollout in rollouts]
    assert max(sum(begun <= at < ended for begun, ended in spans) for at, _ in spans) == 2


async def test_words_of_the_command_are_filled_in_once(tmp_path: Path) -> None:
    script = "import json, sys; open(sys.argv[4], 'w').write(json.dumps([sys.argv[1:4], json.load(open(sys.argv[3]))]))"
    async with made(tmp_path, script, "--q={question}", "{task}", "{input}", "{output}") as agent:
        rollout = await attempt(agent)
    words, told = json.loads(rollout.output)
    assert words[:2] == [f"--q={TASK.question}", "t1"]
    assert told == {"id": "t1", "question": TASK.question, "metadata": {"level": 3}, "images": []}
    assert not os.path.exists(words[2]), "the folder is gone"  # noqa: ASYNC240


async def test_without_placeholders_the_question_is_read_and_the_answer_printed(tmp_path: Path) -> None:
    async with made(tmp_path, "import sys; print('  ' + sys.stdin.read().upper() + ' ü\\n')") as agent:
        rollout = await attempt(agent)
    assert rollout.output == TASK.question.upper() + " ü"
    assert [(message.role, message.content) for message in rollout.messages] == [
        ("user", TASK.question),
        ("assistant", rollout.output),
    ]
    assert (rollout.usage.calls, rollout.metadata["turns"], rollout.stop) == (0, 0, StopReason.DONE)


async def test_a_program_need_not_read_its_question_and_only_the_end_of_much_output_counts(tmp_path: Path) -> None:
    script = "import sys; sys.stderr.write('e' * 3_000_000); sys.stdout.write('x' * 3_000_000 + ' end')"
    async with made(tmp_path, script) as agent:
        rollout = await attempt(agent, task=replace(TASK, question="q" * 3_000_000))
    assert len(rollout.output) == 1_000_000
    assert rollout.output.endswith("x end")


async def test_secrets_of_the_environment_stay_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOUSE_API_KEY", "not-of-a-known-form-0123456789")
    monkeypatch.setenv("WANTED_TOKEN", "wanted-0123456789")
    monkeypatch.setenv("HARMLESS", "sk-proj-0123456789abcdef")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-real-0123456789")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://elsewhere.example/v1")
    monkeypatch.setenv("PLAIN", "yes")
    monkeypatch.setenv("NO_PROXY", "intern.example")
    script = "import json, os; print(json.dumps(dict(os.environ)))"
    async with made(tmp_path, script, pass_env=("WANTED_TOKEN", "OPENAI_API_KEY")) as agent:
        inner = json.loads((await attempt(agent)).output)
    assert not {"HOUSE_API_KEY", "HARMLESS"} & set(inner)
    assert (inner["WANTED_TOKEN"], inner["PLAIN"]) == ("wanted-0123456789", "yes")
    assert inner["OPENAI_API_KEY"].startswith("tp-")
    assert inner["OPENAI_BASE_URL"] == inner["OPENAI_API_BASE"]
    assert inner["OPENAI_BASE_URL"].startswith("http://127.0.0.1:")
    assert inner["NO_PROXY"] == inner["no_proxy"] == "intern.example,127.0.0.1,localhost"
    assert not os.path.exists(inner["TOKENPRIOR_DIR"])  # noqa: ASYNC240


@pytest.mark.parametrize(
    ("script", "kind", "words"),
    [
        ("import sys; sys.exit(3)", "exit-3", "it said nothing"),
        ("raise ValueError('key sk-live-0123456789abcdef')", "exit-1", "ValueError: key [redacted]"),
        ("import os; os.kill(os.getpid(), 9)", "exit-137", ""),
        (ASK + "ask('x', messages=[])", "exit-1", "HTTP Error 400"),
    ],
)
async def test_a_program_that_fails_is_a_failure_of_the_attempt(
    tmp_path: Path, script: str, kind: str, words: str
) -> None:
    async with made(tmp_path, script) as agent:
        rollout = await attempt(agent)
    assert rollout.failure is not None
    assert rollout.failure.kind == kind
    assert words in rollout.failure.detail
    assert rollout.output == ""


async def test_an_output_that_was_not_written_is_a_failure(tmp_path: Path) -> None:
    async with made(tmp_path, "print('talk')", "{output}") as agent:
        rollout = await attempt(agent)
    assert rollout.failure is not None
    assert rollout.failure.kind == "no-output"


@pytest.mark.parametrize(("caught", "output"), [(False, ""), (True, "what I have")])
async def test_an_attempt_at_its_limit_ends_with_what_it_has(tmp_path: Path, caught: bool, output: str) -> None:
    script = ASK + "try:\n    ask('a'); ask('b')\nexcept OSError:\n    "
    script += "print('what I have')" if caught else "print('going down'); raise"
    async with made(tmp_path, script, limits=AttemptLimits(turns=1)) as agent:
        rollout = await attempt(agent)
    assert (rollout.stop, rollout.output, rollout.failure) == (StopReason.LIMIT, output, None)
    assert rollout.metadata["turns"] == 1


async def test_a_reached_budget_ends_the_program_at_once(tmp_path: Path) -> None:
    script = ASK + "ask('a')\ntry:\n    ask('b')\nexcept OSError:\n    time.sleep(60)"
    started = time.monotonic()
    async with (
        StreamingUpstream() as upstream,
        recorded(upstream, tmp_path / "s.db", Budget(Limits(calls=1))) as (gateway, _),
        made(tmp_path, script, gateway=gateway) as agent,
    ):
        with pytest.raises(BudgetReached):
            await attempt(agent)
    assert time.monotonic() - started < 5


async def test_a_refused_key_ends_the_run_even_if_the_program_does_not_mind(tmp_path: Path) -> None:
    script = ASK + "try:\n    ask('a', model='locked')\nexcept OSError:\n    print('fine')"
    async with (
        StreamingUpstream() as upstream,
        recorded(upstream, tmp_path / "s.db") as (gateway, _),
        made(tmp_path, script, gateway=gateway) as agent,
    ):
        with pytest.raises(ModelError, match="key is wrong"):
            await attempt(agent)


# Starts one child that ignores SIGTERM, one that left the session and its parent, and one that has no environment.
HARD_TO_END = """
import os, signal, subprocess, sys, time

pids = sys.argv[1]
code = "import os, sys, time; open(sys.argv[1], 'a').write(f'{os.getpid()}\\\\n'); time.sleep(60)"
stubborn = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + code
subprocess.Popen([sys.executable, "-c", stubborn, pids])
subprocess.Popen([sys.executable, "-c", code, pids], env={})
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execv(sys.executable, [sys.executable, "-c", stubborn, pids])
    os._exit(0)
while not os.path.exists(pids) or len(open(pids).read().split()) < 3:
    time.sleep(0.01)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="without /proc only the process group is found")
@pytest.mark.parametrize("end", ["timeout", "cancelled", "cancelled-twice", "own"])
async def test_nothing_that_a_program_started_survives_it(tmp_path: Path, end: str) -> None:
    pids = tmp_path / "pids"
    script = HARD_TO_END + ("print('done')" if end == "own" else "signal.pause()")
    limits = AttemptLimits(seconds=2.0 if end == "timeout" else 60.0)
    async with made(tmp_path, script, str(pids), limits=limits) as agent:
        trying = asyncio.ensure_future(attempt(agent))
        if end.startswith("cancelled"):
            while not pids.exists() or len(pids.read_text().split()) < 3:
                assert not trying.done()
                await asyncio.sleep(0.01)
            trying.cancel()
            if end == "cancelled-twice":
                await asyncio.sleep(0.1)
                trying.cancel()
            with pytest.raises(asyncio.CancelledError):
                await trying
        else:
            rollout = await trying
            kind = rollout.failure.kind if rollout.failure else None
            assert (kind, rollout.output) == (("timeout", "") if end == "timeout" else (None, "done"))
    started = [int(pid) for pid in pids.read_text().split()]
    assert len(started) == 3
    assert not [pid for pid in started if alive(pid)]


async def test_what_is_not_there_is_said_before_and_not_a_failure(tmp_path: Path) -> None:
    async with Gateway(ScriptedModel(["x"])) as gateway:
        agent = ProgramAgent(command=("no-such-program",), gateway=gateway, folder=tmp_path)
        with pytest.raises(ConfigError, match="no-such-program"):
            await attempt(agent)
        with pytest.raises(ConfigError, match="no such folder"):
            ProgramAgent(command=("x",), gateway=gateway, folder=tmp_path / "nowhere")
        with pytest.raises(ConfigError, match="command is empty"):
            ProgramAgent(command=(), gateway=gateway)


async def test_a_question_that_no_command_line_takes_is_a_failure_with_a_way_out(tmp_path: Path) -> None:
    async with made(tmp_path, "print(1)", "{question}") as agent:
        for question in ("x" * 5_000_000, "a\0b"):
            rollout = await attempt(agent, task=replace(TASK, question=question))
            assert rollout.failure is not None
            assert rollout.failure.kind == "agent"
            assert "{input}" in rollout.failure.detail


async def test_the_fingerprint_covers_what_can_change_the_outcome(tmp_path: Path) -> None:
    def prints(script: str = "1", *, settings: dict[str, Any] | None = None, **limits: Any) -> str:
        (tmp_path / "agent.py").write_text(script)
        gateway = Gateway(ScriptedModel(["x"]), **(settings or {}))
        limited = AttemptLimits(**limits)
        command = (sys.executable, "agent.py", "--config=conf.yaml")
        return ProgramAgent(command=command, gateway=gateway, folder=tmp_path, limits=limited).fingerprint

    same = prints()
    assert same == prints() == prints(seconds=1.0)
    changed = [prints("2"), prints(turns=1), prints(usd=1.0), prints(settings={"model_name": "m"})]
    changed += [prints(settings={"temperature": 0.1}), prints(settings={"seed": 1})]
    (tmp_path / "conf.yaml").write_text("a: 1")
    changed.append(prints())
    assert len({same, *changed}) == 8


def test_nothing_is_left_in_the_environment_of_the_tests() -> None:
    assert not os.environ.get("OPENAI_API_KEY", "").startswith("tp-")


def config_of(folder: Path, *more: str, model: str = "http://127.0.0.1:9/v1#m") -> Config:
    (folder / "tasks.jsonl").write_text('{"question": "q", "answer": "a"}\n')
    lines = (f"  model: {model}", "  command: [python, agent.py]", *(f"  {line}" for line in more))
    head = "name: n\ntasks: {path: tasks.jsonl}\nverifier: exact\nlearn: {gate: none}\nagent:\n  kind: program\n"
    (folder / "run.yaml").write_text(head + "\n".join(lines) + "\n")
    return load_config(folder / "run.yaml")


async def test_another_file_is_another_run_and_more_programs_at_once_are_not(tmp_path: Path) -> None:
    async def run(*more: str) -> str:
        async with session(config_of(tmp_path, *more)) as opened:
            return opened.learning_run

    (tmp_path / "agent.py").write_text("print(1)")
    first = await run()
    assert await run("concurrency: 3", "limits: {seconds: 5}") == first
    assert await run("limits: {turns: 5}") != first
    (tmp_path / "agent.py").write_text("print(2)")
    assert await run() != first


@pytest.mark.parametrize(
    ("model", "asked"),
    [
        ("http://127.0.0.1:9/v1#m:free", "m:free"),
        ("openai:ft:gpt-4o:mine::1", "ft:gpt-4o:mine::1"),
        ("openai:gpt-5", "gpt-5"),
    ],
)
async def test_a_models_own_name_may_hold_a_colon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str, asked: str
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none-at-all")
    config = config_of(tmp_path, model=model)
    with open_store(tmp_path / "s.db") as store:
        record = store.open_run("r-1", name="r", kind="learn", config={})
        policy = RetryPolicy()
        connections = Connections(config.endpoint, ledger=record, budget=Budget(Limits()), prices={}, policy=policy)
        none = TaskSet(())
        split = Split(practice=none, gate=none, held_out=none)
        async with connections, Live(config, record, connections, split, (), ()) as live:
            agent = await live.agent(0.5, 0)
            assert isinstance(agent, ProgramAgent)
            assert agent.gateway.model_name == asked
        record.close("done")
