"""`tune`: supervised tuning, LoRA or full."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from landrace.cli.console import count_progress, err, note, notice, print_json, spinner
from landrace.cli.systems import recorded
from landrace.models.lora_spec import PROJECTIONS
from landrace.training.interrupt import TuneInterrupted
from landrace.training.options import TuneOptions

if TYPE_CHECKING:
    from landrace.training.data import Row
    from landrace.training.log import StepReport
    from landrace.training.trainer import TuneResult


def tune(
    model: Annotated[str, typer.Argument(help="A stored model, a folder or a .gguf file.")],
    data: Annotated[Path, typer.Argument(help="Training rows (.jsonl), or a task file whose training rows to use.")],
    out: Annotated[Path, typer.Option(help="Folder for the run: adapter, log, loss curve, checkpoints.")] = Path(
        "runs/tune"
    ),
    method: Annotated[str, typer.Option(help="lora trains an adapter, full all weights.")] = "lora",
    rank: Annotated[int, typer.Option(help="Rank of the adapter.")] = 16,
    alpha: Annotated[float, typer.Option(help="The adapter is scaled by alpha / rank.")] = 32.0,
    targets: Annotated[str, typer.Option(help="Projections that get an adapter.")] = ",".join(PROJECTIONS),
    learning_rate: Annotated[
        float | None, typer.Option("--learning-rate", "--lr", help="Peak; default by method.")
    ] = None,
    epochs: Annotated[int, typer.Option(help="Passes over the rows.")] = 1,
    max_steps: Annotated[int | None, typer.Option(help="Stop after this many optimizer steps.")] = None,
    batch_examples: Annotated[int, typer.Option(help="Examples of one optimizer step.")] = 32,
    micro_tokens: Annotated[int, typer.Option(help="Most tokens in one forward pass.")] = 2048,
    max_length: Annotated[int | None, typer.Option(help="Longer examples are left out, and counted.")] = None,
    warmup_ratio: Annotated[float, typer.Option(help="Share of the steps that warm up.")] = 0.05,
    min_lr_ratio: Annotated[float, typer.Option(help="The cosine ends at this share of the peak.")] = 0.1,
    weight_decay: Annotated[float, typer.Option(help="AdamW's, on matrices.")] = 0.0,
    clip_norm: Annotated[float, typer.Option(help="Longest gradient.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Order of the examples and start of the adapter.")] = 0,
    save_every: Annotated[int | None, typer.Option(help="Optimizer steps between resumable checkpoints.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest checkpoint in --out.")] = False,
    validation: Annotated[
        Path | None, typer.Option(help="Rows whose loss is measured at the end of each epoch.")
    ] = None,
    precision: Annotated[
        str, typer.Option(help="Matrix products: auto, float32 or bfloat16; auto is bfloat16 where the machine has it.")
    ] = "auto",
    threads: Annotated[int | None, typer.Option(help="CPU threads; default: all cores.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the run's record as JSON.")] = False,
) -> None:
    """Tune a model on your own data."""
    options = TuneOptions(
        method=method,  # type: ignore[arg-type]  # TuneOptions checks it
        rank=rank,
        alpha=alpha,
        targets=tuple(targets.split(",")),
        learning_rate=learning_rate,
        epochs=epochs,
        max_steps=max_steps,
        batch_examples=batch_examples,
        micro_tokens=micro_tokens,
        max_length=max_length,
        warmup_ratio=warmup_ratio,
        min_lr_ratio=min_lr_ratio,
        weight_decay=weight_decay,
        clip_norm=clip_norm,
        seed=seed,
        save_every=save_every,
    )
    try:
        result, weights = run_tuning(
            model,
            training_rows(data),
            options,
            out,
            precision=precision,
            threads=threads,
            resume=resume,
            validation=training_rows(validation) if validation is not None else None,
        )
    except TuneInterrupted as stop:
        # Said here: the command-line library ends a KeyboardInterrupt without a word.
        note(stop)
        raise typer.Exit(130) from stop
    from landrace.training.result import describe

    if json:
        print_json({**describe(result), "weights": str(weights)})
        return
    for line in summary(result):
        err.print(line)
    err.print(
        f"Loss curve in [bold]{out / 'loss.png'}[/]; the {'adapter' if result.lora else 'model'} in [bold]{weights}[/]."
    )
    if result.lora:
        err.print(f"Try it: landrace run {shlex.quote(model)} --adapter {shlex.quote(str(weights))}")
    else:
        err.print(f"Try it: landrace run {shlex.quote(str(weights))}")


def training_rows(path: Path) -> list[Row]:
    """Rows of a .jsonl file, or the training rows of a task file with the very prompt the task asks."""
    from landrace.training.data import parse_row, read_rows

    if path.suffix not in (".json", ".toml"):
        return read_rows(path)
    from landrace.evaluation.task import load_task

    task = load_task(path)
    rows = task.to_training_rows(task.load_train())
    return [parse_row(row, f"{path.name}, training row {number}") for number, row in enumerate(rows, start=1)]


def run_tuning(
    model: str,
    rows: Sequence[Row],
    options: TuneOptions,
    out: Path,
    *,
    precision: str = "auto",
    threads: int | None = None,
    resume: bool = False,
    validation: Sequence[Row] | None = None,
) -> tuple[TuneResult, Path]:
    """Tunes with a progress bar, writes and records the result, and returns it with the folder of the new weights."""
    import torch

    from landrace.ledger import Provenance
    from landrace.model import default_device, dtype_name, length_notice, open_model, training_product_dtype
    from landrace.training.result import write_result
    from landrace.training.trainer import tune as train

    if threads is not None:
        torch.set_num_threads(threads)
    device = default_device()
    products = training_product_dtype(precision, device)
    # Frozen weights can be held in what their products run in; weights that are trained need float32's small updates.
    held = products if options.method == "lora" else torch.float32
    with spinner(f"opening {model}"):
        opened = open_model(
            model, dtype=dtype_name(held), product_dtype=products, device=device, max_length=options.max_length
        )
    notice(length_notice(opened.checkpoint.spec))
    with recorded(out, "tune", {"model": model, "precision": precision, **options.as_dict()}):
        with count_progress("tuning") as progress:

            def show(report: StepReport) -> None:
                note = f"loss {report.loss:.3f}  {report.tokens_per_second:.0f} tokens/s"
                progress(report.step, report.total_steps, note)

            result = train(
                opened.decoder,
                opened.tokenizer,
                rows,
                options,
                out=out,
                on_step=show,
                validation=validation,
                resume=resume,
            )
        provenance = {"provenance": asdict(Provenance.here(seed=options.seed))}
        weights = write_result(result, out, checkpoint=opened.checkpoint, base_name=model, provenance=provenance)
    return result, weights


def summary(result: TuneResult) -> list[str]:
    """What a person wants to know of a finished run, what was left out included."""
    last = result.steps[-1]
    lines = [
        f"{last.step} steps over {result.data.examples} examples in {sum(s.seconds for s in result.steps):.0f} s, "
        f"{result.tokens_per_second:.0f} tokens/s; loss {result.steps[0].loss:.3f} to {last.loss:.3f}."
    ]
    if result.data.too_long:
        lines.append(f"[yellow]{result.data.too_long} rows were longer than max_length and were left out.[/]")
    return lines
