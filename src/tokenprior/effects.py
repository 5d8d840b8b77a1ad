"""Effects: what each experience does, estimated from rollouts that are made anyway.

Order of events: in every group a few pairs of attempts see a part of the library and its mirror image (`halves`); the
rewards of each group are centred on the group's mean and regressed on what was in the prompt (`estimate`); estimates
are drawn towards zero by as much as chance alone scatters them.

Departure from the paper: there every attempt sees the whole library, and no effect of one lesson is known.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from operator import mul

from tokenprior.experience import Effect
from tokenprior.group import Group
from tokenprior.library import Library
from tokenprior.statistics import t_quantile

ENOUGH = 4  # tasks beyond the number of experiences before an interval over tasks says anything


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """The scored attempts of one group that saw different parts of a library.

    Attributes:
        task: the task's id.
        step: of the run.
        attempts: for each the keys of what was in its prompt, and its reward. A key names a lesson and its words, for
            other words have another effect.
    """

    task: str
    step: int
    attempts: tuple[tuple[frozenset[str], float], ...]


def halves(ids: Sequence[str], *, row: int, seed: str) -> tuple[frozenset[str], frozenset[str]]:
    """One row of a two-level orthogonal design, and its mirror image: each id is in one of the two.

    Over as many consecutive rows as the design has (the power of two above the number of ids) every id is in half of
    the first parts, every two ids are together in a quarter of them, and with the mirror images no effect of a single
    id is mixed up with that of a pair. There are so few different parts that a server can cache each.
    Source: Hadamard matrices as designs: Plackett and Burman, "The Design of Optimum Multifactorial Experiments",
    Biometrika 33 (1946); mirror images: Box and Hunter, Technometrics 3 (1961).

    Args:
        row: which row, from 0; taken modulo the size of the design.
        seed: which column an id gets.
    """
    size = 1 << len(ids).bit_length()
    columns = random.Random(seed).sample(range(1, size), len(ids))
    chosen = frozenset(i for i, column in zip(ids, columns, strict=True) if (row % size & column).bit_count() % 2 == 0)
    return chosen, frozenset(ids) - chosen


def observed(groups: Iterable[Group], library: Library, step: int) -> tuple[Observation, ...]:
    """The groups of a step in which scored attempts saw different parts of a library."""
    found: list[Observation] = []
    parts: dict[tuple[str, ...], frozenset[str]] = {}  # few for many attempts, and each in memory once
    for group in groups:
        seen = [(rollout.included, reward.value) for rollout, reward in group.scored if reward.value is not None]
        for ids in {ids for ids, _ in seen} - parts.keys():
            parts[ids] = frozenset(library[i].key for i in ids)
        attempts = tuple((parts[ids], value) for ids, value in seen)
        if len({included for included, _ in attempts}) > 1:
            found.append(Observation(task=group.task.id, step=step, attempts=attempts))
    return tuple(found)


def measure(library: Library, observations: Sequence[Observation]) -> dict[str, Effect]:
    """The effects by id of the experiences of a library, as they read now; see `estimate`."""
    found = estimate(observations, [experience.key for experience in library])
    return {experience.id: found[experience.key] for experience in library if experience.key in found}


def estimate(observations: Sequence[Observation], keys: Collection[str]) -> dict[str, Effect]:
    """The effect of each experience that can be told from the others.

    Least squares of rewards on inclusion, both centred on their group, with a sandwich variance over tasks and
    Student's t, so that attempts at one task may depend on each other and lessons may help on some tasks only.
    Source: Liang and Zeger, Biometrika 73 (1986); shrinkage: Morris, JASA 78 (1983).

    Returns:
        Effects by key; without those that never varied, that always came and went with another, or that varied at fewer
        than `ENOUGH` tasks more than there are such experiences. Intervals are not corrected for their number.
    """
    # There are few designs, however many groups have them: what hangs on the design alone is worked out once.
    designs: dict[_Design, list[Observation]] = {}
    for one in observations:
        designs.setdefault(tuple(included for included, _ in one.attempts), []).append(one)
    varying = {
        key: [o for design, of in designs.items() if len({key in part for part in design}) > 1 for o in of]
        for key in keys
    }
    varied = [key for key, seen in varying.items() if seen]
    told = {key: len({o.task for o in varying[key]}) - len(varied) for key in varied}  # degrees of freedom
    if max(told.values(), default=0) < ENOUGH:
        return {}
    # A group in which none of them varied says nothing of them, and must not count as if it did.
    known = frozenset(varied)
    blocks = [
        (_centred(design, varied), of) for design, of in designs.items() if len({part & known for part in design}) > 1
    ]
    inverse, means = _fitted(blocks, len(varied))
    scores = _scores(blocks, means)
    made: dict[str, tuple[float, float]] = {}
    for place, i in enumerate(varied):
        line = inverse[place]
        variance = sum(sum(map(mul, line, score)) ** 2 for score in scores.values())
        if line[place] < _ALIASED and told[i] >= ENOUGH:
            # Residuals are smaller than the noise by what was fitted to it.
            made[i] = (means[place], (variance * (told[i] + len(varied)) / told[i]) ** 0.5)
    # What is left of the scatter of the estimates when that of chance is taken out: how far true effects lie apart.
    spread = max(0.0, sum(mean**2 - error**2 for mean, error in made.values()) / max(1, len(made)))
    rewards = [reward for one in observations for _, reward in one.attempts]
    most = max(rewards) - min(rewards)  # no effect is larger than rewards lie apart
    effects: dict[str, Effect] = {}
    for i, (mean, error) in made.items():
        seen = varying[i]
        reach = t_quantile(0.975, told[i]) * error
        effects[i] = Effect(
            mean=_round(mean),
            low=_round(max(mean - reach, -most)),
            high=_round(min(mean + reach, most)),
            shrunk=_round(mean * spread / (spread + error**2)) if spread else 0.0,
            tasks=len({o.task for o in seen}),
            rollouts=sum(len(o.attempts) for o in seen),
        )
    return effects


def _round(value: float) -> float:
    """Without the rounding errors of a sum, which are no effect."""
    return round(value, 9) + 0.0


_Design = tuple[frozenset[str], ...]  # what each attempt of a group saw
_Block = tuple[list[list[float]], list[Observation]]  # the centred rows of a design, and the groups that have it


def _centred(design: _Design, keys: Sequence[str]) -> list[list[float]]:
    """For each attempt its inclusion of each key, less the group's share of it."""
    shares = [sum(key in part for part in design) / len(design) for key in keys]
    return [[(key in part) - share for key, share in zip(keys, shares, strict=True)] for part in design]


