"""Slots: what many prompts of the embedded model begin with is evaluated once, and not once in each slot.

llama.cpp keeps what a slot evaluated last and goes on from where a new prompt parts from it, but no slot looks into
another. On a CPU, where 900 tokens of a prompt take 15 s and more, four slots pay for a prior four times. So we say
which slot answers: what a prompt adds is evaluated there alone, the state is written to a file (347 tokens: 10 MB in 30
ms), and a slot that needs it reads it (in 5 ms).

Order of events of a request: it waits while another one is just evaluating what it could begin with; it takes the
free slot that holds most of it, or one that reads a file which holds more; if what is new is worth it, that is
evaluated first, for a reply of one token, and written down; then the request goes its way. Where anything of it goes
wrong the prompt is evaluated as it would have been.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aiohttp import ClientSession

WORTH_CHARS = 400  # about 100 tokens: 2 s of two cores, against 50 ms for file and token
KEPT_FILES = 8
ACT_S = 30.0  # for a file to be written or read
_FOLDER = "tokenprior-slots-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a prompt is answered.

    Attributes:
        slot: its number.
        file: what the slot reads first, if anything.
        alone: whether what is new is evaluated for itself, so that others can have it.
    """

    slot: int
    file: str | None
    alone: bool


class Slots:
    """What each slot and each file holds. Decides who answers what, and does nothing itself.

    Args:
        count: slots of the server, 1 or more.
    """

    def __init__(self, count: int) -> None:
        self._held = [""] * count
        self._used = [0] * count  # a slot that was never used comes first, then the one that has waited longest
        self._free = set(range(count))
        self._files: dict[str, str] = {}  # by use, the latest last
        self._coming: dict[int, str] = {}
        self._number = 0

    def take(self, prompt: str) -> Place | None:
        """A place for a prompt, which is not free any more; `None` to wait until another is given back or kept."""
        if not self._free:
            return None
        held = {slot: _common(self._held[slot], prompt) for slot in self._free}
        files = {file: _common(text, prompt) for file, text in self._files.items()}
        slot = max(held, key=lambda one: (held[one], -self._used[one]))
        file = max(files, key=lambda one: files[one], default=None)
        have = held[slot]
        if file is not None and files[file] >= have + WORTH_CHARS:
            # What is lost is what the slot held: the one that was used longest ago.
            slot, have = min(self._free, key=lambda one: self._used[one]), files[file]
            self._files[file] = self._files.pop(file)
        else:
            file = None
        if any(_common(text, prompt) >= have + WORTH_CHARS for text in self._coming.values()):
            return None
        self._free.remove(slot)
        self._number += 1
        self._used[slot] = self._number
        self._held[slot] = prompt
        alone = len(self._held) > 1 and len(prompt) - have >= WORTH_CHARS
        if alone:
            self._coming[slot] = prompt
        return Place(slot=slot, file=file, alone=alone)

    def kept(self, place: Place, file: str | None) -> str | None:
        """What a place evaluated for itself is in a file now, or in none because that failed.

        Returns:
            A file that may be taken away.
        """
        prompt = self._coming.pop(place.slot, "")
        if file is not None:
            self._files[file] = prompt
        if len(self._files) > KEPT_FILES:
            oldest = next(iter(self._files))
            del self._files[oldest]
            return oldest
        return None

    def give_back(self, place: Place, *, whole: bool) -> None:
        """A place is free again.

        Args:
            whole: whether its prompt was evaluated to the end.
        """
        self._coming.pop(place.slot, None)
        if not whole:
            self._held[place.slot] = ""
        self._free.add(place.slot)


class PinnedSlots:
    """The same for a living server. Use as an async context manager.

    Args:
        base_url: gives the address; another one means a server that has forgotten everything.
        count: its slots.
        folder: where it writes files; as its `slot_save_path`.
    """

    def __init__(self, base_url: Callable[[], Awaitable[str]], *, count: int, folder: Path) -> None:
        self._base_url, self._count, self._folder = base_url, count, folder
        self._slots, self._address = Slots(count), ""
        self._changed = asyncio.Event()
        self._session: ClientSession | None = None
        self._files = 0

    async def __aenter__(self) -> PinnedSlots:
        from aiohttp import ClientSession, ClientTimeout

        self._session = ClientSession(timeout=ClientTimeout(total=None))
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    @asynccontextmanager
    async def place(self, body: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """A body with the slot that it is to be answered in, which is taken until the block ends."""
        address = await self._base_url()
        if address != self._address:
            self._slots, self._address = Slots(self._count), address
            self._tell()
        slots = self._slots
        # Tools come before the messages in what the model reads.
        prompt = json.dumps([body.get("tools"), body.get("messages")])
        while (place := slots.take(prompt)) is None:
            await self._changed.wait()
        whole = False
        pinned = body | {"id_slot": place.slot}
        try:
            if place.file is not None:
                await self._act(address, place.slot, "restore", place.file)
            if place.alone:
                await self._evaluate(slots, address, place, pinned)
            yield pinned
            whole = True
        finally:
            slots.give_back(place, whole=whole)
            self._tell()

    async def _evaluate(self, slots: Slots, address: str, place: Place, pinned: dict[str, Any]) -> None:
        once = {"max_tokens": 1, "max_completion_tokens": 1, "stream": False}
        kept = {key: value for key, value in pinned.items() if key not in ("stream_options", "response_format", "n")}
        file = None
        if await self._post(f"{address}/chat/completions", kept | once, within_s=None):
            self._files += 1
            file = f"{self._files}.bin"
            if not await self._act(address, place.slot, "save", file):
                file = None
        old = slots.kept(place, file)
        if old is not None:
            with suppress(OSError):
                (self._folder / old).unlink()
        self._tell()

    async def _act(self, address: str, slot: int, action: str, file: str) -> bool:
        root = address.removesuffix("/v1")
        return await self._post(f"{root}/slots/{slot}?action={action}", {"filename": file}, within_s=ACT_S)

    async def _post(self, url: str, body: dict[str, Any], *, within_s: float | None) -> bool:
        from aiohttp import ClientError

        assert self._session is not None, "it is used as a context manager"
        try:
            async with asyncio.timeout(within_s), self._session.post(url, json=body) as response:
                await response.read()
                return response.status == 200
        except (ClientError, OSError):  # a TimeoutError is an OSError
            return False

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def new_folder() -> tempfile.TemporaryDirectory[str]:
    """A folder for the files of a server, gone when it is closed. Those of processes that were killed go now."""
    for left in Path(tempfile.gettempdir()).glob(f"{_FOLDER}*"):
        process = left.name.removeprefix(_FOLDER).partition("-")[0]
        if process.isdigit() and not _is_alive(int(process)):
            shutil.rmtree(left, ignore_errors=True)
    return tempfile.TemporaryDirectory(prefix=f"{_FOLDER}{os.getpid()}-", ignore_cleanup_errors=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True


def _common(one: str, other: str) -> int:
    """Characters that two texts begin with in common."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if one[:middle] == other[:middle] else (low, middle - 1)
    return low
