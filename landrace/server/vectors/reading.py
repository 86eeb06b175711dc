"""One call as requests whose prompts are only read."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace

from landrace.embedding.dense import Rows
from landrace.embedding.texts import Encoded
from landrace.engine.outputs import StepOutput
from landrace.engine.readout import Readout
from landrace.engine.request import Request
from landrace.errors import LandraceError
from landrace.server.access.caller import Caller
from landrace.server.access.tally import Counts, Tally
from landrace.server.engines.process import EngineStoppedError
from landrace.server.engines.registry import ServedModel
from landrace.server.generation import Choice, Prompt
from landrace.server.usage import UsageLog

_TOGETHER = 64
"""Requests of a call that wait or run at one time: enough to fill steps, and others find room between them."""


@dataclass(frozen=True)
class Wanted:
    """What is to be read of one text."""

    encoded: Encoded
    readout: Readout


class Reading:
    """Runs what is wanted of one call, and keeps its account."""

    def __init__(self, prefix: str, kind: str, model: ServedModel, wanted: Sequence[Wanted], caller: Caller) -> None:
        """`prefix`: what its id begins with. `kind`: what was asked for, as the ledger's usage has it."""
        self.id = f"{prefix}-{uuid.uuid4().hex}"
        self._kind = kind
        self._model = model
        self._wanted = wanted
        self._caller = caller
        self._account = Choice(0, Prompt(tuple(token for one in wanted for token in one.encoded.ids)))
        """The whole call as one entry in the ledger."""

    @property
    def n_tokens(self) -> int:
        """Of all texts, with what is put before them."""
        return len(self._account.prompt.ids)

    @property
    def seconds(self) -> float:
        """What it took, once it has run."""
        return self._account.seconds

    @property
    def n_cut(self) -> int:
        """Texts that lost their end."""
        return sum(one.encoded.cut > 0 for one in self._wanted)

    def counts(self) -> Counts:
        """What it has used so far; its prompt counts from the start."""
        account = self._account
        return Counts(self.n_tokens, 0, account.machine_seconds, account.cached_tokens)

    def tell(self, tally: Tally) -> None:
        """Lets the call's logs know of it."""
        tally.follow(self.id, self._kind, [self._account], self._model.engine.tokenizer)

    async def run(self, usage_log: UsageLog) -> list[Rows]:
        """What is read of each, in order. Raises EngineBusyError, EngineStoppedError and the first one's own error."""
        begun, account = time.perf_counter(), self._account
        account.finish_reason = "abort"
        found: list[Rows] = []
        try:
            while len(found) < len(self._wanted):
                found += await self._read(len(found))
            account.finish_reason = "stop"
        except LandraceError:
            account.finish_reason = "error"
            raise
        finally:
            account.seconds = time.perf_counter() - begun
            of_it = self._model.name, self._model.adapter, [account]
            usage_log.add(self.id, *of_it, kind=self._kind, caller=self._caller)
        return found

    async def _read(self, first: int) -> list[Rows]:
        """The next that are in the engine together."""
        client, priority = self._caller.key_id or "", self._caller.priority
        requests = [
            replace(
                Request.reading(f"{self.id}-{number}", one.encoded.ids, one.readout, self._model.adapter),
                client=client,
                priority=priority,
            )
            for number, one in enumerate(self._wanted[first : first + _TOGETHER], start=first)
        ]
        engine = self._model.engine
        events = engine.submit(requests)
        running = {request.id for request in requests}
        read: dict[str, Rows] = {}
        try:
            while running:
                event = await events.get()
                if isinstance(event, EngineStoppedError):
                    raise event
                if event.finish_reason is None:
                    continue
                running.discard(event.request_id)
                self._book(event)
                if event.error is not None:
                    raise event.error
                assert event.read is not None
                read[event.request_id] = event.read
        finally:
            engine.release([request.id for request in requests], abort=running)
        return [read[request.id] for request in requests]

    def _book(self, output: StepOutput) -> None:
        account = self._account
        account.cached_tokens += output.cached_prompt_tokens
        account.machine_seconds += output.machine_seconds
        account.queue_seconds = max(account.queue_seconds, output.queue_seconds)
