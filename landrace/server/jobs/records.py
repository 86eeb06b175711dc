"""`Records`: objects of the API, each a JSON file that is there whole or not at all."""

from __future__ import annotations

import json
import os
import re
import secrets
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from landrace.server.access.caller import Caller
from landrace.server.http.errors import ApiError

_ID = re.compile(r"[a-z]{2,8}[-_][0-9a-f]{24}")
MAX_PAGE = 10_000
"""Most records of one page of a list."""


class StorageError(ApiError):
    """The folder of the jobs cannot take what is to be kept."""

    def __init__(self, folder: Path, error: OSError) -> None:
        why = error.strerror or str(error)
        super().__init__(
            507,
            f"Nothing can be kept in {folder.name}: {why}. The operator has to look at its disk.",
            code="storage_failed",
        )


def owner_of(caller: Caller) -> str:
    """Whose things are: a team's, else a key's. Without keys everything is everybody's."""
    return f"team:{caller.team}" if caller.team else f"key:{caller.key_id}" if caller.key_id else ""


class Records:
    """Records of one kind in `folder`, oldest first. Safe to use from several threads.

    A record is a JSON object with an `id` and with `owner`, which is never shown. Raises StorageError where the disk
    refuses.
    """

    def __init__(self, folder: Path, prefix: str) -> None:
        self.folder = folder
        self._prefix = prefix
        self._lock = threading.RLock()
        with storing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            found = [self._read(file) for file in folder.glob(f"{prefix}*.json")]
        kept = [record for record in found if record is not None]
        self._kept = {record["id"]: record for record in sorted(kept, key=_age)}

    def new_id(self) -> str:
        """One that no record has."""
        return f"{self._prefix}{secrets.token_hex(12)}"

    def add(self, record: dict[str, Any]) -> None:
        with self._lock:
            self._write(record)
            self._kept[record["id"]] = record

    def change(self, record_id: str, **values: Any) -> dict[str, Any]:
        """Puts values into a record and returns it; an empty one where it is gone."""
        with self._lock:
            record = self._kept.get(record_id)
            if record is None:
                return {}
            changed = {**record, **values}
            self._write(changed)
            self._kept[record_id] = changed
            return changed

    def remove(self, record_id: str) -> None:
        with self._lock, storing(self.folder):
            (self.folder / f"{record_id}.json").unlink(missing_ok=True)
            self._kept.pop(record_id, None)

    def all(self) -> list[dict[str, Any]]:
        """Oldest first."""
        with self._lock:
            return list(self._kept.values())

    def find(self, record_id: str, caller: Caller, *, field: str | None = None) -> dict[str, Any]:
        """The record of this id, if it is the caller's or the caller may see all. Raises ApiError (404)."""
        with self._lock:
            record = self._kept.get(record_id)
        if record is None or not may_see(caller, record):
            raise ApiError(404, f"There is no {self.noun} {record_id!r}.", param=field, code="not_found")
        return record

    def page(
        self, caller: Caller, *, after: str | None, limit: int, newest_first: bool = True, **matching: Any
    ) -> dict[str, Any]:
        """A list of the API: `limit` of the caller's records behind the one called `after`, with values as in
        `matching` (None: any)."""
        wanted = {name: value for name, value in matching.items() if value is not None}
        mine = [
            record
            for record in self.all()
            if may_see(caller, record) and all(record.get(name) == value for name, value in wanted.items())
        ]
        if newest_first:
            mine.reverse()
        if after is not None:
            places = [place for place, record in enumerate(mine) if record["id"] == after]
            if not places:
                raise ApiError(400, f"There is no {self.noun} {after!r} in this list.", param="after")
            mine = mine[places[0] + 1 :]
        shown = [public(record) for record in mine[:limit]]
        return {
            "object": "list",
            "data": shown,
            "first_id": shown[0]["id"] if shown else None,
            "last_id": shown[-1]["id"] if shown else None,
            "has_more": len(mine) > limit,
        }

    @property
    def noun(self) -> str:
        return {"file-": "file", "batch_": "batch", "ftjob-": "fine-tuning job"}[self._prefix]

    def _read(self, file: Path) -> dict[str, Any] | None:
        """None for a file that no server of ours has written."""
        try:
            record = json.loads(file.read_text(encoding="utf-8"))
        except ValueError:
            return None
        own = isinstance(record, dict) and record.get("id") == file.stem and _ID.fullmatch(file.stem) is not None
        return record if own else None

    def _write(self, record: Mapping[str, Any]) -> None:
        file = self.folder / f"{record['id']}.json"
        with storing(self.folder):
            write_whole(file, json.dumps(record, ensure_ascii=False, indent=1).encode())


def may_see(caller: Caller, record: Mapping[str, Any]) -> bool:
    """Whether a record is the caller's, or the caller an administrator."""
    return caller.is_admin or record["owner"] == owner_of(caller)


def public(record: Mapping[str, Any]) -> dict[str, Any]:
    """What of a record its owner is told: names that begin with "_" are the server's own."""
    return {name: value for name, value in record.items() if name != "owner" and not name.startswith("_")}


def write_whole(file: Path, data: bytes) -> None:
    """Replaces a file, so that a death at any moment leaves the old or the new one."""
    partial = file.with_name(f".{file.name}.partial")
    with partial.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    partial.replace(file)


@contextmanager
def storing(folder: Path) -> Iterator[None]:
    """What the disk refuses within it is a StorageError that names the folder."""
    try:
        yield
    except OSError as error:
        raise StorageError(folder, error) from error


def _age(record: Mapping[str, Any]) -> tuple[int, str]:
    return int(record.get("created_at", 0)), str(record["id"])
