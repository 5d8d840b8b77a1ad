"""TokenPrior: a library as the text that conditions the agent. Its wording stands here and nowhere else.

Learning, evaluation and deployment all call `TokenPrior.conditioned`, so the agent that learns and the agent that
ships see the same words in the same place: at the end of the system prompt, where a server can cache what all
calls share. An empty library leaves the system prompt as it was, byte for byte.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tokenprior.experience import Experience
from tokenprior.library import Library, estimate_tokens
from tokenprior.task import content_hash

HEADING = "Lessons from experience. Follow those whose condition fits the task at hand:"


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenPrior:
    """The text that a library puts in front of every call.

    Attributes:
        text: empty for an empty library.
        included: ids of the experiences in the text, in order.
        omitted: ids of those that did not fit the token budget.
        library_version: content hash of the library it was made from.
    """

    text: str = ""
    included: tuple[str, ...] = ()
    omitted: tuple[str, ...] = ()
    library_version: str = ""

    @classmethod
    def of(cls, library: Library, *, budget_tokens: int | None = None) -> TokenPrior:
        """Render a library.

        Args:
            budget_tokens: the most the text may take, as `estimate_tokens` counts. Experiences of the least
                `Experience.worth` are left out first, of those the youngest; the order of the rest does not change.
        """
        chosen = list(library)
        omitted: list[Experience] = []
        while chosen and budget_tokens is not None and estimate_tokens(_render(chosen)) > budget_tokens:
            weakest = min(reversed(chosen), key=lambda experience: experience.worth)
            chosen.remove(weakest)
            omitted.append(weakest)
        return cls(
            text=_render(chosen),
            included=tuple(e.id for e in chosen),
            omitted=tuple(e.id for e in library if e in omitted),
            library_version=library.version,
        )

    @property
    def fingerprint(self) -> str:
        """A hash of the words alone: equal for equal text, whatever library it came from."""
        return content_hash(self.text)

    def conditioned(self, instructions: str) -> str:
        """The system prompt with the prior at its end; unchanged where there is no prior."""
        return "\n\n".join(part for part in (instructions, self.text) if part)


def _render(experiences: Iterable[Experience]) -> str:
    lines = [f"[{experience.id}] {experience.line}" for experience in experiences]
    return "\n".join([HEADING, *lines]) if lines else ""
