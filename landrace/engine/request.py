"""`Request`: what a caller asks for."""

from __future__ import annotations

from dataclasses import dataclass

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
    guide: Guide | None = None
    """The language of the answer, behind its thoughts if it has some; where `answer` has tools, with the marks of calls
    and of frames (`call_guide`)."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "prompt_ids", tuple(self.prompt_ids))
