"""Anthropic's messages, and the count of their tokens."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from landrace.server.answering import Call, answer
from landrace.server.anthropic.replies import MessageReply
from landrace.server.anthropic.schema import NAMES, CountRequest, MessagesRequest
from landrace.server.chats.calls import prepared
from landrace.server.chats.chat import renamed
from landrace.server.openapi.description import OBJECT, described
from landrace.server.serving import Serving


def routes(serving: Serving) -> APIRouter:
    """`/v1/messages` and `/v1/messages/count_tokens`."""
    router = APIRouter()

    @router.post(
        "/v1/messages",
        **described(
            "Answers a conversation as Anthropic does.", MessagesRequest, OBJECT, stream=OBJECT, failure=OBJECT
        ),
    )
    async def messages(http: Request) -> Response:
        body = await serving.desk.read(http, MessagesRequest)
        model, prompt = await prepared(serving, http, body.model, body.chat)
        with renamed(NAMES):
            params = body.sampling(len(prompt.ids), model.engine.max_length, shifts=model.engine.shifts)
        reply = MessageReply(model.name, max_tokens=body.max_tokens, shows_thoughts=body.thoughts[2])
        return await answer(
            Call(model, [prompt], [params], reply, body.stream, names=NAMES, kind="message"), http, serving.usage_log
        )

    @router.post(
        "/v1/messages/count_tokens",
        **described("The tokens of a conversation.", CountRequest, OBJECT, failure=OBJECT),
    )
    async def count(http: Request) -> Response:
        body = await serving.desk.read(http, CountRequest)
        _, prompt = await prepared(serving, http, body.model, body.chat)
        return JSONResponse({"input_tokens": len(prompt.ids)})

    return router
