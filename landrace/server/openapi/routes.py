"""`/openapi.json`."""

from __future__ import annotations

from functools import cache

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import JSONResponse, Response

from landrace.server.openapi.description import described
from landrace.server.openapi.document import document
from landrace.server.serving import Serving

_document = cache(document)


def routes(serving: Serving) -> APIRouter:
    """`/openapi.json`."""
    del serving
    router = APIRouter()

    @router.api_route("/openapi.json", methods=["GET", "HEAD"], **described("This document.", reply={"type": "object"}))
    async def show(http: Request) -> Response:
        app = http.app
        assert isinstance(app, FastAPI)
        return JSONResponse(_document(app))

    return router
