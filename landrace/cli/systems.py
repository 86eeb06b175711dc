"""What can be evaluated and compared, as written on the command line, and how it is measured."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from landrace.cli.console import notice
from landrace.cli.options import opened_for
from landrace.cli.progress import count_progress, spinner
from landrace.errors import DataError, LandraceError, OptionError, RequestError
from landrace.safe_text import shown_line

if TYPE_CHECKING:
    from landrace.evaluation.results import Evaluation
    from landrace.evaluation.rows import TaskData
    from landrace.evaluation.task import Task
    from landrace.ledger import Ledger, Run
    from landrace.ledger.records import RunKind
    from landrace.model import ServingModel
    from landrace.training.data import Row

BASELINE = "baseline"
STORED_SUFFIX = ".evaluation.json"


@dataclass(frozen=True)
class System:
    """MODEL, MODEL+ADAPTER (a folder), `baseline`, or the file of a stored evaluation."""

    text: str
    model: str
    adapter: Path | None

    @property
    def name(self) -> str:
        """As tables and reports show it; a path by its last part."""
        model = Path(self.model).name if Path(self.model).exists() else self.model
        if self.adapter is None:
            return model
        # runs/support/adapter is called after its run.
        folder = self.adapter.resolve()
        return f"{model} + {folder.parent.name if folder.name == 'adapter' else folder.name}"


def parse_system(text: str) -> System:
    """The system that `text` names. A path may hold a `+`: what exists is taken first, the longest model of it."""
    if "+" not in text or _exists(text):
        return System(text, text, None)
    splits = [(text[:place], text[place + 1 :]) for place, sign in enumerate(text) if sign == "+"]
    model, adapter = next(
        (split for split in reversed(splits) if _exists(split[0])),
        next((split for split in splits if _exists(split[1])), splits[0]),
    )
    if not (model and adapter):
        raise DataError(f"{text!r} is neither a model nor MODEL+ADAPTER.", hint="Write smollm2+runs/support/adapter.")
    return System(text, model, Path(adapter))


def _exists(path: str) -> bool:
    try:
        return bool(path) and Path(path).exists()
    except (OSError, ValueError):
        return False


@dataclass(frozen=True)
class Measurement:
    """How to measure a system."""

    seed: int = 0
    limit: int | None = None
    temperature: float = 0.0
    weights: str = "stored"
    kernels: str = "auto"
    threads: int | None = None
    max_length: int | None = None
    guided: bool = False
    shots: int = 0


def measure(system: System, task: Task, how: Measurement) -> Evaluation:
    """Evaluates one system, with a progress bar."""
    from landrace.evaluation.results import load_evaluation
    from landrace.ledger import Provenance

    if system.text.endswith(STORED_SUFFIX):
        return load_evaluation(Path(system.text))
    if system.text == BASELINE:
        with spinner("loading scikit-learn"):
            from landrace.evaluation.baseline import evaluate_baseline

        facts = _flat(asdict(Provenance.here(seed=how.seed)))
        train = task.load_train()
        facts |= _seen_before(system, task, _trainable(task, train))
        with spinner("fitting the baseline"):
            return evaluate_baseline(task, train, seed=how.seed, limit=how.limit, provenance=facts)
    with spinner(f"opening {system.name}"):
        from landrace.model import open_engine

        adapters = {"adapter": system.adapter} if system.adapter else {}
        serving = open_engine(
            system.model,
            adapters=adapters,
            weights=how.weights,
            kernels=how.kernels,
            threads=how.threads,
            options=opened_for(how.max_length),
        )
    notice(serving.notice)
    return measure_serving(serving, system, task, how)


def measure_serving(serving: ServingModel, system: System, task: Task, how: Measurement) -> Evaluation:
    """Evaluates a model that is open already, whose engine calls the system's adapter `adapter`."""
    from landrace.checkpoints.adapter import adapter_sha256, read_record
    from landrace.evaluation.evaluate import evaluate
    from landrace.ledger import Provenance

    template = serving.model.tokenizer.chat_template
    with spinner(f"hashing {system.name}"):
        weights_sha256 = serving.model.checkpoint.sha256()
    origin = Provenance.here(
        weights_sha256=weights_sha256,
        adapter_sha256=adapter_sha256(system.adapter) if system.adapter else None,
        template_sha256=template.sha256 if template else None,
        seed=how.seed,
    )
    tuned = read_record(system.adapter) if system.adapter else {}
    row_hashes = tuned.get("row_hashes")
    seen = _seen_before(system, task, row_hashes) if isinstance(row_hashes, str) else {}
    with count_progress(f"{system.name} on {task.name}") as progress:
        return evaluate(
            serving.engine,
            serving.model.tokenizer,
            task,
            model_name=system.name,
            adapter="adapter" if system.adapter else None,
            seed=how.seed,
            temperature=how.temperature,
            limit=how.limit,
            guided=how.guided,
            shots=how.shots,
            on_progress=progress,
            training_seconds=tuned.get("seconds"),
            training_data_sha256=tuned.get("rows_sha256"),
            provenance=_flat(asdict(origin)) | seen,
        )


