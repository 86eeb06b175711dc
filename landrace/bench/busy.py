"""Whether somebody else used the machine while it was measured: figures of a busy moment say so."""

from __future__ import annotations

import os
import time
from pathlib import Path

_STAT = Path("/proc/stat")
_MEMORY = Path("/proc/meminfo")
_IDLE_COLUMNS = (3, 4)
"""Of the `cpu` line: idle, and waiting for a disk."""
_OTHERS_LIMIT = 0.05
"""Share of the machine that others may use unmentioned."""
_BANDWIDTH_LIMIT = 0.10
"""How far the bandwidth may move from the start to the end unmentioned."""


class OthersWatch:
    """Counts the processor time that other processes use from its making on, where the system tells (Linux)."""

    def __init__(self) -> None:
        self._begun = _sample()

    def share(self) -> float | None:
        """What others used of all processors' time, 0 to 1; None where the system does not tell."""
        now = _sample()
        if self._begun is None or now is None:
            return None
        seconds, busy, own = (b - a for a, b in zip(self._begun, now, strict=True))
        if seconds <= 0:
            return None
        return max(0.0, busy - own) / (seconds * (os.cpu_count() or 1))


def busy_warnings(others: float | None, bandwidth_before: float, bandwidth_after: float) -> list[str]:
    """Lines for the reader, empty when the machine was quiet. `others`: a share; bandwidths: GB/s."""
    warnings = []
    if others is not None and others > _OTHERS_LIMIT:
        warnings.append(f"Other processes used {others:.0%} of the processors: figures of a busy machine.")
    change = abs(bandwidth_after / bandwidth_before - 1)
    if change > _BANDWIDTH_LIMIT:
        warnings.append(
            f"The read bandwidth was {bandwidth_before:.1f} GB/s before and {bandwidth_after:.1f} GB/s after: figures "
            "of a busy machine."
        )
    return warnings


def available_memory() -> int | None:
    """Bytes a program can still get without swapping; None where the system does not tell."""
    if not _MEMORY.exists():
        return None
    fields = dict(line.split(":", 1) for line in _MEMORY.read_text().splitlines() if ":" in line)
    return int(fields["MemAvailable"].split()[0]) * 1024 if "MemAvailable" in fields else None


def _sample() -> tuple[float, float, float] | None:
    """Seconds: the clock, processors busy with anything, and with us and our finished children."""
    if not _STAT.exists():
        return None
    ticks = [int(word) for word in _STAT.read_text().splitlines()[0].split()[1:9]]
    busy = sum(count for column, count in enumerate(ticks) if column not in _IDLE_COLUMNS)
    own = os.times()
    return (
        time.monotonic(),
        busy / os.sysconf("SC_CLK_TCK"),
        own.user + own.system + own.children_user + own.children_system,
    )
