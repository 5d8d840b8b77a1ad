"""Laws of adaptive groups: off is the paper, a settled group is settled, no effect leans, who rests comes back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import pairwise, product

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tokenprior.adaptive import GroupPlan, Visit
from tokenprior.config import AdaptiveSettings, LearnConfig
from tokenprior.contrast import question_for
from tokenprior.group import Group
from tokenprior.reward import Reward
from tokenprior.rollout import Rollout, StopReason
from tokenprior.task import Task

LAW = settings(max_examples=150, deadline=None, derandomize=True, database=None)

KINDS = ("mixed", "all_fail", "all_success")
Attempt = tuple[float | None, str, str]  # reward, output, feedback
attempts = st.tuples(st.sampled_from([None, 0.0, 0.5, 1.0, 2.0]), st.sampled_from("ab"), st.sampled_from(["", "wrong"]))
ENDS: list[Attempt] = [
    (None, "a", ""), (None, "b", ""), (0.0, "a", ""), (0.0, "b", "wrong"), (0.5, "a", "wrong"), (0.8, "b", ""),
    (1.0, "a", ""), (1.0, "b", "wrong"), (2.0, "a", ""),
]  # fmt: skip
plans = st.builds(
    lambda size, pairs, first, most, solved, failed: GroupPlan(
        size=size,
        pairs=min(pairs, size // 2),
        first=first if 2 * min(pairs, size // 2) < first < size else None,
        most=size + most or None if most else None,
        rest_solved=solved,
        rest_failed=failed,
    ),
    st.integers(1, 7),
    st.integers(0, 2),
    st.integers(1, 6),
    st.integers(0, 4),
    st.integers(0, 3),
    st.integers(0, 3),
)
visits = st.none() | st.builds(
    Visit, epoch=st.integers(0, 5), kind=st.sampled_from(["mixed", "all_fail", "all_success", "unscored"])
)


def group(made: dict[int, Attempt], *, answer: str | None = None) -> Group:
    task = Task(id="t", question="q", answer=answer)
    rollouts = tuple(
        Rollout(task_id="t", index=index, messages=(), output=output, stop=StopReason.DONE)
        for index, (_, output, _) in made.items()
    )
    rewards = tuple(
        Reward.unscored("not judged") if value is None else Reward(value=value, feedback=feedback)
        for value, _, feedback in made.values()
    )
    return Group(task=task, rollouts=rollouts, rewards=rewards)


def rounds(plan: GroupPlan, last: Visit | None, ends: Sequence[Attempt]) -> list[tuple[int, ...]]:
    """The attempts of a group in the order in which they are made, where attempt `i` ends as `ends[i]`."""
    made: dict[int, Attempt] = {}
    found: list[tuple[int, ...]] = []
    while due := plan.due(group(made) if made else None, last):
        assert not set(due) & set(made), "no attempt is made twice"
        made |= {index: ends[index] for index in due}
        found.append(due)
    return found


@LAW
@given(st.integers(1, 7), st.integers(0, 3), st.lists(attempts, min_size=7, max_size=7), visits, st.integers(0, 9))
def test_with_everything_off_every_task_gets_all_its_attempts_at_once_in_every_epoch(
    size: int, pairs: int, ends: list[Attempt], last: Visit | None, epoch: int
) -> None:
    plan = LearnConfig(group_size=size, inclusion_pairs=pairs).group_plan
    assert not plan.adapts
    assert rounds(plan, last, ends) == [tuple(range(size))]
    assert not plan.rests(last, epoch)
    whole = group(dict(enumerate(ends)))
    assert plan.measured(whole) is whole


@LAW
@given(plans, visits, st.lists(attempts, min_size=11, max_size=11))
def test_a_group_has_its_first_attempts_and_never_more_than_the_most(
    plan: GroupPlan, last: Visit | None, ends: list[Attempt]
) -> None:
    found = rounds(plan, last, ends)
    made = [index for some in found for index in some]
    assert found[0] == plan.always
    assert (plan.first or plan.size) <= len(made) <= plan.limit
    assert set(range(plan.size - 2 * plan.pairs, plan.size)) <= set(found[0]), "pairs are whole, and come first"
    if plan.most is None:
        assert set(made) <= set(range(plan.size))


@LAW
@given(plans, visits, st.lists(attempts, min_size=11, max_size=11), st.randoms(use_true_random=False))
def test_the_order_in_which_attempts_returned_decides_nothing(
    plan: GroupPlan, last: Visit | None, ends: list[Attempt], rng: object
) -> None:
    for some in rounds(plan, last, ends):
        made = {index: ends[index] for index in some}
        shuffled = list(made.items())
        rng.shuffle(shuffled)  # type: ignore[attr-defined]  # hypothesis calls it object
        assert plan.due(group(made), last) == plan.due(group(dict(shuffled)), last)


@LAW
@given(
    st.lists(attempts, min_size=1, max_size=4),
    st.integers(1, 2),
    st.sets(st.sampled_from(KINDS)),
    st.booleans(),
    st.sampled_from([0.0, 0.3, 1.0]),
    st.sampled_from([None, "a"]),
)
def test_a_settled_group_is_used_the_same_whatever_the_missing_attempts_bring(
    made: list[Attempt], missing: int, kinds: set[str], ground_truth: bool, threshold: float, answer: str | None
) -> None:
    config = LearnConfig(
        group_size=len(made) + missing,
        inclusion_pairs=0,
        learn_from=tuple(sorted(kinds)),  # type: ignore[arg-type]  # kinds of group, all of them
        ground_truth=ground_truth,
        contrast_threshold=threshold,
        adaptive=AdaptiveSettings(first=len(made)),
    )
    so_far = group(dict(enumerate(made)), answer=answer)
    found = {
        question_for(group(dict(enumerate([*made, *rest])), answer=answer), config)
        for rest in product(ENDS, repeat=missing)
    }
    if config.group_plan.settled(so_far):
        assert len(found) == 1
    elif not ground_truth or "mixed" in kinds:
        assume(so_far.rewards_G or missing > 1 or not ground_truth)
        assert len(found) > 1, "nor are attempts made that could change nothing"


@LAW
@given(plans, st.lists(st.sampled_from(["mixed", "all_fail", "all_success", "unscored"]), min_size=30, max_size=30))
def test_a_task_that_rests_comes_back_when_its_rest_is_over(plan: GroupPlan, kinds: list[str]) -> None:
    last: Visit | None = None
    visited: list[int] = []
    for epoch, kind in enumerate(kinds):
        if not plan.rests(last, epoch):
            visited.append(epoch)
            last = Visit(epoch=epoch, kind=kind)  # type: ignore[arg-type]  # one of the kinds
    assert visited[0] == 0, "no task rests before it was seen"
    rest = {"all_success": plan.rest_solved, "all_fail": plan.rest_failed}
    for one, other in pairwise(visited):
        assert other - one == 1 + rest.get(kinds[one], 0)


def moment(plan: GroupPlan, rate: Fraction, *, all_attempts: bool = False) -> Fraction:
    """What least squares sums up for a lesson of no effect, expected over all ends of a group: 0 if nothing leans.

    The lesson is in all attempts but the second half of each pair.
    """

    def ends(made: dict[int, Attempt]) -> Iterator[tuple[dict[int, Attempt], Fraction]]:
        due = plan.due(group(made) if made else None, Visit(epoch=0, kind="mixed"))
        if not due:
            yield made, Fraction(1)
        for rewards in product((0.0, 1.0), repeat=len(due)) if due else ():
            chance = Fraction(1)
            for reward in rewards:
                chance *= rate if reward else 1 - rate
            for end, further in ends(made | {i: (r, "", "") for i, r in zip(due, rewards, strict=True)}):
                yield end, chance * further

    total = Fraction(0)
    without = range(plan.size - 2 * plan.pairs + 1, plan.size, 2)
    for made, chance in ends({}):
        seen = group(made) if all_attempts else plan.measured(group(made))
        rows = [
            (Fraction(rollout.index not in without), Fraction(reward.value or 0))
            for rollout, reward in zip(seen.rollouts, seen.rewards, strict=True)
        ]
        mean = sum(x for x, _ in rows) / len(rows)
        total += chance * sum((x - mean) * y for x, y in rows)
    return total


def test_no_effect_is_seen_where_there_is_none_however_many_attempts_are_spared_or_added() -> None:
    for first, most in ((3, None), (4, 7), (None, 7)):
        plan = GroupPlan(size=5, pairs=1, first=first, most=most)
        for rate in (Fraction(1, 10), Fraction(1, 3), Fraction(1, 2), Fraction(9, 10)):
            assert moment(plan, rate) == 0


def test_attempts_that_were_made_for_what_others_brought_would_lean_an_effect() -> None:
    plan = GroupPlan(size=5, pairs=1, first=3)
    assert moment(plan, Fraction(1, 10), all_attempts=True) > 0
    assert moment(plan, Fraction(9, 10), all_attempts=True) < 0
