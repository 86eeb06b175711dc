"""`Drafting`: adds drafts to the steps of an engine where they make more tokens a second."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from landrace.engine.draft_model import DraftModel
from landrace.engine.live import Live
from landrace.engine.options import NGRAM, EngineOptions
from landrace.engine.step_times import StepTimes
from landrace.errors import OptionError
from landrace.models.serving import ServingDecoder


class Drafting:
    """Drafts for all requests of an engine, and what rows cost in it.

    A draft takes nothing from anybody: only a step that computes no prompts has any, they share what is left of its
    tokens, and each lies in the cache block that its request's last token needs anyway. What a rejected guess leaves
    there is overwritten by the token that takes its place, and no row sees it before.
    """

    def __init__(self, options: EngineOptions, max_length: int, vocab_size: int, model: DraftModel | None) -> None:
        """`model` writes them; without one they are n-grams of what was said before."""
        self._block_size = options.block_size
        self._max_step_tokens = options.max_step_tokens
        self._max_length = max_length
        self._vocab_size = vocab_size
        self._model = model
        self._times = StepTimes()

    @property
    def cache_bytes(self) -> int:
        """Memory of a draft model's cache."""
        return self._model.cache_bytes if self._model else 0

    @contextmanager
    def step(self, lives: Sequence[Live]) -> Iterator[None]:
        """Around the computation of a step: these requests have their drafts in it, and its time tells what rows
        cost."""
        if self._model is None:
            for live in lives:
                live.drafter.read()
        if any(live.progress.left > 1 for live in lives):
            yield
            return
        if self._model is None:
            self._draft_ngrams(lives)
        else:
            self._model.draft(lives, self._rooms(lives), self._vocab_size, self._times)
        rows = sum(1 + len(live.progress.draft) for live in lives)
        started = time.perf_counter()
        yield
        self._times.note(rows, time.perf_counter() - started)

    def forget(self, request_id: str) -> None:
        """After a request has ended."""
        if self._model is not None:
            self._model.forget(request_id)

    def _draft_ngrams(self, lives: Sequence[Live]) -> None:
        rows, expected = len(lives), float(len(lives))
        for live in lives:
            room = min(self._room(live), self._max_step_tokens - rows)
            live.progress.draft, right = live.drafter.draft(room, rows, expected, self._times)
            rows, expected = rows + len(live.progress.draft), expected + right

    def _rooms(self, lives: Sequence[Live]) -> list[int]:
        """Most tokens of each draft: they share evenly what is left of a step."""
        share = (self._max_step_tokens - len(lives)) // len(lives)
        return [min(self._room(live), share) for live in lives]

    def _room(self, live: Live) -> int:
        """Most tokens of a draft: to the end of the last token's block, and one less than the answer can still have,
        since every step chooses one itself."""
        progress = live.progress
        left = min(live.request.params.max_tokens - progress.n_output, self._max_length - progress.held)
        return min(-progress.held % self._block_size, left - 1)


def drafting(
    options: EngineOptions,
    decoder: ServingDecoder,
    draft_model: ServingDecoder | None,
    cache_dtype: torch.dtype | None,
    max_length: int,
) -> Drafting | None:
    """What `options.draft` asks for; None also where the model has recurrent states, which cannot be taken back to
    before a wrong guess.

    OptionError where a draft model is asked for and there is none, or the other way round, or it has such states
    itself.
    """
    named = options.draft not in (None, NGRAM)
    if named != (draft_model is not None):
        raise OptionError(f"draft is {options.draft!r}, and there is {'no' if named else 'a'} model to write drafts.")
    if options.draft is None or decoder.spec.recurrent:
        return None
    if draft_model is not None and draft_model.spec.recurrent:
        raise OptionError(
            f"{options.draft} has recurrent states, which cannot be taken back to before a wrong guess.",
            hint="Choose another draft model, or ngram.",
        )
    model = DraftModel(draft_model, options, cache_dtype, decoder.weight_bytes) if draft_model else None
    return Drafting(options, max_length, decoder.spec.vocab_size, model)
