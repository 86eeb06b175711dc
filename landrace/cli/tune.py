"""`tune`: supervised tuning, LoRA or full."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from landrace.cli.console import err, note, notice, print_json, styled
from landrace.cli.options import MapOption
from landrace.cli.progress import count_progress, spinner
from landrace.cli.systems import recorded
from landrace.data import parse_map
from landrace.models.lora_spec import PROJECTIONS
from landrace.training.interrupt import InterruptGuard, TuneInterrupted
from landrace.training.options import TuneOptions

if TYPE_CHECKING:
    from landrace.evaluation.rows import TaskData
    from landrace.evaluation.task import Task
    from landrace.training.data import Row
    from landrace.training.log import StepReport
    from landrace.training.trainer import TuneResult


def tune(
    model: Annotated[str, typer.Argument(help="A stored model, a folder or a .gguf file.")],
    data: Annotated[
        Path, typer.Argument(help="Training rows (JSON, CSV, Parquet), or a task file whose training rows to use.")
    ],
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
        Path | None,
        typer.Option(help="Rows (of a task: its held-out rows) whose loss is measured at the end of each epoch."),
    ] = None,
    map_columns: MapOption = None,
    precision: Annotated[
        str, typer.Option(help="Matrix products: auto, float32 or bfloat16; auto is bfloat16 where the machine has it.")
    ] = "auto",
    threads: Annotated[int | None, typer.Option(help="CPU threads; default: all, fewer while others use them.")] = None,
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
    names = parse_map(map_columns or ())
    try:
        result, weights = run_tuning(
            model,
            training_rows(data, names),
            options,
            out,
            precision=precision,
            threads=threads,
            resume=resume,
            validation=held_out_rows(validation, names) if validation is not None else None,
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
    what = "adapter" if result.lora else "model"
    err.print(styled("Loss curve in ", (out / "loss.png", "bold"), f"; the {what} in ", (weights, "bold"), "."))
    if result.lora:
        err.print(f"Try it: landrace run {shlex.quote(model)} --adapter {shlex.quote(str(weights))}")
    else:
        err.print(f"Try it: landrace run {shlex.quote(str(weights))}")


def training_rows(path: Path, names: Mapping[str, str] | None = None) -> list[Row]:
    """The rows of a file, or the training rows of a task file with the very prompt the task asks. `names` renames
    columns."""
    return _rows(path, names or {}, lambda task: task.load_train(), "training")


def held_out_rows(path: Path, names: Mapping[str, str] | None = None) -> list[Row]:
    """The rows of a file, or the rows that `evaluate` asks of a task file. `names` renames columns."""
    return _rows(path, names or {}, lambda task: task.load(), "held-out")


def _rows(path: Path, names: Mapping[str, str], of_task: Callable[[Task], TaskData], which: str) -> list[Row]:
    from landrace.evaluation.task import is_task_file, load_task
    from landrace.training.data import parse_row, read_rows

    if not is_task_file(path):
        return read_rows(path, names)
    task = load_task(path).with_map(names)
    rows = task.to_training_rows(of_task(task))
    return [parse_row(row, f"{path.name}, {which} row {number}") for number, row in enumerate(rows, start=1)]


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
    with spinner("loading PyTorch"):
        import torch

        from landrace.ledger import Provenance
        from landrace.model import default_device, length_notice, open_model, training_product_dtype
        from landrace.training.optimizer import DivergedError
        from landrace.training.overlap import count_shared
        from landrace.training.result import write_result
        from landrace.training.run_folder import starting_point
        from landrace.training.threads import ThreadChoice
        from landrace.training.trainer import tune as train

    starting_point(out, resume)  # before the model is opened, which can take long
    if validation and (shared := count_shared(validation, rows)):
        notice(
            f"{shared} of the {len(validation)} validation rows are training rows as well; "
            "the validation loss tells less about new rows than it seems."
        )
    if threads is not None:
        torch.set_num_threads(threads)
    device = default_device()
    products = training_product_dtype(precision, device)
    # Frozen weights can be held in what their products run in; weights that are trained need float32's small updates.
    held = products if options.method == "lora" else "float32"
    with recorded(out, "tune", {"model": model, "precision": precision, **options.as_dict()}):
        with spinner(f"opening {model}"):
            opened = open_model(model, dtype=held, product_dtype=products, device=device, max_length=options.max_length)
        notice(length_notice(opened.checkpoint.spec))

        def write(result: TuneResult) -> Path:
            provenance = {"provenance": asdict(Provenance.here(seed=options.seed))}
            # Ctrl-C lets it finish: what was trained for hours is lost without it.
            with InterruptGuard(), spinner("writing the result"):
                return write_result(result, out, checkpoint=opened.checkpoint, base_name=model, provenance=provenance)

        with count_progress("tuning") as progress:

            def show(report: StepReport) -> None:
                note = f"loss {report.loss:.3f}  {report.tokens_per_second:.0f} tokens/s"
                progress(report.step, report.total_steps, note)

            try:
                result = train(
                    opened.decoder,
                    opened.tokenizer,
                    rows,
                    options,
                    out=out,
                    on_step=show,
                    validation=validation,
                    resume=resume,
                    threads=ThreadChoice() if threads is None and device.type == "cpu" else None,
                )
            except DivergedError as error:
                if error.result is not None:
                    step = error.result.steps[-1].step
                    notice(f"The weights after step {step}, the newest that were no worse than the first, are in "
                           f"{write(error.result)}.")  # fmt: skip
                raise
        return result, write(result)


def summary(result: TuneResult) -> list[Text]:
    """What a person wants to know of a finished run, what was left out included."""
    from landrace.training.result import remarks

    last, data = result.steps[-1], result.data
    whole = (
        f"{last.step} steps over {data.examples} examples in {sum(s.seconds for s in result.steps):.0f} s, "
        f"{result.tokens_per_second:.0f} tokens/s; loss {result.steps[0].loss:.3f} to {last.loss:.3f}."
    )
    told = remarks(result)
    if data.too_long:
        told.append(
            f"{_count(data.too_long, 'answer')} too long for max_length, left out: {_places(data.too_long_rows)}."
        )
    if data.excluded:
        told.append(f"{_count(data.excluded, 'row')} with nothing to learn, left out: {_places(data.excluded_rows)}.")
    if data.context_only:
        told.append(f"{_count(data.context_only, 'answer')} read and not learned, as the rows say.")
    if data.trimmed:
        told.append(
            f"{_count(data.trimmed, 'answer')} learnt without the white space at the beginning or end, which "
            f"the chat template takes away: {_places(data.trimmed_rows)}."
        )
    left_out = [styled((line, "yellow")) for line in told]
    return [styled(whole), *left_out, *(styled(f"Note: {remark}.") for remark in data.remarks)]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _places(places: Sequence[str]) -> str:
    """The first rows, by file and line."""
    return "; ".join(places[:3]) + (" and others" if len(places) > 3 else "")
