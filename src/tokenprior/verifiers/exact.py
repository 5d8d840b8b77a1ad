"""Exact: the answer that was read equals one of the accepted answers."""

from __future__ import annotations

from dataclasses import dataclass

from tokenprior.reward import Reward
from tokenprior.rollout import Rollout, StopReason
from tokenprior.task import Task, content_hash
from tokenprior.verifiers.diagnose import diagnose, wrong
from tokenprior.verifiers.take import WHOLE_OUTPUT, NotRead, Take

RULE = 1
_QUOTING = "\"'`*“”‘’«» \t\r\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Exact:
    """1.0 if the answer equals an accepted one, else 0.0. White space at both ends never counts.

    Attributes:
        take: where the answer is read.
        ignore_case: whether letter case is left out of account.
        ignore_punctuation: whether quotes, backticks and asterisks around the answer and a final period are.
        ignore_space: whether the amount and kind of white space inside is.
    """

    take: Take = WHOLE_OUTPUT
    ignore_case: bool = False
    ignore_punctuation: bool = False
    ignore_space: bool = False

    @property
    def fingerprint(self) -> str:
        return content_hash(
            ["exact", RULE, str(self.take), self.ignore_case, self.ignore_punctuation, self.ignore_space]
        )

    async def verify(self, task: Task, rollout: Rollout) -> Reward:
        """Compare. Unscored if the task has no accepted answer."""
        wanted = tuple(answer for answer in task.accepted if answer.strip())
        if not wanted:
            return Reward.unscored("task has no reference answer")
        try:
            read = await self.take.read(rollout.output)
        except NotRead as error:
            return Reward.unscored(str(error))
        if read is not None and self._normal(read) in {self._normal(answer) for answer in wanted}:
            return Reward(value=1.0, extracted=read, feedback="Correct.")
        place = self.take.words
        diagnosis = diagnose(
            wanted=wanted,
            read=read,
            output=rollout.output,
            place=place,
            is_cut_off=rollout.stop is StopReason.LENGTH,
        )
        return Reward(
            value=0.0,
            extracted=read,
            feedback=wrong(place=place, read=read, wanted=wanted, diagnosis=diagnosis),
        )

    def _normal(self, text: str) -> str:
        text = text.strip()
        if self.ignore_punctuation:
            text = _bare(text)
        if self.ignore_space:
            text = " ".join(text.split())
        return text.casefold() if self.ignore_case else text


def _bare(text: str) -> str:
    """Without what is put around an answer; a text of nothing else stays as it is."""
    bare = text
    while (shorter := bare.strip(_QUOTING).removesuffix(".")) != bare:
        bare = shorter
    return bare or text
