"""`usage`: what a server's requests used and cost, by key, model, day, team or kind."""

from __future__ import annotations

import csv
import sys
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Annotated, Any

import typer
from rich.table import Table

from landrace.cli.console import err, print_json, print_table
from landrace.cli.ledgers import LedgerOption, existing_ledger
from landrace.cli.moments import moment_of
from landrace.errors import OptionError
from landrace.ledger import UsageSum

FORMATS = ("table", "csv", "json")
_COUNTS = ("requests", "prompt_tokens", "cached_prompt_tokens", "completion_tokens", "thought_tokens")
_AMOUNTS = {"seconds": 2, "machine_seconds": 2, "cost": 6}
"""With the decimals of the table; the other formats have them all."""
_HEADINGS = {
    "prompt_tokens": "prompt",
    "cached_prompt_tokens": "cached",
    "completion_tokens": "generated",
    "thought_tokens": "thought",
    "machine_seconds": "machine s",
    "seconds": "seconds",
    "day": "day (UTC)",
}


def usage(
    ledger: LedgerOption,
    by: Annotated[str, typer.Option(help="key, model, adapter, day, team, kind: several with commas.")] = "model",
    since: Annotated[
        str | None, typer.Option(help="From here on: a day or time of UTC, or how long ago, such as 7d or 12h.")
    ] = None,
    until: Annotated[
        str | None, typer.Option(help="Up to here: a day of UTC, with that day; a time, without it; or how long ago.")
    ] = None,
    format: Annotated[str, typer.Option(help="table, csv or json.")] = "table",
) -> None:
    """Sum up requests, tokens, seconds and cost, exactly. Days are days of UTC."""
    from landrace.ledger.usage_rows import GROUPS

    if format not in FORMATS:
        raise OptionError(f"--format is {format!r}; it must be one of {', '.join(FORMATS)}.")
    groups = list(dict.fromkeys(name.strip() for name in by.split(",")))
    for name in groups:
        if name not in GROUPS:
            raise OptionError(f"--by names {name!r}; it can be {', '.join(GROUPS)}, several with commas between them.")
    begin = None if since is None else moment_of("--since", since)
    end = None if until is None else moment_of("--until", until, end_of_day=True)
    with existing_ledger(ledger) as book:
        sums = book.usage_by(groups, since=begin, until=end)
        names = {key.id: key.name for key in book.keys()} if "key" in groups else {}  # noqa: SIM118  no mapping
    rows = [_row(one, names) for one in sums]
    if format == "json":
        print_json([{name: _number(value) for name, value in row.items()} for row in rows])
    elif format == "csv":
        _print_csv(groups, rows)
    elif rows:
        _print_table(groups, rows)
    else:
        err.print("There is no usage in this time.")


def _row(one: UsageSum, names: Mapping[str, str]) -> dict[str, Any]:
    row: dict[str, Any] = dict(one.group)
    if "key" in row:
        row["key_name"] = names.get(row["key"] or "")
    return {**row, **{name: getattr(one, name) for name in (*_COUNTS, *_AMOUNTS)}}


def _print_csv(groups: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    columns = [part for name in groups for part in (("key", "key_name") if name == "key" else (name,))]
    writer = csv.DictWriter(sys.stdout, [*columns, *_COUNTS, *_AMOUNTS], lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _plain(value) for name, value in row.items()} for row in rows)


def _print_table(groups: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    table = Table(box=None, pad_edge=False, show_footer=len(rows) > 1)
    for place, name in enumerate(groups):
        table.add_column(_HEADINGS.get(name, name), footer="" if place else "all")
    for name in _COUNTS:
        total = sum(row[name] for row in rows)
        table.add_column(_HEADINGS.get(name, name), f"{total:,}", justify="right", no_wrap=True)
    for name, places in _AMOUNTS.items():
        total = sum((row[name] for row in rows), Decimal(0))
        table.add_column(_HEADINGS.get(name, name), f"{total:,.{places}f}", justify="right", no_wrap=True)
    for row in rows:
        labels = [str(row.get("key_name") or row["key"] or "") if name == "key" else row[name] or "" for name in groups]
        counts = [f"{row[name]:,}" for name in _COUNTS]
        table.add_row(*labels, *counts, *(f"{row[name]:,.{places}f}" for name, places in _AMOUNTS.items()))
    print_table(table)


def _plain(value: Any) -> Any:
    return f"{value:f}" if isinstance(value, Decimal) else value


def _number(value: Any) -> Any:
    return float(value) if isinstance(value, Decimal) else value
