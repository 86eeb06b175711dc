"""`CpuDecoder`: the decoder of `decoder.py`, recorded as a program of the C++ kernels.

The same arithmetic in the same order, but matrices stay as the checkpoint stores them, and their inputs are quantised
to 8 bits where the matrix is. A row's result does not depend on the other rows, on how its sequence was cut, on the
number of threads or on the instruction set, to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from types import ModuleType

import torch
from torch import Tensor

from landrace.errors import OptionError
from landrace.kernels.cpu import quantising, sampling
from landrace.kernels.cpu.cache import Heads, new_layer_cache
from landrace.kernels.cpu.program import Program, one_torch_thread
from landrace.kernels.cpu.recurrent import new_layer_state
from landrace.kernels.layer_cache import INT4, CompressedCache, LayerMemory
from landrace.kernels.sampling_rule import SamplingRule
from landrace.models.adapters import adapter_of
from landrace.models.batch import CacheView, ForwardBatch
from landrace.models.cache_shapes import cache_shapes, compressed_shapes
from landrace.models.cache_spec import Paged, group_layers
from landrace.models.compressed_spec import Compressed
from landrace.models.declared import params_of
from landrace.models.decoder import Decoder
from landrace.models.lora_spec import LoraSpec
from landrace.models.mixer_spec import Recurrent
from landrace.models.packed_adapter import PackedAdapter, pack_adapter
from landrace.models.packed_weights import PackedWeights
from landrace.models.recorded import Recorded
from landrace.models.recorder import Recorder
from landrace.models.spec import LayerSpec, ModelSpec
from landrace.models.stored import StoredTensor


class CpuDecoder:
    """A decoder-only transformer on the C++ kernels.

    `isa` is one of the instruction sets that the extension lists; None: the best. OptionError for a model that the
    kernels cannot compute.
    """

    def __init__(self, spec: ModelSpec, native: ModuleType, *, threads: int, isa: str | None = None) -> None:
        for layer in spec.caching_layers:
            if isinstance(layer.mixer, Recurrent):
                continue
            try:
                for shape in cache_shapes(layer.mixer):
                    shape.check(native)
            except ValueError as error:
                raise OptionError(
                    f"The C++ kernels cannot compute this model's attention: {error}",
                    hint="Choose the reference kernels.",
                ) from error
        self.spec = spec
        self._tree = Decoder(spec)
        self.device = torch.device("cpu")
        self.threads = threads
        self._native = native
        self.cache_tile: int = native.TILE
        self.isa = isa or native.instruction_sets()[-1]
        self._pool = native.ThreadPool(threads)
        self._adapters: dict[int, PackedAdapter] = {}
        self._hear_choices: Callable[[tuple[Tensor, ...]], None] | None = None
        self._keeps_hidden = spec.mtp is not None
        self.weight_bytes = 0

    @property
    def cache_dtype(self) -> torch.dtype:
        """The cache's type where nothing else is asked for."""
        return cache_dtype_beside(self._weights.block_types)

    @property
    def held_bytes(self) -> Mapping[str, int]:
        """See `ServingDecoder`."""
        return self._weights.held_bytes

    def load(self, tensors: Mapping[str, StoredTensor]) -> CpuDecoder:
        """Packs every parameter. Raises CheckpointError for an unknown name, a wrong shape or one that is missing."""
        with one_torch_thread():
            self._weights = PackedWeights(self._native, self._pool, params_of(self._tree), tensors)
        self.weight_bytes = self._weights.used_bytes
        self._pass = self._record()
        self._mtp = None if self.spec.mtp is None else self._record_mtp()
        return self

    @property
    def slow(self) -> tuple[str, ...]:
        """Operations that the program leaves to PyTorch."""
        return self._pass.slow

    def quantize_weights(self, values: Tensor, block_type: str) -> Tensor:
        """See `kernels.cpu.quantising`."""
        return quantising.quantize_weights(self._native, self._pool, self.isa, values, block_type)

    def around_step(self) -> AbstractContextManager[None]:
        """See `ServingDecoder`."""
        return one_torch_thread()

    def new_cache(
        self, n_slots: Sequence[int], dtype: torch.dtype | None = None, n_guesses: int = 0
    ) -> tuple[LayerMemory, ...]:
        """See `ServingDecoder`: multiples of 16 tokens, in one of `CACHE_TYPES`; None: `cache_dtype`."""
        return new_cpu_cache(self._native, self.spec, n_slots, dtype or self.cache_dtype, n_guesses)

    def add_adapter(self, spec: LoraSpec, tensors: Mapping[str, Tensor]) -> int:
        """Takes an adapter (`adapters.adapter_of`), packed; returns its place for `AdapterRows`."""
        adapter = adapter_of(self._tree.adaptable(spec.targets), spec, tensors, self.device)
        place = 1 + max(self._adapters, default=-1)
        self._adapters[place] = pack_adapter(self._native, self._pool, self._tree, adapter)
        self._pass = self._record()
        return place

    def remove_adapter(self, place: int) -> None:
        """Takes the adapter in `place` off again."""
        del self._adapters[place]
        self._pass = self._record()

    def __call__(self, batch: ForwardBatch) -> Tensor:
        """Float32 logits [R, vocab] of the wanted rows."""
        cache = batch.cache or self._whole_sequences(batch)
        return self._pass.run(batch, cache, self._adapter_rows(batch))

    def with_hidden(self, batch: ForwardBatch) -> tuple[Tensor, Tensor]:
        """See `ServingDecoder`."""
        cache = batch.cache or self._whole_sequences(batch)
        if not self._keeps_hidden:  # from now on: a norm of all rows is nothing beside a layer
            self._keeps_hidden = True
            self._pass = self._record()
        if batch.hidden is None:
            used, rows = self._pass, self._adapter_rows(batch)
        else:
            assert self._mtp is not None
            used, rows = self._mtp, []
        logits = used.run(batch, cache, rows)
        return logits, used.hidden(batch.token_ids.numel())

    def choose_tokens(
        self,
        logits: Tensor,
        rows: Sequence[int],
        rules: Sequence[SamplingRule],
        uniforms: Sequence[float],
        masks: Sequence[Tensor | None] = (),
    ) -> list[int]:
        """See `ServingDecoder`."""
        native, pool, isa = self._native, self._pool, self.isa
        return sampling.choose_tokens(native, pool, isa, logits, rows, rules, uniforms, self.threads, masks)

    def hear_choices(self, hear: Callable[[tuple[Tensor, ...]], None] | None) -> None:
        """From now on `hear` is given what each choice in every step is made of, in the order in which a pass makes
        them: a router's logits [T, n_experts], or queries and keys, an indexer's or the layer's, and weights if there
        are any, as `Ops` takes them. None: no more."""
        self._hear_choices = hear
        self._pass = self._record()

    def profile(self, batch: ForwardBatch) -> list[tuple[str, float]]:
        """Computes a step operation by operation: (name, seconds) of each."""
        cache = batch.cache or self._whole_sequences(batch)
        return self._pass.program.profile(self._pass.step(batch, cache, self._adapter_rows(batch)), self.threads)

    def _adapter_rows(self, batch: ForwardBatch) -> list[list[int]]:
        rows: list[list[int]] = [[] for _ in range(max(self._adapters, default=-1) + 1)]
        for adapter in batch.adapters:
            rows[adapter.place] = (
                list(range(batch.token_ids.numel())) if adapter.rows is None else adapter.rows.tolist()
            )
        return rows

    def _whole_sequences(self, batch: ForwardBatch) -> CacheView:
        """A cache for sequences that came without one."""
        slots, first = [], 0
        for start, end in zip(batch.starts, batch.starts[1:], strict=False):
            slots.append(torch.arange(first, first + end - start))
            first += -(-(end - start) // self.cache_tile) * self.cache_tile
        groups = self.spec.cache_groups
        sizes = [first if isinstance(group.spec, Paged) else len(slots) for group in groups]
        return CacheView.whole(self.new_cache(sizes, torch.float32), groups, torch.cat(slots), tuple(slots))

    def _record(self) -> Recorded:
        """The forward pass as a program."""
        layers = self.spec.layers
        groups = _paged(layers)
        program = Program(self._native, self._pool, self.isa)
        recorder = Recorder(program, self._weights, self._adapters, groups, self._hear_choices)
        self._tree.compute(recorder, keep_hidden=self._keeps_hidden)
        return Recorded(program, recorder, slice(len(layers)), groups)

    def _record_mtp(self) -> Recorded:
        """The MTP layer's pass as a program of its own."""
        n_before = len(self.spec.layers)
        groups = _paged(self.spec.caching_layers[n_before:])
        program = Program(self._native, self._pool, self.isa)
        recorder = Recorder(program, self._weights, {}, groups)
        self._tree.guess(recorder)
        return Recorded(program, recorder, slice(n_before, None), groups)


def _paged(layers: Sequence[LayerSpec]) -> list[Paged]:
    """The cache groups of layers that keep something for every position."""
    groups = group_layers(layer.caches for layer in layers)
    return [group.spec for group in groups if isinstance(group.spec, Paged)]


def cache_dtype_beside(block_types: Iterable[str]) -> torch.dtype:
    """How the cache is kept beside matrices of these types unless somebody asks otherwise: as exact as they are."""
    return torch.float32 if all(kind in ("F32", "F16") for kind in block_types) else torch.float16


def keeps(spec: ModelSpec, dtype: torch.dtype) -> bool:
    """Whether the model's layers can all be kept so."""
    mixers = [layer.mixer for layer in spec.layers if not isinstance(layer.mixer, Recurrent)]
    return dtype != INT4 or all(isinstance(shape, Heads) for mixer in mixers for shape in cache_shapes(mixer))


def new_cpu_cache(
    native: ModuleType, spec: ModelSpec, n_slots: Sequence[int], dtype: torch.dtype, n_guesses: int = 0
) -> tuple[LayerMemory, ...]:
    """See `CpuDecoder.new_cache`; needs no weights."""
    paged = [n for n, group in zip(n_slots, spec.cache_groups, strict=True) if isinstance(group.spec, Paged)]
    if any(n % native.TILE for n in paged):
        raise OptionError(
            f"The C++ kernels keep the cache in tiles of {native.TILE} tokens, and {max(paged)} are not whole tiles.",
            hint=f"Choose a block_size that {native.TILE} divides.",
        )
    if not keeps(spec, dtype):
        raise OptionError(
            "This model's cache holds latents or what positions are chosen by, which is kept in int8 at the least.",
            hint="Choose int8.",
        )
    return tuple(
        _memory(native, layer, slots, dtype, n_guesses)
        for layer, slots in zip(spec.caching_layers, spec.slots_by_layer(n_slots), strict=True)
    )


def _memory(
    native: ModuleType, layer: LayerSpec, slots: Sequence[int], dtype: torch.dtype, n_guesses: int
) -> LayerMemory:
    """Of a layer: for so many tokens by group of its `caches`, or for so many states and guesses beside each."""
    mixer = layer.mixer
    if isinstance(mixer, Recurrent):
        shapes = (*layer.first_states(n_guesses), *mixer.state_shapes(n_guesses))
        return new_layer_state(native, shapes, slots[0], n_guesses)
    new = partial(new_layer_cache, native)
    own, *others = cache_shapes(mixer)
    kept = new(own, slots[0], dtype)
    if isinstance(mixer, Compressed):
        compressed = (
            replace(new(rows, slots[1], dtype), inputs=new(inputs, slots[0], torch.float32))
            for inputs, rows in compressed_shapes(mixer)
        )
        return CompressedCache(kept, tuple(compressed))
    match others:
        case [inputs, keys]:
            index = replace(new(keys, slots[2], dtype), inputs=new(inputs, slots[1], dtype))
            return replace(kept, index=index)
        case [keys]:
            return replace(kept, index=new(keys, slots[0], dtype))
        case _:
            return kept
