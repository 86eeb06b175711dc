"""`Tuning`: fine-tuning jobs, one after another, whose adapters are served when they are done."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shutil
import time
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

from landrace.errors import LandraceError
from landrace.server.access.caller import Caller
from landrace.server.engines.process import EngineStoppedError
from landrace.server.engines.registry import Registry
from landrace.server.http.errors import ApiError
from landrace.server.jobs.events import Events
from landrace.server.jobs.files import FileStore
from landrace.server.jobs.records import Records, owner_of, storing
from landrace.server.jobs.tuning_request import TuningRequest
from landrace.server.jobs.tuning_run import LogTail, TuningRun, began, end, kill_orphan

ENDED = ("succeeded", "failed", "cancelled")
_LOOK_SECONDS = 0.5
_log = logging.getLogger(__name__)


class Tuning:
    """Jobs go on from their last saved step when the server starts again. Its methods belong to one event loop."""

    def __init__(self, folder: Path, files: FileStore, registry: Registry, *, threads: int) -> None:
        """`threads`: of the machine's, that a job may use."""
        self.records = Records(folder, "ftjob-")
        self._folder = folder
        self._files = files
        self._registry = registry
        self._threads = threads
        self._waiting = asyncio.Event()
        self._worker: asyncio.Task[None] | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._running: str | None = None

    def start(self) -> None:
        """Serves what earlier jobs made, and goes on with what has not ended."""
        for record in self.records.all():
            kill_orphan(record.get("_pid"), record.get("_began"))
        self._worker = asyncio.get_running_loop().create_task(self._work())
        self._waiting.set()

    async def stop(self) -> None:
        """Lets the running job save itself, and leaves it for the next start."""
        if self._worker is not None:
            self._worker.cancel()
            await asyncio.gather(self._worker, return_exceptions=True)
        if self._process is not None:
            await end(self._process, saving=True)

    def create(self, asked: TuningRequest, caller: Caller) -> dict[str, Any]:
        """A new job, of files that the caller may see. Raises ApiError for a model that cannot be tuned."""
        model = self._registry.check(asked.model)
        if model.adapter is not None:
            raise ApiError(
                400,
                f"{asked.model!r} is an adapter; tune its base model, {model.parent!r}.",
                param="model",
                code="invalid_value",
            )
        job_id = self.records.new_id()
        folder = self._folder / job_id
        with storing(self._folder):
            folder.mkdir()
            for name, file_id in (("training", asked.training_file), ("validation", asked.validation_file)):
                if file_id is not None:  # linked, so that the file may be deleted meanwhile
                    os.link(self._files.path(file_id), folder / f"{name}.jsonl")
        seed = int.from_bytes(os.urandom(3)) if asked.seed is None else asked.seed
        hyperparameters = asked.chosen.resolved(seed)
        shown = {name: value for name, value in hyperparameters.items() if name != "seed"}
        record = {
            "id": job_id,
            "object": "fine_tuning.job",
            "created_at": int(time.time()),
            "finished_at": None,
            "estimated_finish": None,
            "model": asked.model,
            "fine_tuned_model": None,
            "organization_id": "",
            "status": "queued",
            "training_file": asked.training_file,
            "validation_file": asked.validation_file,
            "hyperparameters": shown,
            "method": {"type": "supervised", "supervised": {"hyperparameters": shown}},
            "seed": seed,
            "trained_tokens": None,
            "result_files": [],
            "error": None,
            "integrations": [],
            "metadata": asked.metadata,
            "suffix": asked.suffix,
            "owner": owner_of(caller),
        }
        self.records.add(record)
        self.events(job_id).add("The job was created.")
        self._waiting.set()
        return record

    async def cancel(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Ends a job. Raises ApiError for one that has ended."""
        if record["status"] in ENDED:
            raise ApiError(400, f"The job {record['id']} has {record['status']} already.", code="invalid_status")
        changed = self.records.change(record["id"], status="cancelled", finished_at=int(time.time()))
        self.events(record["id"]).add("The job was cancelled.")
        if self._running == record["id"] and self._process is not None:
            await end(self._process, saving=False)
        shutil.rmtree(TuningRun(self._folder / record["id"]).out, ignore_errors=True)
        return changed

    def events(self, job_id: str) -> Events:
        """What happened to a job of `records`."""
        return Events(self._folder / job_id / "events.jsonl")

    def checkpoint(self, record: Mapping[str, Any]) -> dict[str, Any] | None:
        """The tuned model as the API's checkpoint: the last step of a job that has succeeded."""
        metrics = [event for event in self.events(record["id"]).all() if event["type"] == "metrics"]
        if record["status"] != "succeeded" or not metrics:
            return None
        told = metrics[-1]["data"]
        return {
            "id": f"ftckpt-{record['id'][6:]}",
            "object": "fine_tuning.job.checkpoint",
            "created_at": record["finished_at"],
            "fine_tuned_model_checkpoint": record["fine_tuned_model"],
            "fine_tuning_job_id": record["id"],
            "step_number": told["step"],
            "metrics": {name: told[name] for name in ("step", "train_loss", "valid_loss") if name in told},
        }

    async def _work(self) -> None:
        for record in self.records.all():
            if record["status"] == "succeeded":
                await self._serve(record, record["fine_tuned_model"])
        while True:
            due = next((record for record in self.records.all() if record["status"] not in ENDED), None)
            if due is None:
                self._waiting.clear()
                await self._waiting.wait()
                continue
            try:
                await self._tune(due)
            except Exception as error:  # noqa: BLE001  the job ends, the server goes on
                _log.exception("The job %s failed.", due["id"])
                said = str(error) if isinstance(error, ApiError) else f"The server failed: {type(error).__name__}."
                self._fail(due["id"], said)

    async def _tune(self, record: Mapping[str, Any]) -> None:
        """One job from wherever it is to its end."""
        job_id, run = record["id"], TuningRun(self._folder / record["id"])
        steps: dict[int, dict[str, Any]] = {}
        if not run.has_succeeded:
            settings = self._registry.check(record["model"]).engine.settings
            asked = {**record["hyperparameters"], "seed": record["seed"]}
            command = run.command(settings.model, asked, self._threads)
            self._running = job_id
            self._process = await run.start(command, self._threads)
            self.records.change(job_id, status="running", _pid=self._process.pid, _began=began(self._process.pid))
            try:
                await self._follow(job_id, run, self._process, steps)
            except asyncio.CancelledError:
                raise  # `stop` ends the process
            code, self._process, self._running = self._process.returncode, None, None
            if self.records.change(job_id)["status"] == "cancelled":
                return
            if code != 0:
                self._fail(job_id, run.error())
                return
        await self._succeed(job_id, run, list(steps.values()))

    async def _follow(
        self, job_id: str, run: TuningRun, process: asyncio.subprocess.Process, steps: dict[int, dict[str, Any]]
    ) -> None:
        """Tells the run's steps as they come, until it ends."""
        tail, told = LogTail(run.out / "log.jsonl"), self.events(job_id).last_step
        ending = asyncio.ensure_future(process.wait())
        while True:
            ended = ending.done()
            for line in tail.new():
                step = json.loads(line)
                steps[step["step"]] = step
                if step["step"] > told:
                    told = step["step"]
                    self._tell(job_id, step)
            if ended:
                return
            await asyncio.wait({ending}, timeout=_LOOK_SECONDS)

    def _tell(self, job_id: str, step: Mapping[str, Any]) -> None:
        data = {
            "step": step["step"],
            "train_loss": step["loss"],
            "total_steps": step["total_steps"],
            "learning_rate": step["learning_rate"],
            "tokens_per_second": step["tokens_per_second"],
            **({} if step["validation_loss"] is None else {"valid_loss": step["validation_loss"]}),
        }
        text = f"Step {step['step']} of {step['total_steps']}: loss {step['loss']:.3f}."
        self.events(job_id).add(text, kind="metrics", data=data)

    async def _succeed(self, job_id: str, run: TuningRun, steps: list[dict[str, Any]]) -> None:
        record = self.records.change(job_id)
        if not steps:  # the run ended while no server looked
            steps = [json.loads(line) for line in LogTail(run.out / "log.jsonl").new()]
        metrics = await asyncio.to_thread(
            self._files.add,
            BytesIO(run.metrics_file(steps)),
            name=f"{job_id}.csv",
            purpose="fine-tune-results",
            owner=record["owner"],
        )
        name = f"{record['model']}:{record['suffix'] or 'tuned'}-{job_id[-8:]}"
        await self._serve(record, name)  # before anybody is told of it
        if self.records.change(job_id)["status"] == "cancelled":
            if name in self._registry:
                await self._registry.remove_adapter(name)
            return
        self.records.change(
            job_id,
            status="succeeded",
            finished_at=int(time.time()),
            fine_tuned_model=name,
            trained_tokens=sum(step["trained_tokens"] for step in steps),
            result_files=[metrics["id"]],
        )

    async def _serve(self, record: Mapping[str, Any], name: str) -> None:
        """Makes the tuned model one that calls can ask for. An engine that is being replaced is waited for."""
        folder = TuningRun(self._folder / record["id"]).adapter
        while True:
            try:
                await self._registry.add_adapter(record["model"], name, folder.absolute())
            except (LandraceError, ApiError) as error:
                if isinstance(error, EngineStoppedError) and error.retry_after is not None:
                    await asyncio.sleep(error.retry_after)
                    continue
                said = error.message if isinstance(error, LandraceError) else str(error)
                self.events(record["id"]).add(f"{name} could not be served: {said}", level="error")
                _log.error("%s could not be served: %s", name, said)
            else:
                self.events(record["id"]).add(f"{name} is served.")
            return

    def _fail(self, job_id: str, said: str) -> None:
        error = {"code": "tuning_failed", "message": said, "param": None}
        self.records.change(job_id, status="failed", finished_at=int(time.time()), error=error)
        self.events(job_id).add(said, level="error")
