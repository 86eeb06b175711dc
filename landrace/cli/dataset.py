"""`dataset`: training rows out of what a server has kept."""

from __future__ import annotations

import json as json_library
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from landrace.checkpoints.folder import writing
from landrace.cli.console import err, out, print_json, styled
from landrace.cli.ledgers import LedgerOption, existing_ledger
from landrace.cli.moments import moment_of
from landrace.errors import DataError, OptionError
from landrace.ledger.dataset import ROW_KINDS, Dataset, build_dataset

app = typer.Typer(help="Make training rows out of what a server has kept.", no_args_is_help=True)


@app.callback()
def _several() -> None:
    """So that `export` stays a command of its own."""


@app.command("export")
def export(
    ledger: LedgerOption,
    out_file: Annotated[Path, typer.Option("--out", help="The file of the rows, JSON Lines.")],
    kind: Annotated[str, typer.Option(help=f"What the rows are for: {', '.join(ROW_KINDS)}.")] = "sft",
    validation: Annotated[
        float, typer.Option(min=0.0, max=0.9, help="Share of the conversations that goes to a file beside it.")
    ] = 0.0,
    model: Annotated[str | None, typer.Option(help="Answers of this model or adapter only.")] = None,
    since: Annotated[str | None, typer.Option(help="From this day or time on, of UTC.")] = None,
    until: Annotated[str | None, typer.Option(help="Up to this day, itself included, or time.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the counts as JSON.")] = False,
) -> None:
    """Write the conversations that people agreed to, with what they said of the answers, as training rows."""
    if kind not in ROW_KINDS:
        raise OptionError(f"--kind is {kind!r}; it must be one of {', '.join(ROW_KINDS)}.")
    first = None if since is None else moment_of("--since", since)
    end = None if until is None else moment_of("--until", until, end_of_day=True)
    with existing_ledger(ledger) as book:
        exchanges = book.exchanges.all(since=first, until=end)
        said = book.exchanges.feedback()
    found = build_dataset([one for one in exchanges if model in (None, one.model)], said, kind, validation=validation)
    if not (found.train or found.validation):
        raise DataError(f"Nothing that was kept gives a row for {kind}.", hint=_reasons(found) or None)
    _write(out_file, found.train)
    beside = out_file.with_name(f"{out_file.stem}.validation{out_file.suffix}")
    if found.validation:
        _write(beside, found.validation)
    if json:
        counts = {"train": len(found.train), "validation": len(found.validation), "left_out": dict(found.left_out)}
        print_json(counts)
        return
    out.print(styled(f"{len(found.train)} rows in ", (out_file, "bold"), "."))
    if found.validation:
        out.print(styled(f"{len(found.validation)} rows of other conversations in ", (beside, "bold"), "."))
    if found.left_out:
        err.print(f"Left out: {_reasons(found)}.")


def _write(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    with writing(path), path.open("w", encoding="utf-8", errors="backslashreplace") as stream:
        stream.writelines(json_library.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _reasons(found: Dataset) -> str:
    return "; ".join(f"{count}: {reason}" for reason, count in found.left_out.most_common())
