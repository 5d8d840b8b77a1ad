"""Progress: where a long verb stands, as a value. Doors show it; verbs only hand it out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from tokenprior.reward import Reward
from tokenprior.rollout import Rollout, Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """A snapshot.

    Attributes:
        phase: what is going on, in a word or two.
        step: from 1; 0 outside of steps.
        steps: how many there are.
        done: rollouts finished in this phase.
        total: rollouts of this phase.
        groups: groups whose lessons are drawn.
        reward_sum: of the scored rollouts of this phase.
        scored: how many those are.
        unscored: rollouts with an output that no verifier could judge.
        failures: failed rollouts by kind.
        lessons: drawn in this phase.
        experiences: in the library.
        spent: tokens and money of the run so far.
        waiting: what it has at a provider, in words; see `models.batch_carrier.AtProvider`.
    """

    phase: str = "starting"
    step: int = 0
    steps: int = 0
    done: int = 0
    total: int = 0
    groups: int = 0
    reward_sum: float = 0.0
    scored: int = 0
    unscored: int = 0
    failures: dict[str, int] = field(default_factory=dict)
    lessons: int = 0
    experiences: int = 0
    spent: Usage = field(default_factory=Usage)
    waiting: str = ""

    @property
    def mean(self) -> float | None:
        """Mean reward of the scored rollouts so far."""
        return self.reward_sum / self.scored if self.scored else None


OnProgress = Callable[[Progress], None]


class Tracker:
    """Counts, and tells whoever wants to know.

    Args:
        waiting: its words are those of `Progress.waiting`.
    """

    def __init__(self, on_progress: OnProgress | None, spent: Callable[[], Usage], waiting: object = "") -> None:
        self._tell, self._spent, self._waiting = on_progress, spent, waiting
        self.now = Progress()

    def change(self, **values: object) -> None:
        """Set fields of the snapshot and hand it out."""
        self.now = replace(self.now, **values, spent=self._spent(), waiting=str(self._waiting))  # type: ignore[arg-type]  # names of Progress
        if self._tell:
            self._tell(self.now)

    def phase(self, phase: str, *, total: int = 0) -> None:
        """Begin a phase: the counts start again."""
        fresh = Progress(
            phase=phase, step=self.now.step, steps=self.now.steps, total=total, experiences=self.now.experiences
        )
        self.now = fresh
        self.change()

    def rollout(self, rollout: Rollout, reward: Reward) -> None:
        """Count one attempt."""
        now = self.now
        failures = now.failures
        if rollout.failure:
            failures = dict(Counter(failures) + Counter([rollout.failure.kind]))
        value = reward.value
        self.change(
            done=now.done + 1,
            failures=failures,
            scored=now.scored + (value is not None),
            reward_sum=now.reward_sum + (value or 0.0),
            unscored=now.unscored + (value is None and rollout.failure is None),
        )
