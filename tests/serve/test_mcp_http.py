"""The MCP server on a port of loopback: with a key it answers, without it does not."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest
from fastmcp.client.transports import StreamableHttpTransport

from mcp_client import connected
from story import error
from tokenprior.library import Library

pytestmark = pytest.mark.anyio


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """Where a server of a process of its own listens."""
    (tmp_path / "house.json").write_text(Library().dumps())
    command = [sys.executable, "-m", "tokenprior", "mcp", "house.json", "--http", "0"]
    env = {**os.environ, "TOKENPRIOR_CLIENT_KEYS": "first-key, second-key"}
    with subprocess.Popen(command, cwd=tmp_path, env=env, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        try:
            said = next(line for line in server.stderr if "http://" in line)
            yield re.findall(r"http://\S+", said)[0]
            server.send_signal(signal.SIGINT)
            assert server.wait(20) in (0, 130)
        finally:
            server.kill()


async def test_a_client_with_a_key_is_served_and_nobody_else(address: str) -> None:
    async with connected(StreamableHttpTransport(address, auth="second-key")) as agent:
        assert (await agent.call("read_lessons", task="x"))["library"] == "house"
        assert (await agent.record("amber", "amber", 1))["attempts"] == 1
    hello = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}
    key = {"Authorization": "Bearer first-key"}
    async with aiohttp.ClientSession() as http:
        for headers, status in (
            ({}, 401),
            ({"Authorization": "Bearer third-key"}, 401),
            ({**key, "Host": "attacker.example"}, 403),
        ):
            async with http.post(address, json=hello, headers=headers) as reply:
                assert reply.status == status


def test_a_port_without_a_key_is_refused(tmp_path: Path) -> None:
    said = error("mcp", tmp_path / "house.json", "--http", "0", "--store", tmp_path / "s.db")
    assert "set TOKENPRIOR_CLIENT_KEYS to a key" in said
