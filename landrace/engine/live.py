"""`Live`: a request the engine is working on."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch

from landrace.engine.drafter import Drafter
from landrace.engine.guiding import Guiding
from landrace.engine.outputs import StepOutput, TokenLogprob
from landrace.engine.progress import Progress
from landrace.engine.reading import Reader
from landrace.engine.request import Request
from landrace.engine.sampler import SamplingState
from landrace.engine.stopping import StopText
from landrace.engine.thinking import Thinking
from landrace.errors import RequestError
from landrace.models.spec import ModelSpec
from landrace.text import TextStream, Tokenizer
from landrace.text.answers import AnswerParser, Event


@dataclass
class Spent:
    """What a request has cost."""

    seconds: float = 0.0
    """Its share of the engine's time."""


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
    spent: Spent = field(default_factory=Spent)

    @staticmethod
    def of(progress: Progress, tokenizer: Tokenizer, spec: ModelSpec, device: torch.device) -> Live:
        """At its beginning. Raises RequestError for what cannot be read or kept to."""
        request, params = progress.request, progress.request.params
        form = request.answer if request.guide is None or request.answer is None else request.answer.guided()
        guiding = Guiding.of(request, tokenizer)
        thinking = Thinking.of(form, tokenizer, params.thinking_budget, leads_on=guiding is not None)
        shown = tokenizer.mark_ids if form is not None else frozenset()
        return Live(
            progress=progress,
            sampling=SamplingState(params, request.prompt_ids, device, thinking, guiding),
            stop_ids=frozenset(params.stop_token_ids) | (frozenset() if params.ignore_eos else tokenizer.eos_ids),
            stop_text=StopText(params.stop),
            stream=TextStream(tokenizer, keep_leading_space=True, shown=shown),
            drafter=Drafter(progress.tokens, progress.held),
            parser=form.parser() if form is not None else None,
            reader=Reader.of(request.readout, spec),
        )

    def going_on(self, progress: Progress) -> Live:
        """The same with other tokens before its next one."""
        return replace(self, progress=progress, drafter=Drafter(progress.tokens, progress.held))

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

    def output(
        self,
        token_ids: tuple[int, ...] = (),
        text: str = "",
        logprobs: tuple[TokenLogprob, ...] = (),
        scores: tuple[TokenLogprob, ...] = (),
        finish_reason: str | None = None,
        error: RequestError | None = None,
    ) -> StepOutput:
        """What is reported of it now."""
        return StepOutput(
            request_id=self.request.id,
            token_ids=token_ids,
            text=text,
            logprobs=logprobs,
            prompt_logprobs=scores,
            finish_reason=finish_reason,
            error=error,
            cached_prompt_tokens=self.progress.prefix_hit or 0,
            seed=self.sampling.seed,
            queue_seconds=self.progress.queue_seconds,
            dropped_tokens=self.progress.dropped,
            events=self.events(text, whole=finish_reason in ("stop", "length")),
            thought_tokens=self.thought_tokens,
            stop=self.stop_text.matched,
            read=self.reader.found if self.reader is not None and finish_reason == "length" else None,
            machine_seconds=self.spent.seconds,
        )
