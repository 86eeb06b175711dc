"""The end of a tuning job: whoever reads that it has succeeded can ask its model."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from patience import SECONDS

from landrace.server.engines.process import EngineStoppedError
from landrace.server.jobs.files import FileStore
from landrace.server.jobs.tuning import Tuning

JOB = "ftjob-0123456789abcdef01234567"
NAME = "base:no-01234567"
STEP = {"step": 1, "loss": 0.5, "validation_loss": None, "total_steps": 1, "learning_rate": 0.1, "trained_tokens": 7}


class SlowRegistry:
    """Its engine is being replaced when it is first asked; then it takes its time."""

    def __init__(self) -> None:
        self.asked = 0
        self.may_load, self.loads = asyncio.Event(), asyncio.Event()
        self.names: set[str] = set()

    async def add_adapter(self, parent: str, name: str, folder: Path) -> None:
        self.asked += 1
        if self.asked == 1:
            raise EngineStoppedError("It is being started again.", code="engine_restarting", retry_after=0)
        self.loads.set()
        await self.may_load.wait()
        self.names.add(name)

    async def remove_adapter(self, name: str) -> None:
        self.names.remove(name)

    def __contains__(self, name: object) -> bool:
        return name in self.names


def trained(folder: Path, registry: Any) -> Tuning:
    """A job whose run has ended while no server looked."""
    (folder / JOB / "run" / "adapter").mkdir(parents=True)
    (folder / JOB / "run" / "tune.json").write_text("{}")
    (folder / JOB / "run" / "log.jsonl").write_text(json.dumps({**STEP, "tokens_per_second": 1.0}) + "\n")
    tuning = Tuning(folder, FileStore(folder / "files", max_bytes=10**6), registry, threads=1)
    told = {"created_at": 1, "model": "base", "suffix": "no", "fine_tuned_model": None, "seed": 0, "owner": ""}
    tuning.records.add({"id": JOB, "object": "fine_tuning.job", "status": "running", "hyperparameters": {}, **told})
    return tuning


@pytest.mark.parametrize("cancelled", [False, True])
def test_a_job_has_succeeded_once_its_model_is_served(tmp_path: Path, cancelled: bool) -> None:
    async def day() -> None:
        registry = SlowRegistry()
        tuning = trained(tmp_path, registry)
        tuning.start()
        async with asyncio.timeout(SECONDS):
            await registry.loads.wait()
            assert tuning.records.change(JOB)["status"] == "running"
            if cancelled:
                await tuning.cancel(tuning.records.change(JOB))
            registry.may_load.set()
            while tuning.records.change(JOB)["status"] == "running" or registry.names == (
                {NAME} if cancelled else set()
            ):
                await asyncio.sleep(0.01)
        await tuning.stop()
        record = tuning.records.change(JOB)
        assert record["status"] == ("cancelled" if cancelled else "succeeded")
        assert record["fine_tuned_model"] == (None if cancelled else NAME)
        assert (registry.asked, registry.names) == (2, set() if cancelled else {NAME})

    asyncio.run(day())
