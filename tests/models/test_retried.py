"""Retried: slots, priorities, rate limits and tries. Orders and counts, never times."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenprior.models.base import CallFailed, CallKey, Phase, Reply, Request
from tokenprior.models.retried import Limit, RetriedModel, RetryPolicy
from tokenprior.models.scripted import ScriptedModel
from tokenprior.rollout import Message

pytestmark = pytest.mark.anyio

QUICK = RetryPolicy(attempts=3, backoff_s=0.001, max_backoff_s=0.004, patience_s=60.0)


def request(number: int = 0, phase: Phase = "rollout", timeout_s: float = 60.0) -> Request:
    key = CallKey(phase=phase, rollout=number)
    return Request(key=key, messages=(Message(role="user", content=str(number)),), timeout_s=timeout_s)


def failing(*failures: CallFailed) -> Callable[[Request], str]:
    """A script that fails so many times, and then answers."""
    left = list(failures)

    def script(request: Request) -> str:
        if left:
            raise left.pop(0)
        return "ok"

    return script


def rate_limited(wait_s: float | None = None) -> CallFailed:
    return CallFailed("rate-limit", "slow down", retryable=True, retry_after_s=wait_s)


def passing(kind: str = "http-500", wait_s: float | None = None) -> CallFailed:
    return CallFailed(kind, "later", retryable=True, retry_after_s=wait_s)


class Gate:
    """A model whose calls stay on the wire until they are let go, and which counts them."""

    name = "gate"

    def __init__(self) -> None:
        self.on_wire: dict[str, asyncio.Future[str]] = {}
        self.order: list[str] = []
        self.most = 0

    async def answer(self, request: Request) -> Reply:
        said = str(request.key)
        self.order.append(said)
        self.on_wire[said] = asyncio.get_running_loop().create_future()
        self.most = max(self.most, len(self.on_wire))
        try:
            return Reply(text=await self.on_wire[said])
        finally:
            del self.on_wire[said]

    def let_go(self) -> None:
        """The one that has waited longest gets its reply."""
        next(future for future in self.on_wire.values() if not future.done()).set_result("ok")


async def settled() -> None:
    """Let everything happen that can happen by itself."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_never_more_calls_on_the_wire_than_slots() -> None:
    gate = Gate()
    model = RetriedModel(gate, Limit(3), QUICK)
    calls = [asyncio.ensure_future(model.answer(request(number))) for number in range(10)]
    for _ in range(10):
        await settled()
        gate.let_go()
    await asyncio.gather(*calls)
    assert gate.most == 3
    assert len(gate.order) == 10


PHASES = st.sampled_from(["rollout", "revise", "summary"])
MOVES = st.tuples(st.sampled_from(["end", "cancel", "limit", "succeed", "wait"]), st.integers(0, 7))


@given(st.integers(1, 4), st.lists(PHASES, min_size=1, max_size=8), st.lists(MOVES, max_size=20))
@settings(max_examples=60, deadline=None)
def test_slots_are_never_exceeded_and_never_lost(
    concurrency: int, phases: list[Phase], moves: list[tuple[str, int]]
) -> None:
    """Whatever calls come, end, are cancelled or rate limited, in whatever order."""

    async def play() -> None:
        limit = Limit(concurrency)
        ends = [asyncio.Event() for _ in phases]
        on_wire: set[int] = set()
        most = 0

        async def call(number: int) -> None:
            nonlocal most
            async with limit.slot(phases[number]):
                on_wire.add(number)
                most = max(most, len(on_wire), limit.in_flight)
                try:
                    await ends[number].wait()
                finally:
                    on_wire.remove(number)

        calls = [asyncio.ensure_future(call(number)) for number in range(len(phases))]
        for move, which in moves:
            if move == "end":
                ends[which % len(ends)].set()
            elif move == "cancel":
                calls[which % len(calls)].cancel()
            elif move == "limit":
                limit.rate_limited(0.0005 if which % 2 else 0.0)
            elif move == "succeed":
                limit.succeeded()
            else:
                await asyncio.sleep(0)
            assert 1.0 <= limit.allowed <= concurrency
        for end in ends:
            end.set()
        await asyncio.gather(*calls, return_exceptions=True)
        assert most <= concurrency
        assert limit.in_flight == 0
        async with limit.slot("rollout"):
            assert limit.in_flight == 1

    asyncio.run(play())


