"""Statistics of tasks: means with intervals, the paired test, and how many tasks it takes.

Tasks are resampled or flipped, never attempts, because attempts at one task are not independent. Standard library only;
the tests check it against SciPy.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from operator import getitem
from statistics import NormalDist, fmean, stdev
from typing import Literal

_LARGEST_LATTICE = 512
_LARGEST_POLYNOMIAL_BITS = 40_000_000
_MOST_ENUMERATED = 14


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A mean with its 95% interval, over `n` tasks. With fewer than two tasks the interval is not known (`None`)."""

    mean: float
    low: float | None
    high: float | None
    n: int

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.mean:.3f} (no interval from {self.n} task)"
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def apart(here: Sequence[float], there: Sequence[float]) -> float:
    """The difference of two means; exactly 0.0 where only rounding tells them apart."""
    difference = fmean(here) - fmean(there)
    return 0.0 if abs(difference) <= 1e-9 * max(map(abs, (*here, *there))) else difference


def bootstrap_mean(values: Sequence[float], *, resamples: int, seed: int) -> Interval:
    """The mean of one value per task, with the 95% bootstrap interval over tasks.

    The percentile interval is too narrow for few tasks, by about sqrt((n-1)/n) and by the difference between normal
    and t quantiles; both are corrected by widening it around the mean. `benchmarks/coverage.py` measures how often it
    then holds the truth. What was never seen to vary cannot be resampled: with fewer than about five tasks that differ
    from the others it is too narrow, and with none it has no width. `sequential.confidence_sequence`, which is told the
    bounds of a value, holds there too.

    Source: Hesterberg, "What Teachers Should Know About the Bootstrap", The American Statistician 69 (2015), section 3.
    """
    n = len(values)
    mean = fmean(values)
    if n < 2:
        return Interval(mean=mean, low=None, high=None, n=n)
    rng = random.Random(seed)
    means = sorted(fmean(rng.choices(values, k=n)) for _ in range(resamples))
    wide = (n / (n - 1)) ** 0.5 * t_quantile(0.975, n - 1) / NormalDist().inv_cdf(0.975)
    low = means[int(0.025 * (resamples - 1))]
    high = means[-1 - int(0.025 * (resamples - 1))]
    # Widening may step out of what was ever observed; a score of 1.001 is none.
    return Interval(
        mean=mean,
        low=max(min(values), mean - (mean - low) * wide),
        high=min(max(values), mean + (high - mean) * wide),
        n=n,
    )


def t_mean(values: Sequence[float]) -> Interval:
    """The mean of one value per task, with the 95% interval of Student's t: for curves of many points, where a
    bootstrap for each takes too long. It does not leave the range of the values, as their mean does not."""
    n = len(values)
    mean = fmean(values)
    if n < 2:
        return Interval(mean=mean, low=None, high=None, n=n)
    wide = t_quantile(0.975, n - 1) * stdev(values) / n**0.5
    return Interval(mean=mean, low=max(min(values), mean - wide), high=min(max(values), mean + wide), n=n)


def sign_flip(
    differences: Sequence[float], *, side: Literal["two", "greater"] = "two", flips: int = 20_000, seed: int = 0
) -> float:
    """The p-value of the paired test that flips the sign of each task's difference.

    Without an effect a task's difference is as likely to be `d` as `-d`. The p-value is the share of all sign patterns
    whose mean is at least as far from 0 (`"two"`) or at least as large (`"greater"`) as the one observed. It holds for
    any number of tasks, and no order of the differences changes it. Two-sided it is never below 2 to the power of one
    less the number of differences that are not 0.

    It is exact where all differences are multiples of 1/m with m up to a few hundred, as differences of means of k
    attempts are, for up to a thousand tasks or more; and with up to 14 differences of any kind. Else `flips` random
    patterns estimate it, counting the observed one, so that it never is 0.

    Source: Fisher, The Design of Experiments, 1935, section 21; for the random patterns Phipson and Smyth,
    "Permutation P-values Should Never Be Zero", Statistical Applications in Genetics and Molecular Biology 9 (2010).

    Returns:
        A number in (0, 1]; 1 where nothing differs.
    """
    if not all(map(math.isfinite, differences)):
        raise ValueError("a difference is not finite")
    ladder = _on_a_lattice(differences)
    if ladder is not None:
        p = _share_of_patterns(ladder, side)
        if p is not None:
            return p
    noise = 1e-12 * math.fsum(map(abs, differences))
    # Sorted, so that the random patterns meet the same sizes whatever the order of the tasks.
    sizes = sorted(abs(difference) for difference in differences if abs(difference) > noise)
    total = math.fsum(sizes)
    observed = math.fsum(differences)
    if side == "two":
        observed = abs(observed)
    if len(sizes) <= _MOST_ENUMERATED:
        patterns = _subset_sums(sizes)
        unseen = 0
    else:
        patterns = list(_random_subset_sums(sizes, flips, seed))
        unseen = 1
    # A pattern's sum is what has a plus, less what has a minus: twice the first, less everything.
    sums = [2 * positive - total for positive in patterns]
    if side == "two":
        sums = [abs(found) for found in sums]
    hits = sum(found >= observed - noise for found in sums)
    return (hits + unseen) / (len(sums) + unseen)


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """P-values made fit to be judged together, in the given order.

    Rejecting those at or below a level keeps the chance of any wrong rejection at that level, however they depend on
    each other.

    Source: Holm, "A Simple Sequentially Rejective Multiple Test Procedure", Scandinavian Journal of Statistics 6
    (1979).
    """
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return tuple(adjusted)


