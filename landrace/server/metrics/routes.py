"""`/metrics`."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST

from landrace.server.admin.watch import facts_of
from landrace.server.openapi.description import described
from landrace.server.serving import Serving


def routes(serving: Serving) -> APIRouter:
    """`/metrics`."""
    router = APIRouter()

    @router.api_route(
        "/metrics", methods=["GET", "HEAD"], **described("Numbers for Prometheus.", media_type="text/plain")
    )
    async def metrics() -> Response:
        engines = serving.registry.engines
        facts = await asyncio.gather(*map(facts_of, engines))
        serving.metrics.note_usage(serving.usage_log.state)
        standing = {engine.settings.model: own for engine, own in zip(engines, facts, strict=True)}
        return Response(serving.metrics.text(standing), media_type=CONTENT_TYPE_LATEST)

    return router
