"""What is served, and whether it answers."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Literal

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from landrace.server.access.caller import caller_of
from landrace.server.engines.registry import ServedModel
from landrace.server.openapi.description import Told, described
from landrace.server.serving import Serving

_GET = ["GET", "HEAD"]


class Health(Told):
    """How the server is."""

    status: str
    stopped: list[str]
    unfinished_requests: int
    usage: dict[str, Any]
    """How the ledger takes it."""


class ModelFacts(Told):
    """A base model, or an adapter on it."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    parent: str | None
    max_model_len: int
    capabilities: list[str]


class ModelList(Told):
    """All of them."""

    object: Literal["list"]
    data: list[ModelFacts]


def routes(serving: Serving) -> APIRouter:
    """`/health` and `/v1/models`."""
    router = APIRouter()
    registry = serving.registry

    @router.api_route(
        "/health",
        methods=_GET,
        **described("Whether every engine answers.", reply=Health, also=(503,), is_open=True),
    )
    async def health() -> Response:
        engines = registry.engines
        stopped = [engine.settings.model for engine in engines if not engine.alive]
        unfinished = sum(engine.unfinished for engine in engines)
        usage = serving.usage_log.state
        status = {
            "status": "unhealthy" if stopped else usage.status,
            "stopped": stopped,
            "unfinished_requests": unfinished,
            "usage": asdict(usage),
        }
        return JSONResponse(status, 503 if stopped else 200)

    @router.api_route("/v1/models", methods=_GET, **described("What is served.", reply=ModelList))
    async def list_models(http: Request) -> dict[str, Any]:
        caller = caller_of(http)
        return {"object": "list", "data": [_described(model) for model in registry if caller.may_use(model.name)]}

    @router.api_route("/v1/models/{name:path}", methods=_GET, **described("One of them.", reply=ModelFacts))
    async def show_model(http: Request, name: str) -> dict[str, Any]:
        caller_of(http).check_model(name)
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
