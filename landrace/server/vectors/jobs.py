"""From bodies to what is read of a model, and from that to vectors and scores."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from landrace.embedding.dense import Rows
from landrace.embedding.judges import ScoreForm
from landrace.embedding.vector_form import Manner, finished
from landrace.errors import RequestError
from landrace.server.engines.registry import ServedModel
from landrace.server.http.errors import FieldError
from landrace.server.vectors.reading import Wanted
from landrace.server.vectors.schema import MAX_TOKENS, EmbeddingRequest, RerankRequest, ScoreRequest


@dataclass(frozen=True)
class VectorJob:
    """Texts to vectors."""

    wanted: Sequence[Wanted]
    manner: Manner

    @classmethod
    def of(cls, model: ServedModel, body: EmbeddingRequest) -> VectorJob:
        """Raises RequestError for what the model does not have, and for texts that are empty or too long."""
        form = model.engine.abilities.vector_form(model.name)
        if body.prompt is not None and body.prompt not in form.prompts.by_name:
            names = ", ".join(form.prompts.by_name) or "none"
            field = "input_type" if body.prompt_name is None else "prompt_name"
            raise RequestError(f"The model has no prompt {body.prompt!r}; its prompts are: {names}.", field=field)
        prompt = "" if body.ids is not None else body.prompt
        manner = form.manner(prompt, body.instruction, body.dimensions, body.normalize)
        if body.ids is not None:
            encoded = form.given(body.ids)
        else:
            encoded = form.encode(body.texts, manner, truncate=body.truncate)
        return cls(_within_limits([Wanted(one, form.readout(one, manner)) for one in encoded], "input"), manner)

    def entries(self, read: Sequence[Rows], *, as_base64: bool) -> Iterator[dict[str, Any]]:
        """As the API lists them."""
        for index, rows in enumerate(read):
            vector = _base64(finished(rows, self.manner)) if as_base64 else self.numbers(rows)
            yield {"object": "embedding", "index": index, "embedding": vector}

    def numbers(self, rows: Rows) -> list[float]:
        """The vector of what is read of one text."""
        return _numbers(finished(rows, self.manner))


@dataclass(frozen=True)
class ScoreJob:
    """Queries with documents to scores."""

    wanted: Sequence[Wanted]
    form: ScoreForm

    @classmethod
    def of(cls, model: ServedModel, body: RerankRequest | ScoreRequest) -> ScoreJob:
        """Raises RequestError for a model that judges no documents, and for texts that are empty or too long."""
        form = model.engine.abilities.score_form(model.name)
        if isinstance(body, RerankRequest):
            asked, field = [(body.query, body.documents)], "documents"
        elif len(body.text_1) == 1:
            asked, field = [(body.text_1[0], body.text_2)], "text_2"
        else:
            asked = [(query, [document]) for query, document in zip(body.text_1, body.text_2, strict=True)]
            field = "text_2"
        encoded = [
            one
            for query, documents in asked
            for one in form.encode(query, documents, instruction=body.instruction, truncate=body.truncate)
        ]
        return cls(_within_limits([Wanted(one, form.readout(one)) for one in encoded], field), form)

    def scores(self, read: Sequence[Rows]) -> list[float]:
        return [self.form.score(rows) for rows in read]


def _within_limits(wanted: list[Wanted], field: str) -> list[Wanted]:
    n_tokens = sum(len(one.encoded.ids) for one in wanted)
    if n_tokens > MAX_TOKENS:
        raise FieldError(f"{field} has {n_tokens} tokens; a call takes {MAX_TOKENS}.", field=field)
    return wanted


def _numbers(vector: Rows) -> list[float]:
    """With the nine digits that tell a float32."""
    return [float(f"{x:.9g}") for x in vector.tolist()]


def _base64(vector: Rows) -> str:
    return base64.b64encode(vector.astype(np.dtype("<f4")).tobytes()).decode("ascii")
