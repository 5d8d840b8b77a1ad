"""Seat: the place of one attempt at the gateway, with its limits, its counts and its trajectory."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections import defaultdict
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tokenprior.agents.base import AttemptLimits
from tokenprior.errors import BudgetReached, ConfigError
from tokenprior.models.base import CallFailed, CallKey, Reply
from tokenprior.prior import TokenPrior
from tokenprior.redact import redact
from tokenprior.rollout import Message, StopReason, Usage
from tokenprior.text import shorten

if TYPE_CHECKING:
    from aiohttp import web


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """One request of a program and what it got.

    Attributes:
        messages: of the request, the prior included, and the reply at their end.
    """

    messages: tuple[Message, ...]
    stop: StopReason
    usage: Usage


class Seat:
    """The place of one attempt at the gateway: where a program finds it, and what it did there.

    Attributes:
        base_url, api_key: what the program is told. The key is valid while the seat is open, and names the attempt.
        usage: of all replies, replayed ones with what they took on their day.
        turns: requests let through.
        at_work_s: seconds that the model was at work; of calls side by side, the longest chain.
        failure: the last failed call that the program was told of.
        fatal: an error that stops the run; the program is told of it, and nothing more is let through.
        limit_reached: whether a request was refused because of the limits.
    """

    def __init__(self, base_url: str, key: CallKey, prior: TokenPrior, limits: AttemptLimits) -> None:
        self.base_url, self.api_key = base_url, "tp-" + secrets.token_urlsafe(24)
        self.key, self.prior, self.limits = key, prior, limits
        self.usage = Usage()
        self.turns = 0
        self.at_work_s = 0.0
        self.failure: CallFailed | None = None
        self.fatal: Exception | None = None
        self.limit_reached = False
        self._exchanges: list[Exchange | None] = []
        self._numbers: defaultdict[str, set[int]] = defaultdict(set)
        self._calls: set[asyncio.Task[Reply]] = set()
        self._stopped = asyncio.Event()
        self._closed = False

    @property
    def exchanges(self) -> tuple[Exchange, ...]:
        """All that were answered, in the order of their requests; those made side by side and those of a conversation
        of its own stand among the others."""
        return tuple(exchange for exchange in self._exchanges if exchange is not None)

    @property
    def messages(self) -> tuple[Message, ...]:
        """The trajectory: the conversation of the last exchange, its reply included; empty if there was none. A program
        that carries its conversation along has all of it in there."""
        exchanges = self.exchanges
        return exchanges[-1].messages if exchanges else ()

    async def stopped(self) -> Exception:
        """Wait for an error that stops the run."""
        await self._stopped.wait()
        assert self.fatal is not None
        return self.fatal

    def admit(self) -> None:
        """Let a request through.

        Raises:
            Refused: the attempt is at a limit, or the run has to stop.
        """
        if self._closed:
            raise Refused(401, "the attempt of this key has ended", "invalid_api_key")
        if self.fatal is not None:
            raise self.refused(self.fatal)
        limits, used = self.limits, self.usage
        if limits.usd is not None and used.cost_usd is None:
            raise self.refused(
                ConfigError("agent.limits.usd is set, but the price of the model is not known: give it under `prices`")
            )
        reached = {
            "turns": self.turns >= limits.turns,
            "seconds": self.at_work_s >= limits.seconds,
            "tokens": limits.tokens is not None and used.input_tokens + used.output_tokens >= limits.tokens,
            "usd": limits.usd is not None and (used.cost_usd or 0.0) >= limits.usd,
        }
        if any(reached.values()):
            self.limit_reached = True
            what = next(name for name, is_reached in reached.items() if is_reached)
            raise Refused(429, f"this attempt has reached its limit of {what}", "attempt_limit")
        self.turns += 1

    def refused(self, error: Exception) -> Refused:
        """The refusal for an error that stops the run; whoever waits in `stopped` is told."""
        self.fatal = self.fatal or error
        self._stopped.set()
        words = shorten(redact(str(error)), 300) or type(error).__name__
        budget = isinstance(error, BudgetReached)
        return Refused(402 if budget else 502, words, "budget_reached" if budget else "run_stopped")

    async def call(self, made_of: str, answer: Callable[[int], Coroutine[Any, Any, Reply]]) -> tuple[int, Reply]:
        """Make a call. Its number tells it from earlier calls of the same content, and not from all others: so calls
        made side by side have the same names in whatever order they come. An unanswered call gives its number back.

        Returns:
            Its place among the exchanges, and the reply.
        """
        taken = self._numbers[made_of]
        number = next(n for n in range(len(taken) + 1) if n not in taken)
        taken.add(number)
        place, begun_s = len(self._exchanges), self.at_work_s
        self._exchanges.append(None)
        work = asyncio.ensure_future(answer(number))
        self._calls.add(work)
        try:
            reply = await work
        except BaseException as error:
            taken.discard(number)
            if isinstance(error, CallFailed) and error.kind == "timeout":
                self.at_work_s = self.limits.seconds  # it had all that was left
            raise
        finally:
            self._calls.discard(work)
        self.at_work_s = max(self.at_work_s, begun_s + reply.latency_s)
        self.usage += reply.usage
        return place, reply

    def note(self, place: int, messages: tuple[Message, ...], reply: Reply) -> None:
        said = (*messages, reply.message)
        self._exchanges[place] = Exchange(messages=said, stop=reply.stop, usage=reply.usage)

    async def close(self) -> None:
        """Cut off what is in flight, and wait until it has ended."""
        self._closed = True
        calls = list(self._calls)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)


class Refused(Exception):
    """A request that gets an error in OpenAI's shape. The client is told not to try again: that is our business."""

    def __init__(self, status: int, message: str, code: str, body: str = "") -> None:
        super().__init__(message)
        self.status, self.code = status, code
        kind = "invalid_request_error" if status in (400, 401, 404, 405, 413, 501) else "tokenprior_error"
        error = {"message": message, "type": kind, "param": None, "code": code}
        self.body = body or json.dumps({"error": error})

    def response(self) -> web.Response:
        from aiohttp import web

        shape = "application/json" if self.body.lstrip()[:1] in ("{", "[") else "text/plain"
        headers = {"x-should-retry": "false"}
        return web.Response(text=self.body, status=self.status, content_type=shape, headers=headers)
