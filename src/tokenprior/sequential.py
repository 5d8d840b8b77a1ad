"""Evidence that may be looked at after every task, by betting: stopping early costs no validity.

A gambler who bets against "the mean is m", at odds that are fair if it is, grows rich only if it is not. The fortune is
the evidence. Standard library only.

Source: Waudby-Smith and Ramdas, "Estimating Means of Bounded Random Variables by Betting", Journal of the Royal
Statistical Society B 86 (2024); for all looks at once Ville, Étude critique de la notion de collectif, 1939.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean

from tokenprior.statistics import Interval

# The shares of what can be lost that are staked. The best is about the mean gain over the mean of its square, so rare
# or small differences ask for a large share and noisy ones for a small one. Spreading the purse evenly over all of them
# and both sides costs little: the fortune is never below an eighteenth of what the best bet alone would have made.
_STAKES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
_LARGEST_EXPONENT = 709.0
_HALVINGS = 50


def e_value(values: Sequence[float], *, low: float, high: float, null: float = 0.0) -> float:
    """Two-sided evidence against the mean being `null`, for independent values within `low` and `high`.

    P(it ever reaches 1/level) <= level under the null, whenever one looks and however often. That holds for tasks drawn
    at random and taken in an order that nothing of their outcome decided. 1 is no evidence. The order of the values
    does not change it.

    Raises:
        ValueError: if a value or `null` is outside `low` and `high`.
    """
    return math.exp(min(_log_evidence(_counted(values, low, high), low, high, null), _LARGEST_EXPONENT))


def confidence_sequence(values: Sequence[float], *, low: float, high: float, level: float = 0.05) -> Interval:
    """The observed mean, with all means against which the evidence is below 1/level.

    P(it ever leaves out the true mean) <= level, whenever one looks and however often. It is wider than an interval for
    a single look, and with few values it is nearly all of `low` to `high`.

    Raises:
        ValueError: if there are no values, or one is outside `low` and `high`.
    """
    if not values:
        raise ValueError("no values have no mean")
    counts = _counted(values, low, high)
    mean = min(max(fmean(values), low), high)
    enough = -math.log(level)

    def farthest(outside: float) -> float:
        # Evidence is convex in the mean that it speaks against and at most 1 at the observed one: one crossing a side.
        inside = mean
        if _log_evidence(counts, low, high, outside) < enough:
            return outside
        for _ in range(_HALVINGS):
            middle = (inside + outside) / 2
            if _log_evidence(counts, low, high, middle) < enough:
                inside = middle
            else:
                outside = middle
        return outside

    return Interval(mean=mean, low=farthest(low), high=farthest(high), n=len(values))


def _counted(values: Sequence[float], low: float, high: float) -> Counter[float]:
    """How often each value comes. Means of a few attempts take few values, so few logarithms are left to take."""
    if not low < high or not all(low <= value <= high for value in values):
        raise ValueError(f"a value is outside {low} to {high}")
    return Counter(values)


def _log_evidence(counts: Mapping[float, int], low: float, high: float, null: float) -> float:
    if not low <= null <= high:
        raise ValueError(f"the mean {null} is outside {low} to {high}")
    fortunes = []
    for room, sign in ((null - low, 1), (high - null, -1)):
        # What a value gains for the gambler, in units of the most that it can lose; at the edge nothing can be lost.
        gains = [(_ratio(sign * (value - null), room), count) for value, count in counts.items()]
        fortunes += [math.fsum(count * math.log1p(stake * gain) for gain, count in gains) for stake in _STAKES]
    best = max(fortunes)
    if best == math.inf:
        return best
    return best + math.log(math.fsum(math.exp(fortune - best) for fortune in fortunes) / len(fortunes))


def _ratio(gain: float, room: float) -> float:
    if room > 0:
        return max(-1.0, gain / room)
    return math.inf if gain > 0 else 0.0
