"""Displays for a notebook: all there is to see, nothing in it that works, and `repr` as it was."""

from __future__ import annotations

import re

import pytest

from html_reader import Reader
from tokenprior.arm import ArmReport, Design
from tokenprior.comparison import Comparison, differ
from tokenprior.display import MOST_CHARS, MOST_ROWS
from tokenprior.experience import Effect, Experience, Provenance
from tokenprior.group import Group
from tokenprior.learn import LearnResult
from tokenprior.library import Library
from tokenprior.reward import Reward
from tokenprior.rollout import Failure, Message, Rollout, StopReason, ToolCall, Usage
from tokenprior.statistics import bootstrap_mean
from tokenprior.task import Task

HOSTILE = "</td></pre><script>alert('x')</script><img src=x onerror=alert(1)>\"'&\u202e\x1b[2J\ud800"
SHOWN = "</td></pre><script>alert('x')</script><img src=x onerror=alert(1)>\"'&⟨U+202E⟩⟨U+001B⟩[2J⟨U+D800⟩"


def effect(low: float, high: float) -> Effect:
    mean = (low + high) / 2
    return Effect(mean=mean, low=low, high=high, shrunk=mean, tasks=12, rollouts=40)


def library(*effects: Effect | None, text: str = "When in doubt, say so.") -> Library:
    return Library(
        experiences=tuple(
            Experience(id=f"G{i}", name=f"n{i}", text=text, provenance=Provenance(groups=("a", "b")), effect=one)
            for i, one in enumerate(effects)
        )
    )


def group(text: str = "x") -> Group:
    call = ToolCall(id="1", name="python", arguments=text)
    messages = (Message(role="user", content=text), Message(role="assistant", content="", tool_calls=(call,)))
    failure = Failure(kind="timeout", detail="slow")
    return Group(
        task=Task(id=text, question=text, answer=text),
        rollouts=(
            Rollout(task_id=text, index=0, messages=messages, output=text),
            Rollout(task_id=text, index=1, messages=(), output="", stop=StopReason.FAILED, failure=failure),
            Rollout(task_id=text, index=2, messages=messages, output="better"),
        ),
        rewards=(
            Reward(value=0.25, feedback=text),
            Reward.unscored("the attempt failed: timeout"),
            Reward(value=1.0),
        ),
    )


def comparison(name: str = "learned") -> Comparison:
    reports = []
    for arm, values in (("no prior", [0.0] * 8), (name, [1.0] * 8)):
        report = ArmReport(
            arm=arm,
            library_version="0123456789ab",
            prior=arm,
            experiences=1,
            omitted=0,
            score=bootstrap_mean(values, resamples=100, seed=0),
            scored=8,
            unscored=0,
            failed={},
            cut_off=0,
            usage=Usage(),
            latency_s=0.0,
            tasks={f"t{i}": (value,) for i, value in enumerate(values)},
        )
        reports.append(report)
    design = Design(resamples=100)
    differences = differ(reports, design)
    return Comparison(
        arms=tuple(reports), differences=differences, constant=None, design=design, tasks_done=8, tasks_total=8
    )


def learned(text: str = "When in doubt, say so.") -> LearnResult:
    step = {
        "step": 0,
        "mean": 0.5,
        "groups": {"mixed": 3},
        "lessons": 2,
        "trials": [{"sentence": f"the candidate ships: {text}"}],
    }
    return LearnResult(library=library(None), learning=library(None, None, text=text), steps=(step,), stopped=text)


def test_a_library_shows_its_lessons_with_effect_whisker_and_support() -> None:
    page = Reader(library(effect(0.1, 0.3), effect(-0.3, -0.1), effect(-0.1, 0.1), None)._repr_html_())
    assert "G0 n0 : When in doubt, say so. +0.200 [+0.100, +0.300] 12 tasks 2 groups" in page.text
    assert "not measured" in page.text
    assert [a["class"] for tag, a in page.tags if tag == "g"] == ["helps", "hurts", "unclear"]
    assert [a["role"] for tag, a in page.tags if tag == "svg"] == ["img"] * 3


def test_a_group_shows_its_attempts_the_best_first_and_failed_ones_last() -> None:
    page = Reader(group()._repr_html_())
    assert re.findall(r" (#\d) ", page.text) == ["#2", "#0", "#1"]
    assert "unscored: the attempt failed: timeout failed: timeout" in page.text
    assert "calls python: x" in page.text


def test_a_comparison_shows_its_verdict_and_its_plots() -> None:
    page = Reader(comparison()._repr_html_())
    assert "learned helps: +1.000" in page.text
    assert [a["aria-label"] for tag, a in page.tags if tag == "svg"] == [
        "Score: no prior 0.000 [0.000, 0.000]; learned 1.000 [1.000, 1.000];",
        "Gain over no prior: learned +1.000 [+1.000, +1.000]; dashed line: no difference",
    ]


def test_what_was_learned_shows_what_ships_what_waits_and_each_step() -> None:
    text = Reader(learned()._repr_html_()).text
    assert "Ships: library" in text
    assert "Waiting for more evidence: 1 lesson" in text
    assert "3 mixed 2 the candidate ships" in text


@pytest.mark.parametrize(
    "made",
    [
        library(effect(0.1, 0.3), text=HOSTILE)._repr_html_(),
        group(HOSTILE)._repr_html_(),
        comparison(HOSTILE)._repr_html_(),
        learned(HOSTILE)._repr_html_(),
    ],
    ids=["library", "group", "comparison", "learned"],
)
def test_texts_of_others_are_escaped_and_made_visible(made: str) -> None:
    page = Reader(made)
    assert {"script", "img"}.isdisjoint(tag for tag, _ in page.tags)
    assert SHOWN in page.text
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert not re.search(r"https?:|url\(|@import", made)
    made.encode()


def test_what_is_large_is_cut_and_that_is_said() -> None:
    many = library(*[None] * (MOST_ROWS + 3))._repr_html_()
    assert "And 3 more." in many
    long = group("x" * 1_000_000)._repr_html_()
    assert "characters left out" in long
    assert len(long) < 20 * MOST_CHARS


def test_the_smallest_of_each_is_shown_too() -> None:
    assert "No lessons." in Library()._repr_html_()
    nothing = LearnResult(library=Library(), learning=Library(), steps=())
    assert "0 lessons" in nothing._repr_html_()
    empty = Group(task=Task(id="t", question="q"), rollouts=(), rewards=())
    assert "0 attempts: unscored, no attempt scored" in empty._repr_html_()


def test_the_plain_repr_is_that_of_a_dataclass() -> None:
    assert repr(Library()) == "Library(experiences=(), next_number=0)"
    assert repr(group()).startswith("Group(task=Task(id='x'")
