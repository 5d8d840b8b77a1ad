"""Number: the number that was read equals the reference, exactly or within a tolerance."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from tokenprior.errors import ConfigError
from tokenprior.reward import Reward
from tokenprior.rollout import Rollout, StopReason
from tokenprior.task import Task, content_hash
from tokenprior.verifiers.diagnose import wrong
from tokenprior.verifiers.numeral import Numeral, numerals
from tokenprior.verifiers.take import LAST_NUMBER, NotRead, Take

RULE = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Number:
    """1.0 if the number is within the tolerance of an accepted one, else 0.0.

    Values are compared as exact fractions. Where the text that was taken holds several numbers, the last one counts.

    Attributes:
        take: where the number is read.
        tolerance_abs: largest difference allowed; 0 or more.
        tolerance_rel: largest difference allowed as a part of the accepted value; 0 or more. The wider one counts.
        percent: whether `6%` is 6 (`as_is`) or 0.06 (`fraction`), in the reference as in the attempt.
        units: `ignored`, or `required`: the unit or currency of the reference, if it has one, has to stand at it.

    Raises:
        ConfigError: a tolerance is negative or not finite.
    """

    take: Take = LAST_NUMBER
    tolerance_abs: float = 0.0
    tolerance_rel: float = 0.0
    percent: Literal["as_is", "fraction"] = "as_is"
    units: Literal["ignored", "required"] = "ignored"

    def __post_init__(self) -> None:
        for name, value in (("tolerance_abs", self.tolerance_abs), ("tolerance_rel", self.tolerance_rel)):
            if not (math.isfinite(value) and value >= 0):
                raise ConfigError(f"number: {name} is {value!r}, expected 0 or more")

    @property
    def fingerprint(self) -> str:
        return content_hash(
            ["number", RULE, str(self.take), self.tolerance_abs, self.tolerance_rel, self.percent, self.units]
        )

    async def verify(self, task: Task, rollout: Rollout) -> Reward:
        """Compare. Unscored if the task has no answer, or one that is not a single number."""
        if not task.accepted:
            return Reward.unscored("task has no reference answer")
        wanted = [number for answer in task.accepted if (number := _single(answer)) is not None]
        if not wanted:
            return Reward.unscored(f"the reference answer is not a number: {task.accepted[0]!r:.60}")
        all_numbers = numerals(rollout.output)
        try:
            text = rollout.output if self.take.place == "last_number" else await self.take.read(rollout.output)
        except NotRead as error:
            return Reward.unscored(str(error))
        found = numerals(text or "")
        read = found[-1] if found else None
        if read is not None and any(self._equal(read, number) for number in wanted):
            return Reward(value=1.0, extracted=read.text, feedback="Correct.")
        shown = (read.text if self.units == "ignored" else f"{read.text} {read.unit}".strip()) if read else text
        is_cut_off = rollout.stop is StopReason.LENGTH
        return Reward(
            value=0.0,
            extracted=read.text if read else None,
            feedback=wrong(
                place=self.take.words,
                read=shown if self.take.place != "last_number" or read else None,
                wanted=task.accepted,
                diagnosis=self._diagnosis(read, wanted, all_numbers, is_cut_off),
            ),
        )

    def _amount(self, number: Numeral) -> Fraction | None:
        if number.value is None:
            return None
        return number.value / 100 if number.is_percent and self.percent == "fraction" else number.value

    def _within(self, read: Numeral, wanted: Numeral, factor: Fraction = Fraction(1)) -> bool:
        ours, theirs = self._amount(wanted), self._amount(read)
        if ours is None or theirs is None:
            return False
        room = max(Fraction(self.tolerance_abs), Fraction(self.tolerance_rel) * abs(ours))
        return abs(theirs * factor - ours) <= room

    def _equal(self, read: Numeral, wanted: Numeral) -> bool:
        return self._within(read, wanted) and (self.units == "ignored" or _same_unit(read, wanted))

    def _diagnosis(
        self, read: Numeral | None, wanted: list[Numeral], all_numbers: list[Numeral], is_cut_off: bool
    ) -> str:
        cut_off = "the attempt was cut off at its token limit before it ended"
        mentioned = any(self._within(other, number) for other in all_numbers for number in wanted)
        if read is None:
            if is_cut_off:
                return cut_off
            elsewhere = f"the wanted number stands in the attempt, but not in {self.take.words}"
            return elsewhere if mentioned else "no number was found where the answer is read"
        if read.value is None:
            return "a list of numbers (or a decimal comma) is not one number"
        if any(self._within(read, number) for number in wanted):
            return "the number is right, but its unit is missing or another one"
        if is_cut_off:
            return cut_off
        for number in wanted:
            if words := self._relation(read, number):
                return words
        if mentioned:
            where = (
                "is not the last number" if self.take == LAST_NUMBER else f"does not stand alone in {self.take.words}"
            )
            return f"the wanted number stands in the attempt, but {where}"
        return "another number"

    def _relation(self, read: Numeral, wanted: Numeral) -> str:
        if wanted.value in (None, 0) or read.value in (None, 0):
            return ""
        if self._within(read, wanted, Fraction(-1)):
            return "it has the wrong sign"
        for factor in (100, 1000, 10):
            if self._within(read, wanted, Fraction(1, factor)):
                return f"it is {factor} times too large"
            if self._within(read, wanted, Fraction(factor)):
                return f"it is {factor} times too small"
        ours, theirs = self._amount(wanted), self._amount(read)
        assert ours is not None
        assert theirs is not None
        for fine, coarse, words in ((ours, theirs, "fewer"), (theirs, ours, "more")):
            for decimals in range(7):
                if round(fine, decimals) == coarse:
                    return f"it is rounded to {words} decimals than wanted"
        return ""


def _single(answer: str) -> Numeral | None:
    """The number of a reference such as `12 square meters`: up to four words around it, no operator and no list."""
    found = numerals(answer)
    if len(found) != 1 or found[0].value is None:
        return None
    # Not one with a lone number among its words: any attempt that ends with that number would be right.
    rest = (answer[: found[0].start] + " " + answer[found[0].end :]).replace("**", "")
    return found[0] if len(rest.split()) <= 4 and not any(char in "^=<>*+,;|" for char in rest) else None


def _same_unit(read: Numeral, wanted: Numeral) -> bool:
    return not wanted.unit or read.unit.casefold() == wanted.unit.casefold()
