"""The record of a run: one JSON line a step, and the picture drawn from it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from landrace.checkpoints.folder import writing
from landrace.errors import DataError, UnsupportedError


@dataclass(frozen=True)
class StepReport:
    """One optimizer step, as shown while training and as kept in `log.jsonl`."""

    step: int
    """Counted from 1."""
    total_steps: int
    epoch: int
    """Counted from 1."""
    loss: float
    """Mean -log p of the step's trained tokens, in nats, before the update."""
    learning_rate: float
    grad_norm: float
    """Before clipping."""
    tokens: int
    trained_tokens: int
    seconds: float
    tokens_per_second: float
    """All tokens that went through the decoder, by the time of this step alone."""
    validation_loss: float | None = None
    """Mean -log p over the validation rows after the step; at the end of an epoch and of the run."""
    threads: int | None = None
    """CPU threads that computed the step; None on a GPU."""


class TrainingLog:
    """`log.jsonl`, rewritten up to the step a run resumes from, then appended to."""

    def __init__(self, path: Path, *, done_steps: int) -> None:
        kept = [report for report in read_log(path) if report.step <= done_steps] if path.exists() else []
        self.reports: list[StepReport] = kept
        self._path = path
        partial = path.with_name(f".{path.name}.partial")
        with writing(path):
            partial.write_text("".join(_line(report) for report in kept), encoding="utf-8")
            partial.replace(path)
            self._file = path.open("a", encoding="utf-8")

    def append(self, report: StepReport) -> None:
        self.reports.append(report)
        with writing(self._path):
            self._file.write(_line(report))
            self._file.flush()

    def close(self) -> None:
        with writing(self._path):
            self._file.close()


def _line(report: StepReport) -> str:
    return json.dumps(asdict(report)) + "\n"


def read_log(path: Path) -> list[StepReport]:
    """The steps of a `log.jsonl`; a last line that was cut off by a kill is left out."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    try:
        return [StepReport(**json.loads(line)) for line in lines if line.endswith("\n")]
    except (ValueError, TypeError) as error:
        raise DataError(f"{path} is not a training log: {error}.") from error


def draw_loss(reports: list[StepReport], path: Path) -> None:
    """Draws loss and validation loss over steps into `path` (.png or .svg)."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UnsupportedError(
            "The loss curve cannot be drawn without matplotlib.", hint="pip install matplotlib"
        ) from error
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([r.step for r in reports], [r.loss for r in reports], label="training", linewidth=1.2)
    checked = [(r.step, r.validation_loss) for r in reports if r.validation_loss is not None]
    if checked:
        axes.plot([step for step, _ in checked], [loss for _, loss in checked], "o-", label="validation")
        axes.legend()
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("loss (nats per answer token)")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    with writing(path):
        figure.savefig(path, dpi=150)
