"""tokenprior models list, pull, serve"""

from __future__ import annotations

from typing import Annotated

import typer

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
