"""Texts to tokens and back, in vLLM's shapes."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, Self

from fastapi import APIRouter, Request
from pydantic import AfterValidator, Field, SkipValidation, field_validator, model_validator

from landrace.server.chats.chat import renamed
from landrace.server.engines.process import EngineProcess
from landrace.server.fields import Fields
from landrace.server.http.errors import FieldError
from landrace.server.openai.conversation import checked_messages, checked_tools
from landrace.server.openai.schema import checked_variables
from landrace.server.openapi.description import Told, described
from landrace.server.serving import Serving
from landrace.text import chat_prompt


class TokenizeRequest(Fields):
    """POST /v1/tokenize."""

    model: str
    prompt: str | None = None
    messages: Annotated[SkipValidation[list[dict[str, Any]]], AfterValidator(checked_messages)] | None = None
    add_special_tokens: bool = True
    """Whether a prompt gets what the model begins a text with, and one that is only read what ends it."""
    add_generation_prompt: bool = True
    chat_template_kwargs: Annotated[dict[str, Any], AfterValidator(checked_variables)] = Field(default_factory=dict)
    tools: Annotated[SkipValidation[list[dict[str, Any]]], AfterValidator(checked_tools)] = Field(default_factory=list)
    return_token_strs: bool = False

    @model_validator(mode="after")
    def _has_one_text(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            raise FieldError("Send either a prompt or messages.", field="prompt")
        return self


class DetokenizeRequest(Fields):
    """POST /v1/detokenize."""

    model: str
    tokens: SkipValidation[list[int]]

    @field_validator("tokens", mode="before")
    @classmethod
    def _are_ids(cls, value: Any) -> Any:
        if isinstance(value, list) and all(type(one) is int for one in value):
            return value
        raise ValueError("tokens must be a list of token ids.")


class TokenizeReply(Told):
    """How many there are, how many fit, and which."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None


class DetokenizeReply(Told):
    """The text."""

    prompt: str


def routes(serving: Serving) -> APIRouter:
    """`/v1/tokenize` and `/v1/detokenize`."""
    router = APIRouter()
    desk = serving.desk

    async def tokenize(http: Request) -> dict[str, Any]:
        body = await desk.read(http, TokenizeRequest)
        engine = (await serving.find(http, body.model)).engine
        return await desk.prepare(engine, http, partial(_tokens, engine, body))

    async def detokenize(http: Request) -> dict[str, Any]:
        body = await desk.read(http, DetokenizeRequest)
        engine = (await serving.find(http, body.model)).engine
        return await desk.prepare(engine, http, partial(_text, engine, body))

    for root in ("/v1", ""):
        router.post(
            f"{root}/tokenize", **described("Token ids of a prompt or a conversation.", TokenizeRequest, TokenizeReply)
        )(tokenize)
        router.post(f"{root}/detokenize", **described("The text of token ids.", DetokenizeRequest, DetokenizeReply))(
            detokenize
        )
    return router


def _tokens(engine: EngineProcess, body: TokenizeRequest) -> dict[str, Any]:
    ids = _ids(engine, body)
    tokenizer = engine.tokenizer
    strings = [tokenizer.token_bytes(one).decode(errors="backslashreplace") for one in ids]
    return {
        "count": len(ids),
        "max_model_len": engine.max_length,
        "tokens": ids,
        "token_strs": strings if body.return_token_strs else None,
    }


def _ids(engine: EngineProcess, body: TokenizeRequest) -> list[int]:
    """As chats and completions have them, or vectors where the model writes nothing."""
    tokenizer = engine.tokenizer
    if body.messages is not None:
        with renamed({"prompt": "messages"}):
            written = chat_prompt(
                tokenizer,
                body.messages,
                tools=body.tools,
                add_generation_prompt=body.add_generation_prompt,
                **body.chat_template_kwargs,
            )
        return list(written.token_ids)
    assert body.prompt is not None
    if engine.abilities.writes:
        return tokenizer.encode(body.prompt, add_bos=body.add_special_tokens)
    if body.add_special_tokens:
        return tokenizer.encode_whole(body.prompt)
    return tokenizer.encode(body.prompt, add_bos=False, parse_special=False)


def _text(engine: EngineProcess, body: DetokenizeRequest) -> dict[str, Any]:
    tokenizer = engine.tokenizer
    wrong = next((one for one in body.tokens if not 0 <= one < tokenizer.vocab_size), None)
    if wrong is not None:
        raise FieldError(f"tokens names {wrong}; the model has 0 to {tokenizer.vocab_size - 1}.", field="tokens")
    return {"prompt": tokenizer.decode(body.tokens, skip_special=False)}
