"""The report page: one HTML file that needs nothing else, neither network nor scripts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from landrace.evaluation.compare import CURRENCY, Comparison
from landrace.evaluation.figures import STYLE, Bar, bar_chart, loss_curve, standalone
from landrace.evaluation.results import EXPECTED, Evaluation, FieldScore, RowResult
from landrace.evaluation.statistics import Interval
from landrace.evaluation.tables import NONE, comparison_table, measures_down, seconds
from landrace.evaluation.verdict import money, percent, verdict

TEMPLATE = Path(__file__).with_name("report.html.jinja")
MAX_MATRIX_LABELS = 20
MAX_CONFUSIONS = 15
MAX_EXAMPLES = 6
MAX_EXAMPLE_CHARACTERS = 700


@dataclass(frozen=True)
class Matrix:
    """Counts of answers: `cells[i][j]` rows that expect label i and were answered with column j; the last column is
    what could not be read."""

    labels: tuple[str, ...]
    columns: tuple[str, ...]
    cells: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Example:
    """One row and every system's answer to it: (system, answer, right)."""

    id: str
    groups: str
    text: str
    expected: str
    answers: tuple[tuple[str, str, bool], ...]


def write_report(
    path: Path,
    comparison: Comparison,
    evaluations: Sequence[Evaluation],
    *,
    title: str | None = None,
    losses: Sequence[tuple[int, float]] = (),
    provenance: Mapping[str, str] | None = None,
) -> None:
    """Write the page for `evaluations`, the ones that `comparison` was made of.

    `losses` is (step, training loss); `provenance` what holds for all systems (versions, commit, machine, date), beside
    what each evaluation carries itself.
    """
    page = render_report(comparison, evaluations, title=title, losses=losses, provenance=provenance)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8", errors="backslashreplace")  # names of files may be any bytes


