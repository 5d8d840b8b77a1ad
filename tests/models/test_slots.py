"""What many prompts begin with is evaluated once: who answers what, and what is written and read for it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from tokenprior.models.slots import KEPT_FILES, WORTH_CHARS, PinnedSlots, Slots, new_folder

LONG = "x" * 2 * WORTH_CHARS


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def test_the_first_prompt_of_its_kind_is_evaluated_alone_and_others_wait_for_it() -> None:
    slots = Slots(2)
    first = slots.take(LONG + "one")
    assert first is not None
    assert first.alone
    assert slots.take(LONG + "two") is None
    slots.kept(first, "1.bin")
    second = slots.take(LONG + "two")
    assert second is not None
    assert (second.file, second.alone) == ("1.bin", False)
    assert second.slot != first.slot


def test_prompts_with_nothing_in_common_wait_for_nobody() -> None:
    slots = Slots(2)
    assert slots.take(LONG) is not None
    assert slots.take("y" * 2 * WORTH_CHARS) is not None


def test_short_prompts_are_neither_waited_for_nor_written_down() -> None:
    slots = Slots(3)
    places = [slots.take(f"short {n}") for n in range(3)]
    assert [place and place.alone for place in places] == [False] * 3


def test_a_prompt_goes_where_most_of_it_is_held_already() -> None:
    slots = Slots(2)
    for text in (LONG, "y" * 2 * WORTH_CHARS):
        place = slots.take(text)
        assert place is not None
        slots.kept(place, None)
        slots.give_back(place, whole=True)
    again = slots.take(LONG + "more")
    other = slots.take("y" * 2 * WORTH_CHARS + "more")
    assert again is not None
    assert other is not None
    assert (again.slot, again.file, other.slot, other.file) == (0, None, 1, None)


def test_a_slot_whose_prompt_was_cut_off_is_not_taken_for_one_that_holds_it() -> None:
    slots = Slots(1)
    place = slots.take(LONG)
    assert place is not None
    slots.give_back(place, whole=False)
    again = slots.take(LONG)
    assert again is not None
    assert again.file is None
    assert slots.take(LONG) is None  # there is no other


def test_with_one_slot_nothing_is_ever_written() -> None:
    place = Slots(1).take(LONG)
    assert place is not None
    assert not place.alone


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), max_size=60), st.integers(1, 4))
def test_every_prompt_finds_a_place_and_files_stay_few(asked: list[tuple[int, bool]], count: int) -> None:
    slots = Slots(count)
    files: set[str] = set()
    for number, (kind, works) in enumerate(asked):
        place = slots.take(str(kind) * 2 * WORTH_CHARS + str(number))
        assert place is not None, "nothing is in flight, so nothing has to be waited for"
        assert place.file is None or place.file in files
        if place.alone:
            file = f"{number}.bin" if works else None
            files |= {file} if file else set()
            files -= {slots.kept(place, file) or ""}
            assert len(files) <= KEPT_FILES
        slots.give_back(place, whole=works)


class Server:
    """A server with slots that notes what it is asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int, int]] = []
        self.files: set[str] = set()
        self.refuses = False
        self.url = ""

    async def chat(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.asked.append(("chat", body["id_slot"], body["max_tokens"]))
        return web.json_response({"choices": []})

    async def slot(self, request: web.Request) -> web.Response:
        action, file = request.query["action"], (await request.json())["filename"]
        self.asked.append((action, int(request.match_info["slot"]), 0))
        if self.refuses or (action == "restore" and file not in self.files):
            return web.json_response({"error": {}}, status=501)
        self.files.add(file)
        return web.json_response({})

    async def address(self) -> str:
        return self.url


@asynccontextmanager
async def serving() -> AsyncIterator[Server]:
    server = Server()
    app = web.Application()
    app.router.add_post("/v1/chat/completions", server.chat)
    app.router.add_post("/slots/{slot}", server.slot)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    try:
        yield server
    finally:
        await runner.cleanup()


def body(question: str) -> dict[str, Any]:
    return {"messages": [{"role": "system", "content": LONG}, {"role": "user", "content": question}], "max_tokens": 64}


async def answer(pinned: PinnedSlots, question: str) -> int:
    async with pinned.place(body(question)) as placed:
        await asyncio.sleep(0)
        return int(placed["id_slot"])


@pytest.mark.anyio
async def test_a_shared_beginning_is_evaluated_in_one_slot_and_read_by_the_others(tmp_path: Path) -> None:
    async with serving() as server, PinnedSlots(server.address, count=4, folder=tmp_path) as pinned:
        used = await asyncio.gather(*(answer(pinned, f"{n}?") for n in range(4)))
    assert sorted(used) == [0, 1, 2, 3]
    assert [what for what, *_ in server.asked].count("save") == 1
    assert [what for what, *_ in server.asked].count("restore") == 3
    assert [tokens for what, _, tokens in server.asked if what == "chat"] == [1], "one evaluation, of one token"


@pytest.mark.anyio
async def test_a_server_that_writes_no_slots_answers_all_the_same(tmp_path: Path) -> None:
    async with serving() as server, PinnedSlots(server.address, count=2, folder=tmp_path) as pinned:
        server.refuses = True
        used = await asyncio.gather(*(answer(pinned, f"{n}?") for n in range(6)))
    assert set(used) == {0, 1}


@pytest.mark.anyio
async def test_a_server_that_was_started_anew_is_taken_to_hold_nothing(tmp_path: Path) -> None:
    async with (
        serving() as first,
        serving() as second,
        PinnedSlots(first.address, count=2, folder=tmp_path) as pinned,
    ):
        await answer(pinned, "one?")
        first.url = second.url
        await answer(pinned, "two?")
    assert [what for what, *_ in second.asked] == ["chat", "save"]


@pytest.mark.anyio
async def test_a_request_that_is_cancelled_gives_its_slot_back(tmp_path: Path) -> None:
    async with serving() as server, PinnedSlots(server.address, count=1, folder=tmp_path) as pinned:

        async def forever() -> None:
            async with pinned.place(body("one?")):
                await asyncio.Event().wait()

        task = asyncio.create_task(forever())
        await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert await answer(pinned, "two?") == 0


def test_files_of_a_process_that_was_killed_go_with_the_next_folder() -> None:
    made = subprocess.run(
        [
            sys.executable,
            "-c",
            "import os, tokenprior.models.slots as s; f = s.new_folder(); print(f.name, flush=True); os._exit(1)",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    left = Path(made.stdout.strip())
    assert left.is_dir()
    with new_folder():
        assert not left.exists()
