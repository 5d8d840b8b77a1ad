"""An MCP server for tests, on standard input and output: `python act_mcp.py FOLDER`.

It leaves a file with its process id in the folder, and counts in its memory.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from mcp.server.mcpserver import Image, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import ToolAnnotations

server = MCPServer("counter")
count = 0


@server.tool(description="Adds to\n   the counter.")
def add(number: int) -> str:
    global count
    count += number
    return f"added {number}"


@server.tool(annotations=ToolAnnotations(readOnlyHint=True))
def total() -> str:
    """What the counter says."""
    return f"total {count}"


@server.tool(annotations=ToolAnnotations(idempotentHint=True))
def fails(why: str) -> str:
    """Fails."""
    raise ToolError(f"it failed: {why}")


@server.tool(annotations=ToolAnnotations(readOnlyHint=True))
def much(letters: int) -> str:
    """A long text."""
    return "a" * letters + "end"


@server.tool(annotations=ToolAnnotations(readOnlyHint=True), structured_output=False)
def picture() -> list[object]:
    """A picture with words."""
    return ["here:", Image(data=b"\x89PNG", format="png")]


@server.tool(annotations=ToolAnnotations(readOnlyHint=True))
def variable(name: str) -> str:
    """A variable of the environment."""
    return os.environ.get(name, "not set")


if __name__ == "__main__":
    (Path(sys.argv[1]) / f"pid-{os.getpid()}").touch()
    server.run("stdio")
