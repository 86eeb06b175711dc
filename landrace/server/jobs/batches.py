"""`Batches`: files of calls, answered when interactive load leaves room."""

from __future__ import annotations

import asyncio
import json
import logging
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from starlette.types import ASGIApp

from landrace.server.access.caller import Caller
from landrace.server.http.errors import ApiError, error_body
from landrace.server.jobs.batch_lines import BatchFileError, Journal, Line, fault, read_lines
from landrace.server.jobs.files import FileStore
from landrace.server.jobs.inner_call import Reply, inner_call
from landrace.server.jobs.records import Records, owner_of

ENDPOINTS = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/embeddings")
PRIORITY = -1
"""Of a batch's requests: behind every call that somebody waits for."""
LINES_AT_ONCE = 16
"""Of one batch, and of all together: what keeps the engine's batches full."""
WINDOW_SECONDS = 24 * 3600
ENDED = ("completed", "failed", "expired", "cancelled")
_RETRY_SECONDS = 1.0
_SAVE_SECONDS = 1.0
_log = logging.getLogger(__name__)


class Batches:
    """Its batches go on where they were when the server starts again. Its methods belong to one event loop."""

    def __init__(self, folder: Path, files: FileStore) -> None:
        self.records = Records(folder, "batch_")
        self._folder = folder
        self._files = files
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._journals: dict[str, Journal] = {}
        self._places = asyncio.Semaphore(LINES_AT_ONCE)
        self._app: ASGIApp | None = None

    def start(self, app: ASGIApp) -> None:
        """Goes on with what has not ended. `app` answers the calls."""
        self._app = app
        for record in self.records.all():
            if record["status"] not in ENDED:
                self._begin(record["id"])

    async def stop(self) -> None:
        """Leaves what has not ended for the next start."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def create(self, asked: Mapping[str, Any], caller: Caller) -> dict[str, Any]:
        """A new batch of an input file that the caller may see, checked by the routes."""
        now = int(time.time())
        record = {
            "id": self.records.new_id(),
            "object": "batch",
            "endpoint": asked["endpoint"],
            "errors": None,
            "input_file_id": asked["input_file_id"],
            "completion_window": asked["completion_window"],
            "status": "validating",
            "output_file_id": None,
            "error_file_id": None,
            "created_at": now,
            "in_progress_at": None,
            "expires_at": now + WINDOW_SECONDS,
            "finalizing_at": None,
            "completed_at": None,
            "failed_at": None,
            "expired_at": None,
            "cancelling_at": None,
            "cancelled_at": None,
            "request_counts": {"total": 0, "completed": 0, "failed": 0},
            "metadata": asked.get("metadata"),
            "owner": owner_of(caller),
            "_caller": {**asdict(caller), "models": None if caller.models is None else sorted(caller.models)},
        }
        self.records.add(record)
        self._begin(record["id"])
        return record

    def cancel(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Ends a batch; what is answered already is kept. Raises ApiError for one that has ended."""
        if record["status"] in (*ENDED, "finalizing"):
            raise ApiError(400, f"The batch {record['id']} is {record['status']} already.", code="invalid_status")
        if record["status"] == "cancelling":
            return dict(record)
        changed = self.records.change(record["id"], **_at("cancelling"))
        self._tasks[record["id"]].cancel()
        self._begin(record["id"])
        return changed

    def uses(self, file_id: str) -> bool:
        """Whether a batch that has not ended reads this file."""
        return any(
            record["input_file_id"] == file_id and record["status"] not in ENDED for record in self.records.all()
        )

    def _begin(self, batch_id: str) -> None:
        before = self._tasks.get(batch_id)
        task = asyncio.get_running_loop().create_task(self._guarded(batch_id, before))
        self._tasks[batch_id] = task

    async def _guarded(self, batch_id: str, before: asyncio.Task[None] | None) -> None:
        """One batch from wherever it is to its end. `before`: what worked on it until now, which is ending."""
        if before is not None:
            await asyncio.wait({before})
        try:
            await self._go_on(batch_id)
        except ApiError as error:  # the disk
            self._fail(batch_id, [fault(str(error))])
        except Exception as error:  # noqa: BLE001  the batch ends, the server goes on
            _log.exception("The batch %s failed.", batch_id)
            self._fail(batch_id, [fault(f"The server failed: {type(error).__name__}.")])
        finally:
            if (journal := self._journals.pop(batch_id, None)) is not None:
                journal.close()
            if self._tasks.get(batch_id) is asyncio.current_task():
                del self._tasks[batch_id]

    async def _go_on(self, batch_id: str) -> None:
        record = self.records.change(batch_id)
        journal = self._journals[batch_id] = Journal(self._folder / f"{batch_id}.journal")
        if record["status"] in ("validating", "in_progress"):
            try:
                path = self._files.path(record["input_file_id"])
                lines = await asyncio.to_thread(read_lines, path, record["endpoint"])
            except BatchFileError as error:
                self._fail(batch_id, error.faults)
                return
            except OSError:
                self._fail(batch_id, [fault("The input file is gone.", code="file_gone", param="input_file_id")])
                return
            if record["status"] == "validating":
                self.records.change(batch_id, **_at("in_progress"))
            await self._answer(record, [line for line in lines if line.custom_id not in journal], journal, len(lines))
        await self._finish(batch_id, journal)

    async def _answer(self, record: Mapping[str, Any], lines: list[Line], journal: Journal, total: int) -> None:
        """Answers the lines, as many at once as there are places, until they are done or the time is up."""
        fields = record["_caller"]
        models = None if fields["models"] is None else frozenset(fields["models"])
        caller = Caller(**{**fields, "models": models, "priority": PRIORITY})
        waiting = iter(lines)

        async def work() -> None:
            for line in waiting:
                async with self._places:
                    journal.add(await self._entry(record["endpoint"], line, caller))

        async def save() -> None:
            while True:
                self._count(record["id"], journal, total)
                await asyncio.sleep(_SAVE_SECONDS)

        saving = asyncio.ensure_future(save())
        try:
            async with asyncio.timeout(record["expires_at"] - time.time()), asyncio.TaskGroup() as group:
                for _ in range(min(LINES_AT_ONCE, len(lines))):
                    group.create_task(work())
        except* ApiError as failed:  # the disk, met by a line
            raise failed.exceptions[0] from failed
        except* TimeoutError:
            for line in lines:
                if line.custom_id not in journal:
                    late = error_body(
                        408, "The batch's time was up before this line was answered.", code="batch_expired"
                    )
                    journal.add(_written(line, None, late["error"]))
            self.records.change(record["id"], expired_at=int(time.time()))
        finally:
            saving.cancel()
            self._count(record["id"], journal, total)

    async def _entry(self, endpoint: str, line: Line, caller: Caller) -> dict[str, Any]:
        """The answer to a line. One that the server has no room for now, or no engine, is asked again."""
        assert self._app is not None
        while True:
            reply = await inner_call(self._app, endpoint, line.body, caller)
            if reply.status not in (429, 503):
                return _written(line, reply, None)
            await asyncio.sleep(float(reply.headers.get("retry-after", _RETRY_SECONDS)))

    async def _finish(self, batch_id: str, journal: Journal) -> None:
        """Makes the files of what was answered, and the batch's end."""
        record = self.records.change(batch_id)
        if record["status"] != "cancelling":
            record = self.records.change(batch_id, **_at("finalizing"))
        for field, succeeded in (("output_file_id", True), ("error_file_id", False)):
            if record[field] is None and (journal.succeeded if succeeded else journal.failed):
                lines = journal.entries(succeeded=succeeded)
                made = {field: (await asyncio.to_thread(self._keep, batch_id, lines, field, record))["id"]}
                record = self.records.change(batch_id, **made)
        end = "cancelled" if record["status"] == "cancelling" else "expired" if record["expired_at"] else "completed"
        self.records.change(batch_id, **_at(end))
        (self._folder / f"{batch_id}.journal").unlink(missing_ok=True)

    def _keep(self, batch_id: str, lines: Iterable[bytes], field: str, record: Mapping[str, Any]) -> dict[str, Any]:
        with tempfile.TemporaryFile(dir=self._folder) as whole:
            whole.writelines(lines)
            whole.seek(0)
            name = f"{batch_id}_{field.removesuffix('_file_id')}.jsonl"
            return self._files.add(whole, name=name, purpose="batch_output", owner=record["owner"])

    def _count(self, batch_id: str, journal: Journal, total: int) -> None:
        counts = {"total": total, "completed": len(journal.succeeded), "failed": len(journal.failed)}
        self.records.change(batch_id, request_counts=counts)

    def _fail(self, batch_id: str, faults: list[dict[str, Any]]) -> None:
        errors = {"object": "list", "data": faults}
        self.records.change(batch_id, **_at("failed"), errors=errors)


def _at(status: str) -> dict[str, Any]:
    """A new status and its time."""
    return {"status": status, f"{status}_at": int(time.time())}


def _written(line: Line, reply: Reply | None, error: Mapping[str, Any] | None) -> dict[str, Any]:
    """A line of the output or the error file."""
    response = None
    if reply is not None:
        body = json.loads(reply.body)
        response = {
            "status_code": reply.status,
            "request_id": reply.headers.get("x-request-id", ""),
            "body": body,
        }
    return {"id": f"batch_req_{line.custom_id}", "custom_id": line.custom_id, "response": response, "error": error}
