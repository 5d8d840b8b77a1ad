"""An agent that learns from its own work over MCP: it names git branches, and a check says whether they will do.

    python coding_agent.py [OPTIONS OF tokenprior mcp]

It starts `tokenprior mcp lessons.json --config agent.yaml` as any MCP client does. The agent itself is a few lines in
place of a model: it tries one style after another until a lesson tells it which one the house wants. The lesson comes
from the learning model of `agent.yaml`; the agent takes note of it if the word "hyphen" is in it.
"""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastmcp import Client
from fastmcp.client.transports import StdioTransport

FOLDER = Path(__file__).parent
BEFORE = ["Fix the login page", "Add a dark theme", "Speed up search"]
AFTER = ["Remove old icons", "Translate the help", "Test the parser"]

STYLES: list[Callable[[list[str]], str]] = [
    "_".join,
    lambda words: "".join(word.capitalize() for word in words),
    "-".join,
]


def check(branch: str) -> str:
    """What is wrong with a branch's name; empty if nothing is."""
    return "" if re.fullmatch(r"[a-z]+(-[a-z]+)*", branch) else f"{branch} is not words in small letters with hyphens"


async def attempt(client: Client[Any], title: str, style: Callable[[list[str]], str]) -> float:
    """One attempt at a task: name the branch, have it checked, record it."""
    branch = style(title.lower().split())
    wrong = check(branch)
    arguments = {"task": f"Name a branch: {title}", "output": branch, "reward": float(not wrong), "feedback": wrong}
    await client.call_tool("record_attempt", arguments)
    return float(not wrong)


async def work(client: Client[Any], titles: list[str]) -> float:
    """Work through some tasks; the share of first attempts that were right."""
    right = 0.0
    for number, title in enumerate(titles):
        read = await client.call_tool("read_lessons", {"task": f"Name a branch: {title}"})
        told = any("hyphen" in one["lesson"] for one in read.structured_content["lessons"])
        right += await attempt(client, title, STYLES[2] if told else STYLES[number % 2])
        if not told:
            await attempt(client, title, STYLES[2])  # what the author of the house rules made of it
    return right / len(titles)


async def main() -> None:
    command = ["-m", "tokenprior", "mcp", "lessons.json", "--config", str(FOLDER / "agent.yaml"), *sys.argv[1:]]
    async with Client(StdioTransport(sys.executable, command, keep_alive=False)) as client:
        print(f"first attempts right before: {await work(client, BEFORE):.2f}")
        learned = (await client.call_tool("learn")).structured_content
        print(f"learned: {learned['said']} {learned['proof']}")
        for one in learned["operations"]:
            print(f"  {one['operation']} {one['outcome']}: {one['lesson']} ({one['reason']})")
        print(f"first attempts right after: {await work(client, AFTER):.2f}")


if __name__ == "__main__":
    asyncio.run(main())
