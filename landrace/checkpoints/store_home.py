"""The folders of the model store on disk: locks, work folders, atomic publishing and removal.

HOME/models/<folder>/   one complete model each; appears and disappears by a single rename
HOME/partial/<folder>/  files of an interrupted hub download, kept so that the next pull goes on from them
HOME/tmp/<work>/        work folders; one that no process holds a lock on is a leftover
HOME/locks/             lock files, empty and never removed
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from landrace.checkpoints.folder import flush
from landrace.errors import StoreError

_POLL_SECONDS = 0.2
_HELD = "held"


@dataclass(frozen=True)
class WorkFolder:
    path: Path
    lock_fd: int
    """Held for the life of the folder; a helper process that inherits it keeps the folder from being swept."""

    def new_folder(self, name: str) -> Path:
        """A folder inside, with the user's usual permissions (the work folder itself is private)."""
        folder = self.path / name
        folder.mkdir()
        return folder


class StoreHome:
    """Every write of the store goes through here. Paths only; knows nothing of models."""

    def __init__(self, home: Path) -> None:
        self.path = home
        self.models = home / "models"

    def model_folder(self, folder: str) -> Path:
        return self._child(self.models, folder)

    def partial_folder(self, folder: str) -> Path:
        return self._child(self.path / "partial", folder)

    def create(self) -> None:
        for name in ("models", "partial", "tmp", "locks"):
            (self.path / name).mkdir(parents=True, exist_ok=True)

    @contextmanager
    def lock(self, name: str, on_wait: Callable[[], None]) -> Iterator[None]:
        """Hold the lock `name` against other threads and processes; `on_wait` is called while somebody has it."""
        descriptor = self._open_lock(name)
        try:
            while not _try_lock(descriptor):
                on_wait()
                time.sleep(_POLL_SECONDS)
            yield
        finally:
            os.close(descriptor)

    @contextmanager
    def work_folder(self) -> Iterator[WorkFolder]:
        """A private folder, removed however the block is left. Sweeps the leftovers of dead processes first."""
        # The sweep lock closes the gap between making a folder and locking it.
        with self.lock("sweep", lambda: None):
            self._sweep()
            path = Path(tempfile.mkdtemp(prefix="pull-", dir=self.path / "tmp"))
            descriptor = os.open(path / _HELD, os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        try:
            yield WorkFolder(path, descriptor)
        finally:
            os.close(descriptor)
            shutil.rmtree(path, ignore_errors=True)

    def publish(self, staged: Path, folder: str, work: WorkFolder) -> Path:
        """Move a complete folder into place in one rename, replacing a damaged one; call with the model's lock."""
        target = self.model_folder(folder)
        for entry in staged.iterdir():
            flush(entry)
        flush(staged)
        if os.path.lexists(target):
            target.rename(work.path / "replaced")
        staged.rename(target)
        flush(self.models)
        return target

    def discard(self, path: Path, work: WorkFolder) -> None:
        """Rename `path` out of sight, then delete it. A link is deleted itself, never what it points to."""
        doomed = work.path / "removed"
        path.rename(doomed)
        if doomed.is_symlink() or not doomed.is_dir():
            doomed.unlink()
        else:
            shutil.rmtree(doomed)

    def require_space(self, needed: int) -> None:
        free = shutil.disk_usage(self.path).free
        if free < needed:
            raise StoreError(
                f"There is not enough room in {self.path}: {needed:,} bytes are needed and {free:,} are free.",
                hint="Free some space, or set LANDRACE_HOME to a folder on a larger disk.",
            )

    def _child(self, parent: Path, folder: str) -> Path:
        # Names are validated before they come here; this is the second door.
        if folder in ("", ".", "..") or "/" in folder or os.sep in folder or "\0" in folder:
            raise StoreError(f"{folder!r} is not a folder of the model store.")
        return parent / folder

    def _open_lock(self, name: str) -> int:
        return os.open(self._child(self.path / "locks", f"{name}.lock"), os.O_RDWR | os.O_CREAT, 0o666)

    def _sweep(self) -> None:
        for leftover in (self.path / "tmp").iterdir():
            if _is_held(leftover / _HELD):
                continue
            shutil.rmtree(leftover, ignore_errors=True)


@contextmanager
def storage_errors(home: Path) -> Iterator[None]:
    """Turn what the operating system says into one sentence and a hint."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoreError(
                f"The disk of the model store {home} is full ({reason}).",
                hint="Free some space, or set LANDRACE_HOME to a folder on a larger disk. Nothing half-made was kept.",
            ) from error
        raise StoreError(
            f"The model store {home} cannot be used: {reason} ({error.filename or home}).",
            hint="Check the permissions, or set LANDRACE_HOME to a folder you can write to.",
        ) from error


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_held(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDWR)
    except OSError:
        return False
    try:
        return not _try_lock(descriptor)
    finally:
        os.close(descriptor)
