"""`Recorded`: a pass of a decoder as a program, and what its steps bring with them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from landrace.kernels.cpu.program import Program
from landrace.kernels.cpu.step import Rotary, StepInput
from landrace.kernels.layer_cache import LayerMemory, LayerState
from landrace.models.batch import CacheView, ForwardBatch
from landrace.models.cache_spec import Paged
from landrace.models.recorder import Recorder
from landrace.models.rope import rotary_tables

_FIRST_POSITIONS = 512


class Recorded:
    """`recorder` has recorded `program`, which keeps the layers in `layers` of a cache and sees its `groups`."""

    def __init__(self, program: Program, recorder: Recorder, layers: slice, groups: Sequence[Paged]) -> None:
        self.program = program
        self.slow = tuple(recorder.slow)
        self._ropes = recorder.ropes
        self._given, self._hidden = recorder.given, recorder.kept_hidden
        self._layers, self._groups = layers, groups
        self._tables: dict[int, tuple[Tensor, Tensor]] = {}
        """By index of the rope."""
        self._bound: tuple[LayerMemory, ...] = ()

    def run(self, batch: ForwardBatch, cache: CacheView, adapter_rows: Sequence[Sequence[int]]) -> Tensor:
        """The logits of a step."""
        return self.program.run(self.step(batch, cache, adapter_rows))

    def hidden(self, n_rows: int) -> Tensor:
        """What the head read in the last step."""
        assert self._hidden is not None
        return self.program.read(self._hidden, n_rows)

    def step(self, batch: ForwardBatch, cache: CacheView, adapter_rows: Sequence[Sequence[int]]) -> StepInput:
        """The step that the program computes."""
        if cache.layers is not self._bound:
            layers = cache.layers[self._layers]
            self.program.bind_cache(
                [part for layer in layers if not isinstance(layer, LayerState) for part in layer.parts]
            )
            self.program.bind_states([layer for layer in layers if isinstance(layer, LayerState)])
            self._bound = cache.layers
        if batch.hidden is not None:
            assert self._given is not None
            self.program.write(self._given, batch.hidden)
        n_rows = batch.token_ids.numel()
        n_positions = int(batch.positions.max()) + 1 if n_rows else 0
        return StepInput(
            token_ids=batch.token_ids,
            positions=batch.positions,
            starts=batch.starts,
            groups=tuple(cache.groups[group] for group in self._groups),
            logit_rows=torch.arange(n_rows) if batch.logit_rows is None else batch.logit_rows,
            rotary=[self._rotary(index, batch, n_positions) for index in range(len(self._ropes))],
            adapter_rows=adapter_rows,
            states=None if cache.states is None else cache.states.slots,
            token_types=batch.token_types,
        )

    def _rotary(self, index: int, batch: ForwardBatch, n_positions: int) -> Rotary:
        tables = self._tables.get(index)
        if tables is None or tables[0].shape[0] < n_positions:
            positions = torch.arange(max(2 * n_positions, _FIRST_POSITIONS))
            tables = self._tables[index] = rotary_tables(self._ropes[index], positions)
        return Rotary(*tables, batch.positions)
