"""Vectors and scores in the shapes of the APIs, written out."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from typing import Any

from landrace.embedding.dense import Rows
from landrace.embedding.reranker import by_score
from landrace.server.vectors.jobs import ScoreJob, VectorJob
from landrace.server.vectors.reading import Reading
from landrace.server.vectors.schema import EmbeddingRequest, RerankRequest, ScoreRequest


def embeddings(body: EmbeddingRequest, job: VectorJob, reading: Reading, read: Sequence[Rows]) -> bytes:
    """As the OpenAI API lists them."""
    entries = job.entries(read, as_base64=body.encoding_format == "base64")
    return written({"object": "list", "model": body.model, "usage": _usage(reading)}, "data", entries)


def ranking(body: RerankRequest, job: ScoreJob, reading: Reading, read: Sequence[Rows]) -> bytes:
    """The documents by score, the best first."""
    scores = job.scores(read)
    entries = (
        {
            "index": index,
            "relevance_score": scores[index],
            **({"document": {"text": body.documents[index]}} if body.return_documents else {}),
        }
        for index in by_score(scores)[: body.top_n]
    )
    return written({"id": reading.id, "model": body.model, "usage": _usage(reading)}, "results", entries)


def scores(body: ScoreRequest, job: ScoreJob, reading: Reading, read: Sequence[Rows]) -> bytes:
    """In the order of the pairs."""
    entries = ({"object": "score", "index": index, "score": score} for index, score in enumerate(job.scores(read)))
    head = {"id": reading.id, "object": "list", "created": int(time.time()), "model": body.model}
    return written({**head, "usage": _usage(reading)}, "data", entries)


def _usage(reading: Reading) -> dict[str, int]:
    """`truncated`: how many texts were cut, where some were."""
    counted = {"prompt_tokens": reading.n_tokens, "total_tokens": reading.n_tokens}
    return {**counted, "truncated": reading.n_cut} if reading.n_cut else counted


def written(around: dict[str, Any], name: str, entries: Iterable[Any]) -> bytes:
    """An object with a list of `entries`, one by one: the library's writer keeps the interpreter's lock until it is
    through."""
    listed = ", ".join(json.dumps(entry, ensure_ascii=False) for entry in entries)
    return f'{json.dumps(around, ensure_ascii=False)[:-1]}, "{name}": [{listed}]}}'.encode()
