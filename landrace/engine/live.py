"""`Live`: a request the engine is working on."""

from __future__ import annotations

from dataclasses import dataclass

from landrace.engine.drafter import Drafter
from landrace.engine.progress import Progress
from landrace.engine.request import Request
from landrace.engine.sampler import SamplingState
from landrace.engine.stopping import StopText
from landrace.text import TextStream


@dataclass(frozen=True)
class Live:
    """A request's progress, and what turns its logits into text."""

    progress: Progress
    sampling: SamplingState
    stop_ids: frozenset[int]
    stop_text: StopText
    stream: TextStream
    drafter: Drafter

    @property
    def request(self) -> Request:
        return self.progress.request

    def tail(self) -> str:
        """Text still held back when no more tokens will come."""
        return self.stop_text.push(self.stream.flush()) + self.stop_text.flush()
