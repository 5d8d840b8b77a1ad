"""Chat body: a `Request` as the body of a chat completion, and the body that comes back as a `Reply`.

Pure: who sends the one and gets the other, at once (`forward`) or in a batch, stands elsewhere. What an endpoint needs
to have back unchanged beside text and calls of tools, such as its reasoning, travels in `Message.opaque` as a JSON
object of fields that are laid over the message.

Source: the chat completions of OpenAI's API reference, and what DeepSeek, OpenRouter, vLLM and llama.cpp add to them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tokenprior.models.base import STOPS, Reply, Request
from tokenprior.rollout import Message, StopReason, ToolCall, Usage

# DeepSeek and Moonshot write the one, OpenRouter, Ollama and vLLM the others.
_REASONING = ("reasoning_content", "reasoning", "reasoning_details")
_THOUGHT = re.compile(r"<think>(.*?)</think>", re.DOTALL)
# OpenAI's models that reason unless told otherwise: they refuse a request with a temperature.
_NO_TEMPERATURE = re.compile(r"o[134]|gpt-[6-9]|gpt-5(?!-chat|\.[1-4](?!-pro|-chat))")
# What OpenAI can hold a call of a tool to; with another keyword it refuses the request.
_STRICT = {"type", "properties", "required", "additionalProperties", "items", "enum", "description", "anyOf"}


def chat_body(request: Request, model: str, *, json_schema: bool = False) -> dict[str, Any]:
    """What is sent for a request.

    The temperature is left out for models of OpenAI that refuse one. Lone surrogates become question marks: models do
    write them, and no request can carry them on.

    Args:
        request: of our own making, without a `body`.
        model: as the endpoint calls it.
        json_schema: whether the endpoint can be held to `request.schema`.
    """
    made: dict[str, Any] = {
        "model": model,
        "stream": False,
        "messages": [_message(message) for message in request.messages],
        "max_completion_tokens": request.max_tokens,
    }
    if request.temperature is not None and not _NO_TEMPERATURE.match(model):
        made["temperature"] = request.temperature
    if request.seed is not None:
        made["seed"] = request.seed
    if request.stop:
        made["stop"] = list(request.stop)
    if request.tools:
        made["tools"] = [_tool(tool) for tool in request.tools]
        made["tool_choice"] = "auto"
    if request.schema is not None and json_schema:
        held = {"name": "reply", "schema": request.schema, "strict": True}
        made["response_format"] = {"type": "json_schema", "json_schema": held}
    return made


def chat_reply(value: Any, *, latency_s: float = 0.0) -> Reply:
    """What came back, as a reply. Thoughts between `<think>` tags are no part of its text.

    Args:
        value: the body as a JSON value.

    Raises:
        ValueError: it is no chat completion.
    """
    read = ReadReply.of(value)
    message: Mapping[str, Any] = value["choices"][0]["message"]
    refused = bool(message.get("refusal"))
    text = _THOUGHT.sub("", read.text) if "<think>" in read.text else read.text
    calls = tuple(
        ToolCall(id=call["id"] or f"call_{place}", name=call["name"], arguments=call["arguments"] or "{}")
        for place, call in sorted(read.calls.items())
        if call["name"]
    )
    # Reasoning has to go back only where a conversation goes on: behind a call of a tool.
    kept = {name: message[name] for name in _REASONING if calls and message.get(name) is not None}
    if calls and text != read.text:
        kept["content"] = read.text
    return Reply(
        text="" if refused else text,
        stop=StopReason.FILTERED if refused else STOPS.get(read.finish, StopReason.DONE),
        usage=read.usage,
        latency_s=latency_s,
        tool_calls=calls,
        opaque=json.dumps(kept, separators=(",", ":")) if kept else "",
    )


def _message(message: Message) -> dict[str, Any]:
    text = _sendable(message.content)
    made: dict[str, Any] = {"role": message.role, "content": text}
    match message.role:
        case "user" if message.images:
            images = [{"type": "image_url", "image_url": {"url": image}} for image in message.images]
            made["content"] = [{"type": "text", "text": text}, *images] if text else images
        case "tool":
            made["tool_call_id"] = message.answers
        case "assistant" if message.tool_calls:
            made["content"] = text or None
            made["tool_calls"] = [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": _arguments(_sendable(call.arguments))},
                }
                for call in message.tool_calls
            ]
            made |= _kept(message.opaque)
    return made


def _kept(opaque: str) -> dict[str, Any]:
    """The fields to lay over a message; none where another kind of endpoint wrote it."""
    value = json.loads(opaque) if opaque.startswith("{") else {}
    return {name: _clean(part) for name, part in value.items() if name in (*_REASONING, "content")}


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return _sendable(value)
    if isinstance(value, list):
        return [_clean(item) for item in value]
    return {key: _clean(item) for key, item in value.items()} if isinstance(value, dict) else value


def _sendable(text: str) -> str:
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def _arguments(text: str) -> str:
    """There are servers that read the arguments of past calls, and refuse a conversation where they are no object."""
    try:
        if isinstance(json.loads(text), dict):
            return text
    except (ValueError, RecursionError):
        pass
    return json.dumps({"INVALID_JSON": text})


def _tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    function = {"name": tool["name"], "description": tool["description"], "parameters": tool["parameters"]}
    return {"type": "function", "function": function | ({"strict": True} if _closed(tool["parameters"]) else {})}


def _closed(schema: Any) -> bool:
    """Whether a schema leaves nothing open, so that OpenAI's models can be held to it."""
    if not isinstance(schema, Mapping) or not _STRICT.issuperset(schema):
        return False
    properties = schema.get("properties", {})
    if schema.get("type") == "object" and not (
        properties and schema.get("additionalProperties") is False and set(schema.get("required", ())) == {*properties}
    ):
        return False
    inner = [*properties.values(), *schema.get("anyOf", ()), *([schema["items"]] if "items" in schema else ())]
    return all(_closed(part) for part in inner)