async def test_what_ends_a_group_goes_before_what_starts_one() -> None:
    gate = Gate()
    model = RetriedModel(gate, Limit(1), QUICK)
    first = asyncio.ensure_future(model.answer(request(0)))
    await settled()
    phases: list[Phase] = ["rollout", "evaluate", "judge", "summary", "contrast", "revise", "rollout"]
    rest = [asyncio.ensure_future(model.answer(request(n + 1, phase))) for n, phase in enumerate(phases)]
    for _ in range(8):
        await settled()
        gate.let_go()
    await asyncio.gather(first, *rest)
    order = [said.split("/")[0] for said in gate.order]
    assert order == ["rollout", "revise", "contrast", "summary", "judge", "rollout", "evaluate", "rollout"]
    assert gate.order[5].split("/")[3] == "1", "first come, first served within a priority"


async def test_an_attempt_on_its_way_goes_before_one_that_begins() -> None:
    gate = Gate()
    model = RetriedModel(gate, Limit(1), QUICK)
    first = asyncio.ensure_future(model.answer(request(0)))
    await settled()
    rest = [asyncio.ensure_future(model.answer(request(number))) for number in (1, 2)]
    said = (*request(0).messages, Message(role="assistant", content="so far"), Message(role="user", content="and?"))
    rest.append(asyncio.ensure_future(model.answer(replace(request(3), messages=said))))
    for _ in range(4):
        await settled()
        gate.let_go()
    await asyncio.gather(first, *rest)
    assert [one.split("/")[3] for one in gate.order] == ["0", "3", "1", "2"]


async def test_what_a_group_asks_for_later_goes_before_groups_that_began_since() -> None:
    gate = Gate()
    model = RetriedModel(gate, Limit(1), QUICK)

    def of(task: str, number: int) -> Request:
        return replace(request(number), key=CallKey(phase="rollout", task=task, rollout=number))

    asked = [("a", 0), ("b", 0), ("c", 0), ("a", 1), ("b", 1)]
    made = []
    for task, number in asked:
        made.append(asyncio.ensure_future(model.answer(of(task, number))))
        await settled()
    for _ in asked:
        gate.let_go()
        await settled()
    await asyncio.gather(*made)
    assert [said.split("/")[2:4] for said in gate.order] == [["a", "0"], ["a", "1"], ["b", "0"], ["b", "1"], ["c", "0"]]


async def test_a_failure_that_may_pass_is_asked_again_until_the_tries_are_used_up() -> None:
    model = ScriptedModel(failing(passing(), passing("garbled")))
    assert (await RetriedModel(model, Limit(1), QUICK).answer(request())).text == "ok"
    assert len(model.requests) == 3
    model = ScriptedModel(failing(*[passing() for _ in range(9)]))
    with pytest.raises(CallFailed, match="http-500"):
        await RetriedModel(model, Limit(1), QUICK).answer(request())
    assert len(model.requests) == 3


async def test_a_failure_that_does_not_pass_is_not_asked_again() -> None:
    model = ScriptedModel(failing(CallFailed("http-400", "no", retryable=False)))
    with pytest.raises(CallFailed, match="http-400"):
        await RetriedModel(model, Limit(1), QUICK).answer(request())
    assert len(model.requests) == 1


async def test_another_error_passes_through_and_gives_the_slot_back() -> None:
    def broken(request: Request) -> str:
        raise RuntimeError("bug")

    limit = Limit(1)
    for _ in range(2):
        with pytest.raises(RuntimeError):
            await RetriedModel(ScriptedModel(broken), limit, QUICK).answer(request())
    assert limit.in_flight == 0


async def test_rate_limits_are_no_tries() -> None:
    model = ScriptedModel(failing(*[rate_limited(0.0005) for _ in range(10)], passing(), passing()))
    assert (await RetriedModel(model, Limit(2), QUICK).answer(request())).text == "ok"
    assert len(model.requests) == 13


