"""The one protocol of the family: a model answers a prompt."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from tokenprior.rollout import Message, StopReason, Usage

Phase = Literal["rollout", "judge", "summary", "contrast", "revise", "gate", "audit", "evaluate", "tips"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CallKey:
    """What a call is for. With the hash of the request it names a call for good, so a resumed run pays nothing twice.

    Attributes:
        phase: the verb that asks.
        step: step of the run; in an evaluation 0.
        task: the task's id, or empty for a call over a whole batch.
        rollout: index of the attempt within its group.
        turn: which call of the attempt, from 0.
    """

    phase: Phase
    step: int = 0
    task: str = ""
    rollout: int = 0
    turn: int = 0

    def __str__(self) -> str:
        return f"{self.phase}/{self.step}/{self.task}/{self.rollout}/{self.turn}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One prompt.

    Attributes:
        key: what the call is for.
        messages: system, user and assistant messages in order.
        temperature: 0.0 or more; `None` is the provider's own.
        max_tokens: the most the model may write.
        seed: for models that take one.
        schema: JSON Schema of the wanted reply, used where the endpoint can be held to it.
        timeout_s: seconds of work (not of waiting for a slot or backing off) that the call may take.
    """

    key: CallKey
    messages: tuple[Message, ...]
    temperature: float | None = None
    max_tokens: int = 1024
    seed: int | None = None
    schema: dict[str, Any] | None = None
    timeout_s: float = 300.0

    def content(self) -> dict[str, Any]:
        """Everything that can change the reply, as JSON: what the ledger hashes."""
        return {
            "messages": [[message.role, message.content] for message in self.messages],
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
            "seed": self.seed,
            "schema": self.schema,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What came back. `latency_s` is the time of the successful exchange alone."""

    text: str
    stop: StopReason = StopReason.DONE
    usage: Usage = field(default_factory=lambda: Usage(calls=1))
    latency_s: float = 0.0


class CallFailed(Exception):
    """A call that brought no reply, after whatever retries its kind deserves. Becomes a `Failure`, ends no run.

    Attributes:
        kind: `timeout`, `unreachable` (nothing was sent), `connection`, `rate-limit`, `http-NNN`, `garbled`.
        retryable: whether the same call may do better later.
        retry_after_s: how long the endpoint asked to wait, if it did.
    """

    def __init__(self, kind: str, detail: str, *, retryable: bool, retry_after_s: float | None = None) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind, self.detail, self.retryable, self.retry_after_s = kind, detail, retryable, retry_after_s


class Model(Protocol):
    """Answers prompts.

    Attributes:
        name: what the user calls it, and what the ledger hashes with the request.
    """

    @property
    def name(self) -> str: ...

    async def answer(self, request: Request) -> Reply:
        """One reply.

        Raises:
            CallFailed: this call brought nothing.
            ModelError: no call to this endpoint can bring anything.
            BudgetReached: there is no room for the call.
        """
        ...


class Ledger(Protocol):
    """Where calls are written down. The store is one; see `models.recorded` for the order of events."""

    async def finished_call(self, model: str, request: Request) -> Reply | None:
        """The reply to this very call, if it was paid for before."""
        ...

    async def call_sent(self, model: str, request: Request, reserved: Usage) -> int:
        """Note that a call is about to leave, and what it may cost at most. Durable when this returns."""
        ...

    async def call_done(self, call: int, reply: Reply) -> None:
        """Note the reply. Durable when this returns."""
        ...

    async def call_failed(self, call: int, kind: str, detail: str, charged: Usage) -> None:
        """Note that a call brought nothing, and what it has to be taken to have cost."""
        ...
