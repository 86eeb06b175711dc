"""The OpenAI API's chats and completions."""

from __future__ import annotations

from functools import partial

from fastapi import APIRouter, Request
from fastapi.responses import Response

from landrace.server.access.caller import caller_of
from landrace.server.answering import Call, answer
from landrace.server.chats.calls import prepared
from landrace.server.chats.chat import renamed
from landrace.server.engines.registry import ServedModel
from landrace.server.feedback.keeper import Keeper
from landrace.server.http.errors import FieldError
from landrace.server.openai.chunks import ChunkedReply
from landrace.server.openai.prompts import plain_prompts
from landrace.server.openai.replies import ChatShape, CompletionShape, Shape
from landrace.server.openai.reply_schema import ChatChunk, ChatReply, CompletionReply
from landrace.server.openai.schema import ChatRequest, CompletionRequest
from landrace.server.openapi.description import described
from landrace.server.serving import Serving


def routes(serving: Serving) -> APIRouter:
    """`/v1/chat/completions` and `/v1/completions`."""
    router = APIRouter()
    desk = serving.desk

    @router.post(
        "/v1/chat/completions", **described("Answers a conversation.", ChatRequest, ChatReply, stream=ChatChunk)
    )
    async def chat(http: Request) -> Response:
        body = await desk.read(http, ChatRequest)
        asked = body.chat
        model, prompt = await prepared(serving, http, body.model, asked)
        with renamed(asked.names):
            params = body.sampling(len(prompt.ids), model.engine.max_length, shifts=model.engine.shifts)
        shape = ChatShape(model.engine.tokenizer, wants_logprobs=body.logprobs)
        reply = _reply(serving, body, model, shape)
        kept = None
        if body.store:
            kept = _keeper(serving).keeping(reply.id, model.name, body.messages, body.tools, shape, caller_of(http))
        call = Call(model, [prompt], [params], reply, body.stream, body.n, asked.names, kept)
        return await answer(call, http, serving.usage_log)

    @router.post(
        "/v1/completions",
        **described("Continues a prompt.", CompletionRequest, CompletionReply, stream=CompletionReply),
    )
    async def complete(http: Request) -> Response:
        body = await desk.read(http, CompletionRequest)
        model = await serving.find(http, body.model)
        prompts = await desk.prepare(model.engine, http, partial(plain_prompts, model.engine, body))
        params = [
            body.sampling(len(prompt.ids), model.engine.max_length, shifts=model.engine.shifts) for prompt in prompts
        ]
        shape = CompletionShape(model.engine.tokenizer, wants_logprobs=body.logprobs is not None, echo=body.echo)
        call = Call(model, prompts, params, _reply(serving, body, model, shape), body.stream, body.n, kind="completion")
        return await answer(call, http, serving.usage_log)

    return router


def _keeper(serving: Serving) -> Keeper:
    """What keeps conversations here. Raises FieldError where nothing does."""
    if serving.keeper is None or not serving.keeper.keeps_conversations:
        raise FieldError(
            "This server keeps no conversations: store can only be false.", field="store", code="unsupported_parameter"
        )
    return serving.keeper


def _reply(serving: Serving, body: ChatRequest | CompletionRequest, model: ServedModel, shape: Shape) -> ChunkedReply:
    return ChunkedReply(
        model,
        shape,
        include_usage=body.include_usage,
        obfuscate=body.include_obfuscation,
        include_timings=body.include_timings,
        price_per_hour=serving.price_per_hour,
    )
