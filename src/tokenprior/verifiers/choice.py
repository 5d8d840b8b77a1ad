"""Choice: one of a closed set of options, found in the text by its label."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tokenprior.errors import ConfigError
from tokenprior.reward import Reward
from tokenprior.rollout import Rollout, StopReason
from tokenprior.task import Task, content_hash
from tokenprior.verifiers.diagnose import quoted, quoted_all
from tokenprior.verifiers.take import WHOLE_OUTPUT, NotRead, Take

RULE = 1
_MARKS = " \t\r\n\"'`*“”‘’.,:;!?()[]{}<>"


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """1.0 if the text names the accepted option and no other, else 0.0.

    A text that is a label, marks around it aside, names that one. Else every label that stands in it as a whole word
    counts, the longest where labels contain each other. Labels of one letter are looked for in their own letter case,
    since "a" is also a word.

    Attributes:
        options: the labels; at least two.
        take: where the answer is read.
        ignore_case: whether letter case is left out of account.

    Raises:
        ConfigError: fewer than two options, an empty one, or two that are the same.
    """

    options: tuple[str, ...]
    take: Take = WHOLE_OUTPUT
    ignore_case: bool = True

    def __post_init__(self) -> None:
        seen: dict[str, str] = {}
        for option in self.options:
            key = self._fold(option)
            if not key:
                raise ConfigError("choice: an option is empty: give every option a label")
            if key in seen:
                raise ConfigError(
                    f"choice: options {seen[key]!r} and {option!r} are the same; expected different labels"
                    + (" (or set ignore_case to false)" if self.ignore_case else "")
                )
            seen[key] = option
        if len(seen) < 2:
            raise ConfigError(f"choice: got options {list(self.options)!r}, expected at least two")

    @property
    def fingerprint(self) -> str:
        return content_hash(["choice", RULE, list(self.options), str(self.take), self.ignore_case])

    async def verify(self, task: Task, rollout: Rollout) -> Reward:
        """Compare. Unscored if the task has no answer, or one that is no option."""
        if not task.accepted:
            return Reward.unscored("task has no reference answer")
        by_key = {self._fold(option): option for option in self.options}
        wanted = tuple(by_key[key] for answer in task.accepted if (key := self._fold(answer)) in by_key)
        if not wanted:
            return Reward.unscored(f"the reference answer {quoted(task.accepted[0], 60)} is none of the options")
        try:
            read = await self.take.read(rollout.output)
        except NotRead as error:
            return Reward.unscored(str(error))
        named = self.named(read or "")
        if len(named) == 1 and named[0] in wanted:
            return Reward(value=1.0, extracted=named[0], feedback="Correct.")
        where = f"Read from {self.take.words}: {quoted(read) if read is not None else 'nothing'}."
        if len(named) == 1:
            what = f"It names the option {quoted(named[0])}"
        elif named:
            what = f"It names several options: {', '.join(quoted(option) for option in named[:8])}"
        elif rollout.stop is StopReason.LENGTH:
            what = "It names none of the options: the attempt was cut off at its token limit before it ended"
        elif elsewhere := [option for option in self.named(rollout.output) if option in wanted]:
            what = f"It names none of the options; {quoted(elsewhere[0])} stands elsewhere in the attempt"
        else:
            what = "It names none of the options"
        return Reward(
            value=0.0,
            extracted=named[0] if len(named) == 1 else None,
            feedback=f"{where} {what}. Wanted: {quoted_all(wanted)}.",
        )

    def named(self, text: str) -> tuple[str, ...]:
        """The options that a text names, in the order of their first mention."""
        by_key = {self._fold(option): option for option in self.options}
        if (whole := self._fold(text)) in by_key:
            return (by_key[whole],)
        # Labels with a mark of their own ("reverted_card_payment?") are also known without it, where that is unique.
        bare = [self._fold(option).strip(_MARKS) for option in self.options]
        by_bare = {key: option for key, option in zip(bare, self.options, strict=True) if key and bare.count(key) == 1}
        known = by_bare | by_key
        if (whole := whole.strip(_MARKS)) in known:
            return (known[whole],)
        found: dict[str, None] = {}
        pattern = "|".join(_as_word(key) for key in sorted(known, key=len, reverse=True))
        # Without folding here: it may change the length of a text, and single letters are told apart by case.
        spaced = " ".join(text.split())
        for match in re.finditer(pattern, spaced, re.IGNORECASE if self.ignore_case else 0):
            option = known.get(self._fold(match[0]))
            if option is not None and (len(option.strip()) > 1 or option.strip() == match[0]):
                found[option] = None
        return tuple(found)

    def _fold(self, text: str) -> str:
        text = " ".join(text.split())
        return text.casefold() if self.ignore_case else text


def _as_word(label: str) -> str:
    before = r"(?<![\w-])" if label[0].isalnum() else ""
    after = r"(?![\w-])" if label[-1].isalnum() else ""
    return before + re.escape(label) + after
