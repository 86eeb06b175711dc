"""The OpenAI API's responses."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response

from landrace.server.answering import Call, answer
from landrace.server.chats.calls import prepared
from landrace.server.chats.chat import renamed
from landrace.server.openapi.description import OBJECT, described
from landrace.server.responses.replies import ResponseReply
from landrace.server.responses.schema import NAMES, ResponseRequest
from landrace.server.serving import Serving


def routes(serving: Serving) -> APIRouter:
    """`/v1/responses`."""
    router = APIRouter()

    @router.post(
        "/v1/responses", **described("Answers as OpenAI's responses are.", ResponseRequest, OBJECT, stream=OBJECT)
    )
    async def respond(http: Request) -> Response:
        body = await serving.desk.read(http, ResponseRequest)
        model, prompt = await prepared(serving, http, body.model, body.chat)
        with renamed(NAMES):
            params = body.sampling(len(prompt.ids), model.engine.max_length, shifts=model.engine.shifts)
        reply = ResponseReply(model.name, body)
        return await answer(
            Call(model, [prompt], [params], reply, body.stream, names=NAMES, kind="response"), http, serving.usage_log
        )

    return router
