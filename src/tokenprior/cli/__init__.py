"""The command line: one file a command, each a few lines around one function of the library."""

from __future__ import annotations

import os
import sys
from io import TextIOWrapper

import typer

from tokenprior.cli import (
    audit,
    doctor,
    edit,
    evaluate,
    exporting,
    history,
    init,
    learn,
    mcp,
    merge,
    models,
    report,
    serve,
    show,
    store,
    ui,
    why,
)
from tokenprior.errors import TokenpriorError

INTERRUPTED = 130  # typer's exit code after Ctrl-C

app = typer.Typer(
    help="Make a frozen LLM agent better without touching its weights: Training-Free GRPO, with proof.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("init")(init.init)
app.command("learn")(learn.learn)
app.command("evaluate")(evaluate.evaluate)
app.command("compare")(evaluate.compare)
app.command("audit")(audit.audit)
app.command("runs")(show.runs)
app.command("show")(show.show)
app.command("why")(why.why)
app.command("diff")(show.diff)
app.command("history")(history.history)
app.command("rollback")(history.rollback)
app.command("pin")(history.pin)
app.command("edit")(edit.edit)
app.command("export")(exporting.export)
app.command("import")(exporting.import_)
app.command("report")(report.report)
app.command("merge")(merge.merge)
app.command("serve")(serve.serve)
app.command("ui")(ui.ui)
app.command("mcp")(mcp.mcp)
app.command("doctor")(doctor.doctor)
app.add_typer(models.app, name="models")
app.add_typer(store.app, name="store")


@app.callback(invoke_without_command=True)
def _root(version: bool = typer.Option(False, "--version", help="Show the version and exit.")) -> None:
    if version:
        from tokenprior import __version__

        print(f"tokenprior {__version__}")
        raise typer.Exit


def main() -> None:
    """Run the command line. A user's mistake ends in one line and a non-zero exit code, never in a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a lesson may hold what the terminal's encoding does not
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except TokenpriorError as error:
        from tokenprior.redact import redact

        sys.stdout.flush()
        print(f"tokenprior: {redact(str(error))}", file=sys.stderr)
        sys.exit(error.exit_code)
    except SystemExit as ended:
        if ended.code == INTERRUPTED:
            print("tokenprior: stopped; nothing is lost, the same command goes on", file=sys.stderr)
        raise
    except BrokenPipeError:
        # Whoever read our output has gone, as `head` does; the interpreter must not try to flush to it again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:
        # A file that the user named and that cannot be written; what we read ourselves is mapped where it is read.
        if error.filename is None:
            raise
        print(f"tokenprior: {error.filename}: {error.strerror}", file=sys.stderr)
        sys.exit(1)
