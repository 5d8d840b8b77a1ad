"""Practised: which recorded attempts are behind a library already."""

from __future__ import annotations

import sqlalchemy as sa

from tokenprior.library import Library
from tokenprior.store import schema
from tokenprior.store.open import Store

_RECORDED = '"source":"served:'  # what the metadata of such a rollout says, as the codec writes it


def practised(store: Store, library: Library) -> dict[str, int]:
    """How many recorded attempts at each task a library was learned from: by the runs that wrote its lessons, and those
    that wrote what these began with.

    Recorded attempts are numbered in their order, and only ever become more: a task that has more than so many has new
    ones. A run that changed no lesson counts for nothing, nor does one whose lessons are gone; what they were taught
    may be learned from again, and a call that was paid for is not made twice.
    """
    starts = {run.id: run.start for run in store.runs()}
    runs: set[str] = set()
    ahead = [library]
    while ahead:
        wrote = {experience.provenance.run for experience in ahead.pop()} & starts.keys() - runs
        runs |= wrote
        ahead += [starts[run] for run in wrote]
    columns = schema.rollouts.c
    counted = (
        sa.select(columns.task, sa.func.max(columns.attempt) + 1)
        .where(columns.run.in_(sorted(runs)), columns.phase == "rollout", columns.rollout.contains(_RECORDED))
        .group_by(columns.task)
    )
    return store.read(lambda connection: {str(task): int(count) for task, count in connection.execute(counted)})
