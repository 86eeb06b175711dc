"""Usage of every request, written to the ledger by a thread of its own so that no reply waits for the disk."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from landrace.errors import LandraceError
from landrace.ledger import Ledger, Usage
from landrace.server.generation import Choice

_log = logging.getLogger(__name__)


class UsageLog:
    """`path` None: nothing is recorded."""

    def __init__(self, path: Path | None, *, config: dict[str, Any] | None = None) -> None:
        self._ledger = Ledger(path) if path is not None else None
        if self._ledger is None:
            return
        self._run = self._ledger.start_run("serve", "serve", command="landrace serve", config=config or {})
        self._queue: queue.SimpleQueue[list[Usage] | None] = queue.SimpleQueue()
        self._writer = threading.Thread(target=self._write, name="usage", daemon=True)
        self._writer.start()

    def add(self, call_id: str, model: str, adapter: str | None, choices: Sequence[Choice]) -> None:
        """Queues one row a choice; one whose client went away is recorded as aborted."""
        if self._ledger is None:
            return
        self._queue.put(
            [
                Usage(
                    request_id=f"{call_id}-{choice.index}",
                    run_id=self._run.id,
                    model=model,
                    adapter=adapter,
                    prompt_tokens=len(choice.prompt_ids),
                    cached_prompt_tokens=choice.cached_tokens,
                    completion_tokens=choice.n_tokens,
                    queue_seconds=0.0,
                    first_token_seconds=choice.first_token_seconds,
                    total_seconds=choice.seconds,
                    finish_reason=choice.finish_reason or "abort",
                )
                for choice in choices
            ]
        )

    def _write(self) -> None:
        assert self._ledger is not None
        while (rows := self._queue.get()) is not None:
            try:
                self._ledger.add_usage(rows)
            except LandraceError as error:  # a full disk must not stop the answers; the log says what was lost
                _log.error("usage of %d requests was not recorded: %s", len(rows), error.message)

    def close(self) -> None:
        """Writes what is queued, and the end of the run."""
        if self._ledger is None:
            return
        self._queue.put(None)
        self._writer.join()
        self._ledger.finish_run(self._run.id)
        self._ledger.close()
