"""Take: where in an output the answer is read."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, Self, get_args

from tokenprior.errors import ConfigError
from tokenprior.verifiers.numeral import numerals
from tokenprior.verifiers.pattern import check_pattern, last_match
from tokenprior.verifiers.pool import JobFailed

Place = Literal["all", "first_line", "last_line", "last_number", "boxed", "fence", "after", "tag", "regex"]
_WITH_ARGUMENT = ("after", "tag", "regex")
_ALLOWED = "all, first_line, last_line, last_number, boxed, fence, after:MARKER, tag:NAME, regex:PATTERN"
_LINES = re.compile(r"\r\n|\n|\r")
_BRACES = re.compile(r"\\boxed\s*\{|\\[{}\\]|[{}]")
_LANGUAGE = re.compile(r"[\w+#.-]*[ \t]*\r?\n")


class NotRead(Exception):
    """The place could not be looked up in time. The attempt is then unscored; never leaves the family."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Take:
    """One place of an output.

    Attributes:
        place: `all` the whole output; `first_line` and `last_line` the first and last that is not empty;
            `last_number`; `boxed` the last closed `\\boxed{...}`; `fence` the last block in triple backticks;
            `after` what follows the last marker on its line; `tag` the last `<NAME>...</NAME>`, in any letter case;
            `regex` the first group of the last match, or the match where there is no group.
        argument: the marker, name or pattern of the last three; empty for the others.
    """

    place: Place = "all"
    argument: str = ""

    def __post_init__(self) -> None:
        if self.place not in get_args(Place) or (self.place in _WITH_ARGUMENT) != bool(self.argument.strip()):
            raise ConfigError(f"take: got {str(self)!r}, expected one of {_ALLOWED}")
        if self.place == "regex":
            check_pattern(self.argument, "take")

    def __str__(self) -> str:
        return f"{self.place}:{self.argument}" if self.argument else self.place

    @classmethod
    def parse(cls, text: str) -> Self:
        """From its written form, such as `last_line` or `after:Answer:`.

        Raises:
            ConfigError: names the forms there are.
        """
        place, _, argument = text.partition(":")
        return cls(place=place.strip(), argument=argument)  # type: ignore[arg-type]  # checked when made

    @property
    def words(self) -> str:
        """The place in words, for feedback: `the last line`."""
        match self.place:
            case "all":
                return "the whole output"
            case "first_line" | "last_line" | "last_number":
                return "the " + self.place.replace("_", " ")
            case "boxed":
                return "the last \\boxed{...}"
            case "fence":
                return "the last ``` block"
            case "after":
                return f"the text after the last '{self.argument.strip()}', up to the end of its line"
            case "tag":
                return f"the last <{self.argument}>...</{self.argument}>"
            case "regex":
                return f"the last match of {self.argument}"

    async def read(self, output: str) -> str | None:
        """What stands there, stripped of white space; `None` if nothing does.

        Raises:
            NotRead: a pattern took longer than two seconds.
        """
        if self.place != "regex":
            return self._find(output)
        try:
            found = await last_match(self.argument, output)
        except JobFailed as error:
            raise NotRead(f"take {self}: {error}") from error
        return (found[1].strip() or None) if found else None

    def _find(self, output: str) -> str | None:
        lines = [line.strip() for line in _LINES.split(output) if line.strip()]
        found: str | None = None
        match self.place:
            case "all":
                found = output
            case "first_line":
                found = lines[0] if lines else None
            case "last_line":
                found = lines[-1] if lines else None
            case "last_number":
                numbers = numerals(output)
                found = numbers[-1].text if numbers else None
            case "boxed":
                found = last_boxed(output)
            case "fence":
                blocks = [_LANGUAGE.sub("", block, count=1) for block in _fenced(output)]
                found = next((block for block in reversed(blocks) if block.strip()), None)
            case "after":
                _, marker, rest = output.rpartition(self.argument.strip())
                found = _LINES.split(rest, maxsplit=1)[0] if marker else None
            case "tag":
                found = _last_tag(self.argument, output)
            case "regex":
                raise AssertionError("patterns are matched in a worker")
        return (found.strip() or None) if found else None


WHOLE_OUTPUT = Take()
LAST_NUMBER = Take(place="last_number")


def last_boxed(text: str) -> str | None:
    """The content of the last `\\boxed{...}` whose braces are balanced; of nested ones the outer."""
    found: str | None = None
    opened: list[tuple[bool, int]] = []
    for match in _BRACES.finditer(text):
        if match[0].endswith("{") and match[0] != "\\{":
            opened.append((match[0] != "{", match.end()))
        elif match[0] == "}" and opened:
            is_box, start = opened.pop()
            if is_box:
                found = text[start : match.start()]
    return found


def _fenced(text: str) -> list[str]:
    # An unclosed last block runs to the end: models stop after the code without closing it.
    return text.split("```")[1::2]


def _last_tag(name: str, text: str) -> str | None:
    found: str | None = None
    start: int | None = None
    for match in re.finditer(rf"<(/?){re.escape(name.strip())}\s*>", text, re.IGNORECASE):
        if not match[1]:
            start = match.end()
        elif start is not None:
            found, start = text[start : match.start()], None
    return found
