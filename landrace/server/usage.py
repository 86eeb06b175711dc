"""Usage of every request, written to the ledger by a thread of its own so that no reply waits for the disk."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from landrace.errors import DataError, LandraceError, LedgerUnavailableError
from landrace.ledger import Ledger, Run, Usage
from landrace.ledger.money import cost_of
from landrace.ledger.records import RunStatus
from landrace.server.access.caller import ANYONE, Caller
from landrace.server.generation import Choice
from landrace.server.usage_queue import UsageQueue, UsageState
from landrace.server.usage_spill import SpillFolder

_PATIENCE_SECONDS = 5.0
"""How long one attempt to write waits for others that hold the ledger."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0
"""Seconds from an attempt that failed to the next."""
_END_SECONDS = 10.0
"""How long the end of a server tries to write what is left."""
_HANG_SECONDS = _END_SECONDS + 2 * _PATIENCE_SECONDS
"""After so long an attempt counts as hanging, and what it was to write is spilled."""
_log = logging.getLogger(__name__)


class UsageLog:
    """A run of kind "serve" in the ledger at `place`, and a row for every request. `place` None: nothing is recorded.

    What the ledger cannot take is kept by `UsageQueue`, and taken up by this server or the next one.

    Raises DataError for what is no ledger, and LedgerUnavailableError for one that cannot be opened.
    """

    def __init__(
        self,
        place: str | None,
        *,
        name: str,
        command: str,
        config: Mapping[str, Any],
        price_per_hour: float = 0.0,
        spill: Path | None = None,
    ) -> None:
        """`price_per_hour`: of the machine. `spill`: folder of the spill files; None: beside the ledger."""
        self.listeners: list[Callable[[Sequence[Usage]], None]] = []
        """Hear of every request that ended, recorded or not, with its cost."""
        self._price_per_hour = price_per_hour
        self._ledger = Ledger(place, patience=_PATIENCE_SECONDS) if place is not None else None
        if self._ledger is None or place is None:
            return
        self._run = self._ledger.start_run("serve", name, command=command, config=config)
        self._numbers: dict[str, int] = {}
        self._queue = UsageQueue(self._run, self._store, SpillFolder(place, spill))
        self._news = threading.Event()
        self._deadline: float | None = None
        """When the end gives up; None: there is no end in sight."""
        self._status: RunStatus = "finished"
        self._news.set()  # an earlier server may have left some
        self._writer = threading.Thread(target=self._write, args=(self._ledger,), name="usage", daemon=True)
        self._writer.start()

    @property
    def ledger(self) -> Ledger | None:
        """Where keys are read from, too."""
        return self._ledger

    @property
    def state(self) -> UsageState:
        """Whether usage is recorded as it should be."""
        return UsageState() if self._ledger is None else self._queue.state

    def add(
        self,
        call_id: str,
        model: str,
        adapter: str | None,
        choices: Sequence[Choice],
        *,
        kind: str,
        caller: Caller = ANYONE,
    ) -> None:
        """Queues one row a choice of a call that ended; one that never reached the engine is no usage."""
        self.put(
            [
                Usage(
                    request_id=f"{call_id}-{choice.index}",
                    model=model,
                    adapter=adapter,
                    prompt_tokens=len(choice.prompt.ids),
                    cached_prompt_tokens=choice.cached_tokens,
                    completion_tokens=choice.n_tokens,
                    thought_tokens=choice.thought_tokens,
                    queue_seconds=choice.queue_seconds,
                    first_token_seconds=choice.first_token_seconds,
                    total_seconds=choice.seconds,
                    machine_seconds=choice.machine_seconds,
                    finish_reason=choice.finish_reason,
                    key_id=caller.key_id,
                    team=caller.team or None,
                    kind=kind,
                    response_id=call_id,
                )
                for choice in choices
                if choice.finish_reason is not None
            ]
        )

    def put(self, rows: Sequence[Usage]) -> None:
        """Queues rows; the run and the cost are filled in here."""
        rows = [replace(row, cost=cost_of(row.machine_seconds, self._price_per_hour)) for row in rows]
        for hear in self.listeners:
            hear(rows)
        if self._ledger is None or not rows:
            return
        self._queue.put(rows)
        self._news.set()

    def close(self, status: RunStatus) -> None:
        """Writes what is queued and how the run ended, for a limited time; says what is left, and where."""
        if self._ledger is None:
            return
        self._status = status
        self._deadline = time.monotonic() + _END_SECONDS
        self._news.set()
        self._writer.join(_HANG_SECONDS)
        if self._writer.is_alive():
            # It hangs in a disk or a connection. What it had may be stored or not: it is spilled, and stored once.
            heir = threading.Thread(target=self._queue.abandon, daemon=True)
            heir.start()
            heir.join(_PATIENCE_SECONDS)
        self._tell_what_is_left()

    def _write(self, ledger: Ledger) -> None:
        pause, next_attempt = _FIRST_PAUSE, 0.0
        while self._deadline is None:
            self._news.wait(None if self._queue.state.status == "ok" else max(next_attempt - time.monotonic(), 0.0))
            self._news.clear()
            if time.monotonic() < next_attempt and self._deadline is None:
                self._queue.spill()
            elif self._queue.write(self._has_time):
                pause, next_attempt = _FIRST_PAUSE, 0.0
            else:
                pause, next_attempt = min(2 * pause, _LONGEST_PAUSE), time.monotonic() + pause
        while not self._queue.write(self._has_time) and self._has_time():
            time.sleep(_FIRST_PAUSE)
        self._queue.spill()
        try:
            ledger.finish_run(ledger.number_of_run(self._run), self._status)
        except LandraceError as error:
            _log.error("How this run of the server ended was not recorded: %s", error.message)
        self._queue.close()
        ledger.close()

    def _has_time(self) -> bool:
        return self._deadline is None or time.monotonic() < self._deadline

    def _store(self, run: Run, rows: Sequence[Usage]) -> None:
        assert self._ledger is not None
        name = f"{run.started} {run.name}"
        if name not in self._numbers:
            self._numbers[name] = self._ledger.number_of_run(run)
        try:
            self._ledger.add_usage(replace(row, run_id=self._numbers[name]) for row in rows)
        except LedgerUnavailableError:
            raise
        except DataError:
            # A ledger that was put back from an older copy lacks the run.
            self._numbers[name] = self._ledger.number_of_run(run)
            self._ledger.add_usage(replace(row, run_id=self._numbers[name]) for row in rows)

    def _tell_what_is_left(self) -> None:
        state = self._queue.state
        if state.spilled:
            _log.error(
                "The usage of %d requests is not in the ledger but in %s; the next server on this ledger takes it up.",
                state.spilled,
                ", ".join(self._queue.spill_files),
            )
        if state.waiting + state.lost:
            _log.error("The usage of %d requests is lost: there was no room for it.", state.waiting + state.lost)
