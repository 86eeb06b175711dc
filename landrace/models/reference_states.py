"""`ReferenceStates`: the states of one step in PyTorch. What guesses would change lies beside them: see `StateView`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from landrace.kernels.layer_cache import LayerState
from landrace.kernels.ngrams import NGrams
from landrace.kernels.reference.ngrams import ngram_rows
from landrace.kernels.reference.recurrence import Rows, recur
from landrace.kernels.reference.short_conv import short_conv
from landrace.models.batch import ForwardBatch


@dataclass(frozen=True)
class _Passage:
    """How a sequence's rows, `begin` to `end`, go through its state; the guesses among them begin at `guesses`."""

    read: int
    written: int
    kept: int
    begin: int
    guesses: int
    end: int
    position: int

    @property
    def moves(self) -> bool:
        return self.begin < self.guesses


class ReferenceStates:
    def __init__(self, batch: ForwardBatch) -> None:
        view = batch.cache
        n_sequences = len(batch.starts) - 1
        slots = [[0] * 4] * n_sequences if view is None or view.states is None else view.states.slots.tolist()
        self._ids, self._device = batch.token_ids, batch.token_ids.device
        self._layers = None if view is None else view.layers
        self._passages = [
            _Passage(
                read, written, kept, start, end - n, end, int(batch.positions[start]) if start < end and view else 0
            )
            for (read, written, kept, n), (start, end) in zip(slots, pairwise(batch.starts), strict=True)
        ]
        passages = self._passages
        self._starts = batch.starts
        self._positions = [one.position for one in passages]
        self._kept = [one.kept for one in passages]
        self._n_guesses = [one.end - one.guesses for one in passages]
        self._read, self._written = (
            self._index(getattr(one, name) for one in passages) for name in ("read", "written")
        )
        self._moving = self._index(s for s, one in enumerate(passages) if one.moves)
        self._begins = torch.tensor([one.position == 0 for one in passages], device=self._device)
        places = [
            (row, one.written, row - one.guesses + (0 if one.moves else one.kept))
            for one in passages
            for row in range(one.guesses, one.end)
        ]
        self._guess_rows, self._guess_states, self._guess_places = (
            self._index(place[column] for place in places) for column in range(3)
        )

    def convolve(self, cache: int, part: int, x: Tensor, taps: Tensor) -> Tensor:
        """See `Ops.conv`, for one of its kernels, [channels, width]."""
        if self._layers is None:
            return short_conv(x, taps, self._starts, None)[0]
        kept, before = self._part(cache, part), taps.shape[1] - 1
        rows = torch.tensor(self._kept, device=self._device)[:, None] + torch.arange(before, device=self._device)
        tails = self._unless_it_begins(kept[self._read[:, None], rows])
        y, left = short_conv(x, taps, self._starts, tails, self._n_guesses)
        kept[self._written[self._moving], :before] = left[self._moving]
        kept[self._guess_states, before + self._guess_places] = x[self._guess_rows].float()
        return y

    def ngrams(self, cache: int, part: int, form: NGrams) -> Tensor:
        """`ngram_rows` of the step's tokens."""
        ids, n = self._ids, form.n_before
        if self._layers is None:
            return ngram_rows(ids, self._starts, None, form)[0]
        kept = self._part(cache, part)
        found = [
            torch.cat((kept[one.read, n : n + one.kept].flip(0), kept[one.read, :n]))[:n] for one in self._passages
        ]
        before = self._unless_it_begins(torch.stack(found))
        rows, left = ngram_rows(ids, self._starts, before, form, self._n_guesses)
        kept[self._written[self._moving], :n] = left[self._moving].float()
        kept[self._guess_states, n + self._guess_places] = (ids[self._guess_rows] + 1).float()
        return rows

    def recur(self, cache: int, q: Tensor, changing: Sequence[Tensor], rows_of: Callable[..., Rows]) -> Tensor:
        """`recur` of rows_of(q, *changing); `changing` is what a row needs to change a state, k first."""
        rows = rows_of(q, *changing)
        if self._layers is None:
            return recur(rows, self._starts, self._positions, None)[0]
        kept, guesses = self._part(cache, -2), self._part(cache, -1)
        states = self._unless_it_begins(kept[self._read])
        if any(self._kept):
            right = torch.cat([guesses[one.read, : one.kept] for one in self._passages])
            columns = torch.split(right, [x.shape[1] for x in changing], -1)
            firsts = [one.position - one.kept for one in self._passages]
            states = recur(rows_of(columns[0], *columns), _starts(self._kept), firsts, states)[1]
        sure = self._index(row for one in self._passages for row in range(one.begin, one.guesses))
        lengths = [one.guesses - one.begin for one in self._passages]
        out = torch.empty_like(rows.v)
        out[sure], states = recur(rows.at(sure), _starts(lengths), self._positions, states)
        kept[self._written[self._moving]] = states[self._moving]
        if len(self._guess_rows):
            firsts = [one.position + length for one, length in zip(self._passages, lengths, strict=True)]
            out[self._guess_rows], _ = recur(rows.at(self._guess_rows), _starts(self._n_guesses), firsts, states)
            own = torch.cat([x[self._guess_rows].float() for x in changing], -1)
            guesses[self._guess_states, self._guess_places] = own
        return out

    def _part(self, cache: int, part: int) -> Tensor:
        assert self._layers is not None
        layer = self._layers[cache]
        assert isinstance(layer, LayerState)
        return layer.parts[part]

    def _unless_it_begins(self, found: Tensor) -> Tensor:
        """Of each sequence what was found, or zeros."""
        return torch.where(self._begins.view(-1, *[1] * (found.dim() - 1)), 0.0, found)

    def _index(self, numbers: Iterable[int]) -> Tensor:
        return torch.tensor(list(numbers), dtype=torch.long, device=self._device)


def _starts(lengths: Sequence[int]) -> list[int]:
    return [0, *accumulate(lengths)]
