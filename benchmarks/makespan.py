"""Makespan: the arithmetic of a trace of calls. Pure functions, because a wrong sum would make every figure worthless.

Times are seconds on the endpoint's own clock: a call is busy from when its request was read to when its reply was
written. `within` takes the part of every call that falls into a window, so that windows add up to the whole.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

Window = tuple[float, float]  # from, to

# What a call at an item can only follow, besides what stands between steps.
_FOLLOWS: Mapping[str, tuple[str, ...]] = {"describe": ("policy",), "contrast": ("policy", "describe")}
_BARS = " ▁▂▃▄▅▆▇█"


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call as the endpoint saw it.

    Attributes:
        role: see `endpoint.Role`.
        items: the numbers of the items in its prompt; of a policy call the one that it asks about.
        start_s, end_s: when its request was read, and when its reply was written.
        intended_s: how long it was meant to take.
        prompt_tokens, output_tokens: as its usage says.
        request: the same for requests of the same bytes.
        status: of HTTP. Only calls with 200 were busy; a refusal takes no time.
    """

    role: str
    items: tuple[int, ...] = ()
    start_s: float
    end_s: float
    intended_s: float = 0.0
    prompt_tokens: int = 0
    output_tokens: int = 0
    request: str = ""
    status: int = 200

    @property
    def latency_s(self) -> float:
        return self.end_s - self.start_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What a window of a trace says.

    Attributes:
        calls: that were served at least in part within it.
        makespan_s: its length.
        mean_concurrency: busy seconds of all calls over the makespan.
        utilisation: that over the slots that were allowed.
        bound_s: no order of these calls could have been quicker.
        over_bound: the makespan over it; 1.0 is perfect.
    """

    calls: int
    makespan_s: float
    mean_concurrency: float
    utilisation: float
    bound_s: float
    over_bound: float


def served(calls: Iterable[Call]) -> list[Call]:
    """Those that were answered, in the order of their starts."""
    return sorted((call for call in calls if call.status == 200), key=lambda call: call.start_s)


def span(calls: Collection[Call]) -> Window:
    """From the first start to the last end."""
    return min(call.start_s for call in calls), max(call.end_s for call in calls)


def busy_s(calls: Iterable[Call], within: Window) -> float:
    """Seconds that calls were in flight, each only as far as it falls into the window."""
    start, end = within
    return sum(max(0.0, min(call.end_s, end) - max(call.start_s, start)) for call in calls)


def longest_chain_s(calls: Iterable[Call], barriers: Collection[str]) -> float:
    """The longest chain of calls of which each had to wait for the one before it.

    A call of a role in `barriers` follows whatever had ended when it began, and whatever began after its end follows
    it. A contrast follows the attempts at its item and their descriptions, a description the attempt. Nothing else is
    taken to follow: attempts at different items, or several at one item, could have been made side by side.

    Where a program makes barriers that its method does not need, its chain is too long and its bound too kind.
    """
    last = behind_barrier = 0.0
    at_item: dict[tuple[str, int], float] = {}
    chain: dict[int, float] = {}
    everything = list(calls)
    # What ends at the very moment at which another begins may have been waited for.
    moments = sorted(
        [(call.end_s, 0, place) for place, call in enumerate(everything)]
        + [(call.start_s, 1, place) for place, call in enumerate(everything)]
    )
    for _, begins, place in moments:
        call = everything[place]
        if begins:
            waited = last if call.role in barriers else behind_barrier
            for role in _FOLLOWS.get(call.role, ()):
                waited = max([waited, *(at_item.get((role, number), 0.0) for number in call.items)])
            chain[place] = waited + call.latency_s
            continue
        if place not in chain:  # it took no time at all, and ended before it began
            continue
        last = max(last, chain[place])
        if call.role in barriers:
            behind_barrier = max(behind_barrier, chain[place])
        for number in call.items:
            at_item[call.role, number] = max(at_item.get((call.role, number), 0.0), chain[place])
    return max(chain.values(), default=0.0)


def figures(calls: Iterable[Call], *, slots: int, barriers: Collection[str], within: Window | None = None) -> Figures:
    """The figures of a window, or of everything from the first start to the last end.

    The bound is the larger of two: all that was busy within the window spread evenly over the slots, and the longest
    chain of the calls that lie wholly within it.
    """
    known = served(calls)
    start, end = within or span(known)
    touched = [call for call in known if call.start_s < end and call.end_s > start]
    whole = [call for call in touched if call.start_s >= start and call.end_s <= end]
    busy, makespan = busy_s(touched, (start, end)), end - start
    bound = max(busy / slots, longest_chain_s(whole, barriers))
    return Figures(
        calls=len(touched),
        makespan_s=makespan,
        mean_concurrency=busy / makespan,
        utilisation=busy / makespan / slots,
        bound_s=bound,
        over_bound=makespan / bound,
    )


def steps(calls: Iterable[Call], practice: Collection[int]) -> list[Window]:
    """The windows of tokenprior's steps: from the first attempt at a practice item to the last call before the library
    update that is about one. Attempts of the gate are none of a step's, though they may fall into its window.

    Args:
        practice: the numbers of the items that are learned from.
    """
    known = served(calls)
    ends = sorted(call.end_s for call in known if call.role == "revise")
    begins = sorted(call.start_s for call in known if call.role == "revise")
    windows: list[Window] = []
    before = float("-inf")
    for begun, ended in zip(begins, ends, strict=True):
        of_step = [c for c in known if before <= c.start_s and c.end_s <= begun and set(c.items) & set(practice)]
        if of_step:
            windows.append(span(of_step))
        before = ended
    return windows


def given_up(calls: Iterable[Call]) -> int:
    """Requests of which the last answer was a refusal: nobody asked again. At least so many attempts were lost, for of
    several attempts of the same bytes one is counted."""
    last: dict[str, int] = {}
    for call in sorted(calls, key=lambda call: call.start_s):
        last[call.request] = call.status
    return sum(status == 429 for status in last.values())


def profile(calls: Iterable[Call], within: Window, columns: int = 40) -> list[float]:
    """Mean concurrency in each of so many equal parts of a window."""
    known = served(calls)
    start, end = within
    width = (end - start) / columns
    return [busy_s(known, (start + column * width, start + (column + 1) * width)) / width for column in range(columns)]


def starts(calls: Iterable[Call], within: Window, columns: int = 40) -> list[float]:
    """Calls that began, a second, in each of so many equal parts of a window."""
    start, end = within
    width = (end - start) / columns
    began = [0] * columns
    for call in served(calls):
        if start <= call.start_s < end:
            began[min(columns - 1, int((call.start_s - start) / width))] += 1
    return [count / width for count in began]


def drawn(values: Sequence[float], full: float) -> str:
    """A profile as a line of bars, of which a full one stands for `full` or more."""
    return "".join(_BARS[min(len(_BARS) - 1, round(value / full * (len(_BARS) - 1)))] for value in values)
