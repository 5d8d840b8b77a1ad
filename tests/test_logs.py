"""Logs: attempts made elsewhere, read in three forms; what is wrong is one line with its place."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenprior.errors import ConfigError, DataError, TokenpriorError
from tokenprior.logs import load_logs
from tokenprior.rollout import StopReason

AIRLINE = Path(__file__).parent.parent / "examples/logs/airline_sample.jsonl"


def written(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def row(task: object = "a", **changes: Any) -> dict[str, Any]:
    said = [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}]
    return {"task": task, "messages": said, "reward": 1.0, **changes}


# --- rows of messages


def test_attempts_in_rows_become_tasks_with_no_fields_named() -> None:
    logged = load_logs(AIRLINE)
    assert [(one.task.id, len(one.attempts)) for one in logged] == [("1", 4), ("5", 4), ("16", 4)]
    rewards = [[reward.value for _, reward in one.attempts] for one in logged]
    assert rewards == [[0, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]]
    first = logged[0]
    assert first.task.question.startswith("You are olivia_gonzalez_2305")
    assert first.task.metadata["task_id"] == 1
    assert "trial" not in first.task.metadata, "attempts differ in it"
    rollout, _ = first.attempts[1]
    assert (rollout.task_id, rollout.index) == ("1", 1)
    assert rollout.metadata == {"source": "airline_sample.jsonl:2"}
    assert rollout.messages[-1].role == "user", "the conversation is whole"
    assert rollout.output.startswith("Your reservation with ID")
    assert any(call.name == "cancel_reservation" for m in rollout.messages for call in m.tool_calls)
    assert all(isinstance(m.content, str) for m in rollout.messages), "null content is an empty text"


def test_a_task_may_hold_its_attempts_in_a_list(tmp_path: Path) -> None:
    attempts = [{"solution": "five", "reward": 0}, {"solution": "four", "reward": True}, {"solution": "?"}]
    file = written(tmp_path / "l.jsonl", {"id": "q", "question": "2+2?", "answer": "4", "rollouts": attempts})
    (one,) = load_logs(file)
    assert (one.task.id, one.task.question, one.task.answer) == ("q", "2+2?", "4")
    assert [(r.output, w.value) for r, w in one.attempts] == [("five", 0.0), ("four", 1.0), ("?", None)]
    assert [m.role for m in one.attempts[0][0].messages] == ["user", "assistant"]
    assert one.attempts[2][1].reason == "no reward in the log"


def test_names_may_be_mapped_and_reach_into_objects(tmp_path: Path) -> None:
    said = [{"role": "user", "content": "2+2?"}]
    file = written(
        tmp_path / "l.jsonl",
        {"meta": {"case": 7}, "chat": {"turns": said}, "said": "4", "grade": {"value": 0.5}, "q": "Two and two?"},
    )
    fields = {
        "task": "meta.case", "messages": "chat.turns", "output": "said", "reward": "grade.value", "question": "q"
    }  # fmt: skip
    (one,) = load_logs(file, fields=fields)
    assert (one.task.id, one.task.question) == ("7", "Two and two?")
    assert one.attempts[0][1].value == 0.5
    assert [m.content for m in one.attempts[0][0].messages] == ["2+2?", "4"]
    assert one.attempts[0][0].output == "4"


def test_an_output_that_stands_apart_ends_a_conversation_that_has_no_end(tmp_path: Path) -> None:
    call = {"id": "c", "function": {"name": "sum", "arguments": "{}"}}
    said = [
        {"role": "user", "content": "2+2?"},
        {"role": "assistant", "content": "Let me see.", "tool_calls": [call]},
        {"role": "tool", "content": "4", "tool_call_id": "c"},
    ]
    rows = [row(messages=said, output="four"), row(messages=said)]
    (one,) = load_logs(written(tmp_path / "l.jsonl", *rows))
    assert [rollout.output for rollout, _ in one.attempts] == ["four", "Let me see."]
    assert [len(rollout.messages) for rollout, _ in one.attempts] == [4, 3]


def test_without_a_question_the_first_message_of_the_user_is_it(tmp_path: Path) -> None:
    said = [{"role": "system", "content": "Be brief."}, *row()["messages"]]
    (one,) = load_logs(written(tmp_path / "l.jsonl", row(messages=said), row(reward=None)))
    assert one.task.question == "2+2?"
    assert [reward.value for _, reward in one.attempts] == [1.0, None]


def test_a_long_name_of_a_task_becomes_a_short_id(tmp_path: Path) -> None:
    file = written(tmp_path / "l.jsonl", row(question="Why? " * 50), row(question="Why? " * 50))
    (one,) = load_logs(file, fields={"task": "question"})
    assert one.task.id.startswith("t-")
    assert len(one.attempts) == 2


@pytest.mark.parametrize(
    ("rows", "fields", "words"),
    [
        ([row(reward="high")], {}, r"l.jsonl:1: field 'reward' must be a finite number, .* got 'high'"),
        ([row(reward=10**400)], {}, r"l.jsonl:1: field 'reward' must be a finite number"),
        ([row(), row(task=[1])], {}, r"l.jsonl:2: field 'task' must be a text or a whole number .*got \[1\]"),
        ([{"messages": row()["messages"]}], {}, r"l.jsonl:1: no field names the task .*metadata.task_id.*row has"),
        ([row(messages="hello")], {}, r"l.jsonl:1: field 'messages' must be a list of messages, got 'hello'"),
        ([row(messages=[{"role": "bard"}])], {}, r"l.jsonl:1: field 'messages', message 0: expected a message with"),
        ([row(messages=[{"role": ["user"]}])], {}, r"l.jsonl:1: field 'messages', message 0"),
        ([row(messages=[{"role": "assistant", "tool_calls": 3}])], {}, r"field 'messages', message 0"),
        ([{"task": "a"}], {}, r"l.jsonl:1: neither a conversation nor an output; expected one of messages"),
        ([row(question=5)], {}, r"l.jsonl:1: field 'question' must be a text, got 5"),
        ([row(answer=1), row(answer=2)], {}, r"l.jsonl:2: the answer of task 'a' is 2, but 1 at l.jsonl:1"),
        ([row(messages=[{"role": "assistant", "content": "4"}])], {}, r"l.jsonl:1: task 'a' has no question"),
        ([row()], {"reward": "rewrd"}, r"fields maps reward to 'rewrd', which stands in no row; rows have \['mess"),
        ([row(rollouts="x")], {}, r"l.jsonl:1: field 'rollouts' must be a list of attempts, got 'x'"),
        ([{"id": 1, "rollouts": [5]}], {}, r"l.jsonl:1: attempt 0: expected an object, got 5"),
        ([{"id": 1, "question": "q", "rollouts": [{"output": 5}]}], {}, r"attempt 0: field 'output' must be a text"),
        ([[1, 2]], {}, r"l.jsonl:1: expected a JSON object, got list"),
    ],
)
def test_what_is_wrong_with_a_row_is_one_line(
    tmp_path: Path, rows: list[Any], fields: dict[str, str], words: str
) -> None:
    with pytest.raises(DataError, match=words) as caught:
        load_logs(written(tmp_path / "l.jsonl", *rows), fields=fields)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no rows"),
        (b'{"task": 1\n', "l.jsonl:1: not JSON"),
        (b'{"task": NaN}\n', "NaN is no JSON value"),
        (b"\xff\xfe\n", "not UTF-8 at byte 0"),
        (b"[" * 5000 + b"]" * 5000, "not JSON|nested|expected a JSON object"),
    ],
)
def test_a_file_that_is_no_log_is_said_to_be_none(tmp_path: Path, content: bytes, words: str) -> None:
    file = tmp_path / "l.jsonl"
    file.write_bytes(content)
    with pytest.raises(DataError, match=words):
        load_logs(file)


def test_a_missing_file_an_unknown_form_and_an_unknown_field_are_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        load_logs(tmp_path / "nothing.jsonl")
    with pytest.raises(ConfigError, match="form is 'langsmith', expected one of auto, messages"):
        load_logs(AIRLINE, form="langsmith")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"fields maps \['grade'\], but a log of the form messages has only"):
        load_logs(AIRLINE, fields={"grade": "reward"})


# --- Inspect


def sample(number: object, epoch: int, value: object, **changes: Any) -> dict[str, Any]:
    call = {"id": "c1", "function": "calculator", "arguments": {"sum": "2+2"}, "type": "function"}
    messages = [
        {"role": "system", "content": "Use the calculator."},
        {"role": "user", "content": "2+2?", "source": "input"},
        {"role": "assistant", "content": [{"type": "reasoning", "reasoning": "hm"}], "tool_calls": [call]},
        {"role": "tool", "content": "attachment://abc", "tool_call_id": "c1", "function": "calculator"},
        {"role": "assistant", "content": [{"type": "text", "text": "It is 4."}]},
    ]
    return {
        "id": number,
        "epoch": epoch,
        "input": "2+2?",
        "target": "4",
        "messages": messages,
        "output": {"choices": [{"message": messages[-1], "stop_reason": "stop"}]},
        "scores": {"match": {"value": value, "answer": "4", "explanation": "because"}, "other": {"value": {"tone": 3}}},
        "model_usage": {"m": {"input_tokens": 10, "output_tokens": 5, "input_tokens_cache_read": 2}},
        "working_time": 1.5,
        "attachments": {"abc": "4"},
        **changes,
    }


def log(*samples: dict[str, Any]) -> dict[str, Any]:
    return {"version": 2, "status": "success", "eval": {"task": "sums"}, "samples": list(samples)}


def test_epochs_of_an_inspect_sample_are_attempts_at_a_task(tmp_path: Path) -> None:
    file = tmp_path / "log.json"
    samples = [sample(1, 1, "C"), sample(1, 2, "I"), sample(1, 3, "P"), sample(1, 4, "N"), sample(2, 1, 0.25)]
    file.write_text(json.dumps(log(*samples), indent=2))
    one, other = load_logs(file)
    assert (one.task.id, one.task.question, one.task.answer, other.task.id) == ("1", "2+2?", "4", "2")
    assert [reward.value for _, reward in one.attempts] == [1.0, 0.0, 0.5, None]
    rollout, reward = one.attempts[0]
    assert [m.role for m in rollout.messages] == ["system", "user", "assistant", "tool", "assistant"]
    (call,) = rollout.messages[2].tool_calls
    assert (call.name, json.loads(call.arguments)) == ("calculator", {"sum": "2+2"})
    assert (rollout.messages[2].content, rollout.messages[3].content) == ("", "4"), "an attachment is put back"
    assert (rollout.output, reward.feedback, reward.extracted) == ("It is 4.", "because", "4")
    assert (rollout.usage.input_tokens, rollout.usage.output_tokens, rollout.usage.calls) == (12, 5, 2)
    assert (rollout.latency_s, rollout.metadata["source"]) == (1.5, "log.json:samples[0]")


def test_an_eval_file_is_read_and_its_samples_are_in_order(tmp_path: Path) -> None:
    file = tmp_path / "log.eval"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("header.json", "{}")
        made.writestr("summaries.json", "[]")
        for number in (10, 2):
            for epoch in (2, 1):
                made.writestr(f"samples/{number}_epoch_{epoch}.json", json.dumps(sample(number, epoch, "C")))
    two, ten = load_logs(file)
    assert (two.task.id, ten.task.id) == ("2", "10")
    assert [r.metadata["source"] for r, _ in two.attempts] == [f"log.eval:samples/2_epoch_{e}.json" for e in (1, 2)]


def test_a_sample_with_an_error_is_a_failed_attempt(tmp_path: Path) -> None:
    broken = sample(1, 1, "C", error={"message": "sandbox\nfell over sk-abc123456789", "traceback": "..."})
    limited = sample(1, 2, "I", limit={"type": "token", "limit": 100})
    (one,) = load_logs(written(tmp_path / "log.json", log(broken, limited)))
    (failed, unscored), (stopped, _) = one.attempts
    assert failed.failure is not None
    assert (failed.failure.detail, failed.output, unscored.value) == ("sandbox fell over [redacted]", "", None)
    assert stopped.stop is StopReason.LIMIT


def test_the_score_of_an_inspect_log_may_be_chosen(tmp_path: Path) -> None:
    file = written(tmp_path / "log.json", log(sample(1, 1, "C")))
    assert load_logs(file, fields={"reward": "other.tone"})[0].attempts[0][1].value == 3.0
    with pytest.raises(DataError, match=r"samples\[0\]: no score 'tone'; the sample has \['match', 'other'\]"):
        load_logs(file, fields={"reward": "tone"})
    with pytest.raises(DataError, match=r"must be a number or one of C, I, P, N, .*name one of its parts \['tone'\]"):
        load_logs(file, fields={"reward": "other"})


def test_a_log_without_samples_and_a_broken_zip_are_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no list of samples"):
        load_logs(written(tmp_path / "log.json", {"status": "success", "eval": {}}), form="inspect")
    with zipfile.ZipFile(tmp_path / "empty.eval", "w") as made:
        made.writestr("header.json", "{}")
    with pytest.raises(DataError, match=r"no samples/\*.json in it"):
        load_logs(tmp_path / "empty.eval")
    with zipfile.ZipFile(tmp_path / "b.eval", "w") as made:
        made.writestr("samples/1_epoch_1.json", "x" * 1000)
    content = (tmp_path / "b.eval").read_bytes()
    (tmp_path / "b.eval").write_bytes(content.replace(b"xxxx", b"yyyy", 1))
    with pytest.raises(DataError, match=r"b.eval: not a whole .eval log"):
        load_logs(tmp_path / "b.eval")


# --- OpenTelemetry


def attributes(**values: object) -> list[dict[str, Any]]:
    def typed(value: object) -> dict[str, Any]:
        match value:
            case bool():
                return {"boolValue": value}
            case int():
                return {"intValue": str(value)}
            case float():
                return {"doubleValue": value}
            case list():
                return {"arrayValue": {"values": [typed(one) for one in value]}}
        return {"stringValue": value}

    return [{"key": key.replace("__", "."), "value": typed(value)} for key, value in values.items()]


ASKED = [{"role": "user", "parts": [{"type": "text", "content": "2+2?"}]}]
CALLED = [
    {"role": "assistant", "parts": [{"type": "tool_call", "id": "c", "name": "sum", "arguments": {"of": [2, 2]}}]}
]
GOT = [{"role": "tool", "parts": [{"type": "tool_call_response", "id": "c", "response": "4"}]}]
SAID = [{"role": "assistant", "parts": [{"type": "text", "content": "It is 4."}], "finish_reason": "stop"}]


def chat(trace: str, start: int, before: list[Any], after: list[Any], **more: object) -> dict[str, Any]:
    return {
        "traceId": trace,
        "spanId": f"{trace}{start}",
        "name": "chat m",
        "startTimeUnixNano": str(start),
        "attributes": attributes(
            gen_ai__operation__name="chat",
            gen_ai__input__messages=json.dumps(before),
            gen_ai__output__messages=json.dumps(after),
            gen_ai__usage__input_tokens=10,
            gen_ai__usage__output_tokens=3,
            gen_ai__response__finish_reasons=["stop"],
            **more,
        ),
    }


def otlp(*spans: dict[str, Any]) -> dict[str, Any]:
    return {"resourceSpans": [{"scopeSpans": [{"spans": list(spans)}]}]}


def trace(name: str, reward: object) -> list[dict[str, Any]]:
    root = {
        "traceId": name,
        "spanId": "r",
        "startTimeUnixNano": "1",
        "attributes": attributes(
            tokenprior__task="sum", tokenprior__reward=reward, gen_ai__operation__name="invoke_agent"
        ),
    }
    system = {"gen_ai__system_instructions": json.dumps([{"type": "text", "content": "Use the tool."}])}
    last = chat(name, 3, [*ASKED, *CALLED, *GOT], SAID, **system)
    return [last, root, chat(name, 2, ASKED, CALLED, **system)]


@pytest.mark.parametrize("as_lines", [True, False])
def test_a_trace_is_an_attempt_and_its_last_chat_holds_the_conversation(tmp_path: Path, as_lines: bool) -> None:
    file = tmp_path / "traces.json"
    both = [*trace("aa", 1.0), *trace("bb", False)]
    if as_lines:
        written(file, *(otlp(span) for span in both))
    else:
        file.write_text(json.dumps(otlp(*both), indent=1))
    (one,) = load_logs(file)
    assert (one.task.id, one.task.question) == ("sum", "2+2?")
    assert [reward.value for _, reward in one.attempts] == [1.0, 0.0]
    rollout, _ = one.attempts[0]
    assert [m.role for m in rollout.messages] == ["system", "user", "assistant", "tool", "assistant"]
    assert (rollout.messages[2].tool_calls[0].name, rollout.messages[3].answers) == ("sum", "c")
    assert rollout.output == "It is 4."
    assert (rollout.usage.calls, rollout.usage.input_tokens, rollout.usage.output_tokens) == (2, 20, 6)
    assert rollout.metadata["source"].endswith(": trace aa")


def test_numbered_attributes_and_plain_spans_are_read(tmp_path: Path) -> None:
    span = {
        "name": "openai.chat",
        "context": {"trace_id": "0xaa", "span_id": "0x1"},
        "start_time": "2026-01-01T00:00:00Z",
        "attributes": {
            "gen_ai.prompt.0.role": "user",
            "gen_ai.prompt.0.content": "2+2?",
            "gen_ai.prompt.1.role": "assistant",
            "gen_ai.prompt.1.tool_calls.0.id": "c",
            "gen_ai.prompt.1.tool_calls.0.name": "sum",
            "gen_ai.prompt.1.tool_calls.0.arguments": "{}",
            "gen_ai.prompt.2.role": "tool",
            "gen_ai.prompt.2.content": "4",
            "gen_ai.prompt.2.tool_call_id": "c",
            "gen_ai.completion.0.role": "assistant",
            "gen_ai.completion.0.content": "4.",
            "gen_ai.completion.0.finish_reason": "length",
            "gen_ai.usage.prompt_tokens": 9,
            "case": "sum",
            "good": True,
        },
    }
    ((one),) = load_logs(written(tmp_path / "s.jsonl", span), fields={"task": "case", "reward": "good"})
    rollout, reward = one.attempts[0]
    assert [m.role for m in rollout.messages] == ["user", "assistant", "tool", "assistant"]
    assert (rollout.messages[1].tool_calls[0].name, rollout.output, reward.value) == ("sum", "4.", 1.0)
    assert (rollout.stop, rollout.usage.input_tokens) == (StopReason.LENGTH, 9)


def test_events_of_a_span_are_read_as_messages_and_as_the_reward(tmp_path: Path) -> None:
    score = attributes(gen_ai__evaluation__name="quality", gen_ai__evaluation__score__value=0.75)
    span = {
        "traceId": "aa",
        "spanId": "1",
        "attributes": attributes(tokenprior__task="sum"),
        "events": [
            {"name": "gen_ai.system.message", "attributes": attributes(content="Be brief.")},
            {"name": "gen_ai.user.message", "attributes": attributes(content="2+2?")},
            {"name": "gen_ai.choice", "attributes": attributes(index=0, message=json.dumps({"content": "4"}))},
            {"name": "gen_ai.evaluation.result", "attributes": score},
        ],
    }
    (one,) = load_logs(written(tmp_path / "s.jsonl", span))
    rollout, reward = one.attempts[0]
    assert [(m.role, m.content) for m in rollout.messages] == [
        ("system", "Be brief."), ("user", "2+2?"), ("assistant", "4")
    ]  # fmt: skip
    assert reward.value == 0.75


def test_a_trace_that_ended_with_an_error_has_failed_and_one_without_reward_is_unscored(tmp_path: Path) -> None:
    broken = chat("aa", 1, ASKED, [], tokenprior__task="sum", error__type="timeout")
    broken |= {"status": {"code": 2, "message": "no reply"}}
    plain = chat("bb", 1, ASKED, SAID, tokenprior__task="sum")
    (one,) = load_logs(written(tmp_path / "s.jsonl", broken, plain))
    (failed, _), (_, unscored) = one.attempts
    assert failed.failure is not None
    assert (failed.failure.kind, failed.failure.detail) == ("timeout", "no reply")
    assert unscored.reason == "no reward in the log"


@pytest.mark.parametrize(
    ("spans", "words"),
    [
        ([chat("aa", 1, ASKED, SAID)], "trace aa: no span has the attribute 'tokenprior.task'"),
        ([{"traceId": "aa", "spanId": "1"}], "no span holds messages: have the instrumentation record them"),
        ([{"spanId": "1", "resourceSpans": 5}], "expected an object with a list resourceSpans"),
        ([otlp(), {"spanId": 4}], "s.jsonl:2: expected a span with a traceId"),
        (
            [chat("aa", 1, ASKED, SAID, tokenprior__task="t", tokenprior__reward="good")],
            "'tokenprior.reward' must be a",
        ),
        ([chat("aa", 1, [{"role": "user"}], ["x"], tokenprior__task="t")], "message 1: expected a message"),
    ],
)
def test_what_is_wrong_with_a_trace_is_one_line(tmp_path: Path, spans: list[Any], words: str) -> None:
    with pytest.raises(DataError, match=words) as caught:
        load_logs(written(tmp_path / "s.jsonl", *spans))
    assert "\n" not in str(caught.value)


# --- whatever stands in a file


WORDS = """id task epoch messages input target scores value role content tool_calls function name samples status eval
rollouts reward output choices message traceId spanId attributes events key stringValue question error parts type text
gen_ai.input.messages gen_ai.user.message tokenprior.task resourceSpans scopeSpans spans"""
NAMES = st.sampled_from(WORDS.split()) | st.text(max_size=3)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=5),
    max_leaves=15,
)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(NAMES, VALUES, max_size=6), st.sampled_from(["auto", "messages", "inspect", "otel"]))
def test_a_file_of_any_json_is_read_or_refused_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, value: dict[str, Any], form: Any
) -> None:
    file = tmp_path_factory.getbasetemp() / "any.jsonl"
    file.write_text(json.dumps(value), encoding="utf-8")
    try:
        logged = load_logs(file, form=form)
    except TokenpriorError:
        return
    assert all(one.attempts and one.task.question.strip() for one in logged)


def replaced(value: Any, place: int, by: Any) -> tuple[Any, int]:
    """A JSON value in which the part of one number is another; and the number behind its last part."""
    if place == 0:
        return by, -1
    place -= 1
    if isinstance(value, dict):
        made: dict[str, Any] = {}
        for key, part in value.items():
            made[key], place = replaced(part, place, by) if place >= 0 else (part, place)
        return made, place
    if isinstance(value, list):
        parts = []
        for part in value:
            new, place = replaced(part, place, by) if place >= 0 else (part, place)
            parts.append(new)
        return parts, place
    return value, place


WHOLE: list[Any] = [
    row(question="q", answer="4", metadata={"task_id": 1}),
    {"id": "q", "question": "2+2?", "rollouts": [{"solution": "five", "reward": 0}]},
    log(sample(1, 1, "C", error=None, choices=["a"], limit=None, metadata={"a": 1})),
    otlp(*trace("aa", 1.0)),
    {
        "traceId": "aa",
        "spanId": "1",
        "attributes": {"tokenprior.task": "t", "gen_ai.prompt.0.content": "q", "gen_ai.completion.0.content": "a"},
        "events": [{"name": "gen_ai.assistant.message", "attributes": {"content": "x", "tool_calls": [], "id": 1}}],
        "status": {"code": 2, "message": "m"},
    },
]


@pytest.mark.parametrize("value", WHOLE, ids=["row", "rollouts", "inspect", "otel", "span"])
def test_a_log_with_any_one_part_of_it_wrong_is_read_or_refused_in_one_line(tmp_path: Path, value: Any) -> None:
    file = tmp_path / "part.jsonl"
    place, refused = 0, 0
    while replaced(value, place, None)[1] < 0:
        for by in (None, 5, "x", "", [], {}, [1], {"a": 1}, True):
            file.write_text(json.dumps(replaced(value, place, by)[0]) + "\n", encoding="utf-8")
            try:
                assert all(one.attempts for one in load_logs(file))
            except TokenpriorError as error:
                refused += 1
                assert "\n" not in str(error)  # noqa: PT017
        place += 1
    assert refused > 10
