"""The one protocol of the family: a model answers a prompt."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol
from urllib.parse import urlsplit

from tokenprior.errors import ConfigError, ModelError
from tokenprior.redact import redact
from tokenprior.rollout import Message, StopReason, ToolCall, Usage
from tokenprior.task import content_hash

IMAGE_TOKENS = 2_000  # reserved for an image; what the large providers charge at most is below
_REFUSALS = {401: "the key is wrong or missing", 403: "the key may not do this", 404: "no such address or model"}

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
        tools: what the model may ask to have called, each with `name`, `description` and `parameters`.
        stop: texts at which the model stops writing; they are not in the reply.
        timeout_s: seconds of work (not of waiting for a slot or backing off) that the call may take.
        body: a request that a program made itself, sent on as it is; `messages` are then those of the body.
        on_bytes: gets the bytes of the reply to a `body` as they come. Once it was called, nothing is tried again.
        on_reply: is told when the reply has come, before it is written down: the endpoint is free for the next call.
    """

    key: CallKey
    messages: tuple[Message, ...]
    temperature: float | None = None
    max_tokens: int = 1024
    seed: int | None = None
    schema: dict[str, Any] | None = None
    tools: tuple[dict[str, Any], ...] = ()
    stop: tuple[str, ...] = ()
    timeout_s: float = 300.0
    body: dict[str, Any] | None = None
    on_bytes: Callable[[bytes], Awaitable[None]] | None = field(default=None, compare=False, repr=False)
    on_reply: Callable[[], None] | None = field(default=None, compare=False, repr=False)
    _hashes: dict[str, str] = field(init=False, default_factory=dict, compare=False, repr=False)

    def tried(self, *, timeout_s: float, on_reply: Callable[[], None]) -> Request:
        """One try of it. Its content is the same, so what was worked out of that is kept."""
        made = replace(self, timeout_s=timeout_s, on_reply=on_reply)
        made._hashes.update(self._hashes)
        return made

    def hash_for(self, model: str) -> str:
        """A hash of what can change the reply of a model: beside its key, what a call is found again by."""
        if model not in self._hashes:
            self._hashes[model] = content_hash([model, self.content()])
        return self._hashes[model]

    def content(self) -> dict[str, Any]:
        """Everything that can change the reply, as JSON: what the ledger hashes."""
        if self.body is not None:
            # As the program wrote it: `Message` knows nothing of a `name`, or of where one text part ends.
            return {key: _named(value) for key, value in self.body.items()}
        messages: list[Any] = [message.to_json() for message in self.messages]
        made: dict[str, Any] = {
            "messages": messages,
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
            "seed": self.seed,
            "schema": self.schema,
        }
        if self.tools:
            made["tools"] = list(self.tools)
        if self.stop:
            made["stop"] = list(self.stop)
        return made

    @property
    def most_input_tokens(self) -> int:
        """The most tokens that the prompt can be."""
        # A token is at least a byte; bytes/4, right for prose, is four times too low for digits.
        texts = [message.content for message in self.messages]
        texts += [call.name + call.arguments for message in self.messages for call in message.tool_calls]
        texts += [json.dumps(extra) for extra in (self.schema, self.tools) if extra]
        if self.body is not None:
            texts += [json.dumps(value) for key, value in self.body.items() if key != "messages"]
        images = sum(len(message.images) for message in self.messages)
        size = sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)
        return size + 8 * len(self.messages) + IMAGE_TOKENS * images


