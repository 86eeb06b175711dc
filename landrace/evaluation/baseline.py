"""A classical baseline, so that a comparison can say when no language model is needed.

TF-IDF of character n-grams (2 to 5, within words) and of words (1 to 2; a Chinese or Japanese character is a word),
then multinomial logistic regression: scikit-learn's, imported when asked for.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from landrace.errors import OptionError, UnsupportedError
from landrace.evaluation.results import Evaluation, RowResult
from landrace.evaluation.rows import Row, TaskData
from landrace.evaluation.task import Task

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

BASELINE_NAME = "TF-IDF + logistic regression"
INVERSE_REGULARISATION = 10.0
MAX_ITERATIONS = 1000
WORD = r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]|[^\W\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]+"


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

    It reads the fields that the prompt shows. `seed` and `limit` draw the rows that `evaluate` draws. Only
    classification has labels to learn: any other kind is an OptionError.
    """
    if task.kind != "classification":
        raise OptionError(f"The classical baseline answers classification tasks, not kind '{task.kind}'.")
    if len({row.expected[0] for row in train.rows}) < 2:
        raise OptionError(f"The classical baseline needs at least two labels in {train.source}.")
    whole = data or task.load()
    pipeline = _pipeline()
    start = time.perf_counter()
    pipeline.fit([_text(row) for row in train.rows], [row.expected[0] for row in train.rows])
    fitted = time.perf_counter()
    rows = whole.sample(limit, seed).rows
    answers = [str(label) for label in pipeline.predict([_text(row) for row in rows])]
    done = time.perf_counter()
    return Evaluation(
        model=BASELINE_NAME,
        task=task.name,
        kind=task.kind,
        method="classical",
        rows=tuple(_result(row, answer) for row, answer in zip(rows, answers, strict=True)),
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


def _result(row: Row, answer: str) -> RowResult:
    return RowResult(
        id=row.id,
        inputs=dict(row.inputs),
        groups=dict(row.groups),
        expected=row.expected[0],
        answer=answer,
        parsed=answer,
        correct=answer == row.expected[0],
    )
