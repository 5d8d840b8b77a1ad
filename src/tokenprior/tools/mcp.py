"""MCP: the tools of a Model Context Protocol server, a program or an address.

Order of events: the server is asked once for its tools, before a run begins; an attempt that calls one of them gets a
session of its own, for a program that is a process of its own, which ends with the attempt. All tools of a server share
the session of the attempt.

What a server says of itself is believed: a tool that it calls read-only or idempotent is `repeatable`. What a tool
gives is data, and bounded; images and files in it are named, not shown.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenprior.errors import ConfigError, MissingExtra
from tokenprior.redact import redact
from tokenprior.task import Task, content_hash
from tokenprior.text import bounded, shorten
from tokenprior.tools.base import ToolFailed, ToolSession, ToolSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class McpServer:
    """A server.

    Attributes:
        command: the program and its arguments; or
        url: the address of a server that runs already.
        only: names of the tools to use; all if empty.
        prefix: put before their names, where two servers have tools of one name.
        pass_env: names of environment variables that the program gets, beside the few that every program needs.
        key_variable: environment variable whose value is sent as bearer token to `url`.
        timeout_s: seconds that connecting, and each call, may take.
        output_chars: the most characters of one result.
        stateful: see `ToolSpec.stateful`; MCP has no word for it.
        folder: where the program runs; that of the config.

    Raises:
        ConfigError: neither or both of `command` and `url`, or a variable that is not set.
    """

    command: tuple[str, ...] = ()
    url: str = ""
    only: tuple[str, ...] = ()
    prefix: str = ""
    pass_env: tuple[str, ...] = ()
    key_variable: str | None = None
    timeout_s: float = 60.0
    output_chars: int = 8_000
    stateful: bool = False
    folder: Path = Path()

    def __post_init__(self) -> None:
        if bool(self.command) == bool(self.url):
            raise ConfigError("tool mcp: expected one of `command` (a program) and `url` (a server that runs)")
        for name in (*self.pass_env, *([self.key_variable] if self.key_variable else [])):
            if name not in os.environ:
                raise ConfigError(f"tool mcp: the environment variable {name} is not set")

    @property
    def _shown(self) -> str:
        return redact(self.url or shorten(" ".join(self.command), 80))

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[Any]:
        """A client of the server.

        Raises:
            MissingExtra: fastmcp is not installed.
            ConfigError: the server cannot be reached.
        """
        try:
            from fastmcp import Client
            from fastmcp.client.transports import StdioTransport, StreamableHttpTransport
        except ImportError as error:
            raise MissingExtra("fastmcp", "mcp", "an MCP server") from error
        transport: Any
        try:
            if self.command:
                env = {name: os.environ[name] for name in self.pass_env}
                quiet = Path(os.devnull)  # its chatter would go across the progress
                words, where = list(self.command[1:]), str(self.folder)
                transport = StdioTransport(self.command[0], words, env=env, cwd=where, keep_alive=False, log_file=quiet)
            else:
                transport = StreamableHttpTransport(
                    self.url, auth=os.environ[self.key_variable] if self.key_variable else None
                )
            client: Any = Client(transport, timeout=self.timeout_s, init_timeout=self.timeout_s)
            await client.__aenter__()
        except Exception as error:
            raise ConfigError(
                f"tool mcp: {self._shown}: no MCP server answers: {shorten(redact(str(error)), 200)}"
            ) from error
        try:
            yield client
        finally:
            await client.__aexit__(None, None, None)

    async def tools(self) -> tuple[McpTool, ...]:
        """Its tools.

        Raises:
            ConfigError: it cannot be reached, or has no tool of a name in `only`.
        """
        async with self.connected() as client:
            found = {tool.name: tool for tool in await client.list_tools()}
        if missing := sorted(set(self.only) - set(found)):
            raise ConfigError(f"tool mcp: {self._shown} has no tool {missing[0]!r}; it has: {', '.join(found)}")
        return tuple(self._tool(found[name]) for name in (self.only or found))

    def _tool(self, tool: Any) -> McpTool:
        said = tool.model_dump(by_alias=True, exclude_none=True)
        hints = said.get("annotations", {})
        spec = ToolSpec(
            name=self.prefix + said["name"],
            description=" ".join(said.get("description", "").split()) or said["name"],
            parameters=said.get("inputSchema") or {"type": "object", "properties": {}},
            repeatable=bool(hints.get("readOnlyHint") or hints.get("idempotentHint")),
            stateful=self.stateful,
        )
        return McpTool(server=self, spec=spec, name=said["name"])


@dataclass(frozen=True, slots=True, kw_only=True)
class McpTool:
    """One tool of a server. `name` is what the server calls it."""

    server: McpServer
    spec: ToolSpec
    name: str

    @property
    def fingerprint(self) -> str:
        where = [self.server.url, list(self.server.command), self.server.output_chars]
        return content_hash(["mcp", where, self.name, self.spec.description, self.spec.parameters])

    @asynccontextmanager
    async def session(self, task: Task) -> AsyncIterator[ToolSession]:
        """A session of its own; tools of one server share one where `on` is used."""
        async with self.server.connected() as client:
            yield self.on(client)

    def on(self, client: Any) -> ToolSession:
        """This tool on a connection that is there."""
        return _McpSession(tool=self, client=client)


@dataclass(frozen=True, slots=True, kw_only=True)
class _McpSession:
    tool: McpTool
    client: Any

    async def call(self, arguments: Mapping[str, Any]) -> str:
        """See `ToolSession.call`."""
        try:
            result = await self.client.call_tool(self.tool.name, dict(arguments), raise_on_error=False)
        except Exception as error:  # its own errors, those of the transport and of the protocol have no base in common
            raise ToolFailed(f"{self.tool.name} failed: {shorten(redact(str(error)), 500)}") from error
        text = bounded("\n".join(_said(block) for block in result.content), self.tool.server.output_chars)
        if result.is_error:
            raise ToolFailed(text or f"{self.tool.name} failed and says nothing more")
        return text


def _said(block: Any) -> str:
    text = getattr(block, "text", None)
    return text if isinstance(text, str) else f"[{getattr(block, 'type', 'something')} that cannot be shown]"
