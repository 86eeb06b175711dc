"""What the engine hands back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from landrace.engine.request import Request
from landrace.errors import RequestError
from landrace.text.answers import Event, Parts

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class TokenLogprob:
    """Natural logarithm of a token's probability under the model itself: log_softmax of its logits before any
    penalty, bias, temperature or filter."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...]
    """The most likely tokens and their logprobs, best first, equal ones by id."""


@dataclass(frozen=True)
class StepOutput:
    """What one step produced for one request."""

    request_id: str
    token_ids: tuple[int, ...]
    """New tokens, an end-of-sequence or stop token included."""
    text: str
    """New text in complete characters. No part of a stop string is ever in it: what may become one is held back."""
    logprobs: tuple[TokenLogprob, ...]
    prompt_logprobs: tuple[TokenLogprob, ...]
    """Newly scored prompt tokens, in order."""
    finish_reason: str | None
    """None while it runs; "stop" (end of sequence, stop token or string), "length", "abort" or "error"."""
    error: RequestError | None
    """Set exactly when `finish_reason` is "error"."""
    cached_prompt_tokens: int
    """Prompt tokens that were found in the prefix cache."""
    seed: int | None
    """The seed in use, the request's own or the one drawn for it; None for a request refused before it began."""
    queue_seconds: float = 0.0
    """How long the request waited for its first step."""
    drafted_tokens: int = 0
    """Tokens that were guessed for this step."""
    accepted_tokens: int = 0
    """Of them, those that are among `token_ids`."""
    dropped_tokens: int = 0
    """The oldest tokens of prompt and answer that the request has gone on without so far."""
    events: tuple[Event, ...] = ()
    """What came of the answer, for a request that says how it is taken apart; `text` then shows its marks."""
    thought_tokens: int = 0
    """Tokens of thoughts so far."""
    stop: str | None = None
    """The stop string that ended the answer."""
    read: NDArray[np.float32] | None = None
    """At the end of a request whose prompt is only read: the pooled vector, or the logits of the tokens it names."""
    machine_seconds: float = 0.0
    """The request's share of the engine's time so far."""


@dataclass(frozen=True)
class Completion:
    """A finished request: its step outputs put together."""

    request_id: str
    token_ids: tuple[int, ...]
    text: str
    logprobs: tuple[TokenLogprob, ...]
    prompt_logprobs: tuple[TokenLogprob, ...]
    finish_reason: str
    error: RequestError | None
    prompt_tokens: int
    cached_prompt_tokens: int
    seed: int | None
    """As in `StepOutput`."""
    drafted_tokens: int
    accepted_tokens: int
    dropped_tokens: int
    parts: Parts
    """The answer taken apart, for a request that says how."""
    thought_tokens: int
    read: NDArray[np.float32] | None = None
    """As in `StepOutput`."""
    machine_seconds: float = 0.0
    """As in `StepOutput`."""

    @staticmethod
    def of(request: Request, outputs: Sequence[StepOutput]) -> Completion:
        """Puts together all outputs of a finished request, in order."""
        last = outputs[-1]
        assert last.finish_reason is not None
        return Completion(
            request_id=request.id,
            token_ids=tuple(token for output in outputs for token in output.token_ids),
            text="".join(output.text for output in outputs),
            logprobs=tuple(logprob for output in outputs for logprob in output.logprobs),
            prompt_logprobs=tuple(logprob for output in outputs for logprob in output.prompt_logprobs),
            finish_reason=last.finish_reason,
            error=last.error,
            prompt_tokens=len(request.prompt_ids),
            cached_prompt_tokens=last.cached_prompt_tokens,
            seed=last.seed,
            drafted_tokens=sum(output.drafted_tokens for output in outputs),
            accepted_tokens=sum(output.accepted_tokens for output in outputs),
            dropped_tokens=last.dropped_tokens,
            parts=Parts.of(event for output in outputs for event in output.events),
            thought_tokens=last.thought_tokens,
            read=last.read,
            machine_seconds=last.machine_seconds,
        )
