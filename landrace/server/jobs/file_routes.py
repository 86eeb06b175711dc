"""`/v1/files`."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import FileResponse, Response

from landrace.server.access.caller import caller_of
from landrace.server.jobs.absent import absent
from landrace.server.jobs.files import PURPOSES
from landrace.server.jobs.records import MAX_PAGE, owner_of, public
from landrace.server.jobs.upload import read_upload
from landrace.server.openapi.description import OBJECT, described
from landrace.server.serving import Serving

UPLOAD = {
    "type": "object",
    "properties": {"file": {"type": "string", "format": "binary"}, "purpose": {"enum": [*PURPOSES]}},
    "required": ["file", "purpose"],
}


def routes(serving: Serving) -> APIRouter:
    """`/v1/files`."""
    jobs = serving.jobs
    if jobs is None:
        return absent("/v1/files")
    router = APIRouter()
    files = jobs.files

    @router.post("/v1/files", **described("Takes a file.", UPLOAD, OBJECT, body_type="multipart/form-data"))
    async def upload(http: Request) -> dict[str, Any]:
        form, asked = await read_upload(http)
        try:
            keep = partial(
                files.add, asked.file.file, name=asked.name, purpose=asked.purpose, owner=owner_of(caller_of(http))
            )
            return public(await asyncio.to_thread(keep))
        finally:
            await form.close()

    @router.get("/v1/files", **described("Files, the newest first.", reply=OBJECT))
    async def list_files(
        http: Request,
        purpose: str | None = None,
        after: str | None = None,
        limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = MAX_PAGE,
        order: Annotated[str, Query(pattern="^(asc|desc)$")] = "desc",
    ) -> dict[str, Any]:
        return files.records.page(
            caller_of(http), after=after, limit=limit, newest_first=order == "desc", purpose=purpose
        )

    @router.get("/v1/files/{file_id}", **described("What is known of a file.", reply=OBJECT))
    async def show(http: Request, file_id: str) -> dict[str, Any]:
        return public(files.records.find(file_id, caller_of(http)))

    @router.get("/v1/files/{file_id}/content", **described("Its bytes.", media_type="application/octet-stream"))
    async def content(http: Request, file_id: str) -> Response:
        record = files.records.find(file_id, caller_of(http))
        return FileResponse(files.path(record["id"]), media_type="application/octet-stream")

    @router.delete("/v1/files/{file_id}", **described("Removes a file.", reply=OBJECT))
    async def delete(http: Request, file_id: str) -> dict[str, Any]:
        record = files.records.find(file_id, caller_of(http))
        jobs.check_unused(record["id"])
        await asyncio.to_thread(files.remove, record["id"])
        return {"id": record["id"], "object": "file", "deleted": True}

    return router
