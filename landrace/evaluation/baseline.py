"""A classical baseline, so that a comparison can say when no language model is needed.

TF-IDF of character n-grams (2 to 5, within words) and of words (1 to 2; a Chinese or Japanese character is a word),
then multinomial logistic regression: scikit-learn's, imported when asked for.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from landrace.errors import OptionError, UnsupportedError
from landrace.evaluation.judging import judge_answer
from landrace.evaluation.parsing import WORD
from landrace.evaluation.results import Evaluation, RowResult
from landrace.evaluation.rows import Row, TaskData
from landrace.evaluation.task import Task

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

BASELINE_NAME = "TF-IDF + logistic regression"
LABEL = "label"
INVERSE_REGULARISATION = 10.0
MAX_ITERATIONS = 1000


def evaluate_baseline(
    task: Task,
    train: TaskData,
    *,
    data: TaskData | None = None,
    seed: int = 0,
    limit: int | None = None,
    provenance: Mapping[str, str] | None = None,
) -> Evaluation:
    """Fit on the training rows and answer the held-out rows (or `data`), measured like a model.

    It reads the fields that the prompt shows. `seed` and `limit` draw the rows that `evaluate` draws. A classification
    has one thing to learn, an extraction each field that is an `enum` of texts: it answers those and no others. Any
    other kind, and an extraction without such a field, is an OptionError.
    """
    targets = _targets(task)
    whole = data or task.load()
    start = time.perf_counter()
    pipelines = {name: _fitted(train, [target(row) for row in train.rows]) for name, target in targets.items()}
    fitted = time.perf_counter()
    rows = whole.sample(limit, seed).rows
    texts = [_text(row) for row in rows]
    columns = [[str(label) for label in pipeline.predict(texts)] for pipeline in pipelines.values()]
    answers = [dict(zip(pipelines, labels, strict=True)) for labels in zip(*columns, strict=True)]
    done = time.perf_counter()
    return Evaluation(
        model=BASELINE_NAME,
        task=task.name,
        kind=task.kind,
        method="classical",
        rows=tuple(_result(task, row, answer) for row, answer in zip(rows, answers, strict=True)),
        wall_seconds=done - fitted,
        concurrency=len(rows),
        seed=seed,
        task_sha256=task.sha256,
        template_sha256=task.template_sha256,
        data_sha256=whole.sha256,
        data_source=whole.source,
        data_rows=len(whole.rows),
        training_seconds=fitted - start,
        training_data_sha256=train.sha256,
        provenance={**_versions(), **(provenance or {})},
    )


def _targets(task: Task) -> dict[str, Callable[[Row], str | None]]:
    """What there is to learn, by name: the label of a row, None in rows without one."""
    if task.kind == "classification":
        return {LABEL: lambda row: row.expected[0]}
    labelled = task.records.labelled if task.kind == "extraction" else ()
    if not labelled:
        raise OptionError(
            f"The classical baseline answers labels, and fields of records that are an enum of texts; '{task.name}' of "
            f"kind '{task.kind}' has neither."
        )
    return {name: partial(_field, name=name) for name in labelled}


def _field(row: Row, name: str) -> str | None:
    value: str | None = json.loads(row.expected[0]).get(name)
    return value


def _fitted(train: TaskData, labels: Sequence[str | None]) -> Pipeline:
    """The classifier of the rows that have a label."""
    rows = [(_text(row), label) for row, label in zip(train.rows, labels, strict=True) if label is not None]
    if len({label for _, label in rows}) < 2:
        raise OptionError(f"The classical baseline needs at least two labels in {train.source}.")
    pipeline = _pipeline()
    pipeline.fit(*map(list, zip(*rows, strict=True)))
    return pipeline


def _pipeline() -> Pipeline:
    try:
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import FeatureUnion, Pipeline
    except ImportError as error:
        raise UnsupportedError(
            "The classical baseline needs scikit-learn, which is not installed.", hint="Run `pip install scikit-learn`."
        ) from error
    shared: dict[str, Any] = {"sublinear_tf": True, "lowercase": True}
    features = FeatureUnion(
        [
            ("characters", TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), **shared)),
            ("words", TfidfVectorizer(analyzer="word", ngram_range=(1, 2), token_pattern=WORD, **shared)),
        ]
    )
    classifier = LogisticRegression(C=INVERSE_REGULARISATION, max_iter=MAX_ITERATIONS)
    return Pipeline([("features", features), ("classifier", classifier)])


def _versions() -> dict[str, str]:
    import sklearn

    return {"scikit-learn": str(sklearn.__version__)}


def _text(row: Row) -> str:
    return "\n".join(row.inputs.values())


def _result(task: Task, row: Row, answer: Mapping[str, str]) -> RowResult:
    shared: dict[str, Any] = {
        "id": row.id,
        "inputs": dict(row.inputs),
        "groups": dict(row.groups),
        "expected": row.expected[0],
    }
    if task.kind == "classification":
        label = answer[LABEL]
        return RowResult(**shared, answer=label, parsed=label, correct=label == row.expected[0])
    text = task.records.text(answer)
    judgement = judge_answer(task, row, text)
    scores = {name: judgement.fields[name] for name in answer}
    whole = set(answer) == set(task.records.properties)
    return RowResult(
        **shared,
        answer=text,
        parsed=text,
        correct=whole and judgement.correct,
        fields=scores,
        valid=judgement.valid if whole else None,
    )
