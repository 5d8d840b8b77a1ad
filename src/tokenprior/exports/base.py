"""What the formats share: what a form is given beside a library, and what was read of one."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from tokenprior.experience import Effect, Experience, Origin, Provenance, one_line, readable
from tokenprior.library import Library

MAX_CHARACTERS = 4_000  # of one lesson that comes in; a hundred times what learning writes


@dataclass(frozen=True, slots=True, kw_only=True)
class Around:
    """What a library is put into. A form uses those that `Form.takes` names.

    Attributes:
        into: the text of an existing file, which keeps all that is not ours; `None` for a new one.
        instructions: the user's own prompt, which the prior follows.
        name: what the exported thing is called.
    """

    into: str | None = None
    instructions: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """A library that was read, and what a person should know of it.

    Attributes:
        notes: what could not be taken, or not as it stood, each one line.
    """

    library: Library
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """One format.

    Attributes:
        dumps: a library as text. Raises DataError for an `into` that cannot be merged into, ConfigError for a wrong
            name.
        loads: the library in a text, its lessons as they stand there; `run` is what their provenance says. Raises
            DataError if there is none.
        words: what it is, in a few words.
        saved: how a file of it is called, `{}` for the library's name.
        takes: the fields of `Around` that `dumps` looks at.
    """

    dumps: Callable[[Library, Around], str]
    loads: Callable[[str, str], Reading]
    words: str
    saved: str
    takes: tuple[str, ...] = ()


def newline_of(text: str) -> str:
    """How the lines of a text end, told from the first."""
    head, end, _ = text.partition("\n")
    return "\r\n" if end and head.endswith("\r") else "\n"


def tidied(experience: Experience) -> Experience:
    """The lesson with nothing hidden in it. Words that change have no effect known."""
    tidy = replace(experience, name=one_line(readable(experience.name)), text=readable(experience.text))
    return tidy if tidy.line == experience.line else replace(tidy, effect=None)


def taken(reading: Reading) -> Reading:
    """What of a reading may come in: everything imported is data, and none of it is trusted to be well made."""
    kept: list[Experience] = []
    notes = list(reading.notes)
    for experience in reading.library:
        tidy = tidied(experience)
        if not tidy.text:
            notes.append(f"{tidy.id} is left out: it has no text")
            continue
        if len(tidy.line) > MAX_CHARACTERS:
            notes.append(f"{tidy.id} is left out: {len(tidy.line)} characters, at most {MAX_CHARACTERS} are taken")
            continue
        if tidy.line != experience.line:
            notes.append(f"{tidy.id}: hidden characters or spaces at line ends were taken out")
        if tidy.effect and not _is_sound(tidy.effect):
            notes.append(f"{tidy.id}: its effect is left out, for it is no measurement")
            tidy = replace(tidy, effect=None)
        kept.append(replace(tidy, provenance=_tidied_provenance(tidy.provenance)))
    return Reading(library=replace(reading.library, experiences=tuple(kept)), notes=tuple(notes))


def _is_sound(effect: Effect) -> bool:
    figures = (effect.mean, effect.low, effect.high, effect.shrunk, effect.tasks, effect.rollouts)
    if not all(isinstance(value, int | float) and math.isfinite(value) for value in figures):
        return False
    return effect.low <= effect.high and effect.tasks >= 0 and effect.rollouts >= 0


def _tidied_provenance(provenance: Provenance) -> Provenance:
    return replace(
        provenance,
        run=readable(provenance.run),
        operation=readable(provenance.operation),
        reason=readable(provenance.reason),
        groups=tuple(readable(str(group)) for group in provenance.groups),
        rollouts=tuple(readable(str(rollout)) for rollout in provenance.rollouts),
        parents=tuple(readable(str(parent)) for parent in provenance.parents),
        origins=tuple(
            Origin(
                run=readable(origin.run),
                id=readable(origin.id),
                effect=origin.effect if origin.effect and _is_sound(origin.effect) else None,
            )
            for origin in provenance.origins
        ),
    )