def check_answered(evaluation: Evaluation) -> None:
    """RequestError if every row failed: what was measured then is the failure, not the model."""
    if _all_failed(evaluation):
        raise RequestError(
            f"All {evaluation.errors} rows of {evaluation.task} failed on {evaluation.model}; "
            f"the first: {evaluation.rows[0].error}"
        )


def _all_failed(evaluation: Evaluation) -> bool:
    return evaluation.errors == len(evaluation.rows)


def _seen_before(system: System, task: Task, tuned_on: Iterable[Row] | str) -> dict[str, str]:
    """Says, and returns as a fact for the record, how many of the task's rows the system was trained on."""
    from landrace.training.overlap import count_shared

    asked = task.load()
    shared = count_shared(_trainable(task, asked), tuned_on)
    if not shared:
        return {}
    notice(
        f"{system.name} was trained on {shared} of the {len(asked.rows)} rows of {task.name}; "
        "its score tells less about new rows than it seems."
    )
    return {"rows_trained_on": f"{shared} of {len(asked.rows)}"}


def _trainable(task: Task, data: TaskData) -> Iterator[Row]:
    """Rows as training takes them, without those that it refuses: they cannot have been trained on."""
    from landrace.training.data import parse_row

    for row in task.to_training_rows(data):
        try:
            yield parse_row(row, data.source)
        except DataError:
            continue


def _flat(facts: Mapping[str, Any]) -> dict[str, str]:
    """Nested facts as one level of text, without those that are unknown."""
    flat: dict[str, str] = {}
    for key, value in facts.items():
        if isinstance(value, Mapping):
            flat.update(_flat(value))
        elif value is not None:
            flat[key] = str(value)
    return flat


@contextmanager
def recorded(out: Path, kind: RunKind, config: Mapping[str, Any]) -> Iterator[tuple[Ledger, Run]]:
    """A run in the ledger beside `out`, closed as finished, failed or interrupted."""
    from landrace.ledger import Ledger

    _check_folder(out)
    with Ledger(out.parent / "ledger.sqlite") as ledger:
        run = ledger.start_run(kind, out.name, command=shlex.join(sys.argv), config=config)
        try:
            yield ledger, run
        except KeyboardInterrupt:
            ledger.finish_run(run.id, "interrupted")
            raise
        except LandraceError:
            ledger.finish_run(run.id, "failed")
            raise
        ledger.finish_run(run.id)


def _check_folder(out: Path) -> None:
    """Before the work and not after it: `out` can be a folder. Makes the one above it, for the ledger."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OptionError(
            f"{out} cannot be made: {error.strerror or error}.", hint="Choose another folder with --out."
        ) from error
    if out.exists() and not out.is_dir():
        raise OptionError(f"{out} is a file.", hint="Choose another folder with --out.")
    if not os.access(out if out.exists() else out.parent, os.W_OK | os.X_OK):
        raise OptionError(f"{out} cannot be written to.", hint="Choose another folder with --out.")


def record_scores(ledger: Ledger, run: Run, evaluation: Evaluation) -> None:
    """Accuracy and, for a classification, macro F1, for an extraction its fields' scores, with what was counted beside
    them; nothing if every row failed."""
    from landrace.ledger import Provenance, Score

    if _all_failed(evaluation):
        return
    facts = evaluation.provenance
    origin = Provenance.here(
        weights_sha256=facts.get("weights_sha256"),
        adapter_sha256=facts.get("adapter_sha256"),
        data_sha256=evaluation.data_sha256,
        template_sha256=facts.get("template_sha256"),
        seed=evaluation.seed,
    )
    counted = {
        name: getattr(evaluation, name)
        for name in (
            "unparsed",
            "refused",
            "capped",
            "errors",
            "prompt_tokens",
            "cached_prompt_tokens",
            "completion_tokens",
        )
    }
    details = {**counted, "wall_seconds": evaluation.wall_seconds, "concurrency": evaluation.concurrency}
    for metric, value, interval in (
        ("accuracy", None if evaluation.partial else evaluation.accuracy, evaluation.interval),
        ("macro_f1", evaluation.macro_f1, evaluation.macro_f1_interval),
        *((f"field {score.name}", score.score, score.interval) for score in evaluation.by_field),
    ):
        if value is not None and interval is not None:
            ledger.add_score(
                Score(
                    run_id=run.id,
                    model=shown_line(evaluation.model),
                    adapter=evaluation.adapter,
                    task=shown_line(evaluation.task),
                    metric=metric,
                    value=value,
                    low=interval.low,
                    high=interval.high,
                    n=len(evaluation.rows),
                    provenance=origin,
                    details=details,
                )
            )
