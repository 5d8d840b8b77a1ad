"""Warmed: of the calls that begin with the same long text one goes first, and the others find it in a cache.

Order of events: the beginnings of a prompt are looked at where messages end: tools with the system message, and these
with the first message behind them. One that is long and was not seen lately gets a pilot, the first call that has it.
Others wait, outside of any slot, until the pilot has ended, or has been on the wire for as long as a provider takes to
evaluate the text; then all go. So the G attempts of a task with a long question share one evaluation, and all calls of
a step that of a long prior, while short prompts never wait. `Limit` lets a group go before those that came later, so
the text is still there when its attempts get their slots.

A pilot that fails or is cancelled hands over, once: a call waits for two pilots of one beginning at most, and no pilot
waits. Nothing is promised: a provider may have dropped a text, or take the next call on another of its machines.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import takewhile

from tokenprior.library import estimate_tokens
from tokenprior.models.base import Model, Reply, Request
from tokenprior.rollout import Message

# What a provider caches at least, and for how long since the last use.
# Source: https://developers.openai.com/api/docs/guides/prompt-caching (1,024 tokens, 5 minutes or more);
# https://platform.claude.com/docs/en/build-with-claude/prompt-caching (1,024 or more by model, 5 minutes).
LEAST_TOKENS = 1_024
LIFETIME_S = 300.0
PILOTS = 2  # of one beginning, before all go: an endpoint that is down must not be asked one call after the other


def settle_s(tokens: int) -> float:
    """How long after a call has left its prompt is taken to be in the cache, if the reply takes longer still.

    An assumption: replies that are not streamed do not say when the prompt was evaluated. To wait for the whole reply
    would hold up a step for as long as one call takes, and some take very long.
    Source: a user's experiment with Anthropic's API, https://github.com/anthropics/anthropic-sdk-python/issues/1451: a
    second call right behind the first missed the cache in 40% of cases, and in none two seconds later.
    """
    return 1.0 + tokens / 4_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Beginning:
    """A text that a prompt begins with.

    Attributes:
        key: hash of all that it holds.
        tokens: about how many they are.
    """

    key: bytes
    tokens: int


def beginnings(request: Request) -> list[Beginning]:
    """The long texts that a prompt begins with, up to the end of a message each, the shortest first.

    Each is `LEAST_TOKENS` or more longer than the one before: a short question behind a long prior is not worth a wait.
    """
    system = list(takewhile(lambda message: message.role == "system", request.messages))
    texts = [_tools(request), *(text for message in system for text in _texts(message))]
    found = _added(None, texts)
    second = _added(found[-1] if found else None, [] if found else texts, *request.messages[len(system) :][:1])
    return [*found, *second]


def _added(before: Beginning | None, texts: Sequence[str], *messages: Message) -> list[Beginning]:
    """What texts and messages make of a beginning, if they make it long enough."""
    everything = [*texts, *(f"{message.role}\n{text}" for message in messages for text in _texts(message))]
    tokens = sum(estimate_tokens(text) for text in everything)
    if tokens < LEAST_TOKENS:
        return []
    made = hashlib.sha256(before.key if before else b"")
    for text in everything:
        data = text.encode("utf-8", "surrogatepass")
        made.update(len(data).to_bytes(8, "big") + data)
    return [Beginning(key=made.digest(), tokens=tokens + (before.tokens if before else 0))]


def _texts(message: Message) -> list[str]:
    return [message.content, *message.images]


def _tools(request: Request) -> str:
    """What stands before the messages. A program names its own model, and its tools as it likes."""
    body = request.body or {}
    tools = body.get("tools") or list(request.tools)
    return f"{body.get('model', '')}{json.dumps(tools) if tools else ''}"


@dataclass(slots=True, eq=False)
class _Pilot:
    beginning: Beginning
    over: asyncio.Event = field(default_factory=asyncio.Event)
    timer: asyncio.TimerHandle | None = None


class Warmth:
    """Which beginnings a model is taken to have in its cache, and which are on their way into it.

    Args:
        clock: seconds, of any start.
        settle_s: see `settle_s`.
    """

    def __init__(
        self, *, clock: Callable[[], float] = time.monotonic, settle_s: Callable[[int], float] = settle_s
    ) -> None:
        self._clock, self._settle_s = clock, settle_s
        self._seen: OrderedDict[bytes, float] = OrderedDict()
        self._pilots: dict[bytes, _Pilot] = {}

    async def admit(self, found: Sequence[Beginning]) -> list[_Pilot]:
        """Wait until all beginnings are warm, or get those that the caller is to warm, as pilots that it has to end."""
        for at, beginning in enumerate(found):
            for _ in range(PILOTS):
                if pilot := self._pilots.get(beginning.key):
                    await pilot.over.wait()
                elif not self._is_warm(beginning.key):
                    return [self._lead(one) for one in found[at:] if one.key not in self._pilots]
        return []

    def left(self, found: Sequence[Beginning]) -> None:
        """A call with these beginnings is on the wire."""
        for beginning in found:
            pilot = self._pilots.get(beginning.key)
            if pilot and pilot.timer is None:
                wait_s = self._settle_s(beginning.tokens)
                pilot.timer = asyncio.get_running_loop().call_later(wait_s, self.ended, [pilot], [beginning])

    def ended(self, pilots: Sequence[_Pilot], warm: Sequence[Beginning] = ()) -> None:
        """Let go whoever waits for these pilots.

        Args:
            warm: beginnings that have been evaluated.
        """
        now = self._clock()
        for beginning in warm:
            self._seen[beginning.key] = now
            self._seen.move_to_end(beginning.key)
        while self._seen and next(iter(self._seen.values())) < now - LIFETIME_S:
            self._seen.popitem(last=False)
        for pilot in pilots:
            if pilot.timer is not None:
                pilot.timer.cancel()
            if self._pilots.get(pilot.beginning.key) is pilot:
                del self._pilots[pilot.beginning.key]
            pilot.over.set()

    @property
    def expects(self) -> bool:
        """Whether anything is on its way into the cache."""
        return bool(self._pilots)

    def _is_warm(self, key: bytes) -> bool:
        return self._seen.get(key, float("-inf")) >= self._clock() - LIFETIME_S

    def _lead(self, beginning: Beginning) -> _Pilot:
        pilot = self._pilots[beginning.key] = _Pilot(beginning)
        return pilot


class WarmedModel:
    """A model whose calls wait for the one that brings their beginning into the cache.

    Args:
        inner: where calls wait for a slot; behind it has to stand a `SentModel` of the same warmth.
    """

    def __init__(self, inner: Model, warmth: Warmth) -> None:
        self._inner, self._warmth = inner, warmth

    @property
    def name(self) -> str:
        return self._inner.name

    async def answer(self, request: Request) -> Reply:
        """See `Model.answer`."""
        found = beginnings(request)
        pilots = await self._warmth.admit(found)
        warm: list[Beginning] = []
        try:
            reply = await self._inner.answer(request)
            warm = found
        finally:
            self._warmth.ended(pilots, warm)
        return reply


class SentModel:
    """A model that tells when a call has its slot and leaves."""

    def __init__(self, inner: Model, warmth: Warmth) -> None:
        self._inner, self._warmth = inner, warmth

    @property
    def name(self) -> str:
        return self._inner.name

    async def answer(self, request: Request) -> Reply:
        """See `Model.answer`."""
        if self._warmth.expects:
            self._warmth.left(beginnings(request))
        return await self._inner.answer(request)
