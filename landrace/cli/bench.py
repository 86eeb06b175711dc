"""`bench`: speed against the machine's own limit and against peers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from landrace.cli.console import err, out, print_table
from landrace.cli.options import KernelsOption, ThreadsOption, WeightsOption
from landrace.cli.progress import plain_lines, spinner
from landrace.errors import DataError

if TYPE_CHECKING:
    from landrace.bench.report import BenchReport
    from landrace.bench.workload import BenchOptions
    from landrace.kernels.machine_limits import MachineLimits

SERVE_PROMPT_TOKENS = 128
SERVE_MAX_TOKENS = 64


def bench(
    model: Annotated[str, typer.Argument(help="A stored model, a folder or a .gguf file.")],
    against: Annotated[
        str, typer.Option(help="Peers to measure on the same weights: llama.cpp, transformers, or both with a comma.")
    ] = "",
    serve: Annotated[bool, typer.Option("--serve", help="Drive a real server with many clients as well.")] = False,
    clients: Annotated[int, typer.Option(min=1, help="Clients that --serve has at once.")] = 16,
    requests: Annotated[int, typer.Option(min=1, help="Requests that --serve sends in all.")] = 64,
    pairs: Annotated[int | None, typer.Option(help="Samples of each row; default: 5, with --quick 2.")] = None,
    only: Annotated[str, typer.Option(help="Groups of rows, with commas: load, prefill, decode, ttft.")] = "",
    threads: ThreadsOption = None,
    weights: WeightsOption = "stored",
    kernels: KernelsOption = "auto",
    quick: Annotated[bool, typer.Option("--quick", help="Fewer rows and pairs, for a first look.")] = False,
    json: Annotated[Path | None, typer.Option("--json", help="Also write everything to this file.")] = None,
) -> None:
    """Measure speed against the machine's own limit and against peers."""
    from dataclasses import replace
    from functools import partial

    with spinner("loading PyTorch"):
        from landrace.bench.bench import bench_model
        from landrace.bench.workload import GROUPS, MIN_PAIRS, QUICK_PAIRS, BenchOptions
        from landrace.kernels.cpu.machine import measure_machine, read_rate
        from landrace.kernels.gpu_machine import measure_gpu
        from landrace.ledger import describe_machine
        from landrace.model import default_device

    n_threads, device = threads or describe_machine().cores, default_device()
    options = BenchOptions(
        threads=n_threads,
        pairs=pairs if pairs is not None else QUICK_PAIRS if quick else MIN_PAIRS,
        quick=quick,
        weights=weights,
        kernels=kernels,
        against=_words(against),
        only=_words(only) or GROUPS,
    )
    if json is not None and not json.parent.is_dir():
        raise DataError(f"The folder of {json} does not exist.", hint="Make it first.")
    with plain_lines(f"opening {model}") as say:
        # No bar: it would be drawn from a thread of this process, and take time from what is measured.
        def say_row(done: int, total: int, name: str) -> None:
            text = f"{done} of {total} rows done; now {name}"
            err.print(text, style="dim", markup=False, soft_wrap=True)
            say(text)

        def measure() -> MachineLimits:
            return measure_machine(n_threads) if device.type == "cpu" else measure_gpu(device, n_threads)

        again = partial(read_rate, n_threads) if device.type == "cpu" else None
        report = bench_model(model, options, measure, say_row, again)
    lines: list[str] = []
    if serve:
        err.print("the server", style="dim")
        with plain_lines("the server"):
            figures, lines = _drive(model, clients, requests, options)
        report = replace(report, serve=figures)
    _show(report, lines)
    if json is not None:
        _write(report, json)


def _words(text: str) -> tuple[str, ...]:
    return tuple(word for word in (part.strip() for part in text.split(",")) if word)


def _drive(model: str, clients: int, requests: int, options: BenchOptions) -> tuple[dict[str, Any], list[str]]:
    from landrace.bench.serve_load import drive_server

    driven = drive_server(
        model,
        clients=clients,
        requests=requests,
        prompt_tokens=SERVE_PROMPT_TOKENS,
        max_tokens=SERVE_MAX_TOKENS,
        serve_arguments=(
            *("--threads", str(options.threads)),
            *("--weights", options.weights),
            *("--kernels", options.kernels),
        ),
    )
    return driven.as_dict(), driven.lines()


def _show(report: BenchReport, serve_lines: list[str]) -> None:
    from rich.table import Table

    from landrace.bench.table import cells, columns, footer, headline, plain_table

    def say(lines: list[str]) -> None:
        for line in lines:
            out.print(line, soft_wrap=True)

    say(headline(report))
    plain = plain_table(report).split("\n")
    if out.is_terminal and out.width > max(map(len, plain)):
        table = Table(box=None, pad_edge=False)
        for index, name in enumerate(columns(report)):
            table.add_column(name, justify="right" if index else "left", no_wrap=True)
        for line in cells(report):
            table.add_row(*line)
        print_table(table)
    else:
        say(plain)
    say([*footer(report), *serve_lines])


def _write(report: BenchReport, path: Path) -> None:
    import json

    try:
        path.write_text(
            json.dumps(report.as_dict(), ensure_ascii=False, indent=2) + "\n",
            encoding="utf-8",
            errors="backslashreplace",
        )
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror or error}.") from error
    err.print(f"Written to {path}.", soft_wrap=True)
