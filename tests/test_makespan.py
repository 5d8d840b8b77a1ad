"""The arithmetic of the utilisation benchmark: what is busy, what is a bound, and what a rate limit lets through."""

from __future__ import annotations

import json
import sys
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))

from latency import Bucket, Profile, Served, items_of
from makespan import Call, busy_s, drawn, figures, given_up, longest_chain_s, profile, steps


def call(role: str, start: float, end: float, *items: int, status: int = 200) -> Call:
    return Call(role=role, start_s=start, end_s=end, items=items, status=status)


def test_full_slots_are_a_utilisation_of_one_at_the_lower_bound() -> None:
    made = figures([call("policy", n, n + 1, n) for n in range(4)] + [call("policy", 0, 4, 9)], slots=2, barriers=())
    assert (made.mean_concurrency, made.utilisation, made.bound_s, made.over_bound) == (2.0, 1.0, 4.0, 1.0)


def test_a_slot_that_idles_shows_in_every_figure() -> None:
    made = figures([call("policy", 0, 4, 1), call("policy", 0, 1, 2), call("policy", 3, 4, 3)], slots=2, barriers=())
    assert (made.makespan_s, made.mean_concurrency, made.utilisation) == (4.0, 1.5, 0.75)
    assert made.bound_s == 4.0, "the longest call alone takes as long"


def test_work_spread_over_the_slots_bounds_the_makespan_where_no_chain_does() -> None:
    made = figures([call("policy", n, n + 1, n) for n in range(8)], slots=4, barriers=())
    assert (made.bound_s, made.over_bound, made.mean_concurrency) == (2.0, 4.0, 1.0)


def test_refused_calls_are_not_busy() -> None:
    made = figures([call("policy", 0, 2, 1), call("policy", 2, 9, 1, status=429)], slots=1, barriers=())
    assert (made.calls, made.makespan_s, made.utilisation) == (1, 2.0, 1.0)


def test_a_refused_request_is_given_up_where_nobody_asked_again() -> None:
    again, never = call("policy", 0, 0, status=429), call("policy", 1, 1, status=429)
    calls = [replace(again, request="a"), replace(never, request="b"), replace(call("policy", 5, 6, 1), request="a")]
    assert given_up(calls) == 1
    assert given_up(calls[:1] * 3) == 1, "tries of one request"


def test_windows_take_parts_of_calls_and_add_up_to_the_whole() -> None:
    calls = [call("policy", 0, 10, 1), call("policy", 3, 5, 2)]
    assert busy_s(calls, (4, 6)) == 3.0
    assert sum(busy_s(calls, (n, n + 1)) for n in range(10)) == busy_s(calls, (0, 10)) == 12.0
    assert profile(calls, (0, 10), columns=5) == [1.0, 1.5, 1.5, 1.0, 1.0]


def test_a_contrast_waits_for_the_attempts_at_its_own_item_alone() -> None:
    calls = [call("policy", 0, 2, 1), call("policy", 0, 5, 2), call("contrast", 6, 7, 1)]
    assert longest_chain_s(calls, ("revise",)) == 5.0
    assert longest_chain_s([*calls, call("contrast", 6, 7, 2)], ("revise",)) == 6.0


def test_summaries_stand_between_attempts_and_contrast() -> None:
    calls = [call("policy", 0, 2, 1), call("describe", 2, 5, 1), call("describe", 2, 4, 1), call("contrast", 5, 6, 1)]
    assert longest_chain_s(calls, ("revise",)) == 6.0


def test_attempts_one_after_another_are_no_chain_but_a_barrier_makes_one() -> None:
    attempts = [call("policy", n, n + 1, n) for n in range(4)]
    assert longest_chain_s(attempts, ("revise",)) == 1.0
    update = call("revise", 4, 7)
    assert longest_chain_s([*attempts, update], ("revise",)) == 4.0
    assert longest_chain_s([*attempts, update, call("policy", 8, 9, 1)], ("revise",)) == 5.0


