"""The HTTP side: the routes, and what each makes of a request."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from fastapi import FastAPI, Request
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse, Response

from landrace import __version__
from landrace.engine.sampling_params import SamplingParams
from landrace.server import errors, request_id
from landrace.server.answering import Call, ServedModel, answer
from landrace.server.body_limit import BodyLimit
from landrace.server.errors import ApiError
from landrace.server.generation import Prompt
from landrace.server.prompts import PromptDesk, chat_prompt, plain_prompts
from landrace.server.replies import ChatShape, CompletionShape, Shape
from landrace.server.request_id import RequestId
from landrace.server.schema import ChatRequest, CompletionRequest
from landrace.server.usage import UsageLog

_GET = ["GET", "HEAD"]


def create_app(models: Sequence[ServedModel], usage_log: UsageLog, cors_origins: Sequence[str] = ()) -> FastAPI:
    """The application. Its lifespan starts the engine processes and, after the last call has ended, stops them.

    Pages of `cors_origins` may call it from a browser; "*" is every page.
    """
    by_name = {model.name: model for model in models}
    engines = list({id(model.engine): model.engine for model in models}.values())
    created = int(time.time())
    desk = PromptDesk(engines)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        started = []
        try:
            for engine in engines:
                await engine.start()
                started.append(engine)
            yield
        finally:
            desk.close()
            for engine in started:
                await engine.stop()

    app = FastAPI(title="Landrace", version=__version__, lifespan=lifespan, openapi_url=None)
    app.add_middleware(BodyLimit)
    errors.install(app)
    if cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=cors_origins,
            allow_methods=["GET", "HEAD", "POST"],
            allow_headers=["*"],
            expose_headers=[request_id.HEADER],
        )
    app.add_middleware(RequestId)

    def find(name: str) -> ServedModel:
        if name not in by_name:
            raise ApiError(
                404,
                f"There is no model {name!r}. This server has: {', '.join(by_name)}.",
                param="model",
                code="model_not_found",
            )
        return by_name[name]

    def describe(model: ServedModel) -> dict[str, Any]:
        return {
            "id": model.name,
            "object": "model",
            "created": created,
            "owned_by": "landrace",
            "parent": model.parent,
            "max_model_len": model.engine.max_length,
        }

    @app.api_route("/health", methods=_GET)
    async def health() -> Response:
        stopped = [engine.settings.model for engine in engines if not engine.alive]
        unfinished = sum(engine.unfinished for engine in engines)
        status = {"status": "unhealthy" if stopped else "ok", "stopped": stopped, "unfinished_requests": unfinished}
        return JSONResponse(status, 503 if stopped else 200)

    @app.api_route("/v1/models", methods=_GET)
    async def list_models() -> dict[str, Any]:
        return {"object": "list", "data": [describe(model) for model in models]}

    @app.api_route("/v1/models/{name:path}", methods=_GET)
    async def show_model(name: str) -> dict[str, Any]:
        return describe(find(name))

    @app.post("/v1/chat/completions")
    async def chat(http: Request) -> Response:
        body = await desk.read(http, ChatRequest)
        model = find(body.model)
        prompt = await desk.prepare(model.engine, http, partial(chat_prompt, model.engine, body))
        params = body.sampling(len(prompt.ids), model.engine.max_length, shifts=model.engine.shifts)
        shape = ChatShape(model.engine.tokenizer, wants_logprobs=body.logprobs)
        call = _call(body, model, [prompt], [params], shape)
        return await answer(call, http, usage_log)

    @app.post("/v1/completions")
    async def complete(http: Request) -> Response:
        body = await desk.read(http, CompletionRequest)
        model = find(body.model)
        prompts = await desk.prepare(model.engine, http, partial(plain_prompts, model.engine, body))
        params = [
            body.sampling(len(prompt.ids), model.engine.max_length, shifts=model.engine.shifts) for prompt in prompts
        ]
        shape = CompletionShape(model.engine.tokenizer, wants_logprobs=body.logprobs is not None, echo=body.echo)
        call = _call(body, model, prompts, params, shape)
        return await answer(call, http, usage_log)

    return app


def _call(
    body: ChatRequest | CompletionRequest,
    model: ServedModel,
    prompts: Sequence[Prompt],
    params: Sequence[SamplingParams],
    shape: Shape,
) -> Call:
    return Call(model, prompts, params, body.n, shape, body.stream, body.include_usage, body.include_obfuscation)
