"""`/v1/batches`."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from fastapi import APIRouter, Query, Request
from pydantic import field_validator

from landrace.server.access.caller import caller_of
from landrace.server.fields import Fields
from landrace.server.http.errors import FieldError
from landrace.server.jobs.absent import absent
from landrace.server.jobs.batches import ENDPOINTS
from landrace.server.jobs.records import public
from landrace.server.openapi.description import OBJECT, described
from landrace.server.serving import Serving

_MAX_PAGE = 100


class BatchRequest(Fields):
    """POST /v1/batches."""

    neutral: ClassVar = {"output_expires_after": ()}

    input_file_id: str
    endpoint: str
    completion_window: str
    metadata: dict[str, str] | None = None

    @field_validator("endpoint")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in ENDPOINTS:
            raise ValueError(f"endpoint must be one of {', '.join(ENDPOINTS)}.")
        return value

    @field_validator("completion_window")
    @classmethod
    def _a_day(cls, value: str) -> str:
        if value != "24h":
            raise ValueError('completion_window must be "24h".')
        return value


def routes(serving: Serving) -> APIRouter:
    """`/v1/batches`."""
    if serving.jobs is None:
        return absent("/v1/batches")
    router = APIRouter()
    files, batches = serving.jobs.files, serving.jobs.batches

    @router.post("/v1/batches", **described("Begins a batch of calls.", BatchRequest, OBJECT))
    async def create(http: Request) -> dict[str, Any]:
        body = await serving.desk.read(http, BatchRequest)
        caller = caller_of(http)
        found = files.records.find(body.input_file_id, caller, field="input_file_id")
        if found["purpose"] != "batch":
            raise FieldError(f"The file {found['id']} was not uploaded with the purpose batch.", field="input_file_id")
        return public(batches.create(body.model_dump(), caller))

    @router.get("/v1/batches", **described("Batches, the newest first.", reply=OBJECT))
    async def list_batches(
        http: Request, after: str | None = None, limit: Annotated[int, Query(ge=1, le=_MAX_PAGE)] = 20
    ) -> dict[str, Any]:
        return batches.records.page(caller_of(http), after=after, limit=limit)

    @router.get("/v1/batches/{batch_id}", **described("Where a batch is.", reply=OBJECT))
    async def show(http: Request, batch_id: str) -> dict[str, Any]:
        return public(batches.records.find(batch_id, caller_of(http)))

    @router.post("/v1/batches/{batch_id}/cancel", **described("Ends a batch.", reply=OBJECT))
    async def cancel(http: Request, batch_id: str) -> dict[str, Any]:
        return public(batches.cancel(batches.records.find(batch_id, caller_of(http))))

    return router