def test_what_runs_through_a_barrier_neither_waits_for_it_nor_is_waited_for() -> None:
    calls = [call("policy", 0, 1, 1), call("policy", 0, 9, 2), call("revise", 1, 3), call("policy", 3, 4, 1)]
    assert longest_chain_s(calls, ("revise",)) == 9.0


def test_a_step_ends_before_its_library_update_and_gate_attempts_are_not_its_own() -> None:
    calls = [
        call("policy", 0, 2, 1),
        call("contrast", 2, 3, 1),
        call("policy", 1, 4, 500),  # of the gate, begun early
        call("revise", 4, 6),
        call("policy", 6, 8, 500),
        call("policy", 9, 11, 1),
        call("revise", 11, 12),
        call("revise", 12, 13),  # asked again
    ]
    assert steps(calls, range(10)) == [(0, 3), (9, 11)]


def test_a_step_counts_what_the_gate_did_within_it() -> None:
    calls = [call("policy", 0, 4, 1), call("policy", 2, 6, 500)]
    made = figures(calls, slots=2, barriers=("revise",), within=(0, 4))
    assert (made.mean_concurrency, made.bound_s) == (1.5, 4.0)


def test_bars_are_full_where_all_slots_are_in_use() -> None:
    assert drawn([0.0, 4.0, 8.0], 8) == " ▄█"


def test_lengths_hang_on_the_call_and_not_on_the_order() -> None:
    times = Profile(seed=1)
    assert times.drawn("policy", 100, "a/1") == times.drawn("policy", 100, "a/1") != times.drawn("policy", 100, "a/2")
    half, _ = Profile(seed=1, time_scale=0.5).drawn("policy", 100, "a/1")
    assert half == pytest.approx(times.drawn("policy", 100, "a/1")[0] / 2)


def test_cached_tokens_take_no_time() -> None:
    times = Profile(prompt_tokens_per_s=100.0)
    assert times.drawn("policy", 200, "a")[0] - times.drawn("policy", 0, "a")[0] == pytest.approx(2.0)


def test_a_bucket_lets_a_burst_through_and_then_the_rate_alone() -> None:
    bucket = Bucket(1.0, 6.0, 0.0)
    assert [bucket.take(0.0) for _ in range(6)] == [0.0] * 6
    assert bucket.take(0.0) == pytest.approx(1.0)
    assert bucket.take(0.5) == pytest.approx(0.5)
    assert bucket.take(1.0) == 0.0
    assert sum(bucket.take(1.0 + tick / 10) == 0.0 for tick in range(1, 101)) == 10


def test_an_attempt_is_about_the_last_item_named_and_a_contrast_about_all() -> None:
    messages = [{"content": "ITEM-1: which?"}, {"content": "ITEM-2: which?"}, {"content": "ITEM-1: which?"}]
    assert items_of("policy", messages[:2]) == (2,)
    assert items_of("contrast", messages) == (1, 2)


def test_the_endpoint_traces_what_it_served_and_what_it_refused() -> None:
    body = json.dumps({"messages": [{"role": "user", "content": "ITEM-7: which?"}]}).encode()

    def ask(run: str) -> int:
        with urllib.request.urlopen(f"{served.url}/{run}/v1/chat/completions", body, timeout=30) as reply:
            return int(json.load(reply)["usage"]["completion_tokens"])

    with Served("--time-scale", "0.0001", "--requests-per-minute", "0.0001") as served:
        said = ask("one")
        with pytest.raises(urllib.error.HTTPError, match="429") as refused:
            ask("one")
        assert int(refused.value.headers["retry-after"]) >= 1
        refused.value.close()
        assert ask("other") == said, "a run has its own limit, and the same request the same length"
        calls, _ = served.trace("one")
    assert [(call.status, call.role, call.items) for call in calls] == [(200, "policy", (7,)), (429, "policy", ())]
    assert calls[0].output_tokens == said
    assert calls[0].latency_s >= calls[0].intended_s > 0
