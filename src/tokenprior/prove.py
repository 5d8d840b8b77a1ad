"""Prove: a candidate library against the one that ships, on tasks that no lesson was drawn from.

Order of events: candidate and current library attempt every gate task, side by side; what was attempted before is not
attempted again; the differences of the task means decide. A candidate that does not ship is tried in two parts, so
that one bad lesson does not cost the good ones. Every trial is a fact with its figures, whatever came out of it.

The error rate of a run is that of all its trials together. Each trial is a one-sided test at a level of its own; the
level is spent where the test finds nothing, and given back where it does, since a gain that is there is no error. So a
run in which nothing helps ships something with at most `gate_error` chance, however many steps it has: the sum of the
levels of its trials. Trials share gate tasks and attempts, and a candidate may hang on the outcome of the last one, so
that this is no proof to the letter; `benchmarks/null.py` holds it against whole runs.
Source: the fallback procedure, Wiens and Dmitrienko, Journal of Biopharmaceutical Statistics 15 (2005).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tokenprior.agents.base import Agent, BoundedAgent
from tokenprior.attempt import attempt, groups_at_once, side_by_side
from tokenprior.config import LearnConfig
from tokenprior.errors import TokenpriorError
from tokenprior.flow import in_turn
from tokenprior.group import Group
from tokenprior.library import Library
from tokenprior.prior import TokenPrior
from tokenprior.progress import Tracker
from tokenprior.statistics import apart, bootstrap_mean, sign_flip, tasks_needed
from tokenprior.store.record import RunStore
from tokenprior.task import Task
from tokenprior.trial import Decision, Trial
from tokenprior.verifiers.base import Verifier

RESAMPLES = 2_000
SCORED = 0.8  # the share of attempts that have to be scored on both sides before anything ships
MOST_LOOKS = 4  # at one candidate; its attempts add up


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """What candidates are tried on.

    Attributes:
        tasks: of which no lesson is drawn.
        agent: as it will be used, at its evaluation temperature.
    """

    tasks: Sequence[Task]
    agent: Agent


class Baseline:
    """What ships at the gate tasks, attempted before there is a candidate to hold against it. An async context manager.

    The first trial against it needs these attempts, and nothing that a step brings can change them. So they are begun
    when the step has its first lesson, behind all that the step still asks for: in the time in which its last rollouts
    and the library update leave calls unused. It changes when they are made, not which, unless nothing comes of the
    lessons: then they were made too early, and serve the next step. They are older than those of the candidate by some
    minutes, as they are by whole steps for every later candidate.

    An agent that bounds its own attempts is left alone, for the bounds of two would add up. Whoever leaves with an
    error on purpose lets what is under way end, and begins no more; with any other, all of it is cancelled.
    """

    def __init__(
        self, current: Library, *, gate: Gate, verifier: Verifier, record: RunStore, config: LearnConfig
    ) -> None:
        self._current, self._k = current, config.gate_k
        self._gate, self._verifier, self._record, self._rendering = gate, verifier, record, config.prior.rendering
        self._places = {task.id: place for place, task in enumerate(gate.tasks)}
        self._work: asyncio.Task[list[Group | None]] | None = None
        self._left = False

    def begin(self) -> None:
        """There will be a candidate. Called again it does nothing."""
        if self._work is None and not isinstance(self._gate.agent, BoundedAgent):
            size = groups_at_once(self._k)
            self._work = asyncio.ensure_future(in_turn(self._one, self._gate.tasks, at_once=size))

    async def _one(self, task: Task) -> Group | None:
        if self._left:
            return None
        prior = TokenPrior.of(self._current, self._rendering, question=task.question)
        agent, verifier, shelf = self._gate.agent, self._verifier, self._record.shelf
        made = await attempt(task, [prior] * self._k, agent=agent, verifier=verifier, shelf=shelf, phase="gate")
        return made.without_texts()

    def under_way(self, task: Task) -> Callable[[], Coroutine[Any, Any, Group]] | None:
        """What waits for the group of a task; `None` if nobody makes one."""
        if self._work is None:
            return None
        work, place = self._work, self._places[task.id]

        async def wait() -> Group:
            group = (await asyncio.shield(work))[place]
            assert group is not None, "nobody has left"
            return group

        return wait

    async def __aenter__(self) -> Baseline:
        return self

    async def __aexit__(self, _: object, error: BaseException | None, __: object) -> None:
        self._left = True
        if self._work is None:
            return
        if error is not None and not isinstance(error, TokenpriorError):
            self._work.cancel()
        (ended,) = await asyncio.gather(self._work, return_exceptions=True)
        if error is None and isinstance(ended, Exception) and not isinstance(ended, TokenpriorError):
            raise ended


async def prove(
    candidate: Library,
    current: Library,
    *,
    gate: Gate,
    verifier: Verifier,
    record: RunStore,
    config: LearnConfig,
    level: float,
    tried: Mapping[str, int],
    tracker: Tracker,
    baseline: Baseline | None = None,
) -> tuple[Trial, ...]:
    """Try a candidate, and its parts if it does not ship. At most one trial of the result ships.

    Args:
        current: what ships now.
        level: what this step may spend, see `allowance`. The whole candidate gets half of it where parts could follow,
            all of it where not.
        tried: how many trials a version had against the current library. The same attempts would say the same again, so
            with each trial of a candidate there are `gate_k` attempts more at each task. Parts are tried once.
        baseline: attempts of the current library that may be under way, if nothing was held against it before.

    Returns:
        The trials; none if the candidate reads just like the current library, or was looked at `MOST_LOOKS` times.

    Raises:
        ModelError, BudgetReached, StoreError: what was done is kept, the same call goes on.
    """

    looks = tried.get(candidate.version, 0)
    if candidate.version == current.version or looks >= MOST_LOOKS:
        return ()
    k = config.gate_k * (1 + looks)

    async def compared(libraries: Sequence[tuple[str, Library]], level: float) -> list[Trial]:
        every = [current, *(library for _, library in libraries)]
        tracker.phase("gate", total=len(gate.tasks) * k * len(every))

        async def on(task: Task) -> list[Group]:
            priors = [TokenPrior.of(library, config.prior.rendering, question=task.question) for library in every]
            wait = baseline.under_way(task) if baseline else None
            groups = await side_by_side(
                task,
                priors,
                k=k,
                agent=gate.agent,
                verifier=verifier,
                shelf=record.shelf,
                phase="gate",  # always step 0: the attempts with one prior serve every step
                on_rollout=tracker.rollout,
                under_way={priors[0].fingerprint: wait} if wait else None,
            )
            return [group.without_texts() for group in groups]

        # Side by side in time where both are still to be made, so that what drifts at the endpoint drifts for all.
        made = await in_turn(on, gate.tasks, at_once=groups_at_once(k * len(every)))
        shipping, *groups = ([of_task[place] for of_task in made] for place in range(len(every)))
        return [
            decide(library, current, part=part, groups=these, baseline=shipping, level=level, config=config)
            for (part, library), these in zip(libraries, groups, strict=True)
        ]

    parts: list[tuple[str, Library]] = []
    if config.gate_parts and not looks:
        parts = [part for part in _parts(candidate, current) if part[1].version not in tried]
    (whole,) = await compared([("whole", candidate)], level / 2 if parts else level)
    if whole.decision == "ships" or not parts:
        return (whole,)
    trials = await compared(parts, level / 2 / len(parts))
    # Of two that may ship the one with the larger gain does; together they were tried before, and did not.
    best = max(trials, key=lambda trial: (trial.decision == "ships", trial.gain.mean))
    return (whole, *(t if t is best or t.decision != "ships" else replace(t, decision="outdone") for t in trials))


def decide(
    candidate: Library,
    current: Library,
    *,
    part: str,
    groups: Sequence[Group],
    baseline: Sequence[Group],
    level: float,
    config: LearnConfig,
) -> Trial:
    """What attempts at the gate tasks say of a candidate. `groups[i]` and `baseline[i]` are of one task.

    Raises:
        TokenpriorError: no task was scored on both sides, which is an outage and no result.
    """
    differences: list[float] = []
    scored = 0
    for here, there in zip(groups, baseline, strict=True):
        # Attempt by attempt: means over different numbers of attempts differ lopsidedly even between equals.
        pairs = [(w.value, o.value) for w, o in zip(here.rewards, there.rewards, strict=True)]
        both = [(w, o) for w, o in pairs if w is not None and o is not None]
        scored += len(both)
        if both:
            differences.append(apart([w for w, _ in both], [o for _, o in both]))
    if not differences:
        raise TokenpriorError(
            "no gate task was scored both with the candidate and without: put the endpoint or the verifier right, and "
            "the same command goes on"
        )
    gain = bootstrap_mean(differences, resamples=RESAMPLES, seed=config.seed)
    p = sign_flip(differences, side="greater", seed=config.seed)
    share = scored / sum(len(group.rewards) for group in groups)
    asks_proof = config.gate == "proven"
    decision: Decision = "open" if gain.mean >= 0 else "refused"
    if decision == "open" and share >= SCORED and (p <= level or not asks_proof):
        decision = "ships"
    return Trial(
        candidate=candidate,
        against=current.version,
        part=part,
        decision=decision,
        gain=gain,
        p=p,
        level=level if asks_proof else 0.0,
        scored=share,
        wins=sum(difference > 0 for difference in differences),
        losses=sum(difference < 0 for difference in differences),
        ties=sum(difference == 0 for difference in differences),
        missing=len(groups) - len(differences),
        needed=tasks_needed(differences, level=min(1.0, 2 * level)) if asks_proof and gain.mean > 0 else None,
    )


def allowance(figures: Sequence[Mapping[str, Any]], *, steps_left: int, config: LearnConfig) -> float:
    """The level that the trials of the next step may spend: an equal share of what is left of `gate_error`.

    Args:
        figures: of all trials of the run so far, as `Trial.to_json` gives them.
        steps_left: with the next one.
    """
    spent: float = sum(one["level"] for one in figures if one["p"] > one["level"])
    return max(0.0, config.gate_error - spent) / steps_left


def _parts(candidate: Library, current: Library) -> list[tuple[str, Library]]:
    """The changes in two halves, each as a library; none where there is one change alone."""
    changes = current.changes(candidate)
    middle = -(-len(changes) // 2)
    if len(changes) < 2:
        return []
    halves = [
        (f"{number} of 2", current.with_changes(candidate, {i for ids in half for i in ids}))
        for number, half in enumerate((changes[:middle], changes[middle:]), start=1)
    ]
    # A lesson that came back under another id stands in one half beside its old words.
    return [(part, library) for part, library in halves if len({e.line for e in library}) == len(library)]
