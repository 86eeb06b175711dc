"""One API call as a set of engine requests: every prompt, n times."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Self

from landrace.engine.outputs import StepOutput, TokenLogprob
from landrace.engine.request import Request
from landrace.engine.sampling_params import SamplingParams
from landrace.errors import RequestError
from landrace.ledger.money import cost_of
from landrace.server.access.tally import Counts
from landrace.server.engines import process
from landrace.server.engines.process import EngineProcess, EngineStoppedError
from landrace.text.answers import AnswerForm, Event, Parts, ToolCall, join
from landrace.text.guides import Guide

_NOTHING = Parts.of(())


@dataclass(frozen=True)
class Prompt:
    """What the engine is given, and the text it came from where the client sent text."""

    ids: tuple[int, ...]
    text: str | None = None
    answer: AnswerForm | None = None
    """How the answer is taken apart, where it is one to a chat."""
    guide: Guide | None = None
    """What the answer is held to."""


@dataclass
class Choice:
    """What one engine request has produced so far. Times are seconds since the call arrived."""

    index: int
    prompt: Prompt
    text: str = ""
    """As it came; the answer to a chat is in the next three."""
    reasoning: str = ""
    content: str = ""
    calls: list[ToolCall] = field(default_factory=list)
    brought: Parts = _NOTHING
    """What the last output brought of them."""
    passages: list[Event] = field(default_factory=list)
    """They in the order that they came in, neighbours of a kind joined."""
    n_tokens: int = 0
    thought_tokens: int = 0
    logprobs: list[TokenLogprob] = field(default_factory=list)
    prompt_logprobs: list[TokenLogprob] = field(default_factory=list)
    cached_tokens: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    dropped_tokens: int = 0
    finish_reason: str | None = None
    stop: str | None = None
    """The stop string that ended it."""
    queue_seconds: float = 0.0
    first_token_seconds: float | None = None
    seconds: float = 0.0
    machine_seconds: float = 0.0
    """Its share of the engine's time."""

    def take(self, output: StepOutput, elapsed: float) -> None:
        self.text += output.text
        self._take_apart(output.events)
        self.stop = output.stop
        self.thought_tokens = output.thought_tokens
        self.n_tokens += len(output.token_ids)
        self.logprobs += output.logprobs
        self.prompt_logprobs += output.prompt_logprobs
        self.cached_tokens = output.cached_prompt_tokens
        self.drafted_tokens += output.drafted_tokens
        self.accepted_tokens += output.accepted_tokens
        self.dropped_tokens = output.dropped_tokens
        self.finish_reason = output.finish_reason
        self.queue_seconds = output.queue_seconds
        self.machine_seconds = output.machine_seconds
        self.seconds = elapsed
        if self.first_token_seconds is None and output.token_ids:
            self.first_token_seconds = elapsed

    def _take_apart(self, events: Sequence[Event]) -> None:
        if not events:  # as in every step of an answer that is not one to a chat
            self.brought = _NOTHING
            return
        self.brought = Parts.of(events)
        self.reasoning += self.brought.reasoning
        self.content += self.brought.content
        self.calls += self.brought.calls
        for event in events:
            join(self.passages, event)


