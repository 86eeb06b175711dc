"""Ollama's vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Any, ClassVar

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import Field, SkipValidation

from landrace.embedding.dense import Rows
from landrace.server.access.caller import caller_of
from landrace.server.chats.chat import renamed
from landrace.server.fields import Fields, Neutral
from landrace.server.ollama.names import our_name
from landrace.server.ollama.replies import duration
from landrace.server.ollama.schema import OF_A_MACHINE, check_keep_alive
from landrace.server.openapi.description import OBJECT, described
from landrace.server.serving import Serving
from landrace.server.vectors.jobs import VectorJob
from landrace.server.vectors.reading import Reading
from landrace.server.vectors.replies import written
from landrace.server.vectors.routes import answered
from landrace.server.vectors.schema import EmbeddingRequest


class EmbedOptions(Fields):
    """Nothing is drawn."""

    neutral: ClassVar[Mapping[str, Neutral]] = OF_A_MACHINE
    place: ClassVar[str] = "options"


class EmbedRequest(Fields):
    """POST /api/embed."""

    model: str
    # What they say is checked by `EmbeddingRequest` and `check_keep_alive`.
    input: SkipValidation[Any]
    keep_alive: Annotated[SkipValidation[Any], check_keep_alive] = None
    dimensions: Annotated[int, Field(ge=1)] | None = None
    truncate: bool = True
    """Whether texts that are too long lose their end."""
    options: EmbedOptions = Field(default_factory=EmbedOptions)

    @property
    def asked(self) -> EmbeddingRequest:
        """The same of the OpenAI API. Ollama's vectors have a length of 1."""
        return EmbeddingRequest(
            model=self.model,
            input=self.input,
            dimensions=self.dimensions,
            truncate=self.truncate,
            normalize=True,
        )


def add_route(router: APIRouter, serving: Serving) -> None:
    """`/api/embed`."""

    @router.post("/api/embed", **described("Ollama's vectors.", EmbedRequest, OBJECT, failure=OBJECT))
    async def embed(http: Request) -> Response:
        body = await serving.desk.read(http, EmbedRequest, any_type=True)
        model = await serving.find(http, our_name(serving.registry, body.model))
        with renamed({"texts": "input", "prompt": "input"}):
            job = await serving.desk.prepare(model.engine, http, lambda: VectorJob.of(model, body.asked))
            reading = Reading("ollama", "embedding", model, job.wanted, caller_of(http))
            return await answered(http, serving, reading, partial(_reply, body, job, reading))


def _reply(body: EmbedRequest, job: VectorJob, reading: Reading, read: Sequence[Rows]) -> bytes:
    around = {
        "model": body.model,
        "total_duration": duration(reading.seconds),
        "load_duration": 0,
        "prompt_eval_count": reading.n_tokens,
    }
    return written(around, "embeddings", map(job.numbers, read))
