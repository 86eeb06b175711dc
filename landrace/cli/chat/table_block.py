"""A table in Markdown, which is known when it is whole."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from landrace.cli.chat.inline import spans

_ROW_ENDS = re.compile(r"(?<!\\)\|")
_RULE = re.compile(r"\s*:?-+:?\s*")
_FEWEST_COLUMNS = 7
"""Of the terminal for each of the table's: with less, a table is unreadable."""


def table_of(lines: Sequence[str], width: int) -> RenderableType | None:
    """The table in these lines, or a record a row where the terminal is too narrow; None where they are no table."""
    rows = [_cells(line) for line in lines]
    if len(rows) < 2 or not all(_RULE.fullmatch(cell) for cell in rows[1]) or len(rows[0]) != len(rows[1]):
        return None
    head, rules, *body = rows
    body = [[*row[: len(head)], *[""] * (len(head) - len(row))] for row in body]
    if width < _FEWEST_COLUMNS * len(head):
        return _records(head, body)
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold")
    for cell, rule in zip(head, rules, strict=True):
        ends = rule.strip()
        centred = ends.startswith(":") and ends.endswith(":")
        table.add_column(_text(cell), justify="center" if centred else "right" if ends.endswith(":") else "left")
    for row in body:
        table.add_row(*map(_text, row))
    return table


def _records(head: Sequence[str], body: Sequence[Sequence[str]]) -> Text:
    records = []
    for row in body:
        lines = [Text.assemble(_text(name), ": ", _text(cell)) for name, cell in zip(head, row, strict=True)]
        records.append(Text("\n").join(lines))
    return Text("\n\n").join(records)


def _cells(line: str) -> list[str]:
    inner = line.strip().removeprefix("|")
    inner = inner[:-1] if inner.endswith("|") and not inner.endswith("\\|") else inner
    return [cell.strip() for cell in _ROW_ENDS.split(inner)]


def _text(cell: str) -> Text:
    return Text.assemble(*spans(cell)[0])
