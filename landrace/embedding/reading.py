"""`ReadingEngine`: what reads prompts without continuing them, whichever kind of model it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from landrace.embedding.dense import Rows
from landrace.engine.outputs import Completion
from landrace.engine.readout import Readout
from landrace.engine.request import Request


class ReadingEngine(Protocol):
    """A decoder's engine, or an encoder's."""

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """Runs requests to their end and returns them in the order given."""
        ...


def read(
    engine: ReadingEngine, wanted: Sequence[tuple[Sequence[int], Readout]], adapter: str | None = None
) -> list[Rows]:
    """What is read of each prompt, in order. Raises the first request's error. Needs an engine without other work."""
    requests = [Request.reading(str(n), ids, readout, adapter) for n, (ids, readout) in enumerate(wanted)]
    found = []
    for completion in engine.generate(requests):
        if completion.error is not None:
            raise completion.error
        assert completion.read is not None
        found.append(completion.read)
    return found
