"""A program that knows nothing of tokenprior is taught through the config: recorded, budgeted, conditioned, unmixed."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from act_home import cli, home
from act_upstream import Calls, Said, Upstream, teacher

LESSON = "When a product is asked for, write the word apples behind the number."
PAIRS = ((3, 7), (4, 9), (5, 8), (6, 6), (7, 11), (8, 13))
TASKS = [{"id": f"t{a}", "question": f"What is {a} * {b}?", "answer": f"{a * b} apples"} for a, b in PAIRS]

# As examples/program_agent.py, with streams.
PROGRAM = """
import json, sys
from openai import OpenAI

parameters = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}}
tool = {"type": "function", "function": {"name": "multiply", "parameters": parameters}}
messages = [{"role": "system", "content": "You solve tasks."}, {"role": "user", "content": sys.argv[1]}]
with OpenAI() as client:
    while True:
        text, calls = "", {}
        for chunk in client.chat.completions.create(model="m", messages=messages, tools=[tool], stream=True):
            for choice in chunk.choices:
                text += choice.delta.content or ""
                for piece in choice.delta.tool_calls or ():
                    call = calls.setdefault(piece.index, {"id": piece.id, "type": "function",
                                                          "function": {"name": "", "arguments": ""}})
                    call["function"]["name"] += piece.function.name or ""
                    call["function"]["arguments"] += piece.function.arguments or ""
        if not calls:
            break
        messages.append({"role": "assistant", "content": text or None, "tool_calls": list(calls.values())})
        for call in calls.values():
            given = json.loads(call["function"]["arguments"])
            messages.append({"role": "tool", "tool_call_id": call["id"], "content": str(given["a"] * given["b"])})
print(text)
"""

# The same in small, for where many are started.
SMALL = """
import http.client, json, os, sys
from urllib.parse import urlsplit

base = urlsplit(os.environ["OPENAI_BASE_URL"])
def ask(messages):
    connection = http.client.HTTPConnection(base.netloc, timeout=60)
    tools = [{"type": "function", "function": {"name": "multiply"}}]
    body = json.dumps({"model": "m", "messages": messages, "tools": tools})
    headers = {"Authorization": "Bearer " + os.environ["OPENAI_API_KEY"], "Content-Type": "application/json"}
    connection.request("POST", base.path + "/chat/completions", body, headers)
    response = connection.getresponse()
    said = json.loads(response.read())
    if response.status != 200:
        sys.exit(said["error"]["message"])
    return said["choices"][0]["message"]

messages = [{"role": "user", "content": sys.argv[1]}]
while (said := ask(messages)).get("tool_calls"):
    messages.append(said)
    for call in said["tool_calls"]:
        given = json.loads(call["function"]["arguments"])
        messages.append({"role": "tool", "tool_call_id": call["id"], "content": str(given["a"] * given["b"])})
