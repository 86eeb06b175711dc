"""`Jobs`: everything that is kept in a server's folder."""

from __future__ import annotations

import fcntl
from pathlib import Path

from starlette.types import ASGIApp

from landrace.errors import OptionError
from landrace.server.engines.registry import Registry
from landrace.server.http.errors import ApiError
from landrace.server.jobs.batches import Batches
from landrace.server.jobs.files import FileStore
from landrace.server.jobs.records import storing
from landrace.server.jobs.tuning import Tuning

DEFAULT_BYTES = 20 * 2**30


class Jobs:
    """The folder belongs to one server at a time. Raises OptionError where another has it, StorageError where it cannot
    be used."""

    def __init__(
        self, folder: Path, registry: Registry, *, tuning_threads: int, max_bytes: int = DEFAULT_BYTES
    ) -> None:
        """`tuning_threads`: of the machine's, that a tuning job may use. `max_bytes`: of all files together."""
        with storing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = (folder / "lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            raise OptionError(
                f"Another server keeps its files in {folder}.", hint="Name another folder with --data."
            ) from error
        self.files = FileStore(folder / "files", max_bytes=max_bytes)
        self.batches = Batches(folder / "batches", self.files)
        self.tuning = Tuning(folder / "tuning", self.files, registry, threads=tuning_threads)

    def start(self, app: ASGIApp) -> None:
        """Goes on with what a server before left. `app` answers the calls of batches."""
        self.batches.start(app)
        self.tuning.start()

    async def stop(self) -> None:
        """Leaves what has not ended for the next start."""
        await self.batches.stop()
        await self.tuning.stop()
        self._lock.close()

    def check_unused(self, file_id: str) -> None:
        """Raises ApiError (409) for a file that work is going on with."""
        if self.batches.uses(file_id):
            raise ApiError(409, f"The file {file_id} is in use by a batch. Cancel that first.", code="file_in_use")