def render_report(
    comparison: Comparison,
    evaluations: Sequence[Evaluation],
    *,
    title: str | None = None,
    losses: Sequence[tuple[int, float]] = (),
    provenance: Mapping[str, str] | None = None,
) -> str:
    """The page's HTML. Everything from outside is escaped."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    model, other = _contrasted(evaluations)
    return template.render(
        title=title or f"Comparison on {comparison.task}",
        comparison=comparison,
        currency=CURRENCY,
        price=money(comparison.price_per_hour),
        verdict=verdict(comparison),
        table=measures_down(comparison_table(comparison)),
        style=Markup(STYLE),
        bars=Markup(bar_chart(_bars(evaluations))),
        loss=Markup(loss_curve(losses)),
        group_tables=[
            *_field_tables(evaluations),
            *(_group_table(evaluations, name) for name in _columns(evaluations)),
        ],
        names=[item.model for item in evaluations],
        best=model,
        matrix=_matrix(model) if model.has_labels else None,
        confusions=_confusions(model) if model.has_labels else [],
        contrast=(model.model, other.model),
        wins=_examples(evaluations, model, other),
        losses=_examples(evaluations, other, model),
        provenance=dict(provenance or {}),
        sources=[(item.model, _source(item)) for item in evaluations],
    )


def accuracy_picture(evaluations: Sequence[Evaluation]) -> str:
    """The bars of the page as the text of an .svg file."""
    return standalone(bar_chart(_bars(evaluations)))


def _bars(evaluations: Sequence[Evaluation]) -> list[Bar]:
    colours = _colours(evaluations)
    whole = (item for item in evaluations if not item.partial)
    return [Bar(item.model, item.accuracy, item.interval, colours[item.model]) for item in whole]


def _colours(evaluations: Sequence[Evaluation]) -> dict[str, str]:
    """Grey for the first model, grain for a baseline, the others in turn."""
    models = [item for item in evaluations if item.method != "classical"]
    turns = {item.model: ("stone", "leaf", "sky", "clay")[min(index, 3)] for index, item in enumerate(models)}
    return {item.model: turns.get(item.model, "grain") for item in evaluations}


def _columns(evaluations: Sequence[Evaluation]) -> list[str]:
    first = evaluations[0]
    return [*first.group_columns, *([EXPECTED] if first.kind == "classification" else [])]


def _group_table(evaluations: Sequence[Evaluation], column: str) -> dict[str, Any]:
    """Values of one column down, systems across."""
    scores = [item.by_group(column) for item in evaluations]
    values = zip(*scores, strict=True)
    lines = [
        (group[0].value, group[0].rows, [_cell(score.accuracy, score.interval) for score in group]) for group in values
    ]
    return {"heading": "expected answer" if column == EXPECTED else column, "lines": lines}


def _field_tables(evaluations: Sequence[Evaluation]) -> list[dict[str, Any]]:
    """One table, or none where nothing was extracted: fields down, systems across."""
    scores = [{score.name: score for score in item.by_field} for item in evaluations]
    names = dict.fromkeys(name for fields in scores for name in fields)
    lines = [(name, len(evaluations[0].rows), [_field_cell(fields.get(name)) for fields in scores]) for name in names]
    return [{"heading": "field", "lines": lines}] if lines else []


def _field_cell(score: FieldScore | None) -> dict[str, Any] | None:
    return None if score is None else _cell(score.score, score.interval)


def _cell(share: float, interval: Interval) -> dict[str, Any]:
    low, high = 100 * interval.low, 100 * interval.high
    return {"share": percent(share), "interval": f"{low:.0f} to {high:.0f}", "width": f"{100 * share:.1f}"}


def _matrix(evaluation: Evaluation) -> Matrix | None:
    counts = Counter((row.expected, row.parsed) for row in evaluation.rows)
    labels = tuple(sorted({label for pair in counts for label in pair if label is not None}))
    if len(labels) > MAX_MATRIX_LABELS:
        return None
    columns: tuple[str | None, ...] = (*labels, None) if evaluation.unparsed + evaluation.errors else labels
    cells = tuple(tuple(counts[row, column] for column in columns) for row in labels)
    return Matrix(labels, tuple("no answer" if column is None else column for column in columns), cells)


def _confusions(evaluation: Evaluation) -> list[tuple[str, str, int]]:
    """The most frequent wrong answers: (expected, answered, rows)."""
    wrong = Counter((row.expected, row.parsed or "no answer") for row in evaluation.rows if not row.correct)
    ordered = sorted(wrong.items(), key=lambda item: (-item[1], item[0]))
    return [(expected, answered, count) for (expected, answered), count in ordered[:MAX_CONFUSIONS]]


def _contrasted(evaluations: Sequence[Evaluation]) -> tuple[Evaluation, Evaluation]:
    """The best model, and the first system that is another one: their wins and losses are worth reading."""
    models = [item for item in evaluations if item.method != "classical"] or list(evaluations)
    best = max(models, key=lambda item: item.correct)
    return best, next((item for item in evaluations if item is not best), best)


def _examples(evaluations: Sequence[Evaluation], winner: Evaluation, loser: Evaluation) -> list[Example]:
    """Rows that `winner` has right and `loser` wrong, spread evenly over the file."""
    outcomes = enumerate(zip(winner.rows, loser.rows, strict=True))
    places = [index for index, (won, lost) in outcomes if won.correct and not lost.correct]
    if len(places) > MAX_EXAMPLES:
        places = [places[index * len(places) // MAX_EXAMPLES] for index in range(MAX_EXAMPLES)]
    return [_example(evaluations, index) for index in places]


def _example(evaluations: Sequence[Evaluation], index: int) -> Example:
    row = evaluations[0].rows[index]
    return Example(
        id=row.id,
        groups=", ".join(row.groups.values()),
        text=_shortened("\n".join(row.inputs.values())),
        expected=row.expected,
        answers=tuple((item.model, _answer(item.rows[index]), item.rows[index].correct) for item in evaluations),
    )


def _answer(row: RowResult) -> str:
    if row.error is not None:
        return f"error: {_shortened(row.error)}"
    return _shortened(row.answer.strip()) or "(empty)"


def _shortened(text: str) -> str:
    return text if len(text) <= MAX_EXAMPLE_CHARACTERS else text[:MAX_EXAMPLE_CHARACTERS] + " […]"


def _source(item: Evaluation) -> dict[str, str]:
    """What is needed to repeat one evaluation, as text."""
    known = {
        "method": item.method,
        "guided": "yes" if item.guided else None,
        "adapter": item.adapter,
        "seed": str(item.seed),
        "examples in the prompt": str(item.shots) if item.shots else None,
        "sampling": ", ".join(f"{key} {value}" for key, value in item.sampling.items()),
        "rows": f"{len(item.rows)} of {item.data_rows} in {item.data_source}",
        "data SHA-256": item.data_sha256,
        "task SHA-256": item.task_sha256,
        "prompt template SHA-256": item.template_sha256,
        "chat template SHA-256": item.chat_template_sha256,
        "training data SHA-256": item.training_data_sha256,
        "training": seconds(item.training_seconds),
        "measuring": f"{seconds(item.wall_seconds)}, {item.concurrency} at once",
        "prompt tokens": f"{item.prompt_tokens:,}, of them {item.cached_prompt_tokens:,} from the prefix cache",
        "answer tokens": f"{item.completion_tokens:,}",
        **item.provenance,
    }
    return {name: value for name, value in known.items() if value and value != NONE}
