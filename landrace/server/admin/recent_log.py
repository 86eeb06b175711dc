"""`RecentLog`: the last lines of the log, for bug reports."""

from __future__ import annotations

import logging
from collections import deque

_MOST = 500
_FORMAT = "%(asctime)s %(levelname)s %(name)s %(message)s"


class RecentLog(logging.Handler):
    """Warnings and worse, whoever wrote them."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.setFormatter(logging.Formatter(_FORMAT))
        self._lines: deque[str] = deque(maxlen=_MOST)

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(self.format(record))

    @property
    def text(self) -> str:
        return "".join(f"{line}\n" for line in list(self._lines))
