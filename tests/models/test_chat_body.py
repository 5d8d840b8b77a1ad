"""Chat body: what is sent is what a strict endpoint accepts, and nothing is lost on the way there and back."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenprior.models.base import CallKey, Request
from tokenprior.models.chat_body import chat_body, chat_reply
from tokenprior.prompts import contrast, revise, tips
from tokenprior.rollout import Message, StopReason, ToolCall

KEY = CallKey(phase="rollout")
LOOK = {
    "name": "look",
    "description": "Looks.",
    "parameters": {
        "type": "object",
        "properties": {"what": {"type": "string"}},
        "required": ["what"],
        "additionalProperties": False,
    },
}
PIXEL = "data:image/png;base64,iVBORw0KGgo="

# With lone surrogates, as models write them.
TEXT = st.text(max_size=20) | st.just("half \ud83d") | st.just("")
CALLS = st.lists(
    st.builds(
        ToolCall,
        id=st.sampled_from(["c0", "c1", "c2"]),
        name=st.just("look"),
        arguments=st.sampled_from(['{"what": "that"}', "{}", "", "no JSON", "[1]", '{"half": "\ud83d"}']),
    ),
    max_size=3,
)
MESSAGES = st.lists(
    st.one_of(
        st.builds(Message, role=st.just("system"), content=TEXT),
        st.builds(
            Message,
            role=st.just("user"),
            content=TEXT,
            images=st.lists(st.sampled_from([PIXEL, "https://x.example/a.png"]), max_size=2).map(tuple),
        ),
        st.builds(Message, role=st.just("assistant"), content=TEXT, tool_calls=CALLS.map(tuple)),
        st.builds(Message, role=st.just("tool"), content=TEXT, answers=st.just("c0")),
    ),
    min_size=1,
    max_size=6,
)
REQUESTS = st.builds(
    Request,
    key=st.just(KEY),
    messages=MESSAGES.map(tuple),
    temperature=st.none() | st.floats(0, 2),
    max_tokens=st.integers(1, 10_000),
    seed=st.none() | st.integers(0, 2**31),
    schema=st.none() | st.just(contrast.schema(2)),
    tools=st.sampled_from([(), (LOOK,)]),
    stop=st.sampled_from([(), ("END",)]),
)


def accept(body: Any) -> None:
    """What an endpoint that takes nothing for granted accepts."""
    known = {"model", "stream", "messages", "max_completion_tokens", "temperature", "seed", "stop", "tools"}
    assert set(body) <= known | {"tool_choice", "response_format"}
    assert isinstance(body["model"], str)
    assert body["stream"] is False
    assert body["max_completion_tokens"] >= 1
    assert ("tools" in body) == ("tool_choice" in body)
    for message in body["messages"]:
        match message:
            case {"role": "system" | "tool" | "assistant", "content": str()}:
                pass
            case {"role": "user", "content": str()}:
                pass
            case {"role": "user", "content": [_, *_] as parts}:
                for part in parts:
                    assert part in ({"type": "text", "text": part.get("text")}, {"type": "image_url", **part})
                    assert part.get("text", part.get("image_url", {}).get("url"))
            case {"role": "assistant", "content": None, "tool_calls": [_, *_]}:
                pass
            case _:
                pytest.fail(f"a message of no known form: {message}")
        assert set(message) <= {"role", "content", "tool_calls", "tool_call_id"}
        assert (message["role"] == "tool") == ("tool_call_id" in message)
        for call in message.get("tool_calls", ()):
            assert message["role"] == "assistant"
            assert set(call) == {"id", "type", "function"}
            assert isinstance(json.loads(call["function"]["arguments"]), dict)


@given(REQUESTS, st.booleans())
def test_a_strict_endpoint_accepts_whatever_is_sent(request: Request, json_schema: bool) -> None:
    body = chat_body(request, "m", json_schema=json_schema)
    accept(json.loads(json.dumps(body, ensure_ascii=False).encode()))  # no lone surrogate is left
    assert len(body["messages"]) == len(request.messages)
    assert ("response_format" in body) == (json_schema and request.schema is not None)


@given(REQUESTS)
def test_what_can_be_sent_arrives_as_it_was_given(request: Request) -> None:
    body = chat_body(request, "m")
    for given_one, sent in zip(request.messages, body["messages"], strict=True):
        assert sent["role"] == given_one.role
        expected = given_one.content.encode("utf-8", "replace").decode()
        texts = [sent["content"]] if isinstance(sent["content"], str | None) else sent["content"]
        assert "".join(text if isinstance(text, str) else (text or {}).get("text", "") for text in texts) == expected
        assert [part["image_url"]["url"] for part in texts if isinstance(part, dict) and "image_url" in part] == [
            *given_one.images
        ]
        assert [(call["id"], call["function"]["name"]) for call in sent.get("tool_calls", ())] == [
            (call.id, call.name) for call in given_one.tool_calls
        ]
    assert body.get("temperature") == request.temperature
    assert body.get("seed") == request.seed


@pytest.mark.parametrize("schema", [contrast.schema(3), revise.schema(), tips.schema(2)])
def test_every_schema_that_we_ask_for_leaves_nothing_open(schema: dict[str, Any]) -> None:
    tool = {"name": "reply", "description": "", "parameters": schema}
    body = chat_body(Request(key=KEY, messages=(), schema=schema, tools=(tool,)), "m", json_schema=True)
    assert body["response_format"]["json_schema"] == {"name": "reply", "schema": schema, "strict": True}
    assert body["tools"][0]["function"].get("strict") is (None if "maxItems" in json.dumps(schema) else True)


def test_a_tool_is_held_to_its_schema_only_if_that_leaves_nothing_open() -> None:
    optional = LOOK | {"parameters": LOOK["parameters"] | {"required": []}}  # type: ignore[operator]
    body = chat_body(Request(key=KEY, messages=(), tools=(LOOK, optional)), "m")
    assert [tool["function"].get("strict") for tool in body["tools"]] == [True, None]
    assert [tool["function"]["parameters"] for tool in body["tools"]] == [LOOK["parameters"], optional["parameters"]]


@pytest.mark.parametrize(
    ("model", "sent"),
    [
        ("gpt-4o", True), ("gpt-5", False), ("gpt-5-mini", False), ("gpt-5-chat-latest", True), ("gpt-5.1", True),
        ("gpt-5.2-pro", False), ("gpt-5.5", False), ("o3-mini", False), ("gpt-6-sol", False), ("gpt-oss-20b", True),
        ("openai/o3", True), ("deepseek-chat", True), ("o9000-of-somebody", True),
    ],
)  # fmt: skip
def test_models_that_refuse_a_temperature_are_sent_none(model: str, sent: bool) -> None:
    assert ("temperature" in chat_body(Request(key=KEY, messages=(), temperature=0.7), model)) is sent


def completion(message: dict[str, Any], finish: str | None = "stop", **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "finish_reason": finish, "message": message}], **more}


def called(arguments: Any = '{"what": "that"}', **more: Any) -> dict[str, Any]:
    return {"id": "x1", "type": "function", "function": {"name": "look", "arguments": arguments}, **more}


def test_a_reply_is_read() -> None:
    usage = {"prompt_tokens": 10, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 8}}
    reply = chat_reply(completion({"role": "assistant", "content": "fine"}, "length", usage=usage), latency_s=1.5)
    assert (reply.text, reply.stop, reply.latency_s, reply.opaque) == ("fine", StopReason.LENGTH, 1.5, "")
    assert (reply.usage.input_tokens, reply.usage.output_tokens, reply.usage.cached_tokens) == (10, 4, 8)


@pytest.mark.parametrize(
    ("usage", "counts"),
    [
        ({"prompt_tokens": 9, "completion_tokens": 1, "prompt_cache_hit_tokens": 6}, (9, 1, 6)),
        ({"prompt_tokens": 9, "completion_tokens": 1, "prompt_tokens_details": None}, (9, 1, 0)),
        ({"prompt_tokens": 9, "prompt_tokens_details": {"cached_tokens": 2}, "prompt_cache_hit_tokens": 2}, (9, 0, 2)),
        ({"prompt_tokens": "many", "completion_tokens": -3}, (0, 0, 0)),
        (None, (0, 0, 0)),
        ([1], (0, 0, 0)),
    ],
)
def test_tokens_are_counted_as_each_kind_of_endpoint_tells_them(usage: Any, counts: tuple[int, int, int]) -> None:
    used = chat_reply(completion({"content": "x"}, usage=usage)).usage
    assert (used.input_tokens, used.output_tokens, used.cached_tokens) == counts


def test_calls_of_tools_come_out_and_go_back_in() -> None:
    reply = chat_reply(completion({"content": None, "tool_calls": [called(), called("", id="")]}, "tool_calls"))
    assert reply.tool_calls == (
        ToolCall(id="x1", name="look", arguments='{"what": "that"}'),
        ToolCall(id="call_1", name="look", arguments="{}"),
    )
    sent = chat_body(Request(key=KEY, messages=(reply.message,)), "m")["messages"][0]
    assert sent["content"] is None
    assert [call["id"] for call in sent["tool_calls"]] == ["x1", "call_1"]


@pytest.mark.parametrize(
    "reasoning",
    [
        {"reasoning_content": "First \ud83d I look."},
        {"reasoning_content": ""},
        {"reasoning": "First I look.", "reasoning_details": [{"type": "reasoning.encrypted", "data": "AB=="}]},
    ],
)
def test_reasoning_goes_back_behind_a_call_of_a_tool_and_nowhere_else(reasoning: dict[str, Any]) -> None:
    goes_on = chat_reply(completion({"content": "hm", "tool_calls": [called()], "annotations": [], **reasoning}))
    sent = chat_body(Request(key=KEY, messages=(goes_on.message,)), "m")["messages"][0]
    assert {name: sent[name] for name in reasoning} == json.loads(
        json.dumps(reasoning, ensure_ascii=False).encode("utf-8", "replace")
    )
    assert "annotations" not in sent
    assert sent["content"] == "hm"
    ended = chat_reply(completion({"content": "so", **reasoning}))
    assert (ended.text, ended.opaque) == ("so", "")


def test_thoughts_between_tags_are_no_part_of_the_answer() -> None:
    thought = "<think>2 and 2\nis 4</think>It is 4."
    assert chat_reply(completion({"content": thought})).text == "It is 4."
    assert chat_reply(completion({"content": "<think>cut off"})).text == "<think>cut off"
    goes_on = chat_reply(completion({"content": thought, "tool_calls": [called()]}))
    assert goes_on.text == "It is 4."
    assert chat_body(Request(key=KEY, messages=(goes_on.message,)), "m")["messages"][0]["content"] == thought


def test_what_another_kind_of_endpoint_wants_back_is_not_sent() -> None:
    said = Message(role="assistant", content="a", tool_calls=(ToolCall(id="c", name="look", arguments="{}"),))
    plain = chat_body(Request(key=KEY, messages=(said,)), "m")
    for opaque in ('[{"kind": "response"}]', '{"role": "system", "name": "x"}'):
        kept = Message(role="assistant", content="a", tool_calls=said.tool_calls, opaque=opaque)
        assert chat_body(Request(key=KEY, messages=(kept,)), "m") == plain


def test_a_refusal_of_the_model_is_a_filtered_reply() -> None:
    reply = chat_reply(completion({"content": None, "refusal": "I can't."}))
    assert (reply.text, reply.stop) == ("", StopReason.FILTERED)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["choices", "message", "content", "tool_calls", "function", "name", "usage", "index"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(JSON | st.builds(completion, st.dictionaries(st.sampled_from(["content", "tool_calls", "refusal"]), JSON)))
def test_whatever_comes_back_is_a_reply_or_none(value: Any) -> None:
    try:
        reply = chat_reply(value)
    except ValueError:
        return
    assert isinstance(reply.text, str)
    assert all(isinstance(call.arguments, str) and call.name for call in reply.tool_calls)
