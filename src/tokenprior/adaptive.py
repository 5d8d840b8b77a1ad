"""Adaptive groups: which attempts of a group are made, and which tasks rest. With everything off, G for each task.

Order of events: a task that rests is not attempted in this epoch. Of every other one the first attempts are made, all
together; then those of the G that are missing, unless nothing that they could bring would change what the group is
used for; then, for a task whose last group was mixed, more of them until the attempts differ again.

Decisions rest on rewards in the order of the attempts and on earlier steps, never on which call returned first. Pairs
of attempts that see parts of the library are always among the first, and effects are measured from the first alone: an
attempt that is made because of what another one brought would lean the comparison (`tests/laws/test_adaptive_laws.py`
has the sum). So every task that is visited measures effects, whatever is saved or added.

Departure from the paper: there every task gets G attempts in every epoch.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from tokenprior.group import Group, GroupKind, kind_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """What the last group of a task came to.

    Attributes:
        epoch: when that was, from 0.
        kind: `unscored` too where all rewards are alike and one is missing: what it would have been is not known.
    """

    epoch: int
    kind: GroupKind


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupPlan:
    """How many attempts a task gets, and when.

    Attributes:
        size: G, at least 1.
        pairs: the last 2 * `pairs` of the G see parts of the library, at most G.
        first: how many attempts are made first, the pairs among them and one more, below G; `None` makes all G at once.
        most: up to how many a group goes on, above G; `None` ends at G.
        rest_solved: for how many epochs a task rests after a group of nothing but successes; 0 for none.
        rest_failed: the same after a group of nothing but failures.
        learn_from: the kinds of group that are learned from.
        by_rewards: whether rewards say what a group is used for; else it is whether outputs differ.
        success_at: as in `Group.kind`.
        threshold: as in `Group.kind`.

    Raises:
        ValueError: these do not fit together. Named as in a config.
    """

    size: int
    pairs: int = 0
    first: int | None = None
    most: int | None = None
    rest_solved: int = 0
    rest_failed: int = 0
    learn_from: Collection[GroupKind] = ("mixed", "all_fail")
    by_rewards: bool = True
    success_at: float = 1.0
    threshold: float = 0.0

    def __post_init__(self) -> None:
        least = 2 * self.pairs + 1
        if self.first is not None and not least <= self.first < self.size:
            pairs = f" (the {2 * self.pairs} attempts of inclusion_pairs and one more)" if self.pairs else ""
            raise ValueError(
                f"adaptive.first is {self.first}: expected at least {least}{pairs}, less than group_size ({self.size})"
            )
        if self.most is not None and self.most <= self.size:
            raise ValueError(f"adaptive.most is {self.most}: expected more than group_size ({self.size})")
        if self.looks_back and not self.by_rewards:
            raise ValueError(
                "adaptive.most, rest_solved and rest_failed go by rewards, which have no say without ground_truth: "
                "leave them out (adaptive.first goes by whether outputs differ)"
            )

    @property
    def adapts(self) -> bool:
        """Whether anything is not as in the paper."""
        return self.first is not None or self.most is not None or self.looks_back

    @property
    def looks_back(self) -> bool:
        """Whether earlier groups of a task have a say."""
        return self.most is not None or self.rest_solved > 0 or self.rest_failed > 0

    @property
    def limit(self) -> int:
        """The most attempts that a group can have."""
        return max(self.size, self.most or 0)

    @property
    def always(self) -> tuple[int, ...]:
        """The attempts that are made whatever the others bring, by their index: what may be compared without a lean."""
        return (*range(self.whole), *self.parts)

    @property
    def whole(self) -> int:
        """How many of these see the whole library, those of the lowest indices."""
        return (self.size if self.first is None else self.first) - 2 * self.pairs

    @property
    def parts(self) -> range:
        """The attempts of the pairs, by their index."""
        return range(self.size - 2 * self.pairs, self.size)

    def measured(self, group: Group) -> Group:
        """The part of a group that effects are measured from: what was made whatever the others brought."""
        if self.first is None and self.most is None:
            return group
        always = self.always
        pairs = [pair for pair in zip(group.rollouts, group.rewards, strict=True) if pair[0].index in always]
        return replace(group, rollouts=tuple(r for r, _ in pairs), rewards=tuple(w for _, w in pairs))

    def due(self, group: Group | None, last: Visit | None = None) -> tuple[int, ...]:
        """The attempts to make next, by their index; none where the group is complete.

        Args:
            group: the attempts made so far; `None` before the first.
            last: of the task, before this group.
        """
        if group is None:
            return self.always
        made = {rollout.index for rollout in group.rollouts}
        if missing := tuple(index for index in range(self.size) if index not in made):
            return () if self.settled(group) else missing
        more = last is not None and last.kind == "mixed" and len(made) == self.size and not self.settled(group)
        return tuple(range(self.size, self.limit)) if more else ()

    def settled(self, group: Group) -> bool:
        """Whether no further attempt, however it ends, can change whether and how a group is used.

        What it is used for is what `contrast.question_for` says. Not every group that is settled is told to be: whether
        a verifier has no feedback for any attempt is not known before they are made.
        """
        if not self.by_rewards:
            return group.distinct_outputs > 1
        used = {kind if kind in self.learn_from else None for kind in self._reachable(group)}
        return len(used) == 1

    def outcome(self, rewards: Sequence[float | None]) -> GroupKind:
        """What a finished group came to, see `Visit.kind`.

        Args:
            rewards: of all its attempts, `None` for failed and unscored ones.
        """
        kind = self._kind([reward for reward in rewards if reward is not None])
        return kind if kind == "mixed" or None not in rewards else "unscored"

    def rests(self, last: Visit | None, epoch: int) -> bool:
        """Whether a task is left out of an epoch. It always comes back, at the latest when its rest is over."""
        if last is None:
            return False
        rest = {"all_success": self.rest_solved, "all_fail": self.rest_failed}.get(last.kind, 0)
        return last.epoch < epoch <= last.epoch + rest

    def resting(self, tasks: Collection[str], visits: Mapping[str, Visit], epoch: int) -> dict[str, GroupKind]:
        """Those of some tasks, by id, that rest in an epoch, each with what it rests from."""
        return {task: visits[task].kind for task in tasks if self.rests(visits.get(task), epoch)}

    def _kind(self, values: Sequence[float]) -> GroupKind:
        return kind_of(values, success_at=self.success_at, threshold=self.threshold)

    def _reachable(self, group: Group) -> set[GroupKind]:
        """The kinds that a group can be of with more attempts."""
        kind = self._kind(group.rewards_G)
        if kind == "mixed":
            return {"mixed"}
        if kind == "all_fail":
            return {"all_fail", "mixed"}
        if kind == "all_success" and self.threshold == 0:
            return {"all_success", "mixed"}
        # A success and a failure may lie within the threshold of each other.
        return {kind, "all_success", "all_fail", "mixed"}
