"""`Drafting`: adds drafts to the steps of an engine where they make more tokens a second."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from landrace.engine.cache.memory import CacheMemory
from landrace.engine.cache.state import snapshots_every
from landrace.engine.draft_model import DraftModel
from landrace.engine.live import Live
from landrace.engine.mtp_drafts import MtpDrafts
from landrace.engine.options import MTP, EngineOptions
from landrace.engine.step_times import StepTimes
from landrace.errors import OptionError
from landrace.models.batch import ForwardBatch
from landrace.models.serving import ServingDecoder
from landrace.models.spec import ModelSpec


class Drafting:
    """Drafts for all requests of an engine.

    A draft takes nothing from anybody: only a step that computes no prompts has any, they share what is left of its
    tokens, and each lies in the cache block that its request's last token needs anyway. What a rejected guess leaves
    there is overwritten by the token that takes its place, and no row sees it before. States do not have guesses in
    them, so none goes past the last token of a snapshot.
    """

    def __init__(
        self,
        options: EngineOptions,
        spec: ModelSpec,
        max_length: int,
        writer: DraftModel | MtpDrafts | None,
        times: StepTimes,
    ) -> None:
        """`writer` writes them; without one they are n-grams of what was said before. `times`: of steps without
        prompts."""
        self._block_size = options.block_size
        self._snapshots = snapshots_every(options) if spec.recurrent else None
        self._max_step_tokens = options.max_step_tokens
        self._max_length = max_length
        self._vocab_size = spec.vocab_size
        self._writer = writer
        self._mtp = writer if isinstance(writer, MtpDrafts) else None
        self._times = times

    @property
    def cache_bytes(self) -> int:
        """Memory of a draft model's cache."""
        return self._writer.cache_bytes if self._writer else 0

    @contextmanager
    def step(self, lives: Sequence[Live]) -> Iterator[None]:
        """Around the computation of a step: these requests have their drafts in it."""
        cached = [live.progress.cached for live in lives]
        if self._writer is None:
            for live in lives:
                live.drafter.read()
        if not all(live.progress.decodes for live in lives):
            yield
        else:
            self._draft(lives)
            yield
        if self._mtp is not None:
            self._mtp.take(lives, cached)

    def compute(self, decoder: ServingDecoder, batch: ForwardBatch, with_hidden: bool) -> tuple[Tensor, Tensor | None]:
        """The logits of a step, and what the head read of its rows where that is wanted or needed here."""
        if self._mtp is not None:
            return self._mtp.compute(decoder, batch)
        return decoder.with_hidden(batch) if with_hidden else (decoder(batch), None)

    def forget(self, request_id: str) -> None:
        """After a request has ended."""
        if self._writer is not None:
            self._writer.forget(request_id)

    def _draft(self, lives: Sequence[Live]) -> None:
        if self._writer is None:
            self._draft_ngrams(lives)
        else:
            self._writer.draft(lives, self._rooms(lives), self._vocab_size, self._times)

    def _draft_ngrams(self, lives: Sequence[Live]) -> None:
        rows, expected = _rows(lives), float(len(lives))
        for live in lives:
            room = min(self._room(live), self._max_step_tokens - rows)
            live.progress.draft, right = live.drafter.draft(room, rows, expected, self._times)
            rows, expected = rows + len(live.progress.draft), expected + right

    def _rooms(self, lives: Sequence[Live]) -> list[int]:
        """Most tokens of each draft: they share evenly what is left of a step."""
        share = (self._max_step_tokens - _rows(lives)) // len(lives)
        return [min(self._room(live), share) for live in lives]

    def _room(self, live: Live) -> int:
        """Most tokens of a draft: to the end of the last token's block, and one less than the answer can still have,
        since every step chooses one itself. None where this step does not come to the last token."""
        progress = live.progress
        if progress.scheduled < progress.left:
            return 0
        left = min(live.request.params.max_tokens - progress.n_output, self._max_length - progress.held)
        room = min(-progress.held % self._block_size, left - 1)
        return room if self._snapshots is None else min(room, max(0, -progress.held % self._snapshots - 1))


def _rows(lives: Sequence[Live]) -> int:
    """What a step computes without drafts."""
    return sum(live.progress.scheduled for live in lives)


def drafting(
    options: EngineOptions,
    decoder: ServingDecoder,
    memory: CacheMemory,
    draft_model: ServingDecoder | None,
    cache_dtype: torch.dtype | None,
    max_length: int,
    times: StepTimes,
) -> Drafting | None:
    """What `options.draft` asks for. `memory`: the engine's cache. `times`: as in `Drafting`. OptionError where a draft
    model, or the decoder's MTP layer, is asked for and there is none, or a draft model is there and not asked for."""
    named = options.draft_model is not None
    if named != (draft_model is not None):
        raise OptionError(f"draft is {options.draft!r}, and there is {'no' if named else 'a'} model to write drafts.")
    writer: DraftModel | MtpDrafts | None = None
    if draft_model is not None:
        writer = DraftModel(draft_model, options, cache_dtype, decoder.weight_bytes)
    elif options.draft == MTP:
        if decoder.spec.mtp is None:
            raise OptionError("draft is mtp, and the model was opened without such a layer.")
        writer = MtpDrafts(decoder, memory)
    return None if options.draft is None else Drafting(options, decoder.spec, max_length, writer, times)
