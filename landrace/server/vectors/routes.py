"""Embeddings as the OpenAI API has them, rerank as Jina and Cohere do, score as vLLM does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from fastapi import APIRouter, Request
from fastapi.responses import Response

from landrace.embedding.dense import Rows
from landrace.server.access.caller import caller_of
from landrace.server.access.tally import tally_of
from landrace.server.chats.chat import renamed
from landrace.server.http.presence import CLIENT_CLOSED, ClientGoneError, unless_gone
from landrace.server.openapi.description import described
from landrace.server.serving import Serving
from landrace.server.vectors import replies
from landrace.server.vectors.jobs import ScoreJob, VectorJob
from landrace.server.vectors.reading import Reading
from landrace.server.vectors.reply_schema import EmbeddingReply, RerankReply, ScoreReply
from landrace.server.vectors.schema import EmbeddingRequest, RerankRequest, ScoreRequest


def routes(serving: Serving) -> APIRouter:
    """`/v1/embeddings`, `/v1/rerank` and `/v1/score`."""
    router = APIRouter()
    desk = serving.desk

    @router.post("/v1/embeddings", **described("Vectors of texts.", EmbeddingRequest, EmbeddingReply))
    async def embed(http: Request) -> Response:
        body = await desk.read(http, EmbeddingRequest)
        model = await serving.find(http, body.model)
        with renamed({"texts": "input", "prompt": "input"}):
            job = await desk.prepare(model.engine, http, partial(VectorJob.of, model, body))
            reading = Reading("embd", "embedding", model, job.wanted, caller_of(http))
            return await answered(http, serving, reading, partial(replies.embeddings, body, job, reading))

    async def rerank(http: Request) -> Response:
        body = await desk.read(http, RerankRequest)
        model = await serving.find(http, body.model)
        with renamed({"texts": "documents", "prompt": "documents"}):
            job = await desk.prepare(model.engine, http, partial(ScoreJob.of, model, body))
            reading = Reading("rerank", "rerank", model, job.wanted, caller_of(http))
            return await answered(http, serving, reading, partial(replies.ranking, body, job, reading))

    async def score(http: Request) -> Response:
        body = await desk.read(http, ScoreRequest)
        model = await serving.find(http, body.model)
        with renamed({"texts": "text_2", "prompt": "text_2", "query": "text_1"}):
            job = await desk.prepare(model.engine, http, partial(ScoreJob.of, model, body))
            reading = Reading("score", "score", model, job.wanted, caller_of(http))
            return await answered(http, serving, reading, partial(replies.scores, body, job, reading))

    for path in ("/v1/rerank", "/rerank", "/v2/rerank"):
        router.post(path, **described("Documents by what they say to a query.", RerankRequest, RerankReply))(rerank)
    for path in ("/v1/score", "/score"):
        router.post(path, **described("Scores of queries with documents.", ScoreRequest, ScoreReply))(score)
    return router


async def answered(http: Request, serving: Serving, reading: Reading, write: Callable[[list[Rows]], bytes]) -> Response:
    """What `write` makes of what is read, in a thread: two thousand vectors are millions of digits."""

    async def work() -> bytes:
        return await asyncio.to_thread(write, await reading.run(serving.usage_log))

    tally = tally_of(http)
    tally.begin(reading.n_tokens, 0, reading.counts)
    reading.tell(tally)
    try:
        return Response(await unless_gone(http, work()), media_type="application/json")
    except ClientGoneError:
        return Response(status_code=CLIENT_CLOSED)
