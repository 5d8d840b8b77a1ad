"""Rollout: one attempt of the frozen agent at a task, and what it took."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

Role = Literal["system", "user", "assistant", "tool"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message of a conversation, as the model saw or wrote it."""

    role: Role
    content: str


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
