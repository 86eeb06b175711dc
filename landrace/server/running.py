"""The servers that run on this machine: each keeps a file about itself beside the model store.

A file says nothing secret, belongs to the user, and is worth nothing once its process is gone: then whoever reads it
removes it.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

_FOLDER = "servers"
_BOOT = Path("/proc/sys/kernel/random/boot_id")
_LARGEST = 1 << 20


@dataclass(frozen=True)
class RunningModel:
    """A base model of a server, and how it is just now."""

    name: str
    state: str
    memory_bytes: int
    """Of its process; 0 where it is not open."""
    running: int
    """Requests that take part in steps."""
    waiting: int
    adapters: tuple[str, ...]


@dataclass(frozen=True)
class RunningServer:
    pid: int
    began: str
    """When its process did, as the system tells it: no later process has both this and the number."""
    host: str
    """The machine's or the container's name."""
    url: str
    since: float
    """Seconds since the epoch at which it answered first."""
    drain_seconds: int
    """How long it lets requests finish once it is told to stop."""
    stopping: bool
    models: tuple[RunningModel, ...]

    @property
    def runs(self) -> bool:
        return process_began(self.pid) == self.began

    def tell_to_stop(self) -> None:
        """SIGTERM: it takes no new call and drains; told once more, it ends what still runs. Raises PermissionError."""
        if self.runs:
            os.kill(self.pid, signal.SIGTERM)


class ServerFile:
    """The file of the server in this process. Raises OSError where it cannot be written."""

    def __init__(self, home: Path, url: str, since: float, drain_seconds: int) -> None:
        self._pid = os.getpid()
        self._path = home / _FOLDER / f"{self._pid}.json"
        self._url, self._since, self._drain_seconds = url, since, drain_seconds
        self._written: RunningServer | None = None

    def write(self, models: Sequence[RunningModel], *, stopping: bool = False) -> None:
        """In one piece, and only what is news."""
        began = self._written.began if self._written else process_began(self._pid) or ""
        now = RunningServer(
            self._pid,
            began,
            socket.gethostname(),
            self._url,
            self._since,
            self._drain_seconds,
            stopping,
            tuple(models),
        )
        if now == self._written:
            return
        folder = self._path.parent
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".", dir=folder)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(asdict(now), file)
            os.replace(name, self._path)
        except BaseException:
            os.unlink(name)
            raise
        self._written = now

    def remove(self) -> None:
        self._path.unlink(missing_ok=True)


def running_servers(home: Path) -> list[RunningServer]:
    """Those of this user and machine, the oldest first. Files of those that are gone are removed."""
    found = []
    for path in (home / _FOLDER).glob("[0-9]*.json"):
        try:
            server = _read(path)
            if server is not None and server.host != socket.gethostname():
                continue  # its processes cannot be seen from here
            if server is None or not server.runs:
                path.unlink()
            else:
                found.append(server)
        except OSError:  # it has just been removed, or is somebody else's
            continue
    return sorted(found, key=lambda server: server.since)


def _read(path: Path) -> RunningServer | None:
    """None for a file that says nothing of use. Raises OSError."""
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_uid != os.getuid():
            raise PermissionError(path)
        text = file.read(_LARGEST)
    try:
        told = json.loads(text)
        models = tuple(RunningModel(**{**one, "adapters": tuple(one["adapters"])}) for one in told.pop("models"))
        server = RunningServer(models=models, **told)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
    return server if f"{server.pid}.json" == path.name else None


def process_began(pid: int) -> str | None:
    """When a process began, as a text that is another for every process that ever has the number; None where none that
    runs has it."""
    if not _BOOT.exists():
        told = subprocess.run(["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True)
        state, _, began = told.stdout.strip().partition(" ")
        return None if not state or state.startswith("Z") else began.strip()
    try:
        # The second field is the program's name in brackets, which may hold anything.
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if state in "ZX" else f"{_BOOT.read_text().strip()} {fields[18]}"
