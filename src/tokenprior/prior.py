"""TokenPrior: a library as the text that conditions the agent. Its wording stands here and nowhere else.

Learning, evaluation and deployment all call `TokenPrior.conditioned`, so the agent that learns and the agent that
ships see the same words in the same place: at the end of the system prompt, where a server can cache what all
calls share. An empty library leaves the system prompt as it was, byte for byte.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass

from tokenprior.experience import Experience
from tokenprior.library import Library, estimate_tokens
from tokenprior.relevance import relevance
from tokenprior.task import content_hash

HEADING = "Lessons from experience. Follow those whose condition fits the task at hand:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendering:
    """How much of a library stands before a task.

    Attributes:
        tokens: the most the text may take, as `estimate_tokens` counts; `None` is no limit.
        relevant: the most lessons chosen for the task at hand; `None` puts the whole library before every task.
        core: how many lessons, those of the most `Experience.worth`, stand before every task beside the chosen ones;
            they come first, so that a server can cache them.
    """

    tokens: int | None = None
    relevant: int | None = None
    core: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenPrior:
    """The text that a library puts in front of a call.

    Attributes:
        text: empty for an empty library.
        included: ids of the experiences in the text, in order.
        omitted: ids of those that were not chosen or did not fit.
        library_version: content hash of the library it was made from.
    """

    text: str = ""
    included: tuple[str, ...] = ()
    omitted: tuple[str, ...] = ()
    library_version: str = ""

    @classmethod
    def of(cls, library: Library, rendering: Rendering | None = None, *, question: str | None = None) -> TokenPrior:
        """Render a library.

        Args:
            rendering: how much of it; all by default. Over its tokens, experiences of the least `Experience.worth` are
                left out first, of those the youngest; the order of the rest does not change.
            question: of the task at hand, for a rendering that chooses. Lessons that share no word with it are not
                chosen. Without a question nothing is chosen, and the whole library is rendered.
        """
        rendering = rendering or Rendering()
        chosen = list(library)
        if rendering.relevant is not None and question is not None:
            chosen = _chosen(chosen, question, rendering.relevant, rendering.core)
        while chosen and rendering.tokens is not None and estimate_tokens(_render(chosen)) > rendering.tokens:
            chosen.remove(min(reversed(chosen), key=lambda experience: experience.worth))
        included = tuple(e.id for e in chosen)
        return cls(
            text=_render(chosen),
            included=included,
            omitted=tuple(e.id for e in library if e.id not in included),
            library_version=library.version,
        )

    @property
    def fingerprint(self) -> str:
        """A hash of the words alone: equal for equal text, whatever library it came from."""
        return content_hash(self.text)

    def conditioned(self, instructions: str) -> str:
        """The system prompt with the prior at its end; unchanged where there is no prior."""
        # Thousands of attempts are under way with the same one: it is in memory once.
        return sys.intern("\n\n".join(part for part in (instructions, self.text) if part))


def parted(system: str) -> tuple[str, str]:
    """A system prompt as its instructions and the prior at its end, which is empty where there is none."""
    at = system.rfind(f"{HEADING}\n")
    return (system, "") if at < 0 or (at and system[:at][-2:] != "\n\n") else (system[:at].rstrip("\n"), system[at:])


def _chosen(experiences: list[Experience], question: str, relevant: int, core: int) -> list[Experience]:
    """The core in the order of the library, then what the question calls for, in that order too."""
    worthiest = sorted(experiences, key=lambda experience: experience.worth, reverse=True)[:core]
    rest = [experience for experience in experiences if experience not in worthiest]
    scores = relevance(question, [experience.line for experience in rest])
    best = sorted(range(len(rest)), key=lambda place: -scores[place])[:relevant]
    wanted = [rest[place] for place in sorted(best) if scores[place] > 0]
    return [experience for experience in experiences if experience in worthiest] + wanted


def _render(experiences: Iterable[Experience]) -> str:
    lines = [f"[{experience.id}] {experience.line}" for experience in experiences]
    return "\n".join([HEADING, *lines]) if lines else ""
