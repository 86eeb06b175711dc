"""`Request`: what a caller asks for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from landrace.engine.readout import Readout
from landrace.engine.sampling_params import SamplingParams
from landrace.text.answers import AnswerForm
from landrace.text.guides import Guide


@dataclass(frozen=True, eq=False)
class Request:
    """One prompt and how to continue it. Travels between processes; how far it has come is the engine's `Progress`."""

    id: str
    prompt_ids: tuple[int, ...]
    params: SamplingParams
    adapter: str | None = None
    answer: AnswerForm | None = None
    """How the answer is taken apart, where it is one to a chat."""
    readout: Readout | None = field(default=None, kw_only=True)
    """What is read of the prompt instead of an answer: then the request ends with its last prompt row."""
    guide: Guide | None = field(default=None, kw_only=True)
    """The language of the answer, behind its thoughts if it has some; where `answer` has tools, with the marks of calls
    and of frames (`call_guide`)."""
    client: str = field(default="", kw_only=True)
    """Whose it is: clients have equal shares of the engine, however many requests each sends."""
    priority: int = field(default=0, kw_only=True)
    """From 0 on it makes the client's share larger; below 0 it runs in what others leave."""
    deadline: float | None = field(default=None, kw_only=True)
    """`time.monotonic()` after which it ends with a DeadlineError."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "prompt_ids", tuple(self.prompt_ids))

    @staticmethod
    def reading(id: str, prompt_ids: Sequence[int], readout: Readout, adapter: str | None = None) -> Request:
        """One whose prompt is only read."""
        return Request(id, tuple(prompt_ids), SamplingParams(max_tokens=1), adapter, readout=readout)

    @property
    def max_tokens(self) -> int:
        """Most tokens to generate."""
        return self.params.max_tokens if self.readout is None else 0
