"""Contains and Regex: the answer stands somewhere in the text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tokenprior.errors import ConfigError
from tokenprior.reward import Reward
from tokenprior.rollout import Rollout, StopReason
from tokenprior.task import Task, content_hash
from tokenprior.verifiers.diagnose import quoted, quoted_all
from tokenprior.verifiers.pattern import TIMEOUT_S, check_pattern, last_match
from tokenprior.verifiers.pool import JobFailed
from tokenprior.verifiers.take import WHOLE_OUTPUT, NotRead, Take

RULE = 1
_CUT_OFF = " The attempt was cut off at its token limit before it ended."


@dataclass(frozen=True, slots=True, kw_only=True)
class Contains:
    """1.0 if accepted answers occur in the text, also inside words, else 0.0.

    Attributes:
        take: where they are looked for.
        require: whether `any` accepted answer is enough or `all` have to be there.
        ignore_case: whether letter case is left out of account.
    """

    take: Take = WHOLE_OUTPUT
    require: Literal["any", "all"] = "any"
    ignore_case: bool = True

    @property
    def fingerprint(self) -> str:
        return content_hash(["contains", RULE, str(self.take), self.require, self.ignore_case])

    async def verify(self, task: Task, rollout: Rollout) -> Reward:
        """Look. Unscored if the task has no accepted answer."""
        wanted = tuple(answer for answer in task.accepted if answer.strip())
        if not wanted:
            return Reward.unscored("task has no reference answer")
        try:
            read = await self.take.read(rollout.output)
        except NotRead as error:
            return Reward.unscored(str(error))
        text = self._fold(read or "")
        missing = tuple(answer for answer in wanted if self._fold(answer.strip()) not in text)
        if not missing or (self.require == "any" and len(missing) < len(wanted)):
            return Reward(value=1.0, extracted=read, feedback="Correct.")
        what = "Not found" if self.require == "all" or len(wanted) == 1 else "None of these was found"
        joint = ", " if self.require == "all" else " or "
        cut_off = _CUT_OFF if rollout.stop is StopReason.LENGTH else ""
        return Reward(
            value=0.0,
            extracted=read,
            feedback=f"{what} in {self.take.words}: {quoted_all(missing, joint)}.{cut_off}",
        )

    def _fold(self, text: str) -> str:
        return text.casefold() if self.ignore_case else text


@dataclass(frozen=True, slots=True, kw_only=True)
class Regex:
    """1.0 if a pattern matches, else 0.0. Matching runs in a worker process that is killed when it takes too long.

    Attributes:
        pattern: a regular expression; `None` takes the accepted answers of the task, any of which may match.
        take: what it is matched against.
        ignore_case: whether letter case is left out of account.
        whole: whether it has to match the whole text.
        timeout_s: seconds a match may take; above 0.

    Raises:
        ConfigError: the pattern is not valid, or the time limit is not above 0.
    """

    pattern: str | None = None
    take: Take = WHOLE_OUTPUT
    ignore_case: bool = False
    whole: bool = False
    timeout_s: float = TIMEOUT_S

    def __post_init__(self) -> None:
        if self.pattern is not None:
            check_pattern(self.pattern, "regex: pattern")
        if not self.timeout_s > 0:
            raise ConfigError(f"regex: timeout_s is {self.timeout_s!r}, expected more than 0")

    @property
    def fingerprint(self) -> str:
        return content_hash(["regex", RULE, self.pattern, str(self.take), self.ignore_case, self.whole])

    async def verify(self, task: Task, rollout: Rollout) -> Reward:
        """Match. Unscored if there is no pattern, it is not valid, or it took too long."""
        patterns = task.accepted if self.pattern is None else (self.pattern,)
        if not patterns:
            return Reward.unscored("task has no reference answer")
        try:
            read = await self.take.read(rollout.output)
            for pattern in patterns:
                found = await last_match(
                    pattern, read or "", ignore_case=self.ignore_case, whole=self.whole, timeout_s=self.timeout_s
                )
                if found is not None:
                    return Reward(value=1.0, extracted=found[0], feedback="Correct.")
        except NotRead as error:
            return Reward.unscored(str(error))
        except JobFailed as error:
            return Reward.unscored(f"the pattern {quoted(pattern, 80)} could not be matched: {error}")
        shown = quoted(read) if read is not None else "nothing"
        cut_off = _CUT_OFF if rollout.stop is StopReason.LENGTH else ""
        return Reward(
            value=0.0,
            extracted=read,
            feedback=f"Read from {self.take.words}: {shown}. It does not match {quoted_all(patterns)}.{cut_off}",
        )
