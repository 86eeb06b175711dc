"""`FileStore`: what clients upload, and what jobs make."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Any, BinaryIO

from landrace.server.http.errors import ApiError
from landrace.server.jobs.records import Records, storing

PURPOSES = ("batch", "fine-tune", "user_data", "evals")
"""Of files that clients upload; what jobs make have `batch_output` and `fine-tune-results`."""


class FileStore:
    """Files in a folder: the contents under a random name, and a record beside each. What a client calls its file is a
    label and no path."""

    def __init__(self, folder: Path, *, max_bytes: int) -> None:
        """`max_bytes`: of all files together."""
        self.records = Records(folder, "file-")
        self._folder = folder
        self._max_bytes = max_bytes
        known = {record["id"] for record in self.records.all()}
        with storing(folder):
            for file in folder.glob("file-*.data"):  # of an upload that a death cut off
                if file.stem not in known:
                    file.unlink()

    def add(self, data: BinaryIO, *, name: str, purpose: str, owner: str) -> dict[str, Any]:
        """Keeps what is left to read of `data`, and returns the record. Raises ApiError for what is too large."""
        file_id = self.records.new_id()
        held = sum(record["bytes"] for record in self.records.all())
        path = self.path(file_id)
        try:
            with storing(self._folder), path.open("xb") as out:
                shutil.copyfileobj(data, out, 2**20)
                size = out.tell()
                out.flush()
                os.fsync(out.fileno())
            if held + size > self._max_bytes:
                raise ApiError(
                    413,
                    f"All files together may have {self._max_bytes:,} bytes here. Delete some first.",
                    code="storage_full",
                )
            record = {
                "id": file_id,
                "object": "file",
                "bytes": size,
                "created_at": int(time.time()),
                "expires_at": None,
                "filename": name,
                "purpose": purpose,
                "status": "processed",
                "status_details": None,
                "owner": owner,
            }
            self.records.add(record)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return record

    def path(self, file_id: str) -> Path:
        """Where the contents of a file lie; `file_id` is that of a record."""
        return self._folder / f"{file_id}.data"

    def remove(self, file_id: str) -> None:
        self.records.remove(file_id)
        with storing(self._folder):
            self.path(file_id).unlink(missing_ok=True)
