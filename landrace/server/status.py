"""Whether the server answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Literal

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response

from landrace.server.engines.process import EngineProcess
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


def routes(serving: Serving) -> APIRouter:
    """`/health` and `/ready`."""
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

    return router


def _troubles(engines: Sequence[EngineProcess]) -> dict[str, str]:
    """Of those that should answer and do not, by model."""
    return {engine.settings.model: engine.trouble for engine in engines if engine.trouble is not None}
