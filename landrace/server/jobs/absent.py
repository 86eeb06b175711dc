"""Routes of a server that keeps nothing: they say so."""

from __future__ import annotations

from fastapi import APIRouter

from landrace.server.http.errors import ApiError

_METHODS = ["GET", "HEAD", "POST", "DELETE"]


def absent(path: str) -> APIRouter:
    """Every route at `path` and below it."""
    router = APIRouter()

    @router.api_route(path, methods=_METHODS, include_in_schema=False)
    @router.api_route(f"{path}/{{rest:path}}", methods=_METHODS, include_in_schema=False)
    async def refuse() -> None:
        raise ApiError(
            404,
            "This server keeps no files, batches and jobs: it was started without --data FOLDER.",
            code="no_data_folder",
        )

    return router