class Generation:
    """Runs every choice of one call at once: `with` it, iterate over what comes, and leaving frees what still runs.

    Choices are numbered prompt by prompt. With a seed, choice k of a prompt has the seed plus k.
    """

    def __init__(
        self,
        engine: EngineProcess,
        call_id: str,
        prompts: Sequence[Prompt],
        params: Sequence[SamplingParams],
        n: int,
        adapter: str | None,
        *,
        client: str = "",
        priority: int = 0,
        deadline: float | None = None,
    ) -> None:
        """`params` belong to `prompts` one by one; the last three are as in `Request`. Raises RequestError for more
        choices than could ever wait."""
        check_count(engine, len(prompts) * n)
        self._engine = engine
        self._adapter = adapter
        self.fingerprint = ""
        """Of what computes the answers; known once they are asked for."""
        self._started = time.perf_counter()
        self._n = n
        self.choices = [Choice(index, prompts[index // n]) for index in range(len(prompts) * n)]
        self._requests = [
            Request(
                f"{call_id}-{choice.index}",
                choice.prompt.ids,
                _of_choice(params[choice.index // n], k),
                adapter,
                choice.prompt.answer,
                guide=choice.prompt.guide,
                client=client,
                priority=priority,
                deadline=deadline,
            )
            for choice, k in zip(self.choices, [*range(n)] * len(prompts), strict=True)
        ]
        self._running: dict[str, Choice] = {}

    def __enter__(self) -> Self:
        """Raises EngineBusyError and EngineStoppedError."""
        self._events: asyncio.Queue[process.Event] = self._engine.submit(self._requests)
        self.fingerprint = self._engine.fingerprint(self._adapter)
        self._running = {request.id: choice for request, choice in zip(self._requests, self.choices, strict=True)}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        elapsed = time.perf_counter() - self._started
        for choice in self._running.values():
            choice.finish_reason = "error" if isinstance(error, EngineStoppedError) else "abort"
            choice.seconds = elapsed
        self._engine.release([request.id for request in self._requests], abort=self._running)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> tuple[Choice, StepOutput]:
        """The next output of any choice. Raises EngineStoppedError, and a choice's own error."""
        if not self._running:
            raise StopAsyncIteration
        event = await self._events.get()
        if isinstance(event, EngineStoppedError):
            raise event
        choice = self._running[event.request_id]
        choice.take(event, time.perf_counter() - self._started)
        if event.finish_reason is not None:
            del self._running[event.request_id]
        if event.error is not None:
            raise event.error
        return choice, event

    @property
    def has_more(self) -> bool:
        """Whether the next output is there already."""
        return not self._events.empty()

    def counts(self) -> Counts:
        """What limits and logs count: a prompt once, however many choices it has."""
        firsts = self.choices[:: self._n]
        return Counts(
            prompt_tokens=sum(len(choice.prompt.ids) for choice in firsts),
            completion_tokens=sum(choice.n_tokens for choice in self.choices),
            machine_seconds=sum(choice.machine_seconds for choice in self.choices),
            cached_tokens=sum(choice.cached_tokens for choice in firsts),
        )

    def usage(self) -> dict[str, object]:
        """Token counts in the API's form; a prompt counts once, however many choices it has. Rejected drafts are not
        among the completion's tokens."""
        firsts = self.choices[:: self._n]
        prompt_tokens = sum(len(choice.prompt.ids) for choice in firsts)
        completion_tokens = sum(choice.n_tokens for choice in self.choices)
        drafted = sum(choice.drafted_tokens for choice in self.choices)
        accepted = sum(choice.accepted_tokens for choice in self.choices)
        dropped = sum(choice.dropped_tokens for choice in self.choices)
        thoughts = sum(choice.thought_tokens for choice in self.choices)
        drafts = {"accepted_prediction_tokens": accepted, "rejected_prediction_tokens": drafted - accepted}
        details = {**(drafts if drafted else {}), **({"reasoning_tokens": thoughts} if thoughts else {})}
        return {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
            "prompt_tokens_details": {"cached_tokens": sum(choice.cached_tokens for choice in firsts)},
            **({"completion_tokens_details": details} if details else {}),
            **({"dropped_tokens": dropped} if dropped else {}),
        }

    def timings(self, price_per_hour: float = 0.0) -> dict[str, float | None]:
        """How long the call took, and its share of the engine's time, with what that costs where it has a price.
        Prompts and answers are counted as in `usage`, prompts without what was cached."""
        choices = self.choices
        queued = min(choice.queue_seconds for choice in choices)
        firsts = [choice.first_token_seconds for choice in choices if choice.first_token_seconds is not None]
        first = min(firsts, default=None)
        total = max(choice.seconds for choice in choices)
        computed = sum(len(choice.prompt.ids) - choice.cached_tokens for choice in choices[:: self._n])
        later = sum(max(0, choice.n_tokens - 1) for choice in choices)
        machine = sum(choice.machine_seconds for choice in choices)
        cost = {"cost": float(cost_of(machine, price_per_hour))} if price_per_hour else {}
        return {
            "queue_seconds": queued,
            "first_token_seconds": first,
            "seconds": total,
            "prompt_tokens_per_second": None if first is None else _rate(computed, first - queued),
            "generated_tokens_per_second": None if first is None else _rate(later, total - first),
            "machine_seconds": machine,
            **cost,
        }


def _rate(n: int, seconds: float) -> float | None:
    return n / seconds if n > 0 and seconds > 0 else None


def check_count(engine: EngineProcess, n_answers: int) -> None:
    """Raises RequestError for more answers than could ever wait."""
    if n_answers > engine.max_pending:
        raise RequestError(
            f"The call asks for {n_answers} answers; the server takes {engine.max_pending} at once.", field="n"
        )


def _of_choice(params: SamplingParams, k: int) -> SamplingParams:
    if params.seed is None or k == 0:
        return params
    return replace(params, seed=(params.seed + k) % 2**64)
