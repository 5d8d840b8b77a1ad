"""Groups: what counts as contrast, and what does not count at all."""

from __future__ import annotations

import pytest

from tokenprior.group import Group, GroupKind
from tokenprior.reward import Reward
from tokenprior.rollout import Failure, Rollout, StopReason
from tokenprior.task import Task

TASK = Task(id="t", question="q", answer="a")


def rollout(index: int, output: str = "x", *, failed: bool = False) -> Rollout:
    failure = Failure(kind="timeout", detail="too slow") if failed else None
    stop = StopReason.FAILED if failed else StopReason.DONE
    return Rollout(task_id="t", index=index, messages=(), output="" if failed else output, stop=stop, failure=failure)


def group(*values: float | None, failed: tuple[int, ...] = ()) -> Group:
    rewards = tuple(Reward.unscored("no judge") if v is None else Reward(value=v) for v in values)
    rollouts = tuple(rollout(i, failed=i in failed) for i in range(len(values)))
    return Group(task=TASK, rollouts=rollouts, rewards=rewards)


@pytest.mark.parametrize(
    ("values", "contrast"),
    [((0.5, 0.5), False), ((1, 2), True), ((0, 1), True), ((0, 0), False), ((-1, 0), True), ((1,), False), ((), False)],
)
def test_contrast_is_the_spread_of_rewards_not_a_mean_between(values: tuple[float, ...], contrast: bool) -> None:
    assert group(*values).has_contrast() is contrast


def test_the_threshold_has_to_be_passed() -> None:
    assert not group(0.0, 0.2).has_contrast(0.2)
    assert group(0.0, 0.21).has_contrast(0.2)


def test_unscored_is_not_zero_and_enters_neither_mean_nor_contrast() -> None:
    made = group(1.0, None, 1.0, None, failed=(3,))
    assert made.rewards_G == (1.0, 1.0)
    assert made.mean == 1.0
    assert made.spread == 0.0
    assert not made.has_contrast()
    assert made.kind() == "all_success"
    assert (made.failed, made.unscored) == (1, 1)
    assert [one.index for one, _ in made.scored] == [0, 2]


def test_a_group_of_unscored_attempts_has_no_mean() -> None:
    made = group(None, None)
    assert made.mean is None
    assert made.kind() == "unscored"


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ((0, 1), "mixed"),
        ((0, 0), "all_fail"),
        ((0.5, 0.5), "all_fail"),
        ((1, 1), "all_success"),
        ((2, 2), "all_success"),
    ],
)
def test_the_kind_says_what_a_group_can_teach(values: tuple[float, ...], kind: GroupKind) -> None:
    assert group(*values).kind() == kind


def test_success_is_where_the_setting_puts_it() -> None:
    assert group(0.5, 0.5).kind(success_at=0.5) == "all_success"
    assert group(0.5, 0.6).kind(success_at=0.5, threshold=0.2) == "all_success"


def test_outputs_differ_by_more_than_space_and_failures_have_none() -> None:
    rollouts = (rollout(0, "A  b"), rollout(1, "A b\n"), rollout(2, "c"), rollout(3, failed=True))
    made = Group(task=TASK, rollouts=rollouts, rewards=(Reward.unscored("none"),) * 4)
    assert made.distinct_outputs == 2


def test_a_group_that_does_not_fit_together_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="2 rollouts, but 1 rewards"):
        Group(task=TASK, rollouts=(rollout(0), rollout(1)), rewards=(Reward(value=1.0),))
    with pytest.raises(ValueError, match="another task"):
        Group(task=Task(id="u", question="q"), rollouts=(rollout(0),), rewards=(Reward(value=1.0),))


def test_a_reward_is_a_finite_number_or_has_a_reason() -> None:
    for value in (float("nan"), float("inf"), None):
        with pytest.raises(ValueError, match=r"reason|finite"):
            Reward(value=value)
    assert Reward.unscored("").reason
