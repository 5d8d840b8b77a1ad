"""Epoch and step: which tasks are seen in which order. The one place that decides it, from a seed alone."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from tokenprior.task import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One batch of tasks and the library update that follows it.

    Attributes:
        index: from 0, over the whole run.
        epoch: from 0.
        tasks: the batch, in the order in which its groups are started and its lessons are numbered.
    """

    index: int
    epoch: int
    tasks: tuple[Task, ...]


def plan_steps(tasks: Sequence[Task], *, epochs: int, batch_size: int | None, seed: int) -> tuple[Step, ...]:
    """All steps of a run. Every epoch sees every task once, in an order of its own.

    Args:
        batch_size: tasks of a step; `None` is one batch an epoch, as in the paper. The last batch of an epoch may be
            smaller.
    """
    size = batch_size or max(1, len(tasks))
    steps: list[Step] = []
    for epoch in range(epochs):
        order = list(tasks)
        random.Random(f"{seed}/{epoch}").shuffle(order)
        for start in range(0, len(order), size):
            steps.append(Step(index=len(steps), epoch=epoch, tasks=tuple(order[start : start + size])))
    return tuple(steps)
