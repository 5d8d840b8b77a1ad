"""Math: the answer is mathematically equal to the reference.

In this order: plain numbers are compared here, which settles most answers in microseconds; all else goes to
math-verify in a worker process that is killed when it takes too long. (math-verify bounds its own time by a signal in
the main thread, which a server has no room for, and hard expressions ignore it.)
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from tokenprior.errors import ConfigError, MissingExtra
from tokenprior.reward import Reward
from tokenprior.rollout import Rollout, StopReason
from tokenprior.task import Task, content_hash
from tokenprior.verifiers.diagnose import diagnose, wrong
from tokenprior.verifiers.numeral import numerals, read_number
from tokenprior.verifiers.pool import JobFailed, Pool, TookTooLong
from tokenprior.verifiers.take import WHOLE_OUTPUT, NotRead, Take, last_boxed

RULE = 1
MAX_CHARS = 20_000  # math-verify searches the whole text with heavy patterns; an answer stands at its end.


def _workers() -> Pool:
    return Pool("tokenprior.verifiers.math:load_compare", size=2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Math:
    """1.0 if the attempt's answer equals an accepted one, else 0.0.

    The last `\\boxed{...}` of the text that was taken is the answer; without one math-verify looks for it. Close the
    verifier with `aclose` when it is not needed any more; its workers also end with this process.

    Attributes:
        take: where the answer is looked for.
        timeout_s: seconds that one comparison may take in a worker; above 0.

    Raises:
        MissingExtra: math-verify is not installed.
        ConfigError: the time limit is not above 0.
    """

    take: Take = WHOLE_OUTPUT
    timeout_s: float = 10.0
    _pool: Pool = field(default_factory=_workers, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.timeout_s > 0:
            raise ConfigError(f"math: timeout_s is {self.timeout_s!r}, expected more than 0")
        if importlib.util.find_spec("math_verify") is None:
            raise MissingExtra("math-verify", "math", "the math verifier")

    @property
    def fingerprint(self) -> str:
        return content_hash(["math", RULE, str(self.take)])

    async def aclose(self) -> None:
        """End the workers."""
        await self._pool.aclose()

    async def verify(self, task: Task, rollout: Rollout) -> Reward:
        """Compare. Unscored if the task has no answer, one that is no mathematics, or a comparison failed."""
        wanted = tuple(answer for answer in task.accepted if answer.strip())
        if not wanted:
            return Reward.unscored("task has no reference answer")
        try:
            text = await self.take.read(rollout.output)
        except NotRead as error:
            return Reward.unscored(str(error))
        boxed = last_boxed(text or "")
        boxed = boxed.strip() or None if boxed is not None else None
        verdicts: list[bool] = []
        read = boxed
        for answer in wanted:
            verdict = _quick(answer, text or "", boxed)
            if verdict is None:
                try:
                    verdict, found = await self._pool.run(answer, text, boxed, timeout_s=self.timeout_s)
                except TookTooLong:
                    return Reward.unscored(f"math-verify took longer than {self.timeout_s:g} s")
                except JobFailed as error:
                    return Reward.unscored(f"math-verify: {error}")
                read = boxed or found
            elif boxed is None:
                read = numerals(text or "")[-1].text
            verdicts.append(verdict)
            if verdict:
                return Reward(value=1.0, extracted=read, feedback="Correct.")
        place = "the last \\boxed{...}" if boxed is not None else "the last mathematical expression"
        diagnosis = diagnose(
            wanted=wanted,
            read=read,
            output=rollout.output,
            place=place,
            is_cut_off=rollout.stop is StopReason.LENGTH,
        )
        feedback = wrong(place=place, read=read, wanted=wanted, diagnosis=diagnosis)
        return Reward(value=0.0, extracted=read, feedback=feedback)


def _quick(answer: str, text: str, boxed: str | None) -> bool | None:
    """The verdict where plain numbers settle it, else `None`.

    Without a box only equality is settled: the last number of a text may not be its answer, so a different one says
    nothing, and an equal one counts only if it is no part of an expression such as `x^2`.
    """
    wanted = _plain(answer)
    if wanted is None or not text:
        return None
    if boxed is not None:
        found = _plain(boxed)
        return None if found is None else found == wanted
    numbers = numerals(text)
    if not numbers or numbers[-1].value != wanted or numbers[-1].is_percent:
        return None
    last = numbers[-1]
    before, after = text[: last.start].rstrip()[-1:], text[last.end :].lstrip()[:1]
    is_alone = before in "=:$*" or before.isalpha()
    return True if is_alone and after in ".$*\n\\)" and not text[last.end :].strip("*$.)\\ \n") else None


def _plain(text: str) -> Fraction | None:
    """An integer or decimal without percent sign or unit."""
    number = read_number(text.strip().strip("$").strip())
    return None if number is None or number.is_percent or number.unit else number.value


def load_compare() -> Callable[[str, str | None, str | None], tuple[bool, str | None]]:
    """For the worker: the function that compares. Takes a second or two to import what it needs."""
    import math_verify

    def compare(answer: str, text: str | None, boxed: str | None) -> tuple[bool, str | None]:
        if not text:
            return False, None
        gold = _read(math_verify, answer if "$" in answer or "\\boxed" in answer else f"${answer}$")
        gold = gold or _read(math_verify, answer)
        if not gold:
            raise ValueError(f"the reference answer is not mathematics: {answer[:60]!r}")
        found = _read(math_verify, f"\\boxed{{{boxed}}}" if boxed is not None else text[-MAX_CHARS:])
        if not found:
            return False, None
        same = math_verify.verify(gold, found, timeout_seconds=None)
        return bool(same), str(found[-1])[:200]

    # The first comparison builds parser tables; done here it does not count as a job's time.
    compare("1", "\\boxed{\\frac{2}{2}}", "\\frac{2}{2}")
    return compare


def _read(math_verify: Any, text: str) -> list[Any]:
    found: list[Any] = math_verify.parse(text, parsing_timeout=None)
    return found
