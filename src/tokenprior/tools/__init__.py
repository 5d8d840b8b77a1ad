"""Tools: what an agent may call while it attempts a task. `make_tools` makes them out of a config.

All options of a kind are the fields of its class, which also hold their defaults and meaning.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenprior.errors import ConfigError
from tokenprior.options import checked, kind_of
from tokenprior.source import load_function
from tokenprior.task import Task
from tokenprior.tools.base import Tool
from tokenprior.tools.corpus import corpus_tools
from tokenprior.tools.function import FunctionTool
from tokenprior.tools.mcp import McpServer
from tokenprior.tools.page import ReadPage
from tokenprior.tools.python import PythonTool
from tokenprior.tools.search import Search
from tokenprior.tools.sql import SqlTool

__all__ = ["Tool", "make_tools"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _CorpusOptions:
    """As the arguments of `corpus_tools`; paths are relative to the config."""

    path: str
    index: str | None = None
    count: int = 5
    page_chars: int = 6_000


_KINDS: dict[str, type[Any]] = {
    "python": PythonTool,
    "search": Search,
    "read_page": ReadPage,
    "corpus": _CorpusOptions,
    "sql": SqlTool,
    "mcp": McpServer,
    "function": FunctionTool,
}


async def make_tools(specs: Iterable[Mapping[str, Any]], *, folder: Path) -> tuple[Tool, ...]:
    """The tools that a config names.

    Args:
        specs: each a `kind` (python, search, read_page, corpus, sql, mcp or function) and any options of that kind.
        folder: of the config, from which the files of tools are found.

    Raises:
        ConfigError: an unknown kind or option, a value of the wrong type, a sandbox that does not work here, an MCP
            server that does not answer, two tools of one name.
        MissingExtra: the kind needs a package that is not installed.
        DataError: a corpus or a database cannot be read.
    """
    made: list[Tool] = []
    for spec in specs:
        kind = kind_of(spec, _KINDS, "agent.tools")
        what = f"tool {kind}"
        options = checked(spec, _KINDS[kind], what, live={"folder": folder}, free={"function"})
        match kind:
            case "corpus":
                index = options.get("index")
                options |= {"index": folder / index if index else None, "folder": folder / options.pop("path")}
                made += corpus_tools(**options)
            case "mcp":
                made += await McpServer(**options).tools()
            case "function":
                if not isinstance(options["function"], str):
                    raise ConfigError(f"{what}: function is {options['function']!r}, expected module:function")
                made.append(FunctionTool(**options | {"function": load_function(options["function"], folder=folder)}))
            case _:
                made.append(_KINDS[kind](**options))
                if kind == "sql" and "{" not in options["database"]:
                    made[-1].session(Task(id="any", question="any"))  # one database for all tasks: it is there, or not
    names = [tool.spec.name for tool in made]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ConfigError(f"agent.tools: two tools are called {twice!r}: leave one out")
    return tuple(made)
