"""The HTTP side: routes, streaming, usage."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from landrace import __version__
from landrace.engine.sampling_params import SamplingParams
from landrace.errors import LandraceError
from landrace.server import errors
from landrace.server.engine_process import EngineProcess
from landrace.server.errors import ApiError
from landrace.server.generation import Generation
from landrace.server.replies import ChatShape, CompletionShape, Shape, envelope
from landrace.server.schema import ChatRequest, CompletionRequest
from landrace.server.usage import UsageLog
from landrace.text import Tokenizer, encode_chat

_CLIENT_CLOSED = 499
"""The status nginx gives a call whose client went away; nobody is there to read it."""


@dataclass(frozen=True)
class ServedModel:
    """One name a client can ask for: a base model, or an adapter on it."""

    name: str
    engine: EngineProcess
    tokenizer: Tokenizer
    adapter: str | None = None
    parent: str | None = None


def create_app(models: list[ServedModel], usage_log: UsageLog) -> FastAPI:
    """The application. Its lifespan starts the engine processes and, after the last call has ended, stops them."""
    by_name = {model.name: model for model in models}
    engines = list({id(model.engine): model.engine for model in models}.values())

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        started: list[EngineProcess] = []
        try:
            for engine in engines:
                started.append(engine)
                await engine.start()
            yield
        finally:
            for engine in started:
                await engine.stop()
            usage_log.close()

    app = FastAPI(title="Landrace", version=__version__, lifespan=lifespan, docs_url="/docs", redoc_url=None)
    errors.install(app)

    def find(name: str) -> ServedModel:
        if name not in by_name:
            raise ApiError(
                404,
                f"There is no model {name!r}. This server has: {', '.join(by_name)}.",
                param="model",
                code="model_not_found",
            )
        return by_name[name]

    @app.get("/health")
    async def health() -> Response:
        alive = all(engine.alive for engine in engines)
        return JSONResponse({"status": "ok" if alive else "engine stopped"}, 200 if alive else 503)

    @app.get("/v1/models")
    async def list_models() -> dict[str, Any]:
        return {"object": "list", "data": [_describe(model) for model in models]}

    @app.get("/v1/models/{name:path}")
    async def show_model(name: str) -> dict[str, Any]:
        return _describe(find(name))

    @app.post("/v1/chat/completions")
    async def chat(body: ChatRequest, http: Request) -> Response:
        model = find(body.model)
        prompt = tuple(encode_chat(model.tokenizer, body.messages, **body.chat_template_kwargs))
        room = max(1, model.engine.max_length - len(prompt))
        shape = ChatShape(model.tokenizer, body.logprobs)
        return await _answer(body, http, model, [prompt], body.sampling(room), shape)

    @app.post("/v1/completions")
    async def complete(body: CompletionRequest, http: Request) -> Response:
        model = find(body.model)
        prompts = [
            tuple(model.tokenizer.encode(prompt, parse_special=False) if isinstance(prompt, str) else prompt)
            for prompt in body.prompts()
        ]
        if not prompts:
            raise ApiError(400, "prompt must hold at least one prompt.", param="prompt")
        shape = CompletionShape(model.tokenizer, body.logprobs is not None, body.echo)
        return await _answer(body, http, model, prompts, body.sampling(), shape)

    async def _answer(
        body: ChatRequest | CompletionRequest,
        http: Request,
        model: ServedModel,
        prompts: list[tuple[int, ...]],
        params: SamplingParams,
        shape: Shape,
    ) -> Response:
        call_id = f"{shape.prefix}-{uuid.uuid4().hex}"
        generation = Generation(model.engine, call_id, prompts, params, body.n, model.adapter)
        if body.stream:
            wants_usage = body.stream_options is not None and body.stream_options.include_usage
            stream = _stream(generation, shape, call_id, model, len(prompts), wants_usage)
            # The first event decides whether this is an error with a status of its own or a stream.
            first = await anext(stream)
            return StreamingResponse(_prepend(first, stream), media_type="text/event-stream")
        try:
            if not await generation.run(http.is_disconnected):
                return Response(status_code=_CLIENT_CLOSED)
        finally:
            usage_log.add(call_id, model.name, model.adapter, generation.choices)
        choices = [shape.choice(choice) for choice in generation.choices]
        return JSONResponse(
            envelope(shape.kind, call_id, model.name, choices, usage=generation.usage(len(prompts)))
        )

    async def _stream(
        generation: Generation, shape: Shape, call_id: str, model: ServedModel, n_prompts: int, wants_usage: bool
    ) -> AsyncIterator[str]:
        opened: set[int] = set()
        more = {"usage": None} if wants_usage else {}
        try:
            async for choice, output in generation.events():
                chunks = []
                if choice.index not in opened:
                    opened.add(choice.index)
                    chunks.append(shape.opening(choice))
                if output.text or output.logprobs or output.finish_reason:
                    chunks.append(shape.delta(choice, output.text, output.logprobs, output.finish_reason))
                for chunk in chunks:
                    if chunk is not None:
                        yield _event(envelope(shape.chunk_kind, call_id, model.name, [chunk], **more))
            if wants_usage:
                usage = generation.usage(n_prompts)
                yield _event(envelope(shape.chunk_kind, call_id, model.name, [], usage=usage))
        except (ApiError, LandraceError) as error:
            if not opened:
                raise
            shaped = error if isinstance(error, ApiError) else errors.from_landrace(error)
            yield _event(shaped.body)
        finally:
            usage_log.add(call_id, model.name, model.adapter, generation.choices)
        yield "data: [DONE]\n\n"

    return app


def _describe(model: ServedModel) -> dict[str, Any]:
    return {
        "id": model.name,
        "object": "model",
        "created": 0,
        "owned_by": "landrace",
        "parent": model.parent,
        "max_model_len": model.engine.max_length,
    }


def _event(body: dict[str, Any]) -> str:
    return f"data: {json.dumps(body, ensure_ascii=False)}\n\n"


async def _prepend(first: str, rest: AsyncIterator[str]) -> AsyncIterator[str]:
    try:
        yield first
        async for event in rest:
            yield event
    finally:
        await rest.aclose()  # type: ignore[attr-defined]
