"""What is served, and whether it answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Literal

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from landrace.server.access.caller import caller_of
from landrace.server.engines.process import EngineProcess
from landrace.server.engines.registry import ServedModel
from landrace.server.openapi.description import Told, described
from landrace.server.serving import Serving

_GET = ["GET", "HEAD"]


class Health(Told):
    """How the server is."""

    status: Literal["ok", "degraded", "unhealthy"]
    engines: dict[str, str]
    lost_adapters: dict[str, str]
    unfinished_requests: int
    usage: dict[str, Any]


class Readiness(Told):
    """Whether every engine that should answer does."""

    status: Literal["ready", "not ready"]
    engines: dict[str, str]


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
    """`/health`, `/ready` and `/v1/models`."""
    router = APIRouter()
    registry = serving.registry

    @router.api_route(
        "/health",
        methods=_GET,
        **described("Whether every engine answers.", reply=Health, also=(503,), is_open=True),
    )
    async def health() -> Response:
        engines = registry.engines
        lost = {name: error.message for engine in engines for name, error in engine.lost_adapters.items()}
        troubles = _troubles(engines)
        usage = serving.usage_log.state
        # An engine that is being replaced is looked after; one that hangs, or is given up, is not yet or no more.
        unwell = any(engine.trouble for engine in engines if engine.state != "restarting")
        status = {
            "status": "unhealthy" if unwell else "degraded" if troubles or lost or usage.status != "ok" else "ok",
            "engines": troubles,
            "lost_adapters": lost,
            "unfinished_requests": sum(engine.unfinished for engine in engines),
            "usage": asdict(usage),
        }
        return JSONResponse(status, 503 if unwell else 200)

    @router.api_route(
        "/ready",
        methods=_GET,
        **described("Whether requests may be sent here.", reply=Readiness, also=(503,), is_open=True),
    )
    async def ready() -> Response:
        troubles = _troubles(registry.engines)
        status = {"status": "not ready" if troubles else "ready", "engines": troubles}
        return JSONResponse(status, 503 if troubles else 200)

    @router.api_route("/v1/models", methods=_GET, **described("What is served.", reply=ModelList))
    async def list_models(http: Request) -> dict[str, Any]:
        caller = caller_of(http)
        return {"object": "list", "data": [_described(model) for model in registry if caller.may_use(model.name)]}

    @router.api_route("/v1/models/{name:path}", methods=_GET, **described("One of them.", reply=ModelFacts))
    async def show_model(http: Request, name: str) -> dict[str, Any]:
        caller_of(http).check_model(name)
        return _described(registry.check(name))

    return router


def _troubles(engines: Sequence[EngineProcess]) -> dict[str, str]:
    """Of those that should answer and do not, by model."""
    return {engine.settings.model: engine.trouble for engine in engines if engine.trouble is not None}


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
