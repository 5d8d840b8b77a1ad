"""Laws of parting a task set: parts share no text, the seed alone decides, and added rows pass no other."""

from __future__ import annotations

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tokenprior.errors import ConfigError
from tokenprior.task import Split, Task, TaskSet

LAW = settings(max_examples=200, deadline=None, derandomize=True, database=None)

questions = st.lists(
    st.sampled_from([f"{word}{end}" for word in "abcdefghijklm" for end in ("", " ", "  x", "\u2028y")]), max_size=30
)
sizes = st.tuples(st.integers(0, 8), st.integers(0, 8), st.none() | st.integers(0, 8))


def task_set(texts: list[str]) -> TaskSet:
    upper = (text.upper() if at % 3 else text for at, text in enumerate(texts))
    return TaskSet(Task(id=f"t{at}", question=text, answer=at) for at, text in enumerate(upper))


def parted(tasks: TaskSet, wanted: tuple[int, int, int | None], seed: int) -> Split:
    practice, gate, held_out = wanted
    assume(practice + gate + (held_out or 0) <= len(tasks))
    return tasks.split(practice=practice, gate=gate, held_out=held_out, seed=seed)


@LAW
@given(questions, sizes, st.integers(0, 3))
def test_parts_share_no_text_and_no_task(texts: list[str], wanted: tuple[int, int, int | None], seed: int) -> None:
    tasks = task_set(texts)
    split = parted(tasks, wanted, seed)
    keys = [{task.text_key for task in part} for part in (split.practice, split.gate, split.held_out)]
    assert not keys[0] & keys[1]
    assert not keys[0] & keys[2]
    assert not keys[1] & keys[2]
    every = [task.id for part in (split.practice, split.gate, split.held_out) for task in part]
    assert len(set(every)) == len(every)
    assert len(split.practice) <= wanted[0]
    assert len(split.gate) <= wanted[1]
    if wanted[2] is None:
        assert len(every) == len(tasks)
    else:
        assert len(split.held_out) <= wanted[2]


@LAW
@given(st.permutations(range(12)), st.integers(0, 3))
def test_the_seed_decides_and_the_order_of_the_file_does_not(order: list[int], seed: int) -> None:
    plain = [Task(id=f"t{i}", question=f"q{i}") for i in range(12)]
    split = TaskSet(plain).split(practice=4, gate=3, held_out=5, seed=seed)
    other = TaskSet(plain[i] for i in order).split(practice=4, gate=3, held_out=5, seed=seed)
    assert [list(split.practice), list(split.gate), list(split.held_out)] == [
        list(other.practice),
        list(other.gate),
        list(other.held_out),
    ]


@LAW
@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 3))
def test_added_rows_move_no_other_row_past_another(count: int, more: int, seed: int) -> None:
    def order(total: int) -> list[str]:
        tasks = TaskSet(Task(id=f"t{i}", question=f"q{i}") for i in range(total))
        return [task.id for task in tasks.split(practice=total, seed=seed).practice]

    before, after = order(count), order(count + more)
    assert [identity for identity in after if identity in set(before)] == before


def test_different_seeds_part_differently() -> None:
    tasks = task_set([f"q{i}" for i in range(40)])
    assert len({tuple(task.id for task in tasks.split(practice=20, seed=seed).practice) for seed in range(5)}) == 5


def test_too_few_tasks_and_negative_parts_are_clear_errors() -> None:
    tasks = task_set(["a", "b", "c"])
    with pytest.raises(ConfigError, match=r"asks for 4 tasks .* there are 3"):
        tasks.split(practice=2, gate=1, held_out=1)
    with pytest.raises(ConfigError, match="negative"):
        tasks.split(practice=2, gate=-1)
