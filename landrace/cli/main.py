"""The `landrace` command: one verb a file, heavy imports inside the verbs."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from landrace import __version__
from landrace.cli import bench, certify, compare, demo, evaluate, run, serve, store, tune
from landrace.cli.console import fail
from landrace.errors import LandraceError

app = typer.Typer(
    name="landrace",
    help="Run, serve, tune, evaluate, compare and certify open-weight language models on your own machine.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("run")(run.run)
app.command("serve")(serve.serve)
app.command("pull")(store.pull)
app.command("list")(store.list_models)
app.command("show")(store.show)
app.command("remove")(store.remove)
app.command("tune")(tune.tune)
app.command("evaluate")(evaluate.evaluate)
app.command("compare")(compare.compare)
app.command("certify")(certify.certify)
app.command("bench")(bench.bench)
app.command("demo")(demo.demo)


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
    """Runs the command; an error a person can act on becomes one sentence, a hint and exit code 1."""
    _let_waiting_threads_sleep()
    try:
        app()
    except LandraceError as error:
        fail(error)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # the reader of our output went away, as `| head` does
        sys.stderr.close()
        sys.exit(0)


def _let_waiting_threads_sleep() -> None:
    """Before PyTorch is loaded, which is when OpenMP reads its settings; one that the user made stands.

    By default a thread that waits for another turns in a loop for milliseconds. Where another program has the other's
    processor, that is time which nobody can use: a tuning step then takes fifty times as long.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
