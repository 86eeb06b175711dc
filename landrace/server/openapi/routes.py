"""`/openapi.json`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from fastapi import APIRouter

from landrace.server.openapi.description import OBJECT, described
from landrace.server.openapi.document import document


def routes(routers: Sequence[APIRouter]) -> APIRouter:
    """`/openapi.json`, of these and itself."""
    router = APIRouter()

    @cache
    def told() -> dict[str, Any]:
        return document([*routers, router])

    @router.api_route("/openapi.json", methods=["GET", "HEAD"], **described("This document.", reply=OBJECT))
    async def show() -> dict[str, Any]:
        return told()

    return router
