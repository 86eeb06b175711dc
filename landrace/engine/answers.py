"""What a step's logits say to each request: its next token, and the logprobs that it asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from torch import Tensor

from landrace.engine.batch_builder import WantedRows
from landrace.engine.live import Live
from landrace.engine.outputs import TokenLogprob
from landrace.engine.sampler import ChooseTokens, SamplingState, choose_tokens, token_logprobs
from landrace.errors import RequestError, StepError
from landrace.models.sampling import NOT_FINITE


@dataclass(frozen=True)
class Answer:
    """What a step's logits say to one request."""

    tokens: tuple[int, ...]
    """The next ones; none where the step samples none."""
    logprobs: tuple[TokenLogprob, ...]
    """Of those tokens, if they are wanted."""
    scores: tuple[TokenLogprob, ...]
    """Of prompt tokens."""
    error: RequestError | None = None
    """Why there is no answer."""


def answers(logits: Tensor, lives: Sequence[Live], wanted: Sequence[WantedRows], choose: ChooseTokens) -> list[Answer]:
    """What the logits say to each request: to all at once, and where that fails to one after another, so that only
    those whose own it is have none."""
    try:
        return _read(logits, lives, wanted, choose)
    except Exception as cause:  # noqa: BLE001  the request ends, the engine goes on
        if len(lives) == 1:
            return [Answer((), (), (), StepError.of(cause, "choose this request's token"))]
    return [
        answers(logits[rows.rows.start : rows.rows.stop], [live], [rows.alone], choose)[0]
        for live, rows in zip(lives, wanted, strict=True)
    ]


def _read(logits: Tensor, lives: Sequence[Live], wanted: Sequence[WantedRows], choose: ChooseTokens) -> list[Answer]:
    """Changes no state: asked again, the logits say the same."""
    states: list[SamplingState | None] = []
    for live, rows in zip(lives, wanted, strict=True):
        states += [None] * len(rows.scored)
        states += [live.sampling] * rows.n_sampled
    tokens = choose_tokens(logits, states, choose)
    healthy = [NOT_FINITE not in tokens[rows.rows.start : rows.rows.stop] for rows in wanted]
    sound = [pair for pair, fine in zip(zip(lives, wanted, strict=True), healthy, strict=True) if fine]
    logprobs = iter(_logprobs(logits, sound, tokens))
    told = []
    for live, rows, fine in zip(lives, wanted, healthy, strict=True):
        if not fine:
            error = RequestError("The model's logits are not finite numbers for this request.")
            told.append(Answer((), (), (), error))
            continue
        scores = tuple(islice(logprobs, len(rows.scored)))
        chosen = tuple(islice(logprobs, 0 if live.request.params.logprobs is None else rows.n_sampled))
        told.append(Answer(_sampled(rows, tokens), chosen, scores))
    return told


def _logprobs(logits: Tensor, healthy: Sequence[tuple[Live, WantedRows]], tokens: Sequence[int]) -> list[TokenLogprob]:
    """What each request wants to know, request by request: its scored prompt tokens, then its new tokens."""
    rows: list[int] = []
    ids: list[int] = []
    n_top: list[int] = []
    for live, wanted in healthy:
        request, n = live.request, live.request.params.logprobs
        if n is None and not wanted.scored:
            continue
        told = [request.prompt_ids[index] for index in wanted.scored]
        if n is not None:
            told += _sampled(wanted, tokens)
        rows += wanted.rows[: len(told)]
        ids += told
        n_top += [n or 0] * len(told)
    return token_logprobs(logits[rows], ids, n_top) if rows else []


def _sampled(wanted: WantedRows, tokens: Sequence[int]) -> tuple[int, ...]:
    """Of one request's rows, the tokens chosen from those that predict new ones."""
    return tuple(tokens[wanted.rows.stop - wanted.n_sampled : wanted.rows.stop])
