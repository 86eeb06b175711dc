"""`evaluate`: scores with intervals."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from landrace.cli.console import err, out, print_json, styled
from landrace.cli.options import (
    GuidedOption,
    KernelsOption,
    MapOption,
    MaxLengthOption,
    ShotsOption,
    ThreadsOption,
    WeightsOption,
)
from landrace.cli.systems import Measurement, check_answered, measure, parse_system, record_scores, recorded
from landrace.data import parse_map

if TYPE_CHECKING:
    from landrace.evaluation.results import Evaluation


def evaluate(
    system: Annotated[str, typer.Argument(help="MODEL, MODEL+ADAPTER or baseline.")],
    tasks: Annotated[list[Path], typer.Argument(help="Task files (.json or .toml).")],
    out_folder: Annotated[Path, typer.Option("--out", help="Folder for the scores and every row's answer.")] = Path(
        "runs/evaluate"
    ),
    limit: Annotated[int | None, typer.Option(help="Ask only this many rows, drawn by --seed.")] = None,
    seed: Annotated[int, typer.Option(help="Draws the sample and seeds sampled answers.")] = 0,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.0,
    guided: GuidedOption = False,
    shots: ShotsOption = 0,
    map_columns: MapOption = None,
    weights: WeightsOption = "stored",
    kernels: KernelsOption = "auto",
    threads: ThreadsOption = None,
    max_length: MaxLengthOption = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")] = False,
) -> None:
    """Measure a model on your own tasks."""
    from landrace.evaluation.filenames import check_distinct, file_stem
    from landrace.evaluation.task import load_task

    parsed = parse_system(system)
    names = parse_map(map_columns or ())
    loaded = [load_task(path).with_map(names) for path in tasks]
    check_distinct((task.name for task in loaded), "task")
    for task in loaded if guided else ():
        task.check_guided()
    how = Measurement(seed, limit, temperature, weights, kernels, threads, max_length, guided, shots)
    evaluations = []
    with recorded(
        out_folder, "evaluate", {"system": system, "tasks": [str(path) for path in tasks], **asdict(how)}
    ) as (
        ledger,
        run,
    ):
        for task in loaded:
            evaluation = measure(parsed, task, how)
            evaluation.save(out_folder / file_stem(task.name))
            record_scores(ledger, run, evaluation)
            evaluations.append(evaluation)
        if json:
            print_json([evaluation.summary() for evaluation in evaluations])
        else:
            for evaluation in evaluations:
                out.print(scores_table(evaluation))
            err.print(styled("Every answer is in ", (out_folder, "bold"), "."))
        for evaluation in evaluations:
            check_answered(evaluation)


def scores_table(evaluation: Evaluation) -> Table:
    """The score, its interval, and everything counted beside it."""
    from landrace.evaluation.tables import with_interval

    table = Table(box=None, pad_edge=False, show_header=False, title=f"{evaluation.model} on {evaluation.task}")
    table.title_justify = "left"
    interval = evaluation.interval
    if evaluation.guided:
        table.add_row("answers", "held to those of the task (guided)")
    if evaluation.shots:
        table.add_row("examples in the prompt", str(evaluation.shots))
    if not evaluation.partial:
        table.add_row(
            "accuracy",
            f"{evaluation.accuracy:.1%} ({evaluation.correct} of {len(evaluation.rows)}; "
            f"95% interval {interval.low:.1%} to {interval.high:.1%})",
        )
    if evaluation.macro_f1 is not None:
        table.add_row("macro F1", f"{evaluation.macro_f1:.3f}")
    if evaluation.schema_valid is not None:
        table.add_row("valid to the schema", f"{evaluation.schema_valid / len(evaluation.rows):.1%}")
    for score in evaluation.by_field:
        table.add_row(f"field {score.name}", with_interval(score.score, score.interval))
    for column in evaluation.group_columns if not evaluation.partial else ():
        scores = ", ".join(f"{group.value} {group.accuracy:.0%}" for group in evaluation.by_group(column))
        table.add_row(f"by {column}", scores)
    table.add_row("not readable as an answer", str(evaluation.unparsed))
    table.add_row("refused to answer", str(evaluation.refused))
    table.add_row("cut off at max_tokens", str(evaluation.capped))
    table.add_row("failed", str(evaluation.errors))
    if evaluation.tokens_per_second is not None:
        table.add_row("tokens a second", f"{evaluation.tokens_per_second:.0f}")
    table.add_row("seconds an answer", f"{evaluation.seconds_per_answer:.3f} ({evaluation.concurrency} at a time)")
    return table
