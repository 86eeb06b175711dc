"""The `landrace` command: one verb a file, heavy imports inside the verbs."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from landrace import __version__
from landrace.cli import (
    bench,
    certify,
    compare,
    dataset,
    demo,
    embed,
    evaluate,
    keys,
    quantize,
    rerank,
    run,
    serve,
    servers,
    store,
    tune,
    usage,
)
from landrace.cli.console import err, fail, prepare_streams
from landrace.cli.endings import INTERRUPTED, READER_GONE, Endings, came_of, close_quietly
from landrace.errors import LandraceError

_UsageError: type[Exception] = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")
"""What the command-line library raises for arguments it cannot use; it gives the class no name of its own."""

app = typer.Typer(
    name="landrace",
    help="Run, serve, tune, quantize, evaluate, compare and certify open-weight language models on your own machine.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("run")(run.run)
app.command("serve")(serve.serve)
app.command("ps")(servers.ps)
app.command("stop")(servers.stop)
app.command("pull")(store.pull)
app.command("list")(store.list_models)
app.command("show")(store.show)
app.command("remove")(store.remove)
app.command("embed")(embed.embed)
app.command("rerank")(rerank.rerank)
app.command("tune")(tune.tune)
app.command("evaluate")(evaluate.evaluate)
app.command("compare")(compare.compare)
app.command("certify")(certify.certify)
app.command("quantize")(quantize.quantize)
app.command("bench")(bench.bench)
app.command("demo")(demo.demo)
app.add_typer(keys.app, name="keys")
app.command("usage")(usage.usage)
app.add_typer(dataset.app, name="dataset")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"landrace {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """Options that come before the verb."""


def main() -> None:
    """Runs the command. An error a person can act on becomes one sentence, a hint and exit status 1; a signal ends it
    with 128 and the signal's number, and no more than a line."""
    prepare_streams()
    _let_waiting_threads_sleep()
    endings = Endings()
    try:
        endings.install()
        status = _run()
        if status == INTERRUPTED or endings.waiting:
            status = endings.status
    except BaseException as error:
        if not came_of(error, KeyboardInterrupt):
            raise
        status = endings.status
    if status > 128:
        err.show_cursor()  # a progress bar that was interrupted twice leaves it hidden
    sys.exit(close_quietly(status))


def _run() -> int:
    try:
        status = app(standalone_mode=False)
    except LandraceError as error:
        fail(error)
        return 1
    except _UsageError as error:
        return _misused(error)
    except typer.Abort as error:  # at a question
        return INTERRUPTED if came_of(error, KeyboardInterrupt) else 1
    except SystemExit as error:
        if came_of(error, BrokenPipeError):
            return READER_GONE
        raise
    except OSError as error:
        if came_of(error, KeyboardInterrupt):
            raise
        where = f": {error.filename}" if error.filename is not None else ""
        fail(LandraceError(f"{error.strerror or error}{where}."))
        return 1
    return status if isinstance(status, int) else 0


def _misused(error: Exception) -> int:
    """Arguments that the command line cannot make sense of: the same form as any other error, and exit status 2."""
    context: typer.Context | None = getattr(error, "ctx", None)
    if type(error).__name__ != "NoArgsIsHelpError":  # the help is printed already
        message = error.format_message()  # type: ignore[attr-defined]
        hint = f"See {context.command_path} --help." if context is not None else None
        fail(LandraceError(message, hint=hint))
    return int(error.exit_code)  # type: ignore[attr-defined]


def _let_waiting_threads_sleep() -> None:
    """Before PyTorch is loaded, which is when OpenMP reads its settings; one that the user made stands.

    By default a thread that waits for another turns in a loop for milliseconds. Where another program has the other's
    processor, that is time which nobody can use: a tuning step then takes fifty times as long.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
