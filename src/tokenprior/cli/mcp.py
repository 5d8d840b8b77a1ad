"""tokenprior mcp"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tokenprior.cli.setting import Set, configured
from tokenprior.cli.show import DEFAULT_STORE, existing, is_file

if TYPE_CHECKING:
    from socket import socket

    from tokenprior.config import Config
    from tokenprior.serve.libraries import Libraries
    from tokenprior.store import Store


def mcp(
    libraries: Annotated[
        list[str], typer.Argument(metavar="LIBRARY...", help="A file, a run, or NAME=FILE or NAME=RUN.")
    ],
    config: Annotated[
        Path | None, typer.Option(help="A YAML config to learn with: its model, gate, budget and store.")
    ] = None,
    store: Annotated[
        str | None, typer.Option(help="The store, made if it is not there; the config's by default.")
    ] = None,
    http: Annotated[
        int | None,
        typer.Option(
            min=0, max=65535, help="Listen on this port of 127.0.0.1, with the keys in TOKENPRIOR_CLIENT_KEYS."
        ),
    ] = None,
    changes: Set = None,
) -> None:
    """Serve libraries to coding agents over the Model Context Protocol, on standard input and output."""
    import asyncio
    from contextlib import nullcontext

    from tokenprior.errors import ConfigError, MissingExtra
    from tokenprior.store import open_store

    try:
        import fastmcp  # noqa: F401
    except ImportError as error:
        raise MissingExtra("fastmcp", "mcp", "an MCP server") from error
    from tokenprior.serve.libraries import named_source
    from tokenprior.serve.mcp.desk import Desk
    from tokenprior.serve.mcp.server import serve
    from tokenprior.serve.proxy.access import CLIENT_KEYS, client_keys

    keys = client_keys() if http is not None else ()
    if http is not None and not keys:
        raise ConfigError(f"--http: every user of this machine could reach it: set {CLIENT_KEYS} to a key for clients")
    if changes and config is None:
        raise ConfigError("--set changes a config: name one with --config")
    learning = _learning(config, store, changes) if config else None
    where = store or (learning.store if learning else DEFAULT_STORE)
    sources = [named_source(one) for one in libraries]
    runs = not all(is_file(source) for _, source in sources)
    with open_store(existing(where) if runs else where) as opened:
        desk = Desk(_libraries(sources, opened, begin=learning is not None), opened, learning)
        with nullcontext() if http is None else _listening(http) as listening:
            asyncio.run(serve(desk, listening=listening, keys=keys))


def _listening(port: int) -> socket:
    """A port of loopback. Where it is, is told on standard error, as all else that is not the protocol."""
    import socket
    import sys

    from tokenprior.errors import ConfigError

    try:
        listening = socket.create_server(("127.0.0.1", port))
    except OSError as error:
        raise ConfigError(f"--http {port}: {error.strerror}: give another port, or 0 for any that is free") from error
    print(f"http://127.0.0.1:{listening.getsockname()[1]}/mcp", file=sys.stderr, flush=True)
    return listening


def _learning(config: Path, store: str | None, changes: list[str] | None) -> Config:
    loaded = configured(config, changes)
    return loaded.model_copy(update={"store": store}) if store else loaded


def _libraries(sources: list[tuple[str, str]], store: Store, *, begin: bool) -> Libraries:
    """The libraries to serve.

    Args:
        begin: whether a file that is not there is begun with an empty library.
    """
    from tokenprior.library import Library
    from tokenprior.serve.libraries import Libraries, ServedLibrary

    served = []
    for name, source in sources:
        if begin and is_file(source) and Path(source).suffix == ".json" and not Path(source).exists():
            Path(source).write_text(Library().dumps(), encoding="utf-8")
        served.append(ServedLibrary(name, source, store))
    return Libraries(served)
