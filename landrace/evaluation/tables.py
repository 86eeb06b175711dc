"""The comparison as a table: rows of named cells, plain text, and Markdown.

There are more measures than systems, so what people read has a line a measure and a column a system.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from html import escape
from unicodedata import east_asian_width

from landrace.evaluation.compare import CURRENCY, Comparison, Entry
from landrace.evaluation.statistics import Interval
from landrace.evaluation.verdict import money, p_value, percent, points
from landrace.safe_text import shown_line

Table = list[dict[str, str]]

NONE = "-"


def comparison_table(comparison: Comparison) -> Table:
    """One row an entry; the keys are the headings, in order. A column that says nothing for any entry is left out."""
    cost = {_cost_heading(comparison): lambda entry: money(entry.cost_per_1000_correct)}
    columns: dict[str, Callable[[Entry], str]] = {**_QUALITY, **_fields(comparison), **_SPEED, **cost, **_COUNTS}
    table = [{heading: cell(entry) for heading, cell in columns.items()} for entry in comparison.entries]
    kept = [heading for heading in columns if any(row[heading] != NONE for row in table)]
    return [{heading: row[heading] for heading in kept} for row in table]


def measures_down(table: Table) -> list[list[str]]:
    """The table with a line a measure: its name, then every system's value. The first line names the systems."""
    return [[heading, *(row[heading] for row in table)] for heading in table[0]]


def to_text(table: Table) -> str:
    """Lined up for a terminal; Chinese characters count as two, and names keep to their line."""
    lines = [[shown_line(cell) for cell in line] for line in measures_down(table)]
    widths = [max(_width(line[column]) for line in lines) for column in range(len(lines[0]))]
    padded = [
        "  ".join(cell + " " * (width - _width(cell)) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]
    return "\n".join([padded[0], "  ".join("-" * width for width in widths), *padded[1:]])


def to_markdown(table: Table) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(map(_escaped, line)) + " |" for line in measures_down(table)]
    return "\n".join([lines[0], "|" + " --- |" * (len(table) + 1), *lines[1:]])


def with_interval(value: float | None, interval: Interval | None) -> str:
    """The form 87.2% (83.1 to 90.4); a dash without a value."""
    if value is None or interval is None:
        return NONE
    return f"{percent(value)} ({100 * interval.low:.1f} to {100 * interval.high:.1f})"


def seconds(value: float | None) -> str:
    """Seconds, or minutes from two minutes on; short times in milli- or microseconds."""
    if value is None:
        return NONE
    for limit, factor, unit in ((1e-3, 1e6, "µs"), (1.0, 1e3, "ms"), (120.0, 1.0, "s")):
        if value < limit:
            return f"{value * factor:.3g} {unit}"
    return f"{value / 60:.1f} min"


def _fields(comparison: Comparison) -> dict[str, Callable[[Entry], str]]:
    """A column for each field of an extraction."""
    names = dict.fromkeys(score.name for entry in comparison.entries for score in entry.fields)
    return {f"field {name} (95%)": partial(_field, name=name) for name in names}


def _field(entry: Entry, name: str) -> str:
    score = next((score for score in entry.fields if score.name == name), None)
    return NONE if score is None else with_interval(score.score, score.interval)


def _schema_valid(entry: Entry) -> str:
    return NONE if entry.schema_valid is None else percent(entry.schema_valid / entry.rows)


def _difference(entry: Entry) -> str:
    if entry.against_first is None or entry.partial:
        return NONE
    difference = entry.against_first.difference
    return f"{points(difference.value)} ({points(difference.interval.low)} to {points(difference.interval.high)})"


def _share(value: float | None) -> str:
    return NONE if value is None else percent(value)


def _p_value(entry: Entry) -> str:
    return NONE if entry.against_first is None or entry.partial else p_value(entry.against_first.test.p_value)


def _tokens_per_second(entry: Entry) -> str:
    return NONE if entry.tokens_per_second is None else f"{entry.tokens_per_second:,.0f}"


def _cost_heading(comparison: Comparison) -> str:
    return f"{CURRENCY} for 1,000 right answers at {money(comparison.price_per_hour)}/h"


_QUALITY: dict[str, Callable[[Entry], str]] = {
    "system": lambda entry: entry.name,
    "guided": lambda entry: "yes" if entry.guided else NONE,
    "examples in the prompt": lambda entry: str(entry.shots) if entry.shots else NONE,
    "right": lambda entry: NONE if entry.partial else f"{entry.correct} of {entry.rows}",
    "accuracy (95%)": lambda entry: NONE if entry.partial else with_interval(entry.accuracy, entry.interval),
    "macro F1 (95%)": lambda entry: with_interval(entry.macro_f1, entry.macro_f1_interval),
    "by plain likelihood (acc)": lambda entry: _share(entry.raw_accuracy),
    "by likelihood per character (acc_norm)": lambda entry: _share(entry.character_accuracy),
    "points against the first (95%)": _difference,
    "McNemar p": _p_value,
    "valid to the schema": _schema_valid,
}

_SPEED: dict[str, Callable[[Entry], str]] = {
    "tokens/s": _tokens_per_second,
    "an answer": lambda entry: seconds(entry.seconds_per_answer),
    "at once": lambda entry: str(entry.concurrency),
    "training": lambda entry: seconds(entry.training_seconds),
}

_COUNTS: dict[str, Callable[[Entry], str]] = {
    "unparsed": lambda entry: str(entry.unparsed),
    "refused": lambda entry: str(entry.refused),
    "capped": lambda entry: str(entry.capped),
    "errors": lambda entry: str(entry.errors),
}


def _width(text: str) -> int:
    return sum(2 if east_asian_width(character) in "WF" else 1 for character in text)


def _escaped(cell: str) -> str:
    """A cell that can hold no Markdown table mark-up and no HTML."""
    return escape(cell, quote=False).replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")
