"""How long tests wait for what must happen, however busy the machine is."""

from __future__ import annotations

import time
from collections.abc import Callable

SECONDS = 120.0
"""How long anything may take before a test gives up on it; nothing is expected to."""


def wait_until(holds: Callable[[], object], seconds: float = SECONDS) -> None:
    """Fails when something that must happen soon has not happened."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"it did not happen within {seconds:.0f} seconds"
        time.sleep(0.02)
