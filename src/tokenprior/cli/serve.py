"""tokenprior serve"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tokenprior.cli.show import DEFAULT_STORE

if TYPE_CHECKING:
    from tokenprior.serve.proxy.server import Proxy
    from tokenprior.serve.proxy.settings import ServeConfig


def serve(
    libraries: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="LIBRARY",
            help="FILE, RUN, RUN:STEP or RUN:VERSION, or NAME= and one of them. Requests that name none get the first.",
        ),
    ] = None,
    upstream: Annotated[str | None, typer.Option(help="Where requests go on to, such as https://HOST/v1.")] = None,
    config: Annotated[Path | None, typer.Option(help="A YAML config; see docs/serve.md.")] = None,
    host: Annotated[str | None, typer.Option(help="Where to listen; 127.0.0.1 by default.")] = None,
    port: Annotated[int | None, typer.Option(help="8100 by default; 0 for any that is free.")] = None,
    holdout: Annotated[
        float | None, typer.Option(help="The share of the requests that go without a prior, drawn by lot and recorded.")
    ] = None,
    key_variable: Annotated[
        str | None, typer.Option(help="Environment variable with the upstream's key; TOKENPRIOR_API_KEY by default.")
    ] = None,
    store: Annotated[
        str | None, typer.Option(help=f"The store of runs and of what is recorded; {DEFAULT_STORE} by default.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be served, and end.")] = False,
) -> None:
    """Serve a library to any OpenAI client: a proxy that puts its prior into each request and changes nothing else."""
    import asyncio
    import logging
    import sys

    from tokenprior.serve.proxy.run import described, proxy_of
    from tokenprior.serve.proxy.run import serve as run

    given = {"upstream": upstream, "host": host, "port": port, "holdout": holdout, "key_variable": key_variable}
    given["store"] = store
    settings = _settings(libraries or [], config, {key: value for key, value in given.items() if value is not None})
    with proxy_of(settings) as proxy:
        print("\n".join(described(proxy)), flush=True)
        if dry_run:
            return
        logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="tokenprior: %(message)s")
        logging.getLogger("tokenprior.serve").setLevel(logging.INFO)

        def ready() -> None:
            print(f"OPENAI_BASE_URL={proxy.base_url}", flush=True)

        def stopping() -> None:
            print(_stopping(proxy), file=sys.stderr, flush=True)

        asyncio.run(run(proxy, on_ready=ready, on_stop=stopping))


def _settings(libraries: list[str], config: Path | None, given: dict[str, Any]) -> ServeConfig:
    from tokenprior.errors import ConfigError
    from tokenprior.serve.libraries import named_source
    from tokenprior.serve.proxy.settings import load_serve_config

    if libraries:
        sources = [named_source(one) for one in libraries]
        if len({name for name, _ in sources}) < len(sources):
            raise ConfigError("two libraries have one name: tell them apart as NAME=FILE or NAME=RUN")
        given["libraries"] = {name: {"library": source} for name, source in sources}
    elif config is None:
        raise ConfigError("expected a LIBRARY to serve, a file or a run, or --config FILE that names some")
    if config is None and "upstream" not in given:
        raise ConfigError("expected --upstream URL, where requests go on to, such as https://api.openai.com/v1")
    return load_serve_config(config, given)


def _stopping(proxy: Proxy) -> str:
    count = proxy.in_flight
    first = f"; {count} {'request is' if count == 1 else 'requests are'} answered first" if count else ""
    return f"tokenprior: stopping{first}"
