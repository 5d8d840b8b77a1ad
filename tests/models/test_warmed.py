"""Warmed: one call brings a long beginning into the cache, the others wait for it, and nothing else ever waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenprior.models.base import CallFailed, CallKey, Reply, Request
from tokenprior.models.retried import Limit, RetriedModel, RetryPolicy
from tokenprior.models.warmed import LEAST_TOKENS, LIFETIME_S, SentModel, WarmedModel, Warmth, beginnings
from tokenprior.rollout import Message, Role

pytestmark = pytest.mark.anyio

LONG = "word " * LEAST_TOKENS
NEVER = 1e6  # seconds: a pilot is waited for until it ends


def request(number: int, *texts: str, system: str | None = LONG) -> Request:
    """A prompt with a system message of its own, if any, and then user, assistant, user and so on."""
    said = [] if system is None else [Message(role="system", content=system)]
    roles: list[Role] = ["user", "assistant"]
    said += [Message(role=roles[at % 2], content=text) for at, text in enumerate(texts or (str(number),))]
    return Request(key=CallKey(phase="rollout", rollout=number), messages=tuple(said))


class Wire:
    """A model whose calls stay on the wire until they are let go or broken."""

    name = "wire"

    def __init__(self) -> None:
        self.sent: list[int] = []
        self.on_wire: dict[int, asyncio.Future[str]] = {}

    async def answer(self, request: Request) -> Reply:
        number = request.key.rollout
        self.sent.append(number)
        self.on_wire[number] = asyncio.get_running_loop().create_future()
        return Reply(text=await self.on_wire[number])


class World:
    """Calls that are made side by side, in front of few or many slots."""

    def __init__(self, slots: int = 100, *, settle_s: Callable[[int], float] = lambda tokens: NEVER) -> None:
        self.now = 0.0
        self.wire = Wire()
        warmth = Warmth(clock=lambda: self.now, settle_s=settle_s)
        policy = RetryPolicy(attempts=1)
        self.model = WarmedModel(RetriedModel(SentModel(self.wire, warmth), Limit(slots), policy), warmth)
        self.calls: dict[int, asyncio.Task[Reply]] = {}

    async def ask(self, *requests: Request) -> None:
        for one in requests:
            self.calls[one.key.rollout] = asyncio.create_task(self.model.answer(one))
        await settled()

    async def reply(self, *numbers: int) -> None:
        for number in numbers:
            self.wire.on_wire[number].set_result("ok")
        await settled()

    async def fail(self, number: int) -> None:
        self.wire.on_wire[number].set_exception(CallFailed("http-500", "no", retryable=False))
        await settled()
        assert isinstance(self.calls[number].exception(), CallFailed)

    async def cancel(self, number: int) -> None:
        self.calls[number].cancel()
        await settled()

    async def end(self) -> None:
        """Let everything go that is still there."""
        for call in self.calls.values():
            call.cancel()
        await settled()


async def settled() -> None:
    """Let everything happen that can happen by itself."""
    for _ in range(30):
        await asyncio.sleep(0)


async def test_one_call_goes_first_and_the_others_follow_when_it_has_ended() -> None:
    world = World()
    await world.ask(*(request(number) for number in range(5)))
    assert world.wire.sent == [0]
    await world.reply(0)
    assert world.wire.sent == [0, 1, 2, 3, 4]
    await world.ask(request(5))
    assert world.wire.sent[-1] == 5, "what was seen lately is not waited for"
    await world.end()


async def test_short_prompts_never_wait() -> None:
    world = World()
    await world.ask(*(request(number, system="Be brief.") for number in range(5)))
    assert world.wire.sent == [0, 1, 2, 3, 4]
    await world.end()


async def test_calls_that_begin_otherwise_do_not_wait() -> None:
    world = World()
    await world.ask(*(request(number, system=f"{number} {LONG}") for number in range(3)))
    await world.ask(request(3, system="Be brief."))
    assert world.wire.sent == [0, 1, 2, 3]
    await world.end()


async def test_who_waits_holds_no_slot() -> None:
    world = World(slots=2)
    await world.ask(request(0), request(1), request(2), request(3, system=None))
    assert world.wire.sent == [0, 3]
    await world.end()


async def test_a_pilot_that_takes_long_is_waited_for_only_until_its_prompt_must_have_been_evaluated() -> None:
    world = World(settle_s=lambda tokens: 0.0)
    await world.ask(*(request(number) for number in range(3)))
    assert world.wire.sent == [0, 1, 2]
    assert 0 in world.wire.on_wire
    assert not world.calls[0].done()
    await world.end()


async def test_the_time_of_a_pilot_counts_from_when_it_has_its_slot() -> None:
    world = World(slots=1, settle_s=lambda tokens: 0.0)
    await world.ask(request(9, system=None), request(0), request(1))
    assert world.wire.sent == [9]
    await world.reply(9)
    assert world.wire.sent == [9, 0]
    await world.cancel(0)
    assert world.wire.sent == [9, 0, 1]
    await world.end()


async def test_a_pilot_that_fails_hands_over_to_one_other_and_then_all_go() -> None:
    world = World()
    await world.ask(*(request(number) for number in range(5)))
    await world.fail(0)
    assert world.wire.sent == [0, 1]
    await world.fail(1)
    assert world.wire.sent == [0, 1, 2, 3, 4], "an endpoint that is down is not asked one by one"
    await world.end()


async def test_a_pilot_that_is_cancelled_hands_over_and_one_that_waits_can_be_cancelled() -> None:
    world = World()
    await world.ask(*(request(number) for number in range(4)))
    await world.cancel(1)
    await world.cancel(0)
    assert world.wire.sent == [0, 2]
    await world.reply(2)
    assert world.wire.sent == [0, 2, 3]
    await world.end()


async def test_a_pilot_that_is_cancelled_while_it_waits_for_a_slot_hands_over() -> None:
    world = World(slots=1)
    await world.ask(request(9, system=None), request(0), request(1))
    await world.cancel(0)
    await world.reply(9)
    assert world.wire.sent == [9, 1]
    await world.end()


async def test_what_was_not_used_for_five_minutes_needs_a_pilot_again() -> None:
    world = World()
    await world.ask(request(0))
    await world.reply(0)
    world.now += LIFETIME_S
    await world.ask(request(1))
    await world.reply(1)
    world.now += LIFETIME_S
    await world.ask(request(2), request(3))
    assert world.wire.sent == [0, 1, 2, 3], "the use in between has kept it"
    await world.reply(2, 3)
    world.now += LIFETIME_S + 1
    await world.ask(request(4), request(5))
    assert world.wire.sent == [0, 1, 2, 3, 4]
    await world.end()


async def test_attempts_at_a_long_question_wait_for_the_first_of_them_behind_the_prior_that_all_share() -> None:
    world = World()
    questions = {number: f"{number // 3} {LONG}" for number in range(6)}
    await world.ask(*(request(number, question) for number, question in questions.items()))
    assert world.wire.sent == [0]
    await world.reply(0)
    assert world.wire.sent == [0, 1, 2, 3], "the others of the first task, and one of the second"
    await world.reply(3)
    assert world.wire.sent == [0, 1, 2, 3, 4, 5]
    await world.end()


async def test_attempts_that_follow_their_pilot_go_before_those_of_later_tasks() -> None:
    world = World(slots=1)
    attempts = [request(number, f"{number // 2} {LONG}", system=None) for number in range(4)]
    await world.ask(*(replace(one, key=replace(one.key, task=str(at // 2))) for at, one in enumerate(attempts)))
    await world.reply(0)
    await world.reply(2)
    assert world.wire.sent == [0, 2, 1], "the slot was free before the others were let go, but not a second time"
    await world.end()


async def test_a_conversation_that_goes_on_waits_for_nobody() -> None:
    world = World()
    await world.ask(request(0))
    await world.reply(0)
    await world.ask(*(request(number, "Hello.", f"Yes {LONG}", LONG) for number in (1, 2)))
    assert world.wire.sent == [0, 1, 2]
    await world.end()


async def test_the_reply_and_the_failure_of_the_model_are_passed_on() -> None:
    world = World()
    await world.ask(request(0), request(1, system=None))
    await world.reply(0)
    assert (await world.calls[0]).text == "ok"
    await world.fail(1)
    assert world.model.name == "wire"


async def test_what_is_remembered_does_not_grow_with_the_run() -> None:
    warmth = Warmth(clock=iter(range(10_000)).__next__)
    for number in range(2_000):
        warmth.ended([], beginnings(request(0, system=f"{number} {LONG}")))
    assert len(warmth._seen) <= LIFETIME_S + 1


def test_a_beginning_ends_where_a_message_does_and_is_long() -> None:
    def sizes(one: Request) -> list[int]:
        return [found.tokens // LEAST_TOKENS for found in beginnings(one)]

    assert sizes(request(0, system="Be brief.")) == []
    assert sizes(request(0)) == [1], "a short question behind a long prior is not worth a wait"
    assert sizes(request(0, LONG)) == [1, 2]
    assert sizes(request(0, LONG, system="Be brief.")) == [1]
    assert sizes(request(0, LONG, system=None)) == [1]
    assert sizes(request(0, "Hello.", LONG, system=None)) == []


def test_tools_stand_before_the_messages_and_a_program_names_its_model() -> None:
    long = request(0, system="Be brief.")
    tools = ({"name": "look", "description": LONG, "parameters": {}},)

    def keys(**changed: object) -> list[bytes]:
        fields = {"key": long.key, "messages": long.messages, **changed}
        return [found.key for found in beginnings(Request(**fields))]  # type: ignore[arg-type]

    assert len(keys(tools=tools)) == 1
    assert keys(tools=tools) != keys(tools=({**tools[0], "name": "see"},))
    bodies = [{"model": name, "messages": [], "tools": list(tools)} for name in ("a", "b")]
    assert len({keys(body=body)[0] for body in bodies}) == 2


@given(
    st.lists(st.sampled_from(["", "a", "b"]), min_size=1, max_size=8),
    st.integers(1, 4),
    st.randoms(use_true_random=False),
)
@settings(max_examples=60, deadline=None)
def test_every_call_ends_whatever_fails_and_is_cancelled_on_the_way(kinds: list[str], slots: int, lot: object) -> None:
    async def run() -> None:
        world = World(slots)
        await world.ask(
            *(request(number, system=f"{kind} {LONG}" if kind else None) for number, kind in enumerate(kinds))
        )
        for _ in range(4 * len(kinds)):
            flying = [number for number, future in world.wire.on_wire.items() if not future.done()]
            if not flying:
                break
            number = lot.choice(flying)  # type: ignore[attr-defined]
            match lot.choice(["reply", "fail", "cancel"]):  # type: ignore[attr-defined]
                case "reply":
                    await world.reply(number)
                case "fail":
                    await world.fail(number)
                case "cancel":
                    await world.cancel(number)
        assert all(call.done() for call in world.calls.values())

    asyncio.run(run())