async def test_a_rate_limit_slows_the_whole_endpoint_and_success_speeds_it_up() -> None:
    limit = Limit(8)
    gate = Gate()
    model = RetriedModel(gate, limit, QUICK)
    calls = [asyncio.ensure_future(model.answer(request(number))) for number in range(8)]
    await settled()
    next(iter(gate.on_wire.values())).set_exception(rate_limited(0.001))
    await settled()
    after = limit.allowed
    assert after == pytest.approx(8 * 0.7)
    for _ in range(200):
        limit.succeeded()
        assert limit.allowed <= 8
    assert limit.allowed == 8
    while not all(call.done() for call in calls):
        await asyncio.sleep(0.001)
        for future in gate.on_wire.values():
            if not future.done():
                future.set_result("ok")


async def test_it_never_slows_down_to_nothing() -> None:
    limit = Limit(4)
    for _ in range(100):
        limit.rate_limited(0.0)
    assert limit.allowed == 1.0
    async with limit.slot("rollout"):
        assert limit.in_flight == 1


async def test_nobody_goes_during_a_pause_not_even_into_the_slot_that_just_came_free() -> None:
    """Judged by the clock that the pause is kept by: no call leaves before it says so."""
    limit = Limit(2)
    loop = asyncio.get_running_loop()
    left: list[float] = []
    until: list[float] = []

    def script(request: Request) -> str:
        left.append(loop.time())
        if len(left) == 1:
            until.append(loop.time() + 0.05)
            raise rate_limited(0.05)
        return "ok"

    model = RetriedModel(ScriptedModel(script), Limit(1), QUICK)
    await asyncio.gather(*[model.answer(request(number)) for number in range(4)])
    assert len(left) == 5
    assert all(moment >= until[0] - 0.001 for moment in left[1:])
    assert limit.in_flight == 0


async def test_an_endpoint_that_asks_for_no_wait_at_all_is_not_hammered() -> None:
    """`Retry-After: 0` once is believed; again and again it would be a busy loop."""
    model = ScriptedModel(failing(*[rate_limited(0.0) for _ in range(10_000)]))
    policy = RetryPolicy(backoff_s=0.02, patience_s=0.1)
    with pytest.raises(CallFailed, match="rate-limit"):
        await RetriedModel(model, Limit(1), policy).answer(request())
    assert 2 <= len(model.requests) < 20


async def test_patience_ends_when_nothing_but_rate_limits_came() -> None:
    model = ScriptedModel(failing(*[rate_limited(0.002) for _ in range(10_000)]))
    policy = RetryPolicy(backoff_s=0.001, patience_s=0.02)
    with pytest.raises(CallFailed) as caught:
        await RetriedModel(model, Limit(1), policy).answer(request())
    assert caught.value.kind == "rate-limit"


async def test_patience_does_not_end_while_others_get_their_replies() -> None:
    limit = Limit(1)
    turns = 0

    def script(request: Request) -> str:
        nonlocal turns
        turns += 1
        if turns < 12:
            limit.succeeded()  # as if another call had come through
            raise rate_limited(0.004)
        return "ok"

    policy = RetryPolicy(backoff_s=0.001, patience_s=0.03)
    assert (await RetriedModel(ScriptedModel(script), limit, policy).answer(request())).text == "ok"


async def test_cancelled_calls_give_their_slots_back_waiting_or_on_the_wire() -> None:
    gate = Gate()
    limit = Limit(2)
    model = RetriedModel(gate, limit, QUICK)
    calls = [asyncio.ensure_future(model.answer(request(number))) for number in range(6)]
    await settled()
    for call in calls[:4]:  # two on the wire, two that wait
        call.cancel()
    await settled()
    assert list(gate.on_wire) == ["rollout/0//4/0", "rollout/0//5/0"]
    assert limit.in_flight == 2
    gate.let_go()
    gate.let_go()
    await asyncio.gather(*calls[4:])
    assert limit.in_flight == 0


