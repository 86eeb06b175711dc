"""`TuningRun`: one `landrace tune` in a process of its own, which a dead server's successor takes up again."""

from __future__ import annotations

import asyncio
import csv
import io
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from landrace.training.options import DEFAULT_LEARNING_RATE

_NICENESS = 10
"""Whoever waits for an answer has the processor first."""
_SAVE_EVERY = 20
"""Optimizer steps that a death may cost."""
_STOP_SECONDS = 20.0
"""For a run to save itself."""
_MAX_SAID = 500


class TuningRun:
    """The folder of a job: `training.jsonl`, perhaps `validation.jsonl`, the run, and `tune.log`, what it printed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.out = folder / "run"
        self._log = folder / "tune.log"

    @property
    def adapter(self) -> Path:
        """Where the tuned weights are, once it has succeeded."""
        return self.out / "adapter"

    @property
    def has_succeeded(self) -> bool:
        return (self.out / "tune.json").exists() and self.adapter.is_dir()

    def command(self, model: str, asked: Mapping[str, Any], threads: int) -> list[str]:
        """`asked`: the job's hyperparameters, resolved. A run that has saved itself goes on from there."""
        more: list[str] = []
        if (validation := self.folder / "validation.jsonl").exists():
            more += ["--validation", str(validation)]
        if any((self.out / "checkpoints").glob("step-*")):
            more.append("--resume")
        return [
            *(sys.executable, "-m", "landrace", "tune", model, str(self.folder / "training.jsonl")),
            *("--out", str(self.out), "--epochs", str(asked["n_epochs"]), "--seed", str(asked["seed"])),
            *("--batch-examples", str(asked["batch_size"]), "--rank", str(asked["lora_rank"])),
            *("--lr", repr(asked["learning_rate_multiplier"] * DEFAULT_LEARNING_RATE["lora"])),
            *("--save-every", str(_SAVE_EVERY), "--threads", str(threads)),
            *more,
        ]

    async def start(self, command: Sequence[str], threads: int) -> asyncio.subprocess.Process:
        """Begins or goes on."""
        with self._log.open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, "OMP_NUM_THREADS": str(threads), "COLUMNS": "10000"},
            )
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, process.pid, _NICENESS)
        return process

    def error(self) -> str:
        """What a failed run said last."""
        try:
            text = self._log.read_text(encoding="utf-8", errors="replace")
        except OSError:
            text = ""
        said = [line.partition(":")[2].strip() for line in text.splitlines() if line.startswith(("error:", "hint:"))]
        whole = " ".join(said).replace(f"{self.folder}/", "")  # nobody is told where the server keeps its things
        return whole[:_MAX_SAID] or "The run ended without a word."

    def metrics_file(self, steps: Sequence[Mapping[str, Any]]) -> bytes:
        """The steps as CSV."""
        text = io.StringIO()
        names = ("step", "loss", "validation_loss", "learning_rate", "trained_tokens")
        writer = csv.DictWriter(text, names, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(steps)
        return text.getvalue().encode()


async def end(process: asyncio.subprocess.Process, *, saving: bool) -> None:
    """Ends a run; `saving`: it may save itself first."""
    if saving and process.returncode is None:
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGINT)
        with suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), _STOP_SECONDS)
    if process.returncode is None:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def began(pid: int) -> str | None:
    """What tells a process from a later one of the same number; None where there is none, or no telling."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None


def kill_orphan(pid: int | None, when: str | None) -> None:
    """Ends the process that a dead server left behind."""
    if pid is not None and when is not None and began(pid) == when:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)


class LogTail:
    """The lines of a growing file. One that takes its place, as that of a run that goes on, is read from its start."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = self._inode = 0

    def new(self) -> Iterator[bytes]:
        """The whole lines that have come since the last call."""
        try:
            with self._path.open("rb") as stream:
                if (inode := os.fstat(stream.fileno()).st_ino) != self._inode:
                    self._read, self._inode = 0, inode
                stream.seek(self._read)
                for line in stream:
                    if not line.endswith(b"\n"):
                        return
                    self._read += len(line)
                    yield line
        except FileNotFoundError:
            return
