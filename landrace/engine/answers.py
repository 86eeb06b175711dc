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


def answers(
    logits: Tensor,
    lives: Sequence[Live],
    wanted: Sequence[WantedRows],
    states: Sequence[Sequence[SamplingState]],
    choose: ChooseTokens,
) -> list[Answer]:
    """What the logits say to each request: to all at once, and where that fails to one after another, so that only
    those whose own it is have none. `states`: what each request's tokens are chosen by, `n_sampled` of them."""
    try:
        return _read(logits, lives, wanted, states, choose)
    except Exception as cause:  # noqa: BLE001  the request ends, the engine goes on
        if len(lives) == 1:
            return [Answer((), (), (), StepError.of(cause, "choose this request's token"))]
    return [
        answers(logits[rows.rows.start : rows.rows.stop], [live], [rows.alone], [own], choose)[0]
        for live, rows, own in zip(lives, wanted, states, strict=True)
    ]


def _read(
    logits: Tensor,
    lives: Sequence[Live],
    wanted: Sequence[WantedRows],
    states: Sequence[Sequence[SamplingState]],
    choose: ChooseTokens,
) -> list[Answer]:
    """Changes no state: asked again, the logits say the same."""
    of_rows: list[SamplingState | None] = []
    for rows, own in zip(wanted, states, strict=True):
        of_rows += [None] * (len(rows.rows) - rows.n_sampled)
        of_rows += own
    chosen = choose_tokens(logits, of_rows, choose)
    told = [_Told(live, rows, chosen) for live, rows in zip(lives, wanted, strict=True)]
    logprobs = iter(_logprobs(logits, [one for one in told if one.sound]))
    result = []
    for one in told:
        if not one.sound:
            error = one.unguided or RequestError("The model's logits are not finite numbers for this request.")
            result.append(Answer((), (), (), error))
            continue
        scores = tuple(islice(logprobs, len(one.rows.scored)))
        of_tokens = tuple(islice(logprobs, 0 if one.n_top is None else len(one.tokens)))
        result.append(Answer(one.tokens, of_tokens, scores))
    return result


class _Told:
    """What the rows of one request chose."""

    def __init__(self, live: Live, rows: WantedRows, chosen: Sequence[int]) -> None:
        """`chosen`: by all rows of the step."""
        self.rows = rows
        first_sampled = rows.rows.stop - rows.n_sampled
        self.tokens = _kept(chosen[first_sampled : rows.rows.stop], live.progress.draft)
        self.sound = NOT_FINITE not in (*chosen[rows.rows.start : first_sampled], *self.tokens)
        guiding = live.sampling.guiding
        self.unguided = None if guiding is None else guiding.error
        self.n_top = live.request.params.logprobs
        self.prompt_ids = live.request.prompt_ids


def _kept(chosen: Sequence[int], draft: Sequence[int]) -> tuple[int, ...]:
    """Of the tokens chosen after the last one and after each of the draft, those that would have been chosen without
    it: up to the first that differs from the guess, since the rows behind that one go on from something else."""
    right = next((n for n, guess in enumerate(draft) if chosen[n] != guess), len(draft))
    kept = tuple(chosen[: right + 1])
    # A row without probabilities is an error when its turn comes, in the next step.
    return kept[:-1] if right and kept[-1] == NOT_FINITE else kept


def _logprobs(logits: Tensor, told: Sequence[_Told]) -> list[TokenLogprob]:
    """What each request wants to know, request by request: its scored prompt tokens, then its new tokens."""
    rows: list[int] = []
    ids: list[int] = []
    n_top: list[int] = []
    for one in told:
        own = [one.prompt_ids[index] for index in one.rows.scored]
        if one.n_top is not None:
            own += one.tokens
        rows += one.rows.rows[: len(own)]
        ids += own
        n_top += [one.n_top or 0] * len(own)
    return token_logprobs(logits[rows], ids, n_top) if rows else []
