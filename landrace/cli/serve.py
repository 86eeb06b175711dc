"""`serve`: the OpenAI-compatible server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from landrace.cli.console import err
from landrace.errors import OptionError


def serve(
    models: Annotated[list[str], typer.Argument(help="Models to serve, each in a process of its own.")],
    adapter: Annotated[
        list[str] | None,
        typer.Option(help="NAME=FOLDER: a LoRA adapter of the first model, asked for by NAME; may be repeated."),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 is every interface.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 picks a free port.")] = 8000,
    dtype: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "auto",
    threads: Annotated[int | None, typer.Option(help="CPU threads of each engine; default: all cores.")] = None,
    cache_tokens: Annotated[int, typer.Option(help="Tokens the key-value cache holds.")] = 16384,
    max_running: Annotated[int, typer.Option(help="Most requests in progress at once.")] = 64,
    max_step_tokens: Annotated[int, typer.Option(help="Most tokens one step computes.")] = 512,
    max_length: Annotated[int | None, typer.Option(help="Longest sequence; default: the model's own.")] = None,
    ledger: Annotated[Path | None, typer.Option(help="SQLite file that takes the usage of every request.")] = None,
    drain_seconds: Annotated[int, typer.Option(help="On SIGTERM, how long running requests may take to finish.")] = 60,
) -> None:
    """Serve models and adapters over the OpenAI API."""
    from landrace.engine.options import EngineOptions
    from landrace.server.main import serve_models

    options = EngineOptions(
        cache_tokens=cache_tokens, max_running=max_running, max_step_tokens=max_step_tokens, max_length=max_length
    )
    serve_models(
        models,
        parse_adapters(adapter or []),
        host=host,
        port=port,
        dtype=dtype,
        threads=threads,
        options=options,
        ledger=ledger,
        drain_seconds=drain_seconds,
        announce=lambda url: err.print(f"Serving {', '.join(models)} at [bold]{url}/v1[/]. Ctrl-C ends it."),
    )


def parse_adapters(values: list[str]) -> dict[str, Path]:
    """NAME=FOLDER pairs."""
    adapters: dict[str, Path] = {}
    for value in values:
        name, equals, folder = value.partition("=")
        if not (name and equals and folder):
            raise OptionError(f"--adapter wants NAME=FOLDER, not {value!r}.")
        if name in adapters:
            raise OptionError(f"--adapter names {name!r} twice.")
        adapters[name] = Path(folder)
    return adapters
