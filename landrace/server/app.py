"""The HTTP side: what every call passes through, and the routes of each API."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware

from landrace import __version__
from landrace.server import status
from landrace.server.anthropic import routes as anthropic_routes
from landrace.server.feedback import routes as feedback_routes
from landrace.server.http import errors, request_id
from landrace.server.http.body_limit import BodyLimit
from landrace.server.http.request_id import RequestId
from landrace.server.jobs import batch_routes, file_routes
from landrace.server.openai import routes as openai_routes
from landrace.server.page import routes as page_routes
from landrace.server.responses import routes as response_routes
from landrace.server.serving import Serving
from landrace.server.vectors import routes as vectors_routes

_COMPUTING = (openai_routes, response_routes, anthropic_routes, vectors_routes)
"""What computes something, and what batches may therefore call."""
_APIS = (status, *_COMPUTING, feedback_routes, file_routes, batch_routes, page_routes)
"""Each has a function `routes`, from `Serving` to its router."""


def create_app(serving: Serving, cors_origins: Sequence[str] = ()) -> FastAPI:
    """The application. Its lifespan starts the engines and, after the last call has ended, stops them.

    Pages of `cors_origins` may call it from a browser; "*" is every page.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await serving.registry.start()
        if serving.jobs is not None:
            serving.jobs.start(_inner(serving))
        try:
            yield
        finally:
            if serving.jobs is not None:
                await serving.jobs.stop()
            if serving.keeper is not None:
                await serving.keeper.close()
            serving.desk.close()
            await serving.registry.stop()

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
    for api in _APIS:
        app.include_router(api.routes(serving))
    return app


def _inner(serving: Serving) -> FastAPI:
    """The routes that compute, for calls of the server's own: without what stands between them and the outside."""
    app = FastAPI(openapi_url=None)
    errors.install(app)
    for api in _COMPUTING:
        app.include_router(api.routes(serving))
    return app
