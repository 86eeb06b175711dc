"""The HTTP side: what every call passes through, and the routes of each API."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import APIRouter, FastAPI
from fastapi.middleware.cors import CORSMiddleware

from landrace import __version__
from landrace.server import adapters, models, status, tokens
from landrace.server.access import limits
from landrace.server.access.gate import Gate
from landrace.server.admin import routes as admin_routes
from landrace.server.admin.failures import CountFailures
from landrace.server.anthropic import routes as anthropic_routes
from landrace.server.edge import Edge
from landrace.server.feedback import routes as feedback_routes
from landrace.server.http import errors, request_id
from landrace.server.http.body_limit import BodyLimit
from landrace.server.http.host_names import HostNames
from landrace.server.http.request_id import RequestId
from landrace.server.jobs import batch_routes, file_routes, tuning_routes
from landrace.server.logs.watch import WatchCalls
from landrace.server.metrics import routes as metrics_routes
from landrace.server.metrics.calls import CountCalls
from landrace.server.ollama import routes as ollama_routes
from landrace.server.openai import routes as openai_routes
from landrace.server.openapi import routes as openapi_routes
from landrace.server.page import routes as page_routes
from landrace.server.responses import routes as response_routes
from landrace.server.serving import Serving
from landrace.server.vectors import routes as vectors_routes

_COMPUTING = (openai_routes, response_routes, anthropic_routes, ollama_routes, vectors_routes)
"""What computes something, and what batches may therefore call."""
_APIS = (
    status,
    models,
    adapters,
    tokens,
    *_COMPUTING,
    feedback_routes,
    metrics_routes,
    file_routes,
    batch_routes,
    tuning_routes,
    admin_routes,
    page_routes,
)
"""Each has a function `routes`, from `Serving` to its router."""


_NO_EDGE = Edge()
_EXPOSED = (request_id.HEADER, "Retry-After", *limits.HEADERS)


def create_app(serving: Serving, edge: Edge = _NO_EDGE) -> FastAPI:
    """The application. Its lifespan starts the engines and, after the last call has ended, stops them."""
    serving.usage_log.listeners += (serving.metrics.answers.heard, serving.watch.recent.heard)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await serving.registry.start()
        if serving.jobs is not None:
            serving.jobs.start(_inner(serving))
        try:
            async with serving.watch.watching(serving.registry):
                yield
        finally:
            if serving.jobs is not None:
                await serving.jobs.stop()
            if serving.keeper is not None:
                await serving.keeper.close()
            serving.desk.close()
            await serving.registry.stop()
            if edge.keys is not None:
                edge.keys.close()
            if edge.watch is not None:
                await asyncio.to_thread(edge.watch.close)

    app = FastAPI(title="Landrace", version=__version__, lifespan=lifespan, openapi_url=None)
    # From the inside out: what refuses a call lies inside of what adds headers to every reply.
    app.add_middleware(BodyLimit, bounds=edge.bounds)
    errors.install(app)
    if edge.keys is not None:
        app.add_middleware(Gate, desk=edge.keys, price_per_hour=edge.price_per_hour)
    app.add_middleware(HostNames, rule=edge.hosts)
    if edge.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=edge.cors_origins,
            allow_methods=["GET", "HEAD", "POST", "DELETE"],
            allow_headers=["*"],
            expose_headers=_EXPOSED,
        )
    if edge.watch is not None:
        app.add_middleware(WatchCalls, watch=edge.watch)
    app.add_middleware(CountFailures, failures=serving.watch.failures)
    app.add_middleware(CountCalls, metrics=serving.metrics.calls)
    app.add_middleware(RequestId)
    for router in routers_of(serving):
        app.include_router(router)
    return app


def routers_of(serving: Serving) -> list[APIRouter]:
    """All that is outside, and the document of it."""
    routers = [api.routes(serving) for api in _APIS]
    return [*routers, openapi_routes.routes(routers)]


def _inner(serving: Serving) -> FastAPI:
    """The routes that compute, for calls of the server's own: without what stands between them and the outside."""
    app = FastAPI(openapi_url=None)
    errors.install(app)
    for api in _COMPUTING:
        app.include_router(api.routes(serving))
    return app
