"""The HTTP side: the routes, and what each makes of a request."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from landrace import __version__
from landrace.server import errors
from landrace.server.answering import Call, ServedModel, answer
from landrace.server.body_limit import BodyLimit
from landrace.server.errors import ApiError
from landrace.server.prompts import PromptDesk, chat_prompt, plain_prompts
from landrace.server.replies import ChatShape, CompletionShape
from landrace.server.schema import ChatRequest, CompletionRequest
from landrace.server.usage import UsageLog


def create_app(models: Sequence[ServedModel], usage_log: UsageLog) -> FastAPI:
    """The application. Its lifespan starts the engine processes and, after the last call has ended, stops them."""
    by_name = {model.name: model for model in models}
    engines = list({id(model.engine): model.engine for model in models}.values())
    created = int(time.time())
    desk = PromptDesk()

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

    app = FastAPI(title="Landrace", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.add_middleware(BodyLimit)
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

    def describe(model: ServedModel) -> dict[str, Any]:
        return {
            "id": model.name,
            "object": "model",
            "created": created,
            "owned_by": "landrace",
            "parent": model.parent,
            "max_model_len": model.engine.max_length,
        }

    @app.get("/health")
    async def health() -> Response:
        stopped = [engine.settings.model for engine in engines if not engine.alive]
        unfinished = sum(engine.unfinished for engine in engines)
        status = {"status": "unhealthy" if stopped else "ok", "stopped": stopped, "unfinished_requests": unfinished}
        return JSONResponse(status, 503 if stopped else 200)

    @app.get("/v1/models")
    async def list_models() -> dict[str, Any]:
        return {"object": "list", "data": [describe(model) for model in models]}

    @app.get("/v1/models/{name:path}")
    async def show_model(name: str) -> dict[str, Any]:
        return describe(find(name))

    @app.post("/v1/chat/completions")
    async def chat(http: Request) -> Response:
        body, prompt = await desk.take(http, ChatRequest, lambda body: chat_prompt(find(body.model).engine, body))
        model = find(body.model)
        params = body.sampling(room=max(1, model.engine.max_length - len(prompt.ids)))
        shape = ChatShape(model.engine.tokenizer, wants_logprobs=body.logprobs)
        call = Call(model, [prompt], [params], body.n, shape, body.stream, body.include_usage)
        return await answer(call, http, usage_log)

    @app.post("/v1/completions")
    async def complete(http: Request) -> Response:
        body, prompts = await desk.take(
            http, CompletionRequest, lambda body: plain_prompts(find(body.model).engine, body)
        )
        model = find(body.model)
        params = [body.sampling(len(prompt.ids)) for prompt in prompts]
        shape = CompletionShape(model.engine.tokenizer, wants_logprobs=body.logprobs is not None, echo=body.echo)
        call = Call(model, prompts, params, body.n, shape, body.stream, body.include_usage)
        return await answer(call, http, usage_log)

    return app
