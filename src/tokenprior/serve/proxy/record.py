"""Record: served requests written down, some at a time and out of the way of requests; and their rewards.

A request is noted when its reply has ended, and is in the store about 0.2 s later. A reward makes the store catch up
first, so it may come right behind the reply. What cannot be written is tried again; what does not fit into memory by
then is dropped and counted.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from tokenprior.errors import StoreError
from tokenprior.placement import Api
from tokenprior.redact import redact
from tokenprior.reward import Reward
from tokenprior.serve.proxy.metrics import Metrics
from tokenprior.serve.proxy.passage import Lot, Passage
from tokenprior.serve.proxy.reply import PassingReply
from tokenprior.served import Served
from tokenprior.store.served import ServedLog

EVERY_S = 0.2
MOST_WAITING = 20_000  # requests
MOST_KEPT_BYTES = 4 * 1024 * 1024  # of one request whose exchange is kept
MOST_HELD_BYTES = 64 * 1024 * 1024  # of all those that wait

log = logging.getLogger("tokenprior.serve")


class StillOpen(Exception):
    """A reward came for a request that is not answered yet."""


@dataclass(slots=True, kw_only=True)
class Note:
    """A request that is being answered, or waits to be written down."""

    passage: Passage
    reply: PassingReply
    share: float
    keep: bool
    status: int = 0
    latency_s: float = 0.0
    served_at: float = 0.0
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def held_bytes(self) -> int:
        """What it holds in memory for the sake of its exchange."""
        return len(self.passage.came) if self.keep else 0

    def served(self) -> Served:
        """As the store has it."""
        passage, reply = self.passage, self.reply
        return Served(
            id=passage.id,
            reply_id=reply.id,
            library=passage.library,
            version=passage.version,
            held_out=passage.held_out,
            share=self.share,
            unit=passage.unit,
            source="proxy",
            model=passage.model,
            status=self.status,
            input_tokens=reply.input_tokens,
            output_tokens=reply.output_tokens,
            latency_s=self.latency_s,
            served_at=self.served_at,
            task=passage.task,
            exchange=_exchange(passage.api, passage.came, reply.output) if self.keep else None,
        )


class Recorder:
    """Writes down what was served.

    Args:
        served: where.
        keep: whether what was said is kept too.
    """

    def __init__(self, served: ServedLog, metrics: Metrics, lot: Lot, *, keep: bool) -> None:
        self._served, self._metrics, self._lot, self._keep = served, metrics, lot, keep
        self._open: dict[str, Note] = {}
        self._waiting: deque[Note] = deque()
        self._held_bytes = 0
        self._writing = asyncio.Lock()
        self._failing = False

    def begin(self, passage: Passage) -> Note:
        """Note that a request is on its way."""
        keep = self._keep and len(passage.came) <= MOST_KEPT_BYTES
        note = Note(passage=passage, reply=PassingReply(whole=keep), share=self._lot.share, keep=keep)
        self._open[passage.id] = note
        return note

    def end(self, note: Note, *, latency_s: float, status: int) -> None:
        """Note that its reply has ended."""
        note.reply.end()
        note.latency_s, note.served_at, note.status = latency_s, time.time(), status
        del self._open[note.passage.id]
        note.keep = note.keep and self._held_bytes + note.held_bytes <= MOST_HELD_BYTES
        # Thousands may wait under load, and bodies would be most of what they weigh.
        note.passage.body = b""
        if not note.keep:
            note.passage.came = b""
        self._held_bytes += note.held_bytes
        self._waiting.append(note)
        note.ended.set()
        while len(self._waiting) > MOST_WAITING:
            self._held_bytes -= self._waiting.popleft().held_bytes
            self._metrics.unrecorded.inc()

    async def run(self) -> None:
        """Write down what waits, for ever."""
        while True:
            await asyncio.sleep(EVERY_S)
            with suppress(StoreError):  # said by `flush`, and tried again
                # What is being written when this ends is written to its end.
                await asyncio.shield(self.flush())

    async def flush(self) -> None:
        """Write down all that waits.

        Raises:
            StoreError: it cannot be written, and goes on waiting.
        """
        async with self._writing:
            if not self._waiting:
                return
            notes = list(self._waiting)
            self._waiting.clear()
            try:
                await self._served.note(await asyncio.to_thread(lambda: [note.served() for note in notes]))
            except StoreError as error:
                self._waiting.extendleft(reversed(notes))
                if not self._failing:
                    log.error("requests cannot be written down, and wait: %s", redact(str(error)))
                self._failing = True
                raise
            self._held_bytes -= sum(note.held_bytes for note in notes)
            self._failing = False

    async def reward(self, name: str, reward: Reward, *, patience_s: float = 5.0) -> Served | None:
        """Give a request its reward. Durable when this returns; `None` if there is no such request.

        Args:
            name: our id of it, or the upstream's of its reply.

        Raises:
            StillOpen: its reply has not ended.
            StoreError: it cannot be written.
        """
        note = self._open.get(name) or next((one for one in self._open.values() if one.reply.id == name), None)
        if note is not None:
            try:
                await asyncio.wait_for(note.ended.wait(), patience_s)
            except TimeoutError as error:
                raise StillOpen(name) from error
        await self.flush()
        return await self._served.reward(name, reward)


def _exchange(api: Api, came: bytes, output: str) -> dict[str, Any] | None:
    """What was said, without the prior. The numbers in it are those of the client."""
    try:
        body = json.loads(came)
    except (ValueError, RecursionError):
        return None
    listed = body.get("messages" if api == "chat" else "input")
    messages = [{"role": "user", "content": listed}] if isinstance(listed, str) else listed
    if not isinstance(messages, list):
        return None
    instructions = body.get("instructions")
    first = [{"role": "system", "content": instructions}] if isinstance(instructions, str) else []
    return {"messages": [*first, *messages], "output": output}