def pass_at(k: int, *, attempts: int, successes: int) -> float:
    """The chance that at least one of `k` attempts succeeds, unbiased from `attempts` of which `successes` did.

    Source: Chen et al., "Evaluating Large Language Models Trained on Code", arXiv 2107.03374 (2021), equation 1.

    Raises:
        ValueError: if `k` is not within 1 and `attempts`, or `successes` not within 0 and `attempts`.
    """
    if not 1 <= k <= attempts:
        raise ValueError(f"pass@{k} cannot be estimated from {attempts} attempts")
    if not 0 <= successes <= attempts:
        raise ValueError(f"{successes} successes in {attempts} attempts")
    every = math.comb(attempts, k)
    return (every - math.comb(attempts - successes, k)) / every


def detectable_gain(differences: Sequence[float], *, power: float = 0.8, level: float = 0.05) -> float | None:
    """The smallest true mean difference that a two-sided test of this many tasks, of this spread, finds with `power`.

    Source: Bloom, "Minimum Detectable Effects", Evaluation Review 19 (1995).

    Returns:
        None below what `sign_flip` needs to reach `level`, and where all are equal: a spread that was never seen is not
        a spread of 0, and "finds any gain" would be the wrong answer.
    """
    if len(differences) < max(2, _fewest(level)):
        return None
    spread = _spread(differences)
    if spread == 0:
        return None
    return _standard_errors(len(differences), power, level) * spread / math.sqrt(len(differences))


def tasks_needed(differences: Sequence[float], *, power: float = 0.8, level: float = 0.05) -> int | None:
    """How many tasks in all show, with `power` in a two-sided test, a gain or loss as large as the mean of these.

    The observed mean is itself uncertain, and so is this number: it plans, it proves nothing. It is never smaller than
    what `sign_flip` needs to reach `level` at all.

    Source: Bloom, "Minimum Detectable Effects", Evaluation Review 19 (1995), solved for the number of tasks.

    Returns:
        None below two differences, and where their mean is 0.
    """
    if len(differences) < 2:
        return None
    mean = abs(math.fsum(differences)) / len(differences)
    if mean <= 1e-12 * max(map(abs, differences)):
        return None
    effect = _spread(differences) / mean
    few = max(2, _fewest(level))

    def suffices(n: int) -> bool:
        return _standard_errors(n, power, level) * effect <= math.sqrt(n)

    if suffices(few):
        return few
    many = 2 * few
    while not suffices(many):
        few, many = many, 2 * many
    while many - few > 1:
        middle = (few + many) // 2
        few, many = (few, middle) if suffices(middle) else (middle, many)
    return many


def attempts_needed(
    differences: Sequence[float], noise: float, attempts: int, *, power: float = 0.8, level: float = 0.05
) -> int | None:
    """How many attempts at each of these tasks show, with `power`, a gain or loss as large as the mean of these.

    More attempts take away what scatters between attempts at one task, and nothing of what lies between tasks.
    Source: Bloom, "Minimum Detectable Effects", Evaluation Review 19 (1995); variance components as in Miller, "Adding
    Error Bars to Evals", arXiv 2411.00640 (2024), section 3.

    Args:
        noise: the part of the differences' variance that is chance between attempts: the mean over tasks of the
            variance of a difference of two means of `attempts`.
        attempts: at each task so far, in each arm.

    Returns:
        None below what `sign_flip` needs to reach `level`, where the mean is 0, and where the tasks differ too much
        for any number.
    """
    if len(differences) < max(2, _fewest(level)) or not any(differences):
        return None
    mean = abs(math.fsum(differences)) / len(differences)
    allowed = len(differences) * (mean / _standard_errors(len(differences), power, level)) ** 2
    between = max(0.0, _spread(differences) ** 2 - noise)
    if noise <= 0 or allowed <= between:
        return None
    return max(1, math.ceil(attempts * noise / (allowed - between)))


def _fewest(level: float) -> int:
    """With fewer tasks `sign_flip` reaches this level on no data, on both sides."""
    return math.ceil(1 - math.log2(level))


@cache
def t_quantile(p: float, df: float) -> float:
    """The quantile of Student's t distribution with `df` degrees of freedom, by bisection on its exact tail.

    Source: Abramowitz and Stegun, Handbook of Mathematical Functions, 1964, 26.7.1 with 26.5.27; 26.7.5 above ten
    thousand degrees of freedom, where it errs less than the logarithms of the gamma function do.

    Raises:
        ValueError: if `p` is not between 0 and 1, or `df` below 1.
    """
    if not 0 < p < 1 or not df >= 1:
        raise ValueError(f"no quantile {p} of Student's t with {df} degrees of freedom")
    if df > 1e4:
        z = NormalDist().inv_cdf(p)
        return z + (z**3 + z) / (4 * df) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * df**2)
    share = min(p, 1 - p)
    low, high = 0.0, 1.0
    while _t_tail(high, df) > share:
        low, high = high, 2 * high
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if _t_tail(middle, df) > share else (low, middle)
    return math.copysign(low, p - 0.5)