print(said["content"])
"""


def everybody(said: Said) -> str | Calls:
    """The policy multiplies by the tool, and says apples if it was told to."""
    if said.part != "policy":
        return teacher(LESSON)(said)
    if not said.results:
        a, b = map(int, re.findall(r"\d+", said.question))
        return [("multiply", {"a": a, "b": b})]
    return said.results[-1] + (" apples" if LESSON in said.system else "")


def program(server: Upstream, code: str, folder: Path, **changes: Any) -> dict[str, Any]:
    (folder / "agent.py").write_text(code)
    flags = ["-I", "-S"] if code == SMALL else []
    command = [sys.executable, *flags, "agent.py", "{question}"]
    return {"kind": "program", "model": f"{server.url}#*", "command": command} | changes


def test_openais_client_with_streams_and_tools_is_taught_and_compared(tmp_path: Path) -> None:
    with Upstream(everybody) as server:
        made = home(
            tmp_path,
            tasks=TASKS,
            split={"practice": 2, "held_out": 2},
            agent=program(server, PROGRAM, tmp_path, concurrency=3),
            learner=server.model,
            learn={"batch_size": 1},
        )
        learned = cli("learn", made.file)
        assert learned.code == 0, learned.err
        calls = len(server.said)
        again = cli("learn", made.file)
        assert again.code == 0
        assert again.out == learned.out
        assert len(server.said) == calls, "a run that is done pays for nothing, and starts no program"
        practised = server.asked("policy")
        compared = cli("compare", made.file, "--json", tmp_path / "c.json")
        assert compared.code == 0, compared.err
    assert [experience.text for experience in made.library()] == [LESSON]

    # What the endpoint saw.
    assert all(said.body["stream"] is True and said.body["tools"] for said in practised)
    assert all(said.body["temperature"] == 0.7 and isinstance(said.body["seed"], int) for said in practised)
    at_first, later = practised[:4], practised[4:]
    assert len(later) == 4
    assert all(said.system == "You solve tasks." for said in at_first)
    assert all(said.system.startswith("You solve tasks.\n\n") and LESSON in said.system for said in later)
    assert all(said.body["temperature"] == 0.3 for said in server.asked("policy")[8:])

    # What the store holds.
    rows = made.rows("rollouts")
    assert len(rows) == 4
    for row in rows:
        said = row["rollout"]["messages"]
        roles = [message["role"] if isinstance(message, dict) else message[0] for message in said]
        assert roles == ["system", "user", "assistant", "tool", "assistant"]
        (call,) = said[2]["tool_calls"]
        a, b = map(int, re.findall(r"\d+", said[1][1]))
        assert json.loads(call["function"]["arguments"]) == {"a": a, "b": b}
        assert said[3]["content"] == str(a * b)
        assert row["rollout"]["output"] == said[4][1]
        assert row["rollout"]["output"].split()[0] == str(a * b)
        assert (LESSON in said[0][1]) == (row["step"] > 0)
        assert row["rollout"]["metadata"]["turns"] == 2
    (difference,) = json.loads((tmp_path / "c.json").read_text())["differences"]
    assert difference["gain"]["mean"] > 0
    assert len([row for row in made.rows("calls") if row["key"].startswith("rollout")]) == len(practised)
    assert all(row["input_tokens"] and row["output_tokens"] for row in made.rows("calls")), "streams are counted"


def test_a_small_budget_stops_the_run_and_a_larger_one_goes_on_and_pays_nothing_twice(tmp_path: Path) -> None:
    with Upstream(everybody) as server:
        made = home(
            tmp_path,
            tasks=TASKS[:4],
            agent=program(server, SMALL, tmp_path, concurrency=1),
            learner=server.model,
            budget={"calls": 7},
            endpoint={"concurrency": 1},
        )
        stopped = cli("learn", made.file)
        assert stopped.code == 3, stopped.err
        assert "calls" in stopped.out
        assert "Stopped: budget reached: calls limit 7" in stopped.out
        assert len(server.said) == 7
        assert made.run().state == "stopped"
        assert len(made.library()) == 0
        assert {row["state"] for row in made.rows("calls")} == {"done"}
        kept = made.rows("rollouts")
        assert all(row["rollout"]["failure"] is None for row in kept), "an attempt that was stopped is none that failed"
        assert len(kept) == 3

        once_more = cli("learn", made.file)
        assert once_more.code == 3
        assert len(server.said) == 7

        done = cli("learn", made.file, "--set", "budget.calls=100")
        assert done.code == 0, done.err
        assert [experience.text for experience in made.library()] == [LESSON]
        assert max(server.seen.values()) == 1, "no request was made twice, over three invocations"
        calls = made.rows("calls")
        assert len(calls) == len(server.said)
        assert made.run().state == "done"
        assert len(made.rows("rollouts")) == 8


def test_thirty_two_programs_side_by_side_do_not_mix(tmp_path: Path) -> None:
    tasks = [
        {"id": f"t{n}", "question": f"What is {n} * {n + 1}?", "answer": f"{n * (n + 1)} apples"} for n in range(2, 18)
    ]
    with Upstream(everybody, delay_s=0.1) as server:
        made = home(
            tmp_path,
            tasks=tasks,
            agent=program(server, SMALL, tmp_path, concurrency=32),
            learner=server.model,
        )
        ended = cli("learn", made.file)
        assert ended.code == 0, ended.err
        assert server.most_in_flight > 4
        assert len(server.asked("policy")) == 64
        seeds = [said.body["seed"] for said in server.asked("policy")]
        assert len(set(seeds)) == 64, "each call of each attempt has a seed of its own"
    rows = made.rows("rollouts")
    assert len(rows) == 32
    for row in rows:
        question = next(task["question"] for task in tasks if task["id"] == row["task"])
        a, b = map(int, re.findall(r"\d+", question))
        said = row["rollout"]["messages"]
        assert said[0] == ["user", question]
        assert said[2]["content"] == str(a * b)
        assert row["rollout"]["output"].split()[0] == str(a * b)
        assert row["rollout"]["metadata"]["exchanges"] == 2
        own = [call for call in made.rows("calls") if call["key"].startswith(f"rollout/0/{row['task']}/")]
        assert len(own) == 4
        assert all(question in json.dumps(call["request"]) for call in own)
