"""`quantize`: a model in fewer bits, as a file or a folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from landrace.cli.console import err, human_bytes, out, print_json, styled
from landrace.cli.options import ThreadsOption
from landrace.cli.progress import count_progress

if TYPE_CHECKING:
    from landrace.quantize.quantize import Quantised


def quantize(
    model: Annotated[str, typer.Argument(help="A stored model, a folder or a .gguf file.")],
    weights: Annotated[
        str,
        typer.Option(
            help="What to write. GGUF: q4_k_m, q5_k_m, q6_k, q8_0 and others of llama.cpp's names; safetensors: w4a16, "
            "w4a16_g32 or fp8_dynamic, as vLLM reads them."
        ),
    ],
    out_path: Annotated[Path, typer.Option("--out", help="The new .gguf file, or the new folder.")],
    importance: Annotated[
        Path | None,
        typer.Option(help="A text of what the model is for: errors are weighed by what its inputs are there."),
    ] = None,
    text: Annotated[
        Path | None,
        typer.Option(help="A text to measure perplexity on, before and after; default: the end of --importance."),
    ] = None,
    threads: ThreadsOption = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")] = False,
) -> None:
    """Write a model with its weights in fewer bits, and measure what that costs."""
    with count_progress("quantizing") as progress:
        from landrace.quantize.quantize import quantize as quantize_model

        done = quantize_model(
            model,
            weights,
            out_path,
            importance=importance,
            text=text,
            threads=threads,
            stage=lambda what, count, total: progress(count, total, what),
        )
    for told in done.notices:
        err.print(told, style="dim")
    if json:
        print_json(_facts(done))
        return
    out.print(_table(done))
    if done.figures is None:
        err.print("No perplexity was measured: name a text with --text.", style="dim")
    err.print(styled((done.path, "bold"), " is ready."))


def _facts(done: Quantised) -> dict[str, Any]:
    return {
        "path": str(done.path),
        "form": done.form,
        "bytes_before": done.bytes_before,
        "bytes_after": done.bytes_after,
        "weights": done.weights,
        "figures": None
        if done.figures is None
        else {
            "text": done.figures.text,
            "tokens": done.figures.tokens,
            "perplexity_before": done.figures.reference,
            "perplexity_after": done.figures.served,
            "same_top_token": done.figures.same_choice,
            "mean_logprob_difference": done.figures.logprob_difference,
        },
        "notices": done.notices,
    }


def _table(done: Quantised) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in (done.form, "before", "after"):
        table.add_column(column, justify="left" if column == done.form else "right")
    total = sum(done.weights.values())
    bits = (f"{8 * size / total:.2f}" for size in (done.bytes_before, done.bytes_after))
    table.add_row("size", human_bytes(done.bytes_before), human_bytes(done.bytes_after))
    table.add_row("bits a weight", *bits)
    if done.figures is not None:
        table.add_row("perplexity", f"{done.figures.reference:.3f}", f"{done.figures.served:.3f}")
        table.add_row("same top token", "", f"{done.figures.same_choice:.1%}")
        table.caption = f"over {done.figures.tokens} tokens of {done.figures.text}"
        table.caption_justify = "left"
    for kind, count in sorted(done.weights.items(), key=lambda one: -one[1]):
        table.add_row(f"weights in {kind}", "", f"{count / total:.1%}")
    return table
