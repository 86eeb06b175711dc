"""`compare`: several systems on the same rows: quality, speed, cost."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

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
from landrace.cli.progress import spinner
from landrace.cli.systems import Measurement, check_answered, measure, parse_system, record_scores, recorded
from landrace.data import parse_map

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from landrace.evaluation.compare import Comparison
    from landrace.evaluation.results import Evaluation


def compare(
    systems: Annotated[
        list[str], typer.Argument(help="MODEL, MODEL+ADAPTER, baseline, or a stored NAME.evaluation.json; two or more.")
    ],
    task: Annotated[Path, typer.Option(help="The task file (.json or .toml).")],
    out_folder: Annotated[Path, typer.Option("--out", help="Folder for the report and the answers.")] = Path(
        "runs/compare"
    ),
    price: Annotated[float, typer.Option(help="What this machine costs an hour, in USD.")] = 0.10,
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
    """Compare models, adapters and the classical baseline on one task."""
    from landrace.evaluation.filenames import check_distinct
    from landrace.evaluation.task import load_task

    parsed = [parse_system(text) for text in systems]
    check_distinct((system.name for system in parsed), "system")
    loaded = load_task(task).with_map(parse_map(map_columns or ()))
    if guided:
        loaded.check_guided()
    how = Measurement(seed, limit, temperature, weights, kernels, threads, max_length, guided, shots)
    config = {"systems": systems, "task": str(task), "price": price, **asdict(how)}
    with recorded(out_folder, "compare", config) as (ledger, run):
        evaluations = []
        for system in parsed:
            # An adapter was trained to answer without examples.
            evaluation = measure(system, loaded, how if system.adapter is None else replace(how, shots=0))
            evaluation.save(out_folder)
            check_answered(evaluation)
            record_scores(ledger, run, evaluation)
            evaluations.append(evaluation)
        with spinner("comparing"):
            comparison = make_comparison(evaluations, out_folder, price=price, title=f"Comparison on {loaded.name}")
    if json:
        print_json(comparison.to_dict())
        return
    print_comparison(comparison)
    err.print(styled("The report is ", (out_folder / "report.html", "bold"), "."))


def make_comparison(
    evaluations: Sequence[Evaluation],
    folder: Path,
    *,
    price: float,
    title: str,
    losses: Sequence[tuple[int, float]] = (),
    provenance: Mapping[str, str] | None = None,
) -> Comparison:
    """The comparison, with its report page, table, picture and JSON in `folder`."""
    import json

    from landrace.evaluation.compare import compare as make
    from landrace.evaluation.report import accuracy_picture, write_report
    from landrace.evaluation.tables import comparison_table, to_markdown

    comparison = make(evaluations, price_per_hour=price)
    write_report(
        folder / "report.html", comparison, evaluations, title=title, losses=losses, provenance=provenance or {}
    )
    (folder / "comparison.md").write_text(to_markdown(comparison_table(comparison)) + "\n", encoding="utf-8")
    (folder / "accuracy.svg").write_text(accuracy_picture(evaluations), encoding="utf-8")
    (folder / "comparison.json").write_text(json.dumps(comparison.to_dict(), indent=1) + "\n", encoding="utf-8")
    return comparison


def print_comparison(comparison: Comparison) -> None:
    """The table, measures down the side, then what it means in sentences."""
    from landrace.evaluation.tables import comparison_table, to_text
    from landrace.evaluation.verdict import verdict

    for line in to_text(comparison_table(comparison)).split("\n"):
        out.print(line, soft_wrap=True)
    out.print()
    out.print(verdict(comparison))
    for remark in comparison.remarks:
        out.print(f"Note: {remark}")
