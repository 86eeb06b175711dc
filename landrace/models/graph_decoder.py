"""`GraphDecoder`: a decoder that serves on a CUDA device, with Triton kernels and decode steps as graphs.

The host needs longer to send the launches of a layer than the device to run them. A step of one row a sequence is
recorded once for so many rows and so many keys, and then sent as one.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from landrace.kernels.capability import has_triton
from landrace.kernels.gpu.paged import SPAN
from landrace.kernels.layer_cache import LayerMemory
from landrace.kernels.sampling_rule import SamplingRule
from landrace.models.batch import ForwardBatch
from landrace.models.cache_spec import Paged
from landrace.models.decode_step import DecodeStep, groups_read, repeatable
from landrace.models.decoder import Decoder
from landrace.models.lora_spec import LoraSpec
from landrace.models.reference_ops import ReferenceOps

_TIMES = 3
"""Sizes are recorded when they are met so often: recording takes as long as a hundred steps."""
_WASTE = 4
"""A step may have so many times as many padded keys as real ones: longer tables are read whole."""
_FREE_KEYS = 16384
"""Padded keys that do not matter."""

Sizes = tuple[int, tuple[tuple[Paged, int], ...]]


class _Recorded:
    """A step's graph, the tensors that it reads and the logits that it writes."""

    def __init__(
        self, decoder: Decoder, layers: tuple[LayerMemory, ...], sizes: Sizes, operations: type[ReferenceOps]
    ) -> None:
        n_rows, n_keys = sizes
        self._step = DecodeStep(decoder, layers, n_rows, dict(n_keys), operations)
        self._graph = torch.cuda.CUDAGraph()
        aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):  # libraries set themselves up before they are recorded
            self._step.compute(layers)
        torch.cuda.current_stream().wait_stream(aside)
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self._logits = self._step.compute(layers)

    def __call__(self, batch: ForwardBatch) -> Tensor:
        self._step.fill(batch)
        self._graph.replay()
        wanted = batch.logit_rows
        n = batch.token_ids.numel()
        # A copy: the next step writes here.
        return self._logits[:n].clone() if wanted is None else self._logits.index_select(0, wanted)


class GraphDecoder:
    """See `ServingDecoder`. No graphs are steps of prompts, drafts and adapters, and those of models that select
    positions or have states."""

    differentiable = True
    cache_tile = 1
    slow: tuple[str, ...] = ()

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self.spec = decoder.spec
        self._operations = _operations(decoder)
        self._repeatable = repeatable(decoder.spec, self._operations)
        self._tabled = groups_read(decoder.spec, self._operations, in_place=False)
        self._recorded: dict[int, dict[Sizes, _Recorded]] = {}
        """By cache, for as long as it lives."""
        self._met: Counter[Sizes] = Counter()

    @property
    def device(self) -> torch.device:
        return self._decoder.device

    @property
    def weight_bytes(self) -> int:
        """Memory that the weights take."""
        return self._decoder.weight_bytes

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
        self, logits: Tensor, rows: Sequence[int], rules: Sequence[SamplingRule], uniforms: Sequence[float]
    ) -> list[int]:
        """See `ServingDecoder`."""
        return self._decoder.choose_tokens(logits, rows, rules, uniforms)

    def with_hidden(self, batch: ForwardBatch) -> tuple[Tensor, Tensor]:
        """See `ServingDecoder`. Never a graph."""
        return self._decoder.with_hidden(batch, self._operations)

    def __call__(self, batch: ForwardBatch) -> Tensor:
        """See `ServingDecoder`."""
        sizes = self._sizes(batch)
        if sizes is None or batch.cache is None:
            return self._directly(batch)
        recorded = self._of_cache(batch.cache.layers)
        if sizes not in recorded:
            self._met[sizes] += 1
            if self._met[sizes] < _TIMES:
                return self._directly(batch)
            recorded[sizes] = _Recorded(self._decoder, batch.cache.layers, sizes, self._operations)
        return recorded[sizes](batch)

    def _directly(self, batch: ForwardBatch) -> Tensor:
        decoder = self._decoder
        return decoder.compute(self._operations(batch, decoder.adapters, decoder.product_dtype, None))

    def _sizes(self, batch: ForwardBatch) -> Sizes | None:
        """How large the step is when padded; None: it is no graph."""
        n_rows = batch.token_ids.numel()
        if not self._repeatable or batch.cache is None or batch.adapters or len(batch.starts) != n_rows + 1:
            return None
        padded, n_keys = _next_size(n_rows, 1), []
        for kept, view in batch.cache.groups.items():
            lengths = [slots.numel() for slots in view.sequence_slots]
            if kept not in self._tabled:
                n_keys.append((kept, _next_size(max(lengths), SPAN)))
                continue
            n_keys.append((kept, longest := _next_size(max(lengths), 128)))
            if padded * longest > max(_FREE_KEYS, _WASTE * sum(lengths)):
                return None
        return padded, tuple(n_keys)

    def _of_cache(self, layers: tuple[LayerMemory, ...]) -> dict[Sizes, _Recorded]:
        first = layers[0]
        if id(first) not in self._recorded:
            self._recorded[id(first)] = {}
            weakref.finalize(first, self._recorded.pop, id(first), None)
        return self._recorded[id(first)]


def _operations(decoder: Decoder) -> type[ReferenceOps]:
    """What computes on the decoder's device."""
    if not has_triton(decoder.device):
        return ReferenceOps
    from landrace.models.gpu_ops import GpuOps

    GpuOps.prepare(decoder)
    return GpuOps


def _next_size(n: int, least: int) -> int:
    """`least` times a power of two, or one and a half times that."""
    size = least
    while size < n:
        if size % 2 == 0 and size * 3 // 2 >= n:
            return size * 3 // 2
        size *= 2
    return size