async def test_a_call_cancelled_in_the_moment_it_is_admitted_gives_its_slot_back() -> None:
    limit = Limit(1)
    entered = False

    async def call() -> None:
        nonlocal entered
        async with limit.slot("rollout"):
            entered = True

    async with limit.slot("rollout"):
        waiting = asyncio.ensure_future(call())
        await settled()
    assert limit.in_flight == 1, "the slot is given away before the next one runs"
    waiting.cancel()
    await settled()
    assert not entered
    assert limit.in_flight == 0


async def test_a_call_that_backs_off_holds_no_slot() -> None:
    limit = Limit(1)
    slow = RetryPolicy(attempts=2, backoff_s=30.0, max_backoff_s=30.0)
    backing_off = asyncio.ensure_future(RetriedModel(ScriptedModel(failing(passing())), limit, slow).answer(request()))
    await settled()
    assert limit.in_flight == 0
    assert (await RetriedModel(ScriptedModel(["ok"]), limit, slow).answer(request())).text == "ok"
    backing_off.cancel()


async def test_all_tries_share_one_time_on_the_wire() -> None:
    async def slow(request: Request) -> str:
        await asyncio.sleep(0.005)
        raise passing()

    model = ScriptedModel(slow)
    with pytest.raises(CallFailed):
        await RetriedModel(model, Limit(1), QUICK).answer(request(timeout_s=60.0))
    left = [sent.timeout_s for sent in model.requests]
    assert left[0] == 60.0
    assert left == sorted(left, reverse=True)
    assert left[0] - left[1] >= 0.004
    assert left[1] - left[2] >= 0.004

    model = ScriptedModel(slow)
    with pytest.raises(CallFailed):
        await RetriedModel(model, Limit(1), QUICK).answer(request(timeout_s=0.003))
    assert len(model.requests) == 1, "nothing is left of its time"


async def test_waiting_for_a_slot_and_rate_limits_take_nothing_of_that_time() -> None:
    model = ScriptedModel(failing(rate_limited(0.005), rate_limited(0.005)))
    await RetriedModel(model, Limit(1), QUICK).answer(request(timeout_s=1.0))
    assert [sent.timeout_s for sent in model.requests] == [1.0, 1.0, 1.0]


async def test_the_wait_that_an_endpoint_asks_for_is_kept_after_other_failures_too() -> None:
    model = ScriptedModel(failing(passing("http-503", 0.0)))
    patient = RetryPolicy(attempts=2, backoff_s=3600.0, max_backoff_s=3600.0)
    assert (await RetriedModel(model, Limit(1), patient).answer(request())).text == "ok"


async def test_a_burst_of_refusals_that_left_together_is_one() -> None:
    limit = Limit(10)
    async with AsyncExitStack() as stack:
        for _ in range(10):
            await stack.enter_async_context(limit.slot("rollout"))
        sent = time.monotonic()
        for _ in range(10):
            limit.rate_limited(0.0, sent)
    assert limit.allowed == 7.0


async def test_the_endpoint_gets_its_next_call_while_a_reply_is_written_down() -> None:
    gate = Gate()
    written = asyncio.Event()

    class Writing:
        """What keeps a reply before it hands it on."""

        name = "gate"

        async def answer(self, request: Request) -> Reply:
            reply = await gate.answer(request)
            assert request.on_reply is not None
            request.on_reply()
            await written.wait()
            return reply

    limit = Limit(1)
    model = RetriedModel(Writing(), limit, QUICK)
    calls = [asyncio.ensure_future(model.answer(request(number))) for number in range(2)]
    await settled()
    assert len(gate.order) == 1
    gate.let_go()
    await settled()
    assert len(gate.order) == 2, "the second is on the wire, and the first is not written down yet"
    gate.let_go()
    written.set()
    await asyncio.gather(*calls)
    assert (limit.in_flight, gate.most) == (0, 1)


def test_a_try_keeps_what_was_worked_out_of_its_request() -> None:
    asked = request()
    known = asked.hash_for("gate")
    tried = asked.tried(timeout_s=1.0, on_reply=lambda: None)
    assert tried._hashes == {"gate": known}
    assert tried == request(timeout_s=1.0)
