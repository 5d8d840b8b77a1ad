"""Comparison: what arms scored on the same tasks, how they differ, and in words what follows from it.

Arms are paired by task, since attempts at one task are not independent: the value of a task is the mean of its scored
attempts, and every interval and every test is over tasks. A verdict rests on the sign-flip test of the task
differences, corrected by Holm where several arms are compared, and says one of three things: it helps, it hurts, or
there is not enough evidence and what would settle it.

A comparison that may stop early rests on e-values in place of p-values of a fixed sample, which hold however often one
looks: p is 1/e, corrected by Bonferroni, and the interval of a gain is a confidence sequence. What stays descriptive
after an early stop is the interval of a single arm's score.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, variance
from typing import Any, Literal

from tokenprior.arm import ArmReport, Design, interval_json
from tokenprior.sequential import confidence_sequence, e_value
from tokenprior.statistics import (
    Interval,
    apart,
    attempts_needed,
    bootstrap_mean,
    detectable_gain,
    holm,
    sign_flip,
    tasks_needed,
)
from tokenprior.text import many, shorten

LEVEL = 0.05  # of a wrong "helps" or "hurts" in a whole comparison, controls apart, which have it each
MOST_LOST = 0.1  # of an arm's attempts, before its verdict bears a warning
TEACH_NOTHING = ("placebo", "shuffled")  # controls whose words are no lesson for the tasks
ONE_ANSWER = 0.9  # an arm that gives one answer this often has learned the answer, not the way to it

Rewards = Mapping[str, Sequence[float | None]]
Outcome = Literal["helps", "hurts", "unclear", "same words", "nothing"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One arm against the first, paired by task.

    Attributes:
        gain: mean of the per-task differences, with its interval; `None` if no task was scored in both.
        wins, losses, ties: tasks by the sign of their difference.
        missing: tasks left out, because no attempt of one of the arms was scored.
        p: chance of a difference at least this large, either way, if the arms were alike; `None` where nothing was
            compared.
        p_adjusted: the same, corrected for the number of arms compared; at most `LEVEL` is a verdict.
        detectable: the smallest gain that so many tasks find in 4 of 5 tries; `None` where it cannot be told.
        tasks_needed: so many tasks, all done before one looks, would find a gain as large as this one in 4 of 5 tries;
            `None` where it cannot be told.
        attempts_needed: so many attempts at each of these tasks would; `None` where no number would, or none was seen.
        stopped_after: tasks done and tasks there are, where the comparison stopped early.
        sequential: whether `p` is of a comparison that may stop early, and `gain` a confidence sequence.
        same_words: whether both arms put the same words before a task: one experiment, and no difference to find.
        warning: a sentence on why the score may mean less than it seems; empty if there is no such reason.
    """

    arm: str
    baseline: str
    gain: Interval | None
    wins: int
    losses: int
    ties: int
    missing: int = 0
    p: float | None = None
    p_adjusted: float | None = None
    detectable: float | None = None
    tasks_needed: int | None = None
    attempts_needed: int | None = None
    stopped_after: tuple[int, int] | None = None
    sequential: bool = False
    same_words: bool = False
    warning: str = ""

    @property
    def outcome(self) -> Outcome:
        if self.same_words:
            return "same words"
        if self.gain is None or self.p_adjusted is None:
            return "nothing"
        if self.p_adjusted > LEVEL:
            return "unclear"
        return "helps" if self.gain.mean > 0 else "hurts"

    @property
    def verdict(self) -> str:
        """One sentence: it helps, it hurts, or there is not enough evidence and what would settle it; and a warning."""
        match self.outcome:
            case "same words":
                said = f"{self.arm} puts the same words before the agent as {self.baseline}: there is no difference"
            case "nothing":
                said = f"{self.arm} against {self.baseline}: nothing to compare"
            case "unclear":
                said = f"Not enough evidence that {self.arm} differs from {self.baseline}: {self._figures}"
                said += f"; {settles}" if (settles := self._settles) else ""
            case outcome:
                said = f"{self.arm} {outcome}: {self._figures}"
        return f"{said}.{' ' + self.warning if self.warning else ''}"

    @property
    def _figures(self) -> str:
        assert self.gain is not None, "there are figures where something was compared"
        gain, words = self.gain, f"{self.gain.mean:+.3f}"
        if gain.low is not None and gain.high is not None:
            words += f" [{gain.low:+.3f}, {gain.high:+.3f}]"
        if self.outcome != "unclear":
            words += f" against {self.baseline}"
        counts = f"{many(self.wins, 'task')} better, {self.losses} worse, {self.ties} equal"
        if self.missing:
            counts += f", {self.missing} left out, unscored in one arm"
        words += f" ({counts}; {self._chance})"
        if self.stopped_after:
            words += ", stopped after {} of {} tasks".format(*self.stopped_after)
        return words

    @property
    def _chance(self) -> str:
        p = self.p_adjusted or 0.0
        name = "p" if self.p_adjusted == self.p else "adjusted p"
        return f"{name} < 0.001" if p < 0.001 else f"{name} = {p:.3f}"

    @property
    def _settles(self) -> str:
        """What it would take to know more."""
        assert self.gain is not None, "asked only where something was compared"
        parts: list[str] = []
        more = (self.tasks_needed or 0) - self.gain.n
        if more > 0:
            about = "at least about" if self.sequential else "about"
            rather = f", or {self.attempts_needed:,} attempts at each of these" if self.attempts_needed else ""
            parts.append(
                f"{about} {more:,} more task{'s' if more > 1 else ''}{rather} would settle a difference this large"
            )
        if self.detectable is not None:
            tasks = "this one task" if self.gain.n == 1 else f"these {self.gain.n} tasks"
            parts.append(f"with {tasks} only one of {self.detectable:.3f} or more is seen in 4 of 5 tries")
        return ", and ".join(parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Arms side by side; the first is what the others are held against.

    Attributes:
        constant: the best constant answer and the share of tasks it would get right, where tasks have plain answers.
        tasks_done: tasks that the figures are over.
        tasks_total: tasks that there are.
    """

    arms: tuple[ArmReport, ...]
    differences: tuple[Difference, ...]
    constant: tuple[str, float] | None
    design: Design
    tasks_done: int
    tasks_total: int

    @property
    def stopped_early(self) -> bool:
        return self.tasks_done < self.tasks_total

    def _repr_html_(self) -> str:
        """For a notebook."""
        from tokenprior.display import comparison_html

        return comparison_html(self)

    def to_json(self) -> dict[str, Any]:
        return {
            "format": "tokenprior-comparison-1",
            "k": self.design.k,
            "success_at": self.design.success_at,
            "seed": self.design.seed,
            "level": LEVEL,
            "may_stop_early": self.design.reward_range is not None,
            "stopped_early": self.stopped_early,
            "tasks_done": self.tasks_done,
            "tasks_total": self.tasks_total,
            "arms": [arm.to_json() for arm in self.arms],
            "differences": [_difference_json(difference) for difference in self.differences],
            "best_constant_answer": None if self.constant is None else list(self.constant),
        }


def task_differences(here: Rewards, there: Rewards) -> list[float]:
    """The difference of the mean rewards of every task that both have scored, in the order of the first."""
    return list(task_gains(here, there).values())


def task_gains(here: Rewards, there: Rewards) -> dict[str, float]:
    """The same by task."""
    made: dict[str, float] = {}
    for task, rewards in here.items():
        ours = [reward for reward in rewards if reward is not None]
        theirs = [reward for reward in there.get(task, ()) if reward is not None]
        if ours and theirs:
            made[task] = apart(ours, theirs)
    return made


def is_decided(differences: Sequence[float], design: Design, *, compared: int) -> bool:
    """Whether a comparison of so many arms need not go on for this one.

    Between alike arms it ever says so with a chance of at most `LEVEL` / `compared`, however often one looks.
    """
    return bool(differences) and _e_value(differences, design) >= compared / LEVEL


def _e_value(differences: Sequence[float], design: Design) -> float:
    low, high = design.difference_range
    return e_value(_within(differences, low, high), low=low, high=high)


def _within(differences: Sequence[float], low: float, high: float) -> list[float]:
    """Means of rewards may step over the range by a rounding error."""
    return [min(max(difference, low), high) for difference in differences]


def differ(
    reports: Sequence[ArmReport],
    design: Design,
    *,
    controls: Collection[str] = (),
    constant: tuple[str, float] | None = None,
    stopped_after: tuple[int, int] | None = None,
) -> tuple[Difference, ...]:
    """Every arm but the first against the first, with p-values that hold for all of them together.

    An arm of the same words as the first is no comparison, and a control is no claim: they cost the others nothing, and
    the p-value of a control is not corrected.

    Args:
        controls: arms that are there to be held against, such as a placebo.
        constant: the best constant answer with its share, for the warning.
        stopped_after: tasks done and tasks there are, where the comparison stopped early.
    """
    if not reports:
        return ()
    baseline, others = reports[0], reports[1:]
    told = [r for r in others if r.prior != baseline.prior and task_differences(r.tasks, baseline.tasks)]
    compared = [r for r in told if r.arm not in controls]
    made = {r.arm: _paired(r, baseline, design, compared=max(1, len(compared))) for r in others}
    if design.reward_range is None:
        adjusted = holm([made[r.arm].p or 0.0 for r in compared])
    else:
        adjusted = tuple(min(1.0, (made[r.arm].p or 0.0) * len(compared)) for r in compared)
    claims = zip(compared, adjusted, strict=True)
    for report, p_adjusted in (*claims, *((r, made[r.arm].p) for r in told if r.arm in controls)):
        made[report.arm] = replace(made[report.arm], p_adjusted=p_adjusted, stopped_after=stopped_after)
    idle = [r for r in told if r.arm in controls and r.arm in TEACH_NOTHING and made[r.arm].outcome == "helps"]
    for report in others:
        warning = _warning(made[report.arm], report, constant)
        if not warning and report in compared and made[report.arm].outcome == "helps":
            warning = _no_better(report, idle)
        made[report.arm] = replace(made[report.arm], warning=warning)
    return tuple(made[r.arm] for r in others)


def _paired(report: ArmReport, baseline: ArmReport, design: Design, *, compared: int) -> Difference:
    """One arm against another over the tasks that both have scored, its p-value not yet corrected."""
    values = task_differences(report.tasks, baseline.tasks)
    plain = Difference(
        arm=report.arm,
        baseline=baseline.arm,
        gain=None,
        wins=sum(value > 0 for value in values),
        losses=sum(value < 0 for value in values),
        ties=sum(value == 0 for value in values),
        missing=len(report.tasks) - len(values),
        same_words=report.prior == baseline.prior,
    )
    if not values:
        return plain
    level = LEVEL / compared
    if design.reward_range is not None:
        low, high = design.difference_range
        return replace(
            plain,
            gain=confidence_sequence(_within(values, low, high), low=low, high=high, level=level),
            p=None if plain.same_words else min(1.0, 1 / _e_value(values, design)),
            tasks_needed=tasks_needed(values, level=level),
            sequential=True,
        )
    gain = bootstrap_mean(values, resamples=design.resamples, seed=design.seed)
    if plain.same_words:
        return replace(plain, gain=gain)
    return replace(
        plain,
        gain=gain,
        p=sign_flip(values, seed=design.seed),
        detectable=detectable_gain(values, level=level),
        tasks_needed=tasks_needed(values, level=level),
        attempts_needed=attempts_needed(values, _noise(report.tasks, baseline.tasks), design.k, level=level),
    )


def _noise(here: Rewards, there: Rewards) -> float:
    """The variance of a task's difference that comes from chance between its attempts; 0 where none shows."""
    made: list[float] = []
    for task, rewards in here.items():
        sides = [[r for r in side if r is not None] for side in (rewards, there.get(task, ()))]
        if all(len(side) > 1 for side in sides):
            made.append(sum(variance(side) / len(side) for side in sides))
    return fmean(made) if made else 0.0


def _warning(difference: Difference, report: ArmReport, constant: tuple[str, float] | None) -> str:
    """Why a score may be worth less than it seems: one answer for all tasks."""
    if difference.outcome in ("same words", "nothing"):
        return ""
    if lost := _lost(report):
        return f"But {lost:.0%} of its attempts failed or could not be scored, perhaps those at the harder tasks."
    if difference.outcome == "helps" and constant and report.score and report.score.mean <= constant[1]:
        answer, share = constant
        return f"But one answer for all tasks does as well: {shorten(answer, 60)!r} is right for {share:.0%} of them."
    if report.commonest and report.commonest[1] > ONE_ANSWER:
        answer, share = report.commonest
        return f"But {share:.0%} of its answers are {answer!r}: it may have learned an answer, and not a way to it."
    return ""


def _no_better(report: ArmReport, idle: Sequence[ArmReport]) -> str:
    """Whether lessons that teach nothing do as well: then it is having some that helps, and not what they say."""
    for control in idle:
        ahead = task_differences(report.tasks, control.tasks)
        if ahead and sign_flip(ahead, side="greater") > LEVEL:
            score = f" ({control.score.mean:.3f})" if control.score else ""
            return f"But {control.arm}, which teaches nothing, does as well{score}: what helps may not be what it says."
    return ""


def _lost(report: ArmReport) -> float:
    """The share of an arm's attempts without a score, where that is too much for a verdict to pass it over."""
    every = [reward for rewards in report.tasks.values() for reward in rewards]
    share = every.count(None) / len(every) if every else 0.0
    return share if share > MOST_LOST else 0.0


def _difference_json(difference: Difference) -> dict[str, Any]:
    return {
        "arm": difference.arm,
        "baseline": difference.baseline,
        "outcome": difference.outcome,
        "gain": interval_json(difference.gain),
        "wins": difference.wins,
        "losses": difference.losses,
        "ties": difference.ties,
        "missing": difference.missing,
        "p": difference.p,
        "p_adjusted": difference.p_adjusted,
        "detectable": difference.detectable,
        "tasks_needed": difference.tasks_needed,
        "attempts_needed": difference.attempts_needed,
        "warning": difference.warning,
        "verdict": difference.verdict,
    }
