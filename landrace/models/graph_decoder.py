"""`GraphDecoder`: a decoder that serves on a CUDA device, with Triton kernels and steps as graphs.

The host needs longer to send the launches of a layer than the device to run them. A step is recorded once for so many
rows, padded, and then sent as one.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from landrace.kernels.capability import has_triton
from landrace.kernels.layer_cache import LayerMemory
from landrace.kernels.sampling_rule import SamplingRule
from landrace.models.batch import ForwardBatch
from landrace.models.decoder import Decoder
from landrace.models.lora_spec import LoraSpec
from landrace.models.reference_ops import ReferenceOps
from landrace.models.repeated_step import RepeatedStep, StepSizes, repeatable, sizes_of

_TIMES = 3
"""Sizes are recorded when they are met so often: recording takes as long as a hundred steps."""


class _Recorded:
    """A step's graph, the tensors that it reads and the logits that it writes. `pool`: memory that graphs share, of
    which one runs at a time."""

    def __init__(self, step: RepeatedStep, layers: tuple[LayerMemory, ...], pool: Any) -> None:
        self._step = step
        self._graph = torch.cuda.CUDAGraph()
        aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):  # libraries set themselves up before they are recorded
            self._step.compute(layers)
        torch.cuda.current_stream().wait_stream(aside)
        with torch.cuda.graph(self._graph, pool, capture_error_mode="thread_local"):
            self._logits = self._step.compute(layers)

    def __call__(self, batch: ForwardBatch) -> Tensor:
        self._step.fill(batch)
        self._graph.replay()
        assert batch.logit_rows is not None
        return self._logits[: len(batch.logit_rows)].clone()  # the next step writes there


class _OfCache:
    """The steps that were recorded on one cache. They share a pool and go together: a pool cannot be used again when
    all graphs in it are gone."""

    def __init__(self) -> None:
        self.pool = torch.cuda.graph_pool_handle()
        self.recorded: dict[StepSizes, _Recorded] = {}


class GraphDecoder:
    """See `ServingDecoder`. No graphs are steps with adapters and those of models that select positions or have states,
    nor prompts where there are latents or no Triton."""

    cache_tile = 1
    slow: tuple[str, ...] = ()

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self.spec = decoder.spec
        self._operations = _operations(decoder)
        self._repeatable = repeatable(decoder.spec, self._operations)
        self._recorded: dict[int, _OfCache] = {}
        """By cache, for as long as it lives."""
        self._met: Counter[StepSizes] = Counter()

    @property
    def device(self) -> torch.device:
        return self._decoder.device

    @property
    def weight_bytes(self) -> int:
        """Memory that the weights take."""
        return self._decoder.weight_bytes

    @property
    def held_bytes(self) -> dict[str, int]:
        """See `ServingDecoder`."""
        return self._decoder.held_bytes

    def around_step(self) -> AbstractContextManager[None]:
        """See `ServingDecoder`."""
        return self._decoder.around_step()

    def new_cache(
        self, n_slots: Sequence[int], dtype: torch.dtype | None = None, n_guesses: int = 0
    ) -> tuple[LayerMemory, ...]:
        """See `ServingDecoder`. Keys and values are kept in what they are computed in. Layers have a slot more than is
        asked for, which padded rows write."""
        return self._decoder.new_cache([n + 1 for n in n_slots], dtype or self._decoder.product_dtype, n_guesses)

    def add_adapter(self, spec: LoraSpec, tensors: Mapping[str, Tensor]) -> int:
        """See `ServingDecoder`."""
        return self._decoder.add_adapter(spec, tensors)

    def remove_adapter(self, place: int) -> None:
        """See `ServingDecoder`."""
        self._decoder.remove_adapter(place)

    def choose_tokens(
        self,
        logits: Tensor,
        rows: Sequence[int],
        rules: Sequence[SamplingRule],
        uniforms: Sequence[float],
        masks: Sequence[Tensor | None] = (),
    ) -> list[int]:
        """See `ServingDecoder`."""
        return self._decoder.choose_tokens(logits, rows, rules, uniforms, masks)

    def with_hidden(self, batch: ForwardBatch) -> tuple[Tensor, Tensor]:
        """See `ServingDecoder`. Never a graph."""
        return self._decoder.with_hidden(batch, self._operations)

    def __call__(self, batch: ForwardBatch) -> Tensor:
        """See `ServingDecoder`."""
        sizes = sizes_of(batch, self.spec, self._operations) if self._repeatable else None
        if sizes is None or batch.cache is None:
            return self._directly(batch)
        layers = batch.cache.layers
        own = self._of_cache(layers)
        if sizes not in own.recorded:
            self._met[sizes] += 1
            if self._met[sizes] < _TIMES:
                return self._directly(batch)
            step = RepeatedStep(self._decoder, layers, sizes, self._operations)
            step.fill(batch)
            own.recorded[sizes] = _Recorded(step, layers, own.pool)
        return own.recorded[sizes](batch)

    def _directly(self, batch: ForwardBatch) -> Tensor:
        decoder = self._decoder
        return decoder.compute(self._operations(batch, decoder.adapters, decoder.product_dtype, None))

    def _of_cache(self, layers: tuple[LayerMemory, ...]) -> _OfCache:
        first = layers[0]
        if id(first) not in self._recorded:
            self._recorded[id(first)] = _OfCache()
            weakref.finalize(first, self._recorded.pop, id(first), None)
        return self._recorded[id(first)]


def _operations(decoder: Decoder) -> type[ReferenceOps]:
    """What computes on the decoder's device."""
    if not has_triton(decoder.device):
        return ReferenceOps
    from landrace.models.gpu_ops import GpuOps

    GpuOps.prepare(decoder)
    return GpuOps
