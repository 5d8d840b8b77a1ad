"""tokenprior models list, pull, serve, tune"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from tokenprior.models.tune import Measured

app = typer.Typer(help="The embedded models: list, fetch and serve them.", no_args_is_help=True, rich_markup_mode=None)

NameArgument = Annotated[str, typer.Argument(help="An embedded model; `tokenprior models list` names them.")]


@app.command("list")
def list_() -> None:
    """List the embedded models and whether they are here."""
    from tokenprior.models.catalog import CATALOG
    from tokenprior.models.pull import find_here

    for model in CATALOG.values():
        here = find_here(model)
        where = str(here) if here else "not fetched"
        print(f"embedded:{model.name}  {model.size_bytes / 1e6:.0f} MB  {model.licence}  {where}")


@app.command("pull")
def pull(name: NameArgument = "embedded") -> None:
    """Fetch an embedded model into the cache, checked by its SHA-256. Goes on where it stopped."""
    from tokenprior.cli.live import Live
    from tokenprior.models.catalog import find
    from tokenprior.models.pull import pull as pull_model

    with Live() as live:
        path = pull_model(
            find(name.removeprefix("embedded:")),
            on_progress=lambda progress: live.pulled(progress.what, progress.done_bytes, progress.total_bytes),
        )
    print(path)


@app.command("tune")
def tune(
    name: NameArgument = "embedded",
    attempts: Annotated[int, typer.Option(min=8, help="To measure each setting by.")] = 24,
    context: Annotated[int, typer.Option(min=512, help="Tokens of context of each slot.")] = 4096,
) -> None:
    """Find how this machine serves an embedded model fastest, and keep it. Takes about five minutes on two cores;
    let nothing else run meanwhile."""
    import asyncio

    from tokenprior.cli.live import Live
    from tokenprior.models.catalog import find
    from tokenprior.models.pull import default_cache_dir
    from tokenprior.models.pull import pull as pull_model
    from tokenprior.models.tune import best, tune
    from tokenprior.models.tuning import keep_tuning

    model = find(name.removeprefix("embedded:"))
    with Live() as live:
        path = pull_model(
            model, on_progress=lambda progress: live.pulled(progress.what, progress.done_bytes, progress.total_bytes)
        )

    async def run() -> list[Measured]:
        made: list[Measured] = []
        async for one in tune(path, attempts=attempts, context=context):
            made.append(one)
            usage = one.usage
            cached = f"{usage.cached_tokens:,} of {usage.input_tokens:,} prompt tokens from the cache"
            print(f"{one.attempts_per_minute:7.1f} attempts/min   {one.tuning}   ({cached})", flush=True)
        return made

    chosen = best(asyncio.run(run())).tuning
    print(f"kept in {keep_tuning(model.name, chosen, default_cache_dir())}: {chosen}")


@app.command("serve")
def serve(
    name: NameArgument = "embedded",
    port: Annotated[int, typer.Option(help="On 127.0.0.1; 0 takes a free one.")] = 8080,
    slots: Annotated[int, typer.Option(min=1, help="Prompts answered side by side.")] = 4,
    context: Annotated[int, typer.Option(min=512, help="Tokens of context of each slot.")] = 4096,
) -> None:
    """Serve an embedded model over HTTP, OpenAI-compatible, until Ctrl-C."""
    import subprocess
    import sys

    from tokenprior.models.catalog import find
    from tokenprior.models.pull import pull as pull_model

    path = pull_model(find(name.removeprefix("embedded:")))
    command = [sys.executable, "-m", "tokenprior.models.embedded_server", "--model", str(path), "--port", str(port)]
    command += ["--slots", str(slots), "--context-per-slot", str(context)]
    # The server ends with its standard input, which we hold.
    child = subprocess.Popen(command, stdin=subprocess.PIPE)
    try:
        raise typer.Exit(child.wait())
    finally:
        child.terminate()
        child.wait()
