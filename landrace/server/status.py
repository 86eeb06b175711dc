"""What is served, and whether it answers."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response

from landrace.server.engines.registry import ServedModel
from landrace.server.serving import Serving

_GET = ["GET", "HEAD"]


def routes(serving: Serving) -> APIRouter:
    """`/health` and `/v1/models`."""
    router = APIRouter()
    registry = serving.registry

    @router.api_route("/health", methods=_GET)
    async def health() -> Response:
        engines = registry.engines
        stopped = [engine.settings.model for engine in engines if not engine.alive]
        unfinished = sum(engine.unfinished for engine in engines)
        status = {"status": "unhealthy" if stopped else "ok", "stopped": stopped, "unfinished_requests": unfinished}
        return JSONResponse(status, 503 if stopped else 200)

    @router.api_route("/v1/models", methods=_GET)
    async def list_models() -> dict[str, Any]:
        return {"object": "list", "data": [_described(model) for model in registry]}

    @router.api_route("/v1/models/{name:path}", methods=_GET)
    async def show_model(name: str) -> dict[str, Any]:
        return _described(registry.check(name))

    return router


def _described(model: ServedModel) -> dict[str, Any]:
    engine = model.engine
    chats = engine.tokenizer.chat_template is not None
    return {
        "id": model.name,
        "object": "model",
        "created": model.created,
        "owned_by": "landrace",
        "parent": model.parent,
        "max_model_len": engine.max_length,
        "capabilities": engine.abilities.names(chats=chats),
    }
