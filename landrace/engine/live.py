"""`Live`: a request the engine is working on."""

from __future__ import annotations

from dataclasses import dataclass

from landrace.engine.drafter import Drafter
from landrace.engine.progress import Progress
from landrace.engine.reading import Reader
from landrace.engine.request import Request
from landrace.engine.sampler import SamplingState
from landrace.engine.stopping import StopText
from landrace.text import TextStream
from landrace.text.answers import AnswerParser, Event


@dataclass(frozen=True)
class Live:
    """A request's progress, and what turns its logits into text."""

    progress: Progress
    sampling: SamplingState
    stop_ids: frozenset[int]
    stop_text: StopText
    stream: TextStream
    drafter: Drafter
    parser: AnswerParser | None
    """Takes the text apart, where the request says how."""
    reader: Reader | None = None
    """Of a request whose prompt is only read."""

    @property
    def request(self) -> Request:
        return self.progress.request

    def states(self, n: int) -> list[SamplingState]:
        """What the next token is chosen by, and each that follows one of the draft; `n` of them."""
        states = [self.sampling][:n]
        for guess in self.progress.draft[: max(0, n - 1)]:
            states.append(states[-1].after(guess))
        return states

    @property
    def thought_tokens(self) -> int:
        """Tokens of thoughts so far."""
        return 0 if self.sampling.thinking is None else self.sampling.thinking.n_tokens

    def events(self, text: str, *, whole: bool) -> tuple[Event, ...]:
        """What new text completes of the answer. `whole`: it is the last."""
        if self.parser is None:
            return ()
        events = self.parser.push(text) if text else []
        return tuple(events + self.parser.flush() if whole else events)

    def tail(self) -> str:
        """Text still held back when no more tokens will come."""
        return self.stop_text.push(self.stream.flush()) + self.stop_text.flush()
