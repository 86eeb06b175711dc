"""`/v1/admin`: what the operator's page shows, for administrators."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response

from landrace.ledger import Ledger
from landrace.ledger.usage_rows import GROUPS
from landrace.server.access.caller import caller_of
from landrace.server.admin import books
from landrace.server.admin.bundle import bundle
from landrace.server.admin.job_table import job_table
from landrace.server.admin.overview import overview
from landrace.server.admin.schema import FeedbackTable, JobTable, KeyTable, Overview, UsageTable
from landrace.server.http.errors import ApiError, FieldError
from landrace.server.openapi.description import described
from landrace.server.serving import Serving

_ZIP = "application/zip"
_AS_FILE = {"Content-Disposition": 'attachment; filename="landrace-report.zip"'}


def routes(serving: Serving) -> APIRouter:
    """Everything under `/v1/admin`. Nothing here tells a secret, a prompt or an answer."""
    router = APIRouter(prefix="/v1/admin", dependencies=[Depends(_check_admin)])

    @router.get("/overview", **described("How the server is.", reply=Overview))
    async def show() -> dict[str, Any]:
        return await overview(serving)

    @router.get("/usage", **described("What was used and what it cost, by group.", reply=UsageTable))
    async def usage(by: str = "key", days: Annotated[int, Query(ge=1, le=3660)] = 30) -> dict[str, Any]:
        groups = list(dict.fromkeys(name.strip() for name in by.split(",")))
        for name in groups:
            if name not in GROUPS:
                raise FieldError(f"by is one of {', '.join(GROUPS)}, or several with commas.", field="by")
        return await asyncio.to_thread(books.usage_table, _ledger(serving), groups, days)

    @router.get("/keys", **described("The keys, what they may do and what they have spent.", reply=KeyTable))
    async def keys() -> dict[str, Any]:
        return await asyncio.to_thread(books.key_table, _ledger(serving))

    @router.get("/jobs", **described("Batches and fine-tuning jobs.", reply=JobTable))
    async def jobs() -> dict[str, Any]:
        if serving.jobs is None:
            raise ApiError(404, "This server keeps no jobs: it was started without --data.", code="not_found")
        return await asyncio.to_thread(job_table, serving.jobs)

    @router.get("/feedback", **described("What people said of answers.", reply=FeedbackTable))
    async def feedback() -> dict[str, Any]:
        keeps = serving.keeper is not None and serving.keeper.keeps_conversations
        return await asyncio.to_thread(books.feedback_table, _ledger(serving), with_texts=keeps)

    @router.get("/bundle", **described("A zip file for reports of bugs.", media_type=_ZIP))
    async def report() -> Response:
        told = await overview(serving)
        data = await asyncio.to_thread(bundle, serving.options, told, serving.watch.log.text)
        return Response(data, media_type=_ZIP, headers=_AS_FILE)

    return router


def _check_admin(http: Request) -> None:
    """Raises ApiError (403)."""
    if not caller_of(http).is_admin:
        raise ApiError(403, "This route is for the keys of administrators.", code="admin_only")


def _ledger(serving: Serving) -> Ledger:
    """Raises ApiError (404)."""
    if serving.usage_log.ledger is None:
        raise ApiError(404, "This server has no ledger: it was started without --ledger.", code="not_found")
    return serving.usage_log.ledger
