"""What a command says, whatever machine it runs on."""

from __future__ import annotations

import re

_PROGRESS = re.compile(r"^.* \(\d+ s\)\n", re.MULTILINE)


def without_progress(told: str) -> str:
    """What stderr says besides how it stands, which comes where something takes long."""
    return _PROGRESS.sub("", told)