def _on_a_lattice(differences: Sequence[float]) -> list[int] | None:
    """The differences as whole multiples of one step, if there is one that is no finer than a few hundredths."""
    noise = 1e-9 * max(map(abs, differences), default=0.0)
    near = [Fraction(difference).limit_denominator(_LARGEST_LATTICE) for difference in differences]
    if any(abs(float(found) - difference) > noise for found, difference in zip(near, differences, strict=True)):
        return None
    finest = math.lcm(*(found.denominator for found in near))
    steps = [int(found * finest) for found in near]
    coarsest = math.gcd(*steps) or 1
    return [step // coarsest for step in steps]


def _share_of_patterns(steps: Sequence[int], side: str) -> float | None:
    """The exact p-value by counting all sign patterns, or None where the count would be too big a number.

    The number of patterns in which the positive steps sum to s is the coefficient of x^s in prod(1 + x^|step|). With
    x = 2^width, wide enough for every coefficient, that polynomial is one integer, and a product a shift and a sum.

    Source: Pagano and Tritchler, "On Obtaining Permutation Distributions in Polynomial Time", Journal of the American
    Statistical Association 78 (1983); Kronecker's substitution.
    """
    sizes = sorted(abs(step) for step in steps if step)
    if not sizes:
        return 1.0
    width = len(sizes) + 2
    if sum(sizes) * width > _LARGEST_POLYNOMIAL_BITS:
        return None
    polynomial = 1
    for size in sizes:
        polynomial += polynomial << (size * width)
    observed = sum(steps)
    if side == "two":
        if observed == 0:
            return 1.0
        observed = abs(observed)
    tail = polynomial >> ((observed + sum(sizes)) // 2 * width)
    # 2^width is 1 modulo 2^width - 1, so the remainder is the sum of the coefficients.
    patterns = tail % ((1 << width) - 1) * (2 if side == "two" else 1)
    # With over a thousand tasks that all agree the share is smaller than any float; it is not 0.
    return max(patterns / (1 << len(sizes)), math.ulp(0.0))


def _subset_sums(sizes: Sequence[float]) -> list[float]:
    sums = [0.0]
    for size in sizes:
        sums += [found + size for found in sums]
    return sums


def _random_subset_sums(sizes: Sequence[float], draws: int, seed: int) -> Iterator[float]:
    """Sums of random subsets, eight sizes a byte: one look into a table adds what eight coins chose."""
    rng = random.Random(seed)
    tables = [_subset_sums(sizes[start : start + 8]) for start in range(0, len(sizes), 8)]
    last = (1 << (len(sizes) - 8 * (len(tables) - 1))) - 1
    for _ in range(draws):
        coins = bytearray(rng.randbytes(len(tables)))
        coins[-1] &= last
        yield math.fsum(map(getitem, tables, coins))


def _spread(values: Sequence[float]) -> float:
    """The standard deviation; 0 where the values differ by rounding alone."""
    found = stdev(values)
    return found if found > 1e-12 * max(map(abs, values)) else 0.0


def _standard_errors(n: int, power: float, level: float) -> float:
    """How many standard errors of `n` tasks a true mean must be from 0 to be found."""
    return t_quantile(1 - level / 2, n - 1) + t_quantile(power, n - 1)


def _t_tail(t: float, df: float) -> float:
    """P(T > t) for t >= 0."""
    return _beta_share(df / (df + t * t), t * t / (df + t * t), df / 2, 0.5) / 2


def _beta_share(x: float, y: float, a: float, b: float) -> float:
    """The regularized incomplete beta function of `x`, by its continued fraction (Lentz's method).

    `y` is 1 - x; taking the difference here would lose its digits where `x` is near 1.

    Source: Abramowitz and Stegun, Handbook of Mathematical Functions, 1964, 26.5.8; Lentz, "Generating Bessel Functions
    in Mie Scattering Calculations Using Continued Fractions", Applied Optics 15 (1976).
    """
    if x <= 0 or y <= 0:
        return float(y <= 0)
    if x > (a + 1) / (a + b + 2):
        return 1 - _beta_share(y, x, b, a)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log(y))
    up, down = 1.0, 1 / (1 - (a + b) * x / (a + 1))
    value = down
    step = 1
    while abs(up * down - 1) > 1e-15:
        for term in (
            step * (b - step) * x / ((a + 2 * step - 1) * (a + 2 * step)),
            -(a + step) * (a + b + step) * x / ((a + 2 * step) * (a + 2 * step + 1)),
        ):
            up, down = 1 + term / up, 1 / (1 + term * down)
            value *= up * down
        step += 1
    return front * value / a
