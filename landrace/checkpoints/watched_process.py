"""Run a helper process to its end, reporting progress meanwhile and leaving nothing running behind."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

Progress = Callable[[str, int, int | None], None]
"""progress(stage, done_bytes, total_bytes); stage: "wait", "download", "unpack" or "verify"; total: None if unknown."""

_TICK_SECONDS = 0.1
_GRACE_SECONDS = 5.0


@dataclass(frozen=True)
class Finished:
    returncode: int
    stdout: str
    stderr: str

    @property
    def last_error_line(self) -> str:
        """The last line that begins with ERROR, else the last line of stderr, else of stdout."""
        lines = [line.strip() for line in (self.stdout + "\n" + self.stderr).splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("ERROR")]
        return (errors or lines or [f"exit status {self.returncode}"])[-1].removeprefix("ERROR:").strip()


def run_watched(
    command: Sequence[str],
    *,
    work: Path,
    on_tick: Callable[[], None],
    environment: Mapping[str, str] | None = None,
    inherited_fds: Sequence[int] = (),
) -> Finished:
    """Run `command` until it ends; call `on_tick` about ten times a second.

    The process's standard input is a pipe that stays open for as long as this process lives, so a helper can
    notice by its end-of-file that nobody waits for it any more. However this call is left (also by
    KeyboardInterrupt), the helper has ended before it returns.
    """
    with tempfile.TemporaryFile(dir=work) as stdout, tempfile.TemporaryFile(dir=work) as stderr:
        with subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=stdout,
            stderr=stderr,
            env={**os.environ, **(environment or {})},
            pass_fds=tuple(inherited_fds),
        ) as process:
            try:
                returncode = _wait(process, on_tick)
            finally:
                _end(process)
        return Finished(returncode, _text(stdout), _text(stderr))


def _wait(process: subprocess.Popen[bytes], on_tick: Callable[[], None]) -> int:
    while True:
        try:
            return process.wait(timeout=_TICK_SECONDS)
        except subprocess.TimeoutExpired:
            on_tick()


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(timeout=_GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()


def _text(stream: IO[bytes]) -> str:
    stream.seek(0)
    return stream.read().decode(errors="replace")
