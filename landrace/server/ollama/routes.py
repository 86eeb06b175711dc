"""Ollama's chats and texts, and what lies beside them."""

from __future__ import annotations

from functools import partial

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from landrace.server.answering import Call, answer
from landrace.server.chats.calls import prepared
from landrace.server.chats.chat import Chat, renamed
from landrace.server.engines.registry import ServedModel
from landrace.server.generation import Prompt
from landrace.server.ollama import embed, listing
from landrace.server.ollama.names import our_name
from landrace.server.ollama.replies import LineReply
from landrace.server.ollama.schema import ChatRequest, GenerateRequest
from landrace.server.openai.prompts import plain_prompt
from landrace.server.openapi.description import OBJECT, described
from landrace.server.serving import Serving


def routes(serving: Serving) -> APIRouter:
    """`/api/chat`, `/api/generate`, `/api/embed`, and what is served. Clients need not say that they send JSON."""
    router = APIRouter()
    listing.add_routes(router, serving)
    embed.add_route(router, serving)

    @router.post(
        "/api/chat", **described("Ollama's chats, as lines of JSON.", ChatRequest, media_type="*/*", failure=OBJECT)
    )
    async def chat(http: Request) -> Response:
        body = await serving.desk.read(http, ChatRequest, any_type=True)
        return await _answered(body, body.chat, http)

    @router.post(
        "/api/generate",
        **described("Ollama's texts, as lines of JSON.", GenerateRequest, media_type="*/*", failure=OBJECT),
    )
    async def generate(http: Request) -> Response:
        body = await serving.desk.read(http, GenerateRequest, any_type=True)
        if not (body.raw and body.prompt):
            return await _answered(body, body.chat, http)
        model = await serving.find(http, our_name(serving.registry, body.model))
        write = partial(plain_prompt, model.engine, body.prompt, body.said)
        with renamed(body.names):
            prompt = await serving.desk.prepare(model.engine, http, write)
        return await _sent(body, model, prompt, http)

    async def _answered(body: ChatRequest | GenerateRequest, asked: Chat | None, http: Request) -> Response:
        name = our_name(serving.registry, body.model)
        if asked is None:
            await serving.find(http, name)
            return JSONResponse(_reply(body).nothing())
        model, prompt = await prepared(serving, http, name, asked)
        return await _sent(body, model, prompt, http)

    async def _sent(body: ChatRequest | GenerateRequest, model: ServedModel, prompt: Prompt, http: Request) -> Response:
        with renamed(body.names):
            n_prompt = len(prompt.ids)
            params = body.options.sampling(n_prompt, model.engine.max_length, shifts=model.engine.shifts)
        call = Call(model, [prompt], [params], _reply(body), body.stream, names=body.names)
        return await answer(call, http, serving.usage_log)

    return router


def _reply(body: ChatRequest | GenerateRequest) -> LineReply:
    return LineReply(body.model, is_chat=isinstance(body, ChatRequest))
