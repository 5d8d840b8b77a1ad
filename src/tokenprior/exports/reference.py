"""The reference's agent YAML: `agent.instructions` with the experiences as `[G0]. Name: lesson` behind a marker line.

Its published files use two marker lines, for maths and for the web, so what opens the list is told by the entries
themselves. What stands before them (the agent's own instructions) is not part of a library.
"""

from __future__ import annotations

import re
from typing import Any

from tokenprior.errors import DataError
from tokenprior.exports.base import Around, Reading
from tokenprior.exports.flat import experience_of
from tokenprior.library import Library
from tokenprior.text import shorten

# Source: github.com/TencentCloudADP/youtu-agent; the words that its runs put before the list.
MARKER = "When solving problems, you MUST first carefully read and understand the helpful instructions and experiences:"

_AGENT = re.compile(r"^[ \t\ufeff]*[\"']?agent[\"']?[ \t]*:", re.MULTILINE)
_ENTRY = re.compile(r"^[ \t]*\[G(\d+)\]\.?[ \t]+", re.MULTILINE)


def dumps(library: Library, around: Around) -> str:
    import yaml

    class Dumper(yaml.SafeDumper):
        pass

    def literal(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
        # Unless it is quoted, YAML reads U+0085 back as a line end.
        style = '"' if "\x85" in value else "|" if "\n" in value else None
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)

    Dumper.add_representer(str, literal)
    lines = "\n".join(f"[{e.id}]. {e.line}" for e in library)
    instructions = f"{MARKER}\n{lines}\n" if lines else ""
    return yaml.dump({"agent": {"instructions": instructions}}, Dumper=Dumper, allow_unicode=True, width=1_000_000)


def holds_agent(text: str) -> bool:
    return _AGENT.search(text) is not None


def loads(content: str, run: str) -> Reading:
    """Raises DataError if there is no `agent.instructions`, or no experience in it."""
    import yaml

    try:
        value: Any = yaml.safe_load(content)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        at = f" at line {mark.line + 1}" if mark else ""
        problem = shorten(getattr(error, "problem", None) or error)
        raise DataError(f"no library: as the reference's agent YAML it is not YAML{at}: {problem}") from error
    agent = value.get("agent") if isinstance(value, dict) else None
    instructions = agent.get("instructions") if isinstance(agent, dict) else None
    if not isinstance(instructions, str):
        raise DataError("expected the reference's agent YAML with `agent.instructions`, or a library as JSON")
    entries = list(_ENTRY.finditer(instructions))
    if not entries:
        raise DataError("agent.instructions holds no experience such as `[G0]. Name: lesson`")
    ends = [entry.start() for entry in entries[1:]] + [len(instructions)]
    experiences = [
        experience_of(f"G{int(entry[1])}", instructions[entry.end() : end], run)
        for entry, end in zip(entries, ends, strict=True)
    ]
    return Reading(library=Library(experiences=tuple(experiences)))
