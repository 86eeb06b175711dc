"""`/v1/feedback`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import AfterValidator, Field, SkipValidation, model_validator

from landrace.ledger.conversations import Exchange, Feedback
from landrace.server.access.caller import caller_of
from landrace.server.feedback.keeper import conversation_of
from landrace.server.fields import Fields
from landrace.server.http.errors import ApiError, FieldError
from landrace.server.openai.conversation import checked_messages
from landrace.server.openapi.description import OBJECT, described
from landrace.server.serving import Serving

_MAX_TEXT = 100_000
_ID = r"^[A-Za-z0-9._:-]{1,128}$"


class FeedbackRequest(Fields):
    """POST /v1/feedback."""

    response_id: Annotated[str, Field(pattern=_ID)]
    """The `id` of the answer."""
    choice: Annotated[int, Field(ge=0, lt=128)] = 0
    rating: Literal["up", "down"] | None = None
    correction: Annotated[str, Field(max_length=_MAX_TEXT)] | None = None
    """What the answer should have been."""
    comment: Annotated[str, Field(max_length=_MAX_TEXT)] | None = None
    model: str | None = None
    messages: Annotated[SkipValidation[list[dict[str, Any]]], AfterValidator(checked_messages)] | None = None
    """The conversation up to the answer. Whoever sends it agrees that it is kept."""
    answer: Annotated[str, Field(max_length=_MAX_TEXT)] | None = None
    """The answer, with `messages`."""

    @model_validator(mode="after")
    def _says_something(self) -> FeedbackRequest:
        if self.rating is None and self.correction is None and self.comment is None:
            raise FieldError("Say something: a rating, a correction or a comment.", field="rating")
        together = (self.messages, self.answer, self.model)
        if any(one is not None for one in together) and any(one is None for one in together):
            raise FieldError("messages, answer and model go together.", field="messages")
        return self


def routes(serving: Serving) -> APIRouter:
    """`/v1/feedback`. A server without a ledger has none."""
    router = APIRouter()
    keeper = serving.keeper
    if keeper is None:
        return router

    @router.post("/v1/feedback", **described("Takes a rating or a correction of an answer.", FeedbackRequest, OBJECT))
    async def add(http: Request) -> dict[str, Any]:
        body = await serving.desk.read(http, FeedbackRequest)
        caller = caller_of(http)
        if body.messages is not None and not keeper.keeps_conversations:
            raise ApiError(
                400,
                "This server keeps no conversations. Send the rating without messages and answer.",
                param="messages",
                code="unsupported_parameter",
            )
        said = Feedback(
            body.response_id,
            body.choice,
            body.rating,
            body.correction,
            body.comment,
            caller.key_id,
            caller.team or None,
        )
        exchange = None
        if body.messages is not None and body.answer is not None and body.model is not None:
            exchange = Exchange(
                response_id=body.response_id,
                choice=body.choice,
                conversation=conversation_of(body.messages, caller),
                model=body.model,
                messages=body.messages,
                answer={"role": "assistant", "content": body.answer},
                finish_reason="stop",
                key_id=caller.key_id,
                team=caller.team or None,
            )
        number, has_texts = await keeper.add(said, exchange)
        return {
            "id": f"feedback-{number}",
            "object": "feedback",
            "response_id": body.response_id,
            "choice": body.choice,
            "rating": body.rating,
            "text_kept": has_texts,
        }

    return router
