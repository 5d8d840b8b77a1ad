"""Rollout: one attempt of the frozen agent at a task, and what it took."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

Role = Literal["system", "user", "assistant", "tool"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """A model's wish to have a tool called.

    Attributes:
        id: by which the result says which call it answers.
        arguments: a JSON text as the model wrote it; it may be no JSON at all.
    """

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message of a conversation, as the model saw or wrote it.

    Attributes:
        tool_calls: of an assistant message.
        answers: of a tool message: the id of the call that it answers.
        images: of a user message: addresses, `data:` ones included.
        opaque: what the provider that wrote this message wants back as it was, such as its signed reasoning.
    """

    role: Role
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    answers: str = ""
    images: tuple[str, ...] = ()
    opaque: str = ""

    def to_json(self) -> list[str] | dict[str, Any]:
        """Role and content, or the OpenAI shape where there is more. An image that is data is named by its hash: the
        data itself is the user's and need not be kept a hundred times."""
        if not (self.tool_calls or self.answers or self.images or self.opaque):
            return [self.role, self.content]
        made: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.tool_calls:
            made["tool_calls"] = [
                {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
                for call in self.tool_calls
            ]
        if self.answers:
            made["tool_call_id"] = self.answers
        if self.images:
            text = [{"type": "text", "text": self.content}] if self.content else []
            made["content"] = text + [{"type": "image_url", "image_url": {"url": _named(i)}} for i in self.images]
        if self.opaque:
            made["opaque"] = self.opaque
        return made

    @classmethod
    def from_json(cls, value: Any) -> Message:
        """A message from what `to_json` gives, or from a message of the OpenAI chat API.

        Raises:
            ValueError: it is neither.
        """
        if isinstance(value, list | tuple) and len(value) == 2:
            value = {"role": value[0], "content": value[1]}
        if not isinstance(value, Mapping) or value.get("role") not in _ROLES:
            raise ValueError(f"expected a message with a role out of {', '.join(_ROLES)}, got {str(value)[:80]}")
        texts, images = _parts(value.get("content"))
        return cls(
            role=_ROLES[value["role"]],
            content=texts,
            tool_calls=tuple(_tool_call(call) for call in value.get("tool_calls") or ()),
            answers=str(value.get("tool_call_id") or ""),
            images=images,
            opaque=str(value.get("opaque") or ""),
        )


_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
}


def _named(image: str) -> str:
    head, comma, body = image.partition(",")
    if not image.startswith("data:") or not comma or head.endswith(";sha256"):
        return image
    return f"{head.removesuffix(';base64')};sha256,{hashlib.sha256(body.encode()).hexdigest()}"


def _parts(content: Any) -> tuple[str, tuple[str, ...]]:
    """The text and the images of a message's content: a text, nothing, or a list of parts."""
    if content is None or isinstance(content, str):
        return content or "", ()
    if not isinstance(content, list | tuple):
        return json.dumps(content, ensure_ascii=False), ()
    texts: list[str] = []
    images: list[str] = []
    for part in content:
        if isinstance(part, str):
            texts.append(part)
        elif isinstance(part, Mapping) and part.get("type") == "image_url":
            image = part.get("image_url")
            images.append(str(image.get("url", "") if isinstance(image, Mapping) else image))
        elif isinstance(part, Mapping) and isinstance(part.get("text"), str):
            texts.append(part["text"])
        else:
            texts.append(json.dumps(part, ensure_ascii=False, default=str))
    return "\n".join(texts), tuple(images)


def _tool_call(value: Any) -> ToolCall:
    function = value.get("function") if isinstance(value, Mapping) else None
    if not isinstance(function, Mapping) or not function.get("name"):
        raise ValueError(f"expected a tool call with a function and its name, got {str(value)[:80]}")
    arguments = function.get("arguments") or ""
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return ToolCall(id=str(value.get("id") or ""), name=str(function["name"]), arguments=text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens and money of one or more calls.

    Attributes:
        cached_tokens: the part of `input_tokens` that the provider took from its cache.
        cost_usd: money in US dollars; `None` where the price is not known, which is not zero.
    """

    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    cost_usd: float | None = 0.0

    def __add__(self, other: Usage) -> Usage:
        known = self.cost_usd is not None and other.cost_usd is not None
        return Usage(
            calls=self.calls + other.calls,
            input_tokens=self.input_tokens + other.input_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            cached_tokens=self.cached_tokens + other.cached_tokens,
            cost_usd=(self.cost_usd or 0.0) + (other.cost_usd or 0.0) if known else None,
        )


class StopReason(StrEnum):
    """Why the agent stopped writing."""

    DONE = "done"
    LENGTH = "length"  # cut off at the token limit
    LIMIT = "limit"  # at the turns, tokens, seconds or money that the attempt may take
    FILTERED = "filtered"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why a rollout brought no output: a fact that is counted and shown, never a silent absence.

    Attributes:
        kind: a short word to count by, such as `timeout`, `http-400`, `connection`, `agent`.
        detail: one line for a person, without secrets.
    """

    kind: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """One attempt.

    Attributes:
        task_id: the task's own id.
        index: 0 to G-1 within its group.
        messages: the whole conversation, system prompt and prior included.
        output: what the verifier judges; empty if it failed.
        failure: set exactly when `stop` is `FAILED`.
        latency_s: seconds at work, waiting for a free slot and back-off left out.
        included: ids of the experiences in its prior.
        metadata: what an agent wants kept; JSON values only.
    """

    task_id: str
    index: int
    messages: tuple[Message, ...]
    output: str
    stop: StopReason = StopReason.DONE
    failure: Failure | None = None
    usage: Usage = field(default_factory=Usage)
    latency_s: float = 0.0
    included: tuple[str, ...] = ()
    metadata: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if (self.failure is not None) != (self.stop is StopReason.FAILED):
            raise ValueError("a rollout has a failure exactly when it stopped as failed")
