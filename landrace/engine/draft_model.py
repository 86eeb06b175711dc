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
from landrace.engine.cache.memory import CacheMemory
from landrace.engine.cache.paged import PagedGroup, blocks_of
from landrace.engine.live import Live
from landrace.engine.options import EngineOptions
from landrace.engine.progress import Progress
from landrace.engine.request import Request
from landrace.engine.sampler import SamplingState, choose_tokens
from landrace.engine.sampling_params import SamplingParams
from landrace.engine.step_times import StepTimes
from landrace.models.cache_spec import Paged
from landrace.models.serving import ServingDecoder

ODDS = 0.7
"""That a guess is right if those before it were, until guesses were seen."""
TRIALS = 4
"""So many guesses count as much as the odds that a request began with."""
MEMORY = 64
"""So many guesses count."""
MARGIN = 1.05
"""A draft is to make so many times as many tokens a second."""
PROBE = 64
"""After so many steps without a draft one guess is tried: the text may have become easier."""


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
        specs = [group.spec for group in decoder.spec.cache_groups if isinstance(group.spec, Paged)]
        n_blocks = [blocks_of(spec, options) for spec in specs]
        n_slots = [n * options.block_size for n in n_blocks]
        self._memory = CacheMemory(decoder, n_slots, options.block_size, cache_dtype)
        self._cache = Cache([PagedGroup(spec, n, options.block_size) for spec, n in zip(specs, n_blocks, strict=True)])
        self._shadows: dict[str, _Shadow] = {}
        self._times = StepTimes()
        self._weight_share = decoder.weight_bytes / weight_bytes
        self._odds = _Odds(ODDS)
        """Of all requests, what a new one begins with."""
        self._silent = 0
        """Steps since the last draft."""

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
        depth = self._depth(shadows, rooms, times)
        self._silent = 0 if depth else self._silent + 1
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
        progress, before = shadow.progress, shadow.progress.cached
        right, wrong = shadow.follow(live.progress.tokens, self._decoder.spec.vocab_size)
        for odds in (shadow.odds, self._odds):
            odds.note(right, wrong)
        if progress.tables:
            self._cache.committed(progress.tables, (), min(before, progress.cached), progress.cached)
        return shadow

    def _depth(self, shadows: Sequence[_Shadow], rooms: Sequence[int], times: StepTimes) -> int:
        """How many tokens to guess ahead: what makes the most tokens a second; 0 where that is not to guess."""
        rows = len(shadows)
        plain = times.seconds(rows) if times.most_rows else 0.0
        guess = self._times.seconds(rows) if self._times.most_rows else self._weight_share * plain
        best, depth, right, guesses = MARGIN, 0, 0.0, 0
        for n in range(1, max(rooms, default=0) + 1):
            deep = [shadow for shadow, room in zip(shadows, rooms, strict=True) if room >= n and shadow.readable]
            guesses += len(deep)
            if not deep or rows + guesses > times.most_rows:
                break
            right += sum(shadow.odds.value**n for shadow in deep)
            faster = (1 + right / rows) * plain / (times.seconds(rows + guesses) + n * guess)
            if faster > best:
                best, depth = faster, n
        return depth or (1 if self._silent >= PROBE and guesses else 0)

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
        self._times.note(batch.token_ids.numel(), time.perf_counter() - started)
        for writer in working:
            writer.progress.cached += writer.progress.scheduled
        ready = [writer for writer, rows in zip(working, wanted, strict=True) if rows.n_sampled]
        chosen = choose_tokens(logits, [writer.state for writer in ready], self._decoder.choose_tokens)
        # A row without probabilities (NOT_FINITE) ends the draft, as a token does that the model does not have.
        pairs = zip(ready, chosen, strict=True)
        return [writer for writer, token in pairs if 0 <= token < vocab_size and writer.wants_more_after(token)]

    def _make_room(self, progress: Progress) -> bool:
        if not progress.tables:
            progress.tables = self._cache.admit((), 0, progress.held, headroom=0) or []
        return bool(progress.tables) and self._cache.grow(progress.tables, progress.cached + progress.scheduled)


class _Odds:
    """How likely a guess is right, from the latest."""

    def __init__(self, value: float) -> None:
        self.value = value
        self._trials = TRIALS

    def note(self, right: int, wrong: int) -> None:
        for outcome in (1.0,) * right + (0.0,) * wrong:
            self._trials = min(self._trials + 1, MEMORY)
            self.value += (outcome - self.value) / self._trials


class _Shadow:
    """A request as the draft model has it."""

    def __init__(self, request: Request, odds: float, readable: bool) -> None:
        # Whether a token is sampled is all that its batches take from the parameters.
        self.progress = Progress(replace(request, adapter=None, params=SamplingParams(max_tokens=1)), b"")
        self.odds = _Odds(odds)
        self.readable = readable
        """Whether the draft model has all of its tokens."""
        self._n_followed = 0
        """Leading tokens that are the request's own; those behind them are guesses."""

    def follow(self, tokens: Sequence[int], vocab_size: int) -> tuple[int, int]:
        """Replaces guesses by what the request has there now; returns how many were right and how many wrong."""
        own = self.progress.tokens
        end = self._n_followed
        while end < min(len(own), len(tokens)) and own[end] == tokens[end]:
            end += 1
        right = end - self._n_followed if self._n_followed else 0
        wrong = int(end < min(len(own), len(tokens)))
        del own[end:]
        own += tokens[end:]
        self.readable = self.readable and max(own[self._n_followed :], default=0) < vocab_size
        self.progress.cached = min(self.progress.cached, end)
        self._n_followed = len(own)
        return right, wrong


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
        self.left -= 1
        if self.left:
            self.state = self.state.after(token)
        return self.left > 0