def _centred_rewards(one: Observation) -> list[float]:
    mean = sum(reward for _, reward in one.attempts) / len(one.attempts)
    return [reward - mean for _, reward in one.attempts]


def _fitted(blocks: Iterable[_Block], size: int) -> tuple[list[list[float]], list[float]]:
    """The inverse of the sums of squares and products, and the least-squares estimates."""
    squares = [[0.0] * size for _ in range(size)]
    moments = [0.0] * size
    for rows, of in blocks:
        rewards = [sum(at_place) for at_place in zip(*map(_centred_rewards, of), strict=True)]
        for row, reward in zip(rows, rewards, strict=True):
            for i, value in enumerate(row):
                weight = len(of) * value
                squares[i] = [so_far + weight * other for so_far, other in zip(squares[i], row, strict=True)]
                moments[i] += value * reward
    inverse = _inverse(squares)
    return inverse, [sum(map(mul, line, moments)) for line in inverse]


def _scores(blocks: Iterable[_Block], means: Sequence[float]) -> dict[str, list[float]]:
    """For each task the sums of residuals times rows."""
    scores: dict[str, list[float]] = {}
    for rows, of in blocks:
        expected = [sum(map(mul, means, row)) for row in rows]
        for one in of:
            score = scores.setdefault(one.task, [0.0] * len(means))
            for row, reward, mean in zip(rows, _centred_rewards(one), expected, strict=True):
                residual = reward - mean
                score[:] = [so_far + residual * value for so_far, value in zip(score, row, strict=True)]
    return scores


_RIDGE = 1e-9  # keeps the inverse finite where two experiences always came and went together ...
_ALIASED = 1e6  # ... and such ones show by an entry beyond this


def _inverse(matrix: list[list[float]]) -> list[list[float]]:
    """The inverse of a symmetric matrix without negative eigenvalues, by Gauss and Jordan."""
    n = len(matrix)
    work = [
        [value + _RIDGE * (row == column) for column, value in enumerate(line)] + [float(row == c) for c in range(n)]
        for row, line in enumerate(matrix)
    ]
    for column in range(n):
        best = max(range(column, n), key=lambda row: abs(work[row][column]))
        work[column], work[best] = work[best], work[column]
        pivot = work[column][column]
        work[column] = [value / pivot for value in work[column]]
        for row in range(n):
            if row != column and (factor := work[row][column]):
                work[row] = [a - factor * b for a, b in zip(work[row], work[column], strict=True)]
    return [line[n:] for line in work]
