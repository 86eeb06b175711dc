"""The OpenAI API's chats and completions."""

from __future__ import annotations

import time
from functools import partial

from fastapi import APIRouter, Request
from fastapi.responses import Response

from landrace.server.answering import Call, answer
from landrace.server.chats.chat import renamed
from landrace.server.chats.prompts import chat_prompt
from landrace.server.engines.registry import ServedModel
from landrace.server.openai.chunks import ChunkedReply
from landrace.server.openai.prompts import plain_prompts
from landrace.server.openai.replies import ChatShape, CompletionShape, Shape
from landrace.server.openai.schema import ChatRequest, CompletionRequest
from landrace.server.serving import Serving


def routes(serving: Serving) -> APIRouter:
    """`/v1/chat/completions` and `/v1/completions`."""
    router = APIRouter()
    desk = serving.desk

    @router.post("/v1/chat/completions")
    async def chat(http: Request) -> Response:
        arrived = time.monotonic()
        body = await desk.read(http, ChatRequest)
        model = await serving.registry.find(body.model)
        asked = body.chat
        prompt = await desk.prepare(model.engine, http, partial(chat_prompt, model.engine, asked))
        with renamed(asked.names):
            params = body.sampling(len(prompt.ids), model.engine.max_length, shifts=model.engine.shifts)
        shape = ChatShape(model.engine.tokenizer, wants_logprobs=body.logprobs)
        call = Call(
            model,
            [prompt],
            [params],
            _reply(body, model, shape),
            body.stream,
            body.n,
            asked.names,
            **body.terms(arrived),
        )
        return await answer(call, http, serving.usage_log)

    @router.post("/v1/completions")
    async def complete(http: Request) -> Response:
        arrived = time.monotonic()
        body = await desk.read(http, CompletionRequest)
        model = await serving.registry.find(body.model)
        prompts = await desk.prepare(model.engine, http, partial(plain_prompts, model.engine, body))
        params = [
            body.sampling(len(prompt.ids), model.engine.max_length, shifts=model.engine.shifts) for prompt in prompts
        ]
        shape = CompletionShape(model.engine.tokenizer, wants_logprobs=body.logprobs is not None, echo=body.echo)
        call = Call(model, prompts, params, _reply(body, model, shape), body.stream, body.n, **body.terms(arrived))
        return await answer(call, http, serving.usage_log)

    return router


def _reply(body: ChatRequest | CompletionRequest, model: ServedModel, shape: Shape) -> ChunkedReply:
    return ChunkedReply(model, shape, include_usage=body.include_usage, obfuscate=body.include_obfuscation)
