"""Usage of every request, written to the ledger by a thread of its own so that no reply waits for the disk."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from landrace.errors import LandraceError
from landrace.ledger import Ledger, Usage
from landrace.ledger.records import RunStatus
from landrace.server.generation import Choice

_log = logging.getLogger(__name__)


class UsageLog:
    """A run of kind "serve" in the ledger at `place`, and a row for every request. `place` None: nothing is recorded.

    Raises DataError for a file that is not a ledger.
    """

    def __init__(self, place: str | None, *, name: str, command: str, config: Mapping[str, Any]) -> None:
        self._ledger = Ledger(place) if place is not None else None
        if self._ledger is None:
            return
        self._run = self._ledger.start_run("serve", name, command=command, config=config)
        self._queue: queue.SimpleQueue[list[Usage] | None] = queue.SimpleQueue()
        self._writer = threading.Thread(target=self._write, args=(self._ledger,), name="usage", daemon=True)
        self._writer.start()

    def add(self, call_id: str, model: str, adapter: str | None, choices: Sequence[Choice]) -> None:
        """Queues one row a choice of a call that ended; one that never reached the engine is no usage."""
        if self._ledger is None:
            return
        self._queue.put(
            [
                Usage(
                    request_id=f"{call_id}-{choice.index}",
                    run_id=self._run.id,
                    model=model,
                    adapter=adapter,
                    prompt_tokens=len(choice.prompt.ids),
                    cached_prompt_tokens=choice.cached_tokens,
                    completion_tokens=choice.n_tokens,
                    queue_seconds=choice.queue_seconds,
                    first_token_seconds=choice.first_token_seconds,
                    total_seconds=choice.seconds,
                    finish_reason=choice.finish_reason,
                )
                for choice in choices
                if choice.finish_reason is not None
            ]
        )

    def _write(self, ledger: Ledger) -> None:
        while (rows := self._queue.get()) is not None:
            try:
                ledger.add_usage(rows)
            except LandraceError as error:  # a full disk must not stop the answers; the log says what was lost
                _log.error("The usage of %d requests was not recorded: %s", len(rows), error.message)

    def close(self, status: RunStatus) -> None:
        """Writes what is queued, and how the run ended."""
        if self._ledger is None:
            return
        self._queue.put(None)
        self._writer.join()
        self._ledger.finish_run(self._run.id, status)
        self._ledger.close()