def _named(value: Any) -> Any:
    """A JSON value with data that stands in it, such as an image, named by its hash."""
    if isinstance(value, dict):
        return {key: _named(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_named(item) for item in value]
    if isinstance(value, str) and value.startswith("data:") and ";base64," in value[:200]:
        head, _, body = value.partition(";base64,")
        return f"{head};sha256,{hashlib.sha256(body.encode('utf-8', 'surrogatepass')).hexdigest()}"
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What came back.

    Attributes:
        latency_s: the time of the successful exchange alone.
        opaque: see `Message.opaque`.
        body: of a request with a `body`: what the endpoint sent, as it sent it.
        written_tokens: the part of the prompt that was written to the provider's cache at a price above the ordinary.
    """

    text: str
    stop: StopReason = StopReason.DONE
    usage: Usage = field(default_factory=lambda: Usage(calls=1))
    latency_s: float = 0.0
    tool_calls: tuple[ToolCall, ...] = ()
    opaque: str = ""
    body: str = ""
    written_tokens: int = 0

    @property
    def message(self) -> Message:
        """The reply as a message of the conversation."""
        return Message(role="assistant", content=self.text, tool_calls=self.tool_calls, opaque=self.opaque)


class CallFailed(Exception):
    """A call that brought no reply, after whatever retries its kind deserves. Becomes a `Failure`, ends no run.

    Attributes:
        kind: `timeout`, `unreachable` (nothing was sent), `connection`, `rate-limit`, `http-NNN`, `garbled`, `batch`
            (it was sent in one, and has no reply there).
        retryable: whether the same call may do better later.
        retry_after_s: how long the endpoint asked to wait, if it did.
        body: what a refusal of a request with a `body` said, as it said it.
    """

    def __init__(
        self, kind: str, detail: str, *, retryable: bool, retry_after_s: float | None = None, body: str = ""
    ) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind, self.detail, self.retryable, self.retry_after_s = kind, detail, retryable, retry_after_s
        self.body = body

    def again(self) -> CallFailed:
        """The same failure of another call."""
        return CallFailed(
            self.kind, self.detail, retryable=self.retryable, retry_after_s=self.retry_after_s, body=self.body
        )


def refusal(name: str, status: int, headers: Mapping[str, str], detail: str, body: str = "") -> Exception:
    """What an HTTP status other than success means: the one place where a refusal gets its meaning.

    Args:
        name: of the model.
        detail: what the endpoint said, in a line without secrets.
        body: see `CallFailed.body`.

    Returns:
        A `ModelError` where no call can do better, else a `CallFailed`.
    """
    wait_s = retry_after_s(headers)
    if status == 429 or (status == 503 and wait_s is not None):
        return CallFailed("rate-limit", detail, retryable=True, retry_after_s=wait_s, body=body)
    if status in _REFUSALS:
        return ModelError(f"{redact(name)} refused: {_REFUSALS[status]} (HTTP {status}: {detail})")
    retryable = status >= 500 or status in (408, 409, 425)
    return CallFailed(f"http-{status}", detail, retryable=retryable, retry_after_s=wait_s, body=body)


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds an endpoint asks to wait: `retry-after-ms`, or `Retry-After` in seconds (fractions too) or as a date.

    At most an hour is believed.
    """
    lowered = {key.casefold(): value.strip() for key, value in headers.items()}
    for header, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        value = lowered.get(header, "")
        if re.fullmatch(r"\d+(?:\.\d+)?", value):
            return min(3600.0, float(value) * unit)
    if value := lowered.get("retry-after", ""):
        from datetime import UTC, datetime
        from email.utils import parsedate_to_datetime

        try:
            until = parsedate_to_datetime(value)
        except ValueError:
            return None
        if until.tzinfo is None:
            until = until.replace(tzinfo=UTC)
        return min(3600.0, max(0.0, (until - datetime.now(UTC)).total_seconds()))
    return None


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


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchedCall:
    """A call that is in a batch.

    Attributes:
        call: its number in the ledger.
        custom_id: what its row is called, made of its key, a hash of its request and which try of it this is.
        most: what was reserved for it.
    """

    call: int
    custom_id: str
    most: Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class NotedBatch:
    """A batch as it was written down.

    Attributes:
        number: of the batch within its run.
        model: without its secrets.
        by_program: whether its requests are those of programs.
        made_at: seconds since 1970.
        file: the provider's id of the file of requests; empty before it was there.
        batch: the provider's id of the batch; empty before it was made, as far as is known.
    """

    number: int
    model: str
    by_program: bool
    made_at: float
    file: str
    batch: str
    calls: tuple[BatchedCall, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CallEnd:
    """What became of a call: a reply with what it cost, or why there is none and what that is taken to have cost."""

    reply: Reply | None = None
    kind: str = ""
    detail: str = ""
    charged: Usage = field(default_factory=Usage)


class BatchLedger(Protocol):
    """Where batches are written down, so that a run that was ended finds again what it has at a provider."""

    async def batch_begun(self, model: str, calls: Sequence[tuple[Request, Usage]], *, by_program: bool) -> NotedBatch:
        """Note that these calls are about to leave together, and what each may cost at most. All or nothing; durable
        when this returns."""
        ...

    async def batch_noted(self, number: int, *, file: str, batch: str) -> None:
        """Note what the provider calls a batch and its file. Durable when this returns."""
        ...

    async def batch_ended(self, number: int, ends: Mapping[int, CallEnd]) -> None:
        """Note what became of the calls of a batch, by their numbers, and that no more will. All or nothing; durable
        when this returns."""
        ...

    async def batches_left(self) -> list[NotedBatch]:
        """The batches of this run whose end is not known, oldest first."""
        ...


KEY_VARIABLE = "TOKENPRIOR_API_KEY"
STOPS = {"length": StopReason.LENGTH, "content_filter": StopReason.FILTERED}  # by an endpoint's finish_reason


def address_of(name: str, key_variable: str | None) -> tuple[str, str, str]:
    """The base address, the model and the key (empty if there is none) of `http(s)://HOST/v1#MODEL`.

    Args:
        key_variable: environment variable that holds the key; `KEY_VARIABLE` by default.

    Raises:
        ConfigError: the name cannot be understood, or its key is not in the environment.
    """
    base_url, _, model = name.partition("#")
    shown = f"model {redact(name)!r}"
    try:
        parts = urlsplit(base_url)
        is_one = bool(model and parts.hostname and parts.scheme in ("http", "https") and parts.port != 0)
    except ValueError:
        is_one = False
    if not is_one:
        raise ConfigError(f"{shown}: expected http://HOST/v1#MODEL, with the model's name behind the #")
    if key_variable and key_variable not in os.environ:
        raise ConfigError(f"{shown}: the environment variable {key_variable} is not set")
    if parts.username is not None:
        if key_variable:
            raise ConfigError(f"{shown}: it names a user, and {key_variable} a key: give one of them")
        return base_url, model, ""
    # Never OPENAI_API_KEY by itself: it would send OpenAI's key to whoever runs this address.
    key = os.environ.get(key_variable or KEY_VARIABLE, "").strip()
    if not key.isprintable():
        raise ConfigError(f"{shown}: {key_variable or KEY_VARIABLE} holds a line end or another unseen character")
    return base_url, model, key
