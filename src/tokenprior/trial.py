"""Trial: a candidate library against the one that ships, with its figures and what came of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from tokenprior.library import Library
from tokenprior.statistics import Interval
from tokenprior.text import many

# `ships`: it replaces the current library. `open`: it did no worse, but that it did better is not proven; learning goes
# on from it. `refused`: it did worse; learning goes back to where the step began. `outdone`: it could ship, but the
# other half of the changes gained more.
Decision = Literal["ships", "open", "refused", "outdone"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A candidate against the library that shipped until then.

    Attributes:
        candidate: what was tried.
        against: version of the library that shipped until then.
        part: "whole", or which part of the changes ("1 of 2").
        decision: what came of it.
        gain: mean of the differences of task means, with its 95% interval.
        p: chance of a gain as large if the candidate were no better.
        level: what `p` had to stay within; 0 where the rule asks for no proof.
        scored: the share of attempts that were scored on both sides, 0.0 to 1.0.
        wins, losses, ties: tasks by the sign of their difference.
        missing: tasks left out, because no attempt was scored on both sides.
        needed: about how many gate tasks would prove a gain this large; `None` if there is none, or none is asked for.
    """

    candidate: Library
    against: str
    part: str
    decision: Decision
    gain: Interval
    p: float
    level: float
    scored: float
    wins: int
    losses: int
    ties: int
    missing: int
    needed: int | None

    @property
    def sentence(self) -> str:
        """What was found, in words."""
        name = "the candidate" if self.part == "whole" else f"part {self.part} of its changes"
        counts = f"{many(self.wins, 'gate task')} better, {self.losses} worse, {self.ties} equal"
        if self.missing:
            counts += f", {self.missing} unscored"
        figures = f"{_signed(self.gain)} ({counts})"
        match self.decision:
            case "ships" if self.level:
                return f"{name} ships: {figures}, p = {self.p:.2g} within {self.level:.2g}."
            case "ships":
                return f"{name} ships, for it did no worse: {figures}."
            case "outdone":
                return f"{name} did well too, but the other part gained more: {figures}."
            case "open" if self.p <= self.level or not self.level:
                share = f"only {self.scored:.0%} of the attempts were scored on both sides"
                return f"{name} cannot ship, for {share}: {figures}."
            case "open":
                more = f"; about {self.needed} gate tasks would prove a gain this large" if self.needed else ""
                return f"{name} is not proven: {figures}, p = {self.p:.2g}, needed {self.level:.2g}{more}."
            case _:
                return f"{name} is refused, for it did worse: {figures}."

    def to_json(self) -> dict[str, Any]:
        """The figures, without the candidate's lessons."""
        gain = self.gain
        return {
            "candidate": self.candidate.version,
            "against": self.against,
            "part": self.part,
            "decision": self.decision,
            "gain": {"mean": gain.mean, "low": gain.low, "high": gain.high, "tasks": gain.n},
            "p": self.p,
            "level": self.level,
            "scored": self.scored,
            "wins": self.wins,
            "losses": self.losses,
            "ties": self.ties,
            "missing": self.missing,
            "needed": self.needed,
            "sentence": self.sentence,
        }


def _signed(interval: Interval) -> str:
    if interval.low is None or interval.high is None:
        return f"{interval.mean:+.3f}"
    return f"{interval.mean:+.3f} [{interval.low:+.3f}, {interval.high:+.3f}]"
