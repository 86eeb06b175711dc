"""`/v1/fine_tuning/jobs`."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request

from landrace.server.access.caller import caller_of
from landrace.server.http.errors import FieldError
from landrace.server.jobs.absent import absent
from landrace.server.jobs.records import public
from landrace.server.jobs.tuning_request import TuningRequest
from landrace.server.openapi.description import OBJECT, described
from landrace.server.serving import Serving

_MAX_PAGE = 100


def routes(serving: Serving) -> APIRouter:
    """`/v1/fine_tuning/jobs`."""
    if serving.jobs is None:
        return absent("/v1/fine_tuning")
    router = APIRouter()
    files, tuning = serving.jobs.files, serving.jobs.tuning

    @router.post("/v1/fine_tuning/jobs", **described("Begins a fine-tuning job.", TuningRequest, OBJECT))
    async def create(http: Request) -> dict[str, Any]:
        body = await serving.desk.read(http, TuningRequest)
        caller = caller_of(http)
        for field in ("training_file", "validation_file"):
            file_id = getattr(body, field)
            if file_id is not None:
                found = files.records.find(file_id, caller, field=field)
                if found["purpose"] != "fine-tune":
                    raise FieldError(f"The file {file_id} was not uploaded with the purpose fine-tune.", field=field)
        return public(tuning.create(body, caller))

    @router.get("/v1/fine_tuning/jobs", **described("Jobs, the newest first.", reply=OBJECT))
    async def list_jobs(
        http: Request, after: str | None = None, limit: Annotated[int, Query(ge=1, le=_MAX_PAGE)] = 20
    ) -> dict[str, Any]:
        return tuning.records.page(caller_of(http), after=after, limit=limit)

    @router.get("/v1/fine_tuning/jobs/{job_id}", **described("Where a job is.", reply=OBJECT))
    async def show(http: Request, job_id: str) -> dict[str, Any]:
        return public(tuning.records.find(job_id, caller_of(http)))

    @router.get("/v1/fine_tuning/jobs/{job_id}/events", **described("What happened to a job.", reply=OBJECT))
    async def list_events(
        http: Request, job_id: str, after: str | None = None, limit: Annotated[int, Query(ge=1, le=_MAX_PAGE)] = 20
    ) -> dict[str, Any]:
        record = tuning.records.find(job_id, caller_of(http))
        return tuning.events(record["id"]).page(after=after, limit=limit)

    @router.get("/v1/fine_tuning/jobs/{job_id}/checkpoints", **described("What a job made.", reply=OBJECT))
    async def list_checkpoints(http: Request, job_id: str) -> dict[str, Any]:
        record = tuning.records.find(job_id, caller_of(http))
        found = [checkpoint] if (checkpoint := tuning.checkpoint(record)) is not None else []
        last = found[0]["id"] if found else None
        return {"object": "list", "data": found, "first_id": last, "last_id": last, "has_more": False}

    @router.post("/v1/fine_tuning/jobs/{job_id}/cancel", **described("Ends a job.", reply=OBJECT))
    async def cancel(http: Request, job_id: str) -> dict[str, Any]:
        return public(await tuning.cancel(tuning.records.find(job_id, caller_of(http))))

    return router
