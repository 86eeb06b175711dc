"""Whether the server answers."""

from __future__ import annotations

from dataclasses import asdict

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response

from landrace.server.serving import Serving

_GET = ["GET", "HEAD"]


def routes(serving: Serving) -> APIRouter:
    """`/health`."""
    router = APIRouter()
    registry = serving.registry

    @router.api_route("/health", methods=_GET)
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

    return router