@dataclass(slots=True)
class ReadReply:
    """What a reply says, as far as it was read. Of several choices the first is the reply."""

    text: str = ""
    finish: str = ""
    usage: Usage = field(default_factory=lambda: Usage(calls=1, cost_usd=None))
    calls: dict[int, dict[str, str]] = field(default_factory=dict)

    @classmethod
    def of(cls, value: Any) -> ReadReply:
        """From a whole chat completion.

        Raises:
            ValueError: it is none.
        """
        try:
            first = value["choices"][0]
            if not isinstance(first["message"], dict):
                raise TypeError("a message is no object")
        except (LookupError, TypeError) as error:
            raise ValueError(f"expected a chat completion with choices, got {str(value)[:100]!r}") from error
        read = cls()
        read.choice(first, "message")
        read.count(value.get("usage"))
        return read

    def call(self, place: int, value: Any) -> None:
        """Note a call of a tool, or a further piece of one."""
        if not isinstance(value, Mapping):
            return
        inner = value.get("function") or value.get("custom")
        inner = inner if isinstance(inner, Mapping) else {}
        place = value["index"] if isinstance(value.get("index"), int) else place
        kept = self.calls.setdefault(place, {"id": "", "name": "", "arguments": ""})
        kept["id"] = str(value.get("id") or kept["id"])
        kept["name"] = str(inner.get("name") or kept["name"])
        arguments = inner.get("arguments", inner.get("input")) or ""
        kept["arguments"] += arguments if isinstance(arguments, str) else json.dumps(arguments)

    def message(self, value: Any) -> None:
        """Take in a message, or a piece of one."""
        if not isinstance(value, Mapping):
            return
        if content := value.get("content") or value.get("refusal"):
            self.text += (
                content
                if isinstance(content, str)
                else Message.from_json({"role": "assistant", "content": content}).content
            )
        calls = value.get("tool_calls")
        for place, call in enumerate(calls if isinstance(calls, list) else ()):
            self.call(place, call)

    def count(self, used: Any) -> None:
        """Take in what the endpoint counted."""
        if not isinstance(used, Mapping):
            return
        # The responses API calls them otherwise, and DeepSeek what came from its cache.
        details = used.get("prompt_tokens_details", used.get("input_tokens_details"))
        cached = details.get("cached_tokens") if isinstance(details, Mapping) else None
        counts = [used.get("prompt_tokens", used.get("input_tokens"))]
        counts += [used.get("completion_tokens", used.get("output_tokens"))]
        counts += [used.get("prompt_cache_hit_tokens") if cached is None else cached]
        into, out, cached = (count if isinstance(count, int) and count > 0 else 0 for count in counts)
        self.usage = Usage(calls=1, input_tokens=into, output_tokens=out, cached_tokens=cached, cost_usd=None)

    def choice(self, value: Mapping[str, Any], part: str) -> None:
        """Take in a choice, whose `part` is the `message`, or the `delta` of an event."""
        if value.get("index") in (None, 0):
            self.message(value.get(part))
            self.finish = str(value.get("finish_reason") or self.finish)
