"""`DraftModel`: a smaller decoder that writes ahead, so that the model itself only has to look whether it was right.

It chooses by each request's own rule and by the very numbers that the model will choose by (`draws`): where the two
agree about what is likely they draw the same token, greedily or not.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from landrace.engine.batch_builder import build_batch
from landrace.engine.cache.cache import Cache
from landrace.engine.cache.kinds import new_group, slots_of
from landrace.engine.cache.memory import CacheMemory
from landrace.engine.depth import Depth, Odds
from landrace.engine.live import Live
from landrace.engine.options import EngineOptions
from landrace.engine.progress import Progress
from landrace.engine.request import Request
from landrace.engine.sampler import SamplingState, choose_tokens
from landrace.engine.sampling_params import SamplingParams
from landrace.engine.step_times import StepTimes
from landrace.models.serving import ServingDecoder


class DraftModel:
    """Guesses for all requests of an engine.

    Its cache follows the requests: what was guessed wrong is computed again, and of a prompt nothing is computed before
    guesses are wanted. A request that its cache has no room for has no drafts.
    `weight_bytes`: of the model that judges the guesses, for a first idea of what a guess costs beside it.
    """

    def __init__(
        self, decoder: ServingDecoder, options: EngineOptions, cache_dtype: torch.dtype | None, weight_bytes: int
    ) -> None:
        self._decoder = decoder
        self._most_tokens = options.max_step_tokens
        specs = [group.spec for group in decoder.spec.cache_groups]
        n_slots = [slots_of(spec, options) for spec in specs]
        self._memory = CacheMemory(decoder, n_slots, options.block_size, cache_dtype, options.most_guesses)
        self._cache = Cache([new_group(spec, options) for spec in specs])
        self._shadows: dict[str, _Shadow] = {}
        self._depth = Depth(decoder.weight_bytes / weight_bytes)
        self._odds = Odds()
        """Of all requests, what a new one begins with."""

    @property
    def cache_bytes(self) -> int:
        """Memory of its cache."""
        return self._memory.nbytes

    def draft(self, lives: Sequence[Live], rooms: Sequence[int], vocab_size: int, times: StepTimes) -> None:
        """Gives each request a draft of at most so many tokens, all below `vocab_size`, if that makes more tokens a
        second. `times`: what rows cost the model that judges them."""
        shadows = [self._follow(live) for live in lives]
        longest = self._decoder.spec.max_length
        rooms = [min(room, longest - live.progress.held) for live, room in zip(lives, rooms, strict=True)]
        odds = [shadow.odds.value if shadow.readable else None for shadow in shadows]
        depth = self._depth.choose(odds, rooms, times)
        writers = [
            _Writer(live.progress.draft, shadow.progress, live.sampling, min(depth, room))
            for live, shadow, room in zip(lives, shadows, rooms, strict=True)
            if depth and room > 0 and shadow.readable
        ]
        while writers:
            writers = self._write(writers, vocab_size)

    def forget(self, request_id: str) -> None:
        """Gives back what a request that has ended holds."""
        shadow = self._shadows.pop(request_id, None)
        if shadow is not None and shadow.progress.tables:
            self._cache.release(shadow.progress.tables)

    def _follow(self, live: Live) -> _Shadow:
        """Takes up what became of a request since the last step."""
        shadow = self._shadows.get(live.request.id)
        if shadow is None:
            readable = max(live.request.params.logit_bias, default=0) < self._decoder.spec.vocab_size
            shadow = self._shadows[live.request.id] = _Shadow(live.request, self._odds.value, readable)
        right, wrong = shadow.follow(live.progress.tokens, self._decoder.spec.vocab_size)
        for odds in (shadow.odds, self._odds):
            odds.note(right, wrong)
        return shadow

    def _write(self, writers: Sequence[_Writer], vocab_size: int) -> list[_Writer]:
        """One pass: a token more for whoever has no more to read. Returns those who go on."""
        budget, working = self._most_tokens, []
        for writer in writers:
            progress = writer.progress
            progress.scheduled = min(progress.left, budget)
            if progress.scheduled and self._make_room(progress):
                working.append(writer)
                budget -= progress.scheduled
        if not working:
            return []
        started = time.perf_counter()
        batch, wanted = build_batch([writer.progress for writer in working], self._memory, {})
        logits = self._decoder(batch)
        self._depth.times.note(batch.token_ids.numel(), time.perf_counter() - started)
        for writer in working:
            self._commit(writer.progress)
        ready = [writer for writer, rows in zip(working, wanted, strict=True) if rows.n_sampled]
        chosen = choose_tokens(logits, [writer.state for writer in ready], self._decoder.choose_tokens)
        # A row without probabilities (NOT_FINITE) ends the draft, as a token does that the model does not have.
        pairs = zip(ready, chosen, strict=True)
        return [writer for writer, token in pairs if 0 <= token < vocab_size and writer.wants_more_after(token)]

    def _commit(self, progress: Progress) -> None:
        """Of what was computed, what a later guess may be wrong about counts as cached, but nothing before it is given
        back, and no state has it."""
        before = progress.cached
        progress.cached += progress.scheduled
        sure = min(progress.cached, progress.held - progress.guessed)
        self._cache.committed(progress.tables, (), min(before, sure), sure, sure)

    def _make_room(self, progress: Progress) -> bool:
        if not progress.tables:
            progress.tables = self._cache.admit((), 0, progress.held, headroom=0) or []
        return bool(progress.tables) and self._cache.grow(progress.tables, progress.cached + progress.scheduled)


class _Shadow:
    """A request as the draft model has it."""

    def __init__(self, request: Request, odds: float, readable: bool) -> None:
        # Whether a token is sampled is all that its batches take from the parameters.
        self.progress = Progress(replace(request, adapter=None, params=SamplingParams(max_tokens=1)), b"")
        self.odds = Odds(odds)
        self.readable = readable
        """Whether the draft model has all of its tokens."""
        self.progress.guessed = self.progress.held  # So that all of it is looked at.

    def follow(self, tokens: Sequence[int], vocab_size: int) -> tuple[int, int]:
        """Replaces guesses by what the request has there now; returns how many were right and how many wrong."""
        progress, own = self.progress, self.progress.tokens
        begin = end = progress.held - progress.guessed
        while end < min(len(own), len(tokens)) and own[end] == tokens[end]:
            end += 1
        wrong = int(end < min(len(own), len(tokens)))
        del own[end:]
        own += tokens[end:]
        self.readable = self.readable and max(own[begin:], default=0) < vocab_size
        progress.cached, progress.guessed = min(progress.cached, end), 0
        return end - begin if begin else 0, wrong


@dataclass
class _Writer:
    """A draft that grows."""

    draft: list[int]
    progress: Progress
    """The draft model's own."""
    state: SamplingState
    left: int
    """Most tokens that it may still get."""

    def wants_more_after(self, token: int) -> bool:
        """Adds a token; whether there may be another behind it."""
        self.draft.append(token)
        self.progress.tokens.append(token)
        self.progress.guessed += 1
        self.left -= 1
        if self.left:
            self.state = self.state.after(token)
        return self.left > 0
