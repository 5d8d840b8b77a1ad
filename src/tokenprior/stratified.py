"""Stratified: two arms drawn by lot, compared over strata, with an interval for one look and one for every look.

A unit that is seen in several strata is one unit: what its values share widens the interval. Standard library only.

Source: for the interval of one look Welch, "The Generalization of 'Student's' Problem when Several Different Population
Variances are Involved", Biometrika 34 (1947). For the one of every look Waudby-Smith, Arbour, Sinha, Kennedy and
Ramdas, "Time-uniform Central Limit Theory and Asymptotic Confidence Sequences", The Annals of Statistics 52 (2024). For
the weights of strata Mantel and Haenszel, "Statistical Aspects of the Analysis of Data from Retrospective Studies of
Disease", Journal of the National Cancer Institute 22 (1959). For the two values put to each arm Agresti and Caffo,
"Simple and Effective Confidence Intervals for Proportions and Differences of Proportions", The American Statistician 54
(2000).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Hashable, Mapping
from dataclasses import dataclass
from itertools import chain
from statistics import NormalDist, fmean

from tokenprior.statistics import Interval, t_quantile

LEVEL = 0.05  # of an interval that leaves out the truth; of the one for every look, that it ever does
FEWEST = 5  # units in an arm, below which there is no interval
# The true difference, in standard deviations of a unit, for which the interval of every look is made to be narrow.
# Between 0.1 and 0.2 it hardly matters from a thousand units on. A larger one pays early, and misses too often where a
# value is rare and an arm small: 0.15 missed in 6% of 400 with 3% and 5% of failures and a tenth held out.
_TUNED_TO = 0.125
_POWER = NormalDist().inv_cdf(0.8)


# By stratum, and by whether it was treated, the value of each unit. The difference is the treated less the others.
Cells = Mapping[tuple[Hashable, bool], Mapping[str, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class StratifiedDifference:
    """Two arms apart.

    Attributes:
        estimate: the difference of the mean values.
        variance: of the estimate; 0 where all values are equal.
        scatter: the variance of a unit's value within its arm and stratum.
        df: degrees of freedom of `variance`.
        most: how far apart two values are at most.
        units: that were treated, and the others.
        strata: that have two units or more in each arm; the others tell nothing.
    """

    estimate: float
    variance: float
    scatter: float
    df: int
    most: float
    units: tuple[int, int]
    strata: frozenset[Hashable]

    @property
    def once(self) -> Interval:
        """The 95% interval of one look that was planned."""
        return self._within(t_quantile(1 - LEVEL / 2, self.df) * math.sqrt(self.variance))

    @property
    def always(self) -> Interval:
        """P(it ever leaves out the true difference) is about `LEVEL` at most, however often one looks."""
        return self._within(every_look(self.variance, self.scatter) if self.variance else 0.0)

    def _within(self, half: float) -> Interval:
        if not self.variance or min(self.units) < FEWEST:
            return Interval(mean=self.estimate, low=None, high=None, n=min(self.units))
        low, high = max(-self.most, self.estimate - half), min(self.most, self.estimate + half)
        return Interval(mean=self.estimate, low=low, high=high, n=min(self.units))

    @property
    def times_needed(self) -> float | None:
        """With so many times the units, `always` would leave out 0 in 4 of 5 tries if the estimate is the truth.

        The estimate is itself uncertain, and so is this number: it plans, it proves nothing. At least 1; `None` where
        there are no bounds, or the estimate is 0.
        """
        if self.always.low is None or not self.estimate:
            return None

        def suffices(times: float) -> bool:
            variance = self.variance / times
            return every_look(variance, self.scatter) + _POWER * math.sqrt(variance) <= abs(self.estimate)

        if suffices(1.0):
            return 1.0
        few, many = 1.0, 2.0
        while not suffices(many):
            few, many = many, 2 * many
        while many - few > 0.001 * many:
            middle = (few + many) / 2
            few, many = (few, middle) if suffices(middle) else (middle, many)
        return many


def every_look(variance: float, scatter: float) -> float:
    """How far to each side an interval goes that holds at every look.

    It is the mixture of tests over all differences, those of about `_TUNED_TO` standard deviations of a unit weighing
    most, in the time that the information so far measures.

    Args:
        variance: of the estimate at this look, above 0.
        scatter: of one unit, which is what the estimate's variance is a share of.
    """
    time = _TUNED_TO**2 * scatter / variance
    return math.sqrt(variance * (1 + 1 / time) * (math.log1p(time) - 2 * math.log(LEVEL)))


def stratified_difference(cells: Cells) -> StratifiedDifference | None:
    """The treated less the others, each stratum by itself and then pooled. No order of the values changes it.

    Returns:
        `None` where no stratum has two units in each arm.
    """
    sizes = {cell: len(values) for cell, values in cells.items()}
    strata = frozenset(s for s, _ in cells if min(sizes.get((s, True), 0), sizes.get((s, False), 0)) > 1)
    if not strata:
        return None
    cells = {cell: values for cell, values in cells.items() if cell[0] in strata}
    told = {stratum: 1 / (1 / sizes[stratum, True] + 1 / sizes[stratum, False]) for stratum in strata}
    total = math.fsum(told.values())
    low, high = (end(end(values.values()) for values in cells.values()) for end in (min, max))
    means = {cell: fmean(values.values()) for cell, values in cells.items()}
    scatters = {cell: _scatter(values.values(), low, high) for cell, values in cells.items()}
    parts = {cell: (told[cell[0]] / total) ** 2 * scatters[cell] / sizes[cell] for cell in cells}
    pulls = {cell: (1 if cell[1] else -1) * told[cell[0]] / total / sizes[cell] for cell in cells}
    alone = math.fsum(parts.values())
    estimate = math.fsum(told[s] / total * (means[s, True] - means[s, False]) for s in strata)
    return StratifiedDifference(
        estimate=0.0 if abs(estimate) <= 1e-12 * max(abs(low), abs(high)) else estimate,
        # That the values of a unit cancel out is not relied upon.
        variance=alone + max(0.0, _shared(cells, means, pulls)),
        scatter=math.fsum(scatters[cell] * sizes[cell] for cell in cells) / sum(sizes[cell] for cell in cells),
        df=int(alone**2 / math.fsum(part**2 / (sizes[cell] - 1) for cell, part in parts.items())) if alone else 1,
        most=high - low,
        units=(_units(cells, True), _units(cells, False)),
        strata=strata,
    )


def _units(cells: Cells, treated: bool) -> int:
    return len({unit for cell, values in cells.items() if cell[1] is treated for unit in values})


def _shared(
    cells: Cells, means: Mapping[tuple[Hashable, bool], float], pulls: Mapping[tuple[Hashable, bool], float]
) -> float:
    """What units that stand in several cells add to the variance of an estimate that each of their values pulls at."""
    seen = Counter(chain.from_iterable(cells.values()))
    by_unit: dict[str, list[float]] = {unit: [] for unit, times in seen.items() if times > 1}
    if not by_unit:
        return 0.0
    for cell, values in cells.items():
        for unit in by_unit.keys() & values.keys():
            by_unit[unit].append(pulls[cell] * (values[unit] - means[cell]))
    return math.fsum(math.fsum(pull) ** 2 - math.fsum(one * one for one in pull) for pull in by_unit.values())


def mean_with_interval(values: Collection[float]) -> Interval | None:
    """The mean of one value for each unit, with the 95% interval of one look; `None` if there are no values.

    For more values than `statistics.bootstrap_mean` can resample while somebody waits.
    """
    if not values:
        return None
    n, mean, low, high = len(values), fmean(values), min(values), max(values)
    if n < FEWEST or low == high:
        return Interval(mean=mean, low=None, high=None, n=n)
    half = t_quantile(1 - LEVEL / 2, n - 1) * math.sqrt(_scatter(values, low, high) / n)
    return Interval(mean=mean, low=max(low, mean - half), high=min(high, mean + half), n=n)


def _scatter(values: Collection[float], low: float, high: float) -> float:
    """The variance of some values and of the lowest and the highest of all, put to them once more.

    An arm in which a rare value was not seen yet seems not to vary at all; with these it does.
    """
    mean = math.fsum((*values, low, high)) / (len(values) + 2)
    return math.fsum((value - mean) ** 2 for value in (*values, low, high)) / (len(values) + 1)
