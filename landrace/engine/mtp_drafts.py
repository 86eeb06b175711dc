"""`MtpDrafts`: drafts by the model's own layer for the token after the next one, applied to its own guesses.

Like a draft model it chooses by each request's own rule and numbers. Its cache is part of the model's, block by block,
so that what was computed of a prefix is found again with it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, chain

import torch
from torch import Tensor

from landrace.engine.cache.memory import CacheMemory
from landrace.engine.depth import Depth, Odds
from landrace.engine.live import Live
from landrace.engine.progress import Progress
from landrace.engine.sampler import SamplingState, choose_tokens
from landrace.engine.step_times import StepTimes
from landrace.models.batch import CacheView, ForwardBatch
from landrace.models.cache_spec import Paged
from landrace.models.declared import declared
from landrace.models.serving import ServingDecoder
from landrace.models.spec import ModelSpec

WAITING = 64
"""When so many rows wait they are computed, though nobody wants guesses: one by one they would cost more."""


class MtpDrafts:
    """Guesses for all requests of an engine.

    Every row of the model's own steps goes through the layer too, once the token after it is known, and waits until
    guesses are wanted or enough others wait. A request's last row always waits: the next guess comes from it.
    """

    def __init__(self, decoder: ServingDecoder, memory: CacheMemory) -> None:
        spec = decoder.spec
        self._decoder = decoder
        self._memory = memory
        groups = [len(spec.layers) in group.layers for group in spec.cache_groups]
        self._group = groups.index(True)
        kept = spec.cache_groups[self._group].spec
        assert isinstance(kept, Paged)
        self._kept = kept
        self._traces: dict[str, _Trace] = {}
        self._depth = Depth(_share(spec))
        self._odds = Odds()
        """Of all requests, what a new one begins with."""
        self._step: tuple[Tensor, Sequence[int]] | None = None
        """Of the model's latest step: what the head read, and where each request's rows begin."""

    cache_bytes = 0
    """Beside the model's own."""

    def compute(self, decoder: ServingDecoder, batch: ForwardBatch) -> tuple[Tensor, Tensor]:
        """The logits of a step of the model, and what the head read of its rows."""
        logits, hidden = decoder.with_hidden(batch)
        self._step = hidden, batch.starts
        return logits, hidden

    def take(self, lives: Sequence[Live], before: Sequence[int]) -> None:
        """After a step: `before` says how much of each request was cached until then."""
        if self._step is None:
            return
        (hidden, starts), self._step = self._step, None
        running = []
        for live, start, first in zip(lives, starts, before, strict=False):
            progress = live.progress
            if not progress.tables:
                continue  # It has ended.
            trace = self._traces.get(live.request.id)
            if trace is None:
                trace = self._traces[live.request.id] = _Trace(Odds(self._odds.value))
            trace.add(first, hidden[start : start + progress.cached - first])
            running.append((progress, trace))
        if sum(trace.n_waiting for _, trace in running) >= WAITING:
            parts = [trace.part(progress, trace.n_waiting - 1) for progress, trace in running if trace.n_waiting > 1]
            self._compute(parts, logit_rows=[])

    def draft(self, lives: Sequence[Live], rooms: Sequence[int], vocab_size: int, times: StepTimes) -> None:
        """See `DraftModel.draft`."""
        traces = [self._follow(live) for live in lives]
        odds = [None if trace is None else trace.odds.value for trace in traces]
        depth = self._depth.choose(odds, rooms, times)
        writers = []
        for live, trace, room in zip(lives, traces, rooms, strict=True):
            progress, length = live.progress, min(depth, room)
            if trace is not None and length > 0:
                part = trace.part(progress, trace.n_waiting)
                writers.append(_Writer(progress.draft, part, live.sampling, length))
                trace.guesses, trace.held = progress.draft, progress.held
        while writers:
            writers = self._write(writers, vocab_size)

    def forget(self, request_id: str) -> None:
        """After a request has ended."""
        self._traces.pop(request_id, None)

    def _follow(self, live: Live) -> _Trace | None:
        """Judges what was guessed for a request; None where nothing waits that a guess could come from."""
        trace = self._traces.get(live.request.id)
        if trace is None:
            return None
        right, wrong = trace.judge(live.progress.tokens)
        for odds in (trace.odds, self._odds):
            odds.note(right, wrong)
        progress = live.progress
        return trace if trace.n_waiting and trace.end == progress.cached == progress.held - 1 else None

    def _write(self, writers: Sequence[_Writer], vocab_size: int) -> list[_Writer]:
        """One pass: a token more for each. Returns those who go on."""
        started = time.perf_counter()
        last = [end - 1 for end in accumulate(len(writer.part.tokens) for writer in writers)]
        logits, hidden = self._compute([writer.part for writer in writers], logit_rows=last)
        self._depth.times.note(len(hidden), time.perf_counter() - started)
        chosen = choose_tokens(logits, [writer.state for writer in writers], self._decoder.choose_tokens)
        # A row without probabilities (NOT_FINITE) ends the draft, as a token does that the model does not have.
        return [
            writer
            for writer, token, row in zip(writers, chosen, last, strict=True)
            if 0 <= token < vocab_size and writer.wants_more_after(token, hidden[row : row + 1])
        ]

    def _compute(self, parts: Sequence[_Part], logit_rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        """The layer's logits of some rows, and what the head read of all."""
        memory = self._memory
        tables = [part.progress.tables[self._group] for part in parts]
        ends = [part.first + len(part.tokens) for part in parts]
        positions = [range(part.first, end) for part, end in zip(parts, ends, strict=True)]
        slots = [
            memory.places(table, one.start, one.stop, one.stop, self._group)
            for table, one in zip(tables, positions, strict=True)
        ]
        tokens = [token for part in parts for token in part.tokens]
        lists = (tokens, chain.from_iterable(positions), chain.from_iterable(slots), logit_rows)
        ids, places, written, wanted = (
            torch.tensor(list(one), dtype=torch.int64, device=memory.device) for one in lists
        )
        batch = ForwardBatch(
            token_ids=ids,
            positions=places,
            starts=(0, *accumulate(len(part.tokens) for part in parts)),
            logit_rows=wanted,
            cache=CacheView(memory.layers, {self._kept: memory.group_view(tables, ends, written)}),
            hidden=torch.cat([part.hidden for part in parts]),
        )
        return self._decoder.with_hidden(batch)


@dataclass(frozen=True)
class _Part:
    """Rows of one request in a pass."""

    progress: Progress
    first: int
    """Position of the first."""
    hidden: Tensor
    """[n, d_model]: what the head read there."""
    tokens: Sequence[int]
    """After each."""


class _Trace:
    """What the layer has still to compute of a request, and what was guessed for it."""

    def __init__(self, odds: Odds) -> None:
        self.odds = odds
        self.first = 0
        """Position of the first row that waits."""
        self.hidden: list[Tensor] = []
        """Each [n, d_model]: of all, in order."""
        self.guesses: Sequence[int] = ()
        self.held = 0
        """How many tokens the request had before them."""

    @property
    def n_waiting(self) -> int:
        return sum(len(rows) for rows in self.hidden)

    @property
    def end(self) -> int:
        return self.first + self.n_waiting

    def add(self, first: int, hidden: Tensor) -> None:
        """Rows from `first` on. What waited before another beginning is dropped."""
        if not self.hidden or self.end != first:
            self.first, self.hidden = first, []
        self.hidden.append(hidden.clone())

    def part(self, progress: Progress, n: int) -> _Part:
        """Takes the first n rows."""
        first, end, hidden = self.first, self.first + n, torch.cat(self.hidden)
        self.first, self.hidden = end, [hidden[n:]] if n < len(hidden) else []
        return _Part(progress, first, hidden[:n], progress.tokens[first + 1 : end + 1])

    def judge(self, tokens: Sequence[int]) -> tuple[int, int]:
        """How many of the guesses were right, and how many wrong, by the request's tokens."""
        said = tokens[self.held : self.held + len(self.guesses)]
        right = next((n for n, token in enumerate(said) if token != self.guesses[n]), len(said))
        self.guesses = ()
        return right, int(right < len(said))


@dataclass
class _Writer:
    """A draft that grows."""

    draft: list[int]
    part: _Part
    """What its next pass computes."""
    state: SamplingState
    left: int
    """Most tokens that it may still get."""

    def wants_more_after(self, token: int, hidden: Tensor) -> bool:
        """Adds a token; whether there may be another behind it."""
        self.draft.append(token)
        self.left -= 1
        if self.left:
            self.state = self.state.after(token)
            end = self.part.first + len(self.part.tokens)
            self.part = _Part(self.part.progress, end, hidden, [token])
        return self.left > 0


def _share(spec: ModelSpec) -> float:
    """What of the weights that a token's step reads the layer and the head are."""
    params = declared(spec)
    head = "embed_tokens." if spec.tie_embeddings else "lm_head."
    used = [(param, param.share * param.size) for param in params if spec.tie_embeddings or param.role != "table"]
    guess = sum(size for param, size in used if param.name.startswith(("mtp.", head)))
    return guess / sum(size for param, size in used if not param.name.startswith("mtp."))
