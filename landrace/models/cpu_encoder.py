"""`CpuEncoder`: an encoder's passes, recorded as programs of the C++ kernels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import ModuleType

import torch
from torch import Tensor

from landrace.errors import OptionError
from landrace.kernels.cpu.cache import new_layer_cache
from landrace.kernels.cpu.program import Program, one_torch_thread
from landrace.kernels.layer_cache import GroupView, LayerMemory
from landrace.models.batch import CacheView, ForwardBatch
from landrace.models.cache_shapes import heads_of
from landrace.models.cache_spec import Paged
from landrace.models.declared import params_of
from landrace.models.encoder_spec import EncoderSpec
from landrace.models.encoder_tree import EncoderTree
from landrace.models.packed_weights import PackedWeights
from landrace.models.recorded import Recorded
from landrace.models.recorder import Recorder
from landrace.models.stored import StoredTensor

_NO_CACHE = CacheView((), {})


class CpuEncoder:
    """Matrices stay as the checkpoint stores them. `isa` is one of the instruction sets that the extension lists; None:
    the best. OptionError for a model that the kernels cannot compute."""

    def __init__(self, spec: EncoderSpec, native: ModuleType, *, threads: int, isa: str | None = None) -> None:
        try:
            heads_of(spec.attention).check(native)
        except ValueError as error:
            raise OptionError(
                f"The C++ kernels cannot compute this model's attention: {error}", hint="Choose the reference kernels."
            ) from error
        self.kernels: str = isa or native.instruction_sets()[-1]
        self.weight_bytes = 0
        self._spec = spec
        self._native = native
        self._pool = native.ThreadPool(threads)
        self._tree = EncoderTree(spec)
        self._layers: tuple[LayerMemory, ...] = ()
        self._n_slots = 0

    def load(self, tensors: Mapping[str, StoredTensor]) -> CpuEncoder:
        """Packs every parameter. Raises CheckpointError for an unknown name, a wrong shape or one that is missing."""
        with one_torch_thread():
            self._weights = PackedWeights(self._native, self._pool, params_of(self._tree), tensors)
        self.weight_bytes = self._weights.used_bytes
        self._body = self._record(self._tree.compute, self._spec.n_layers)
        self._head = None if self._spec.classifier is None else self._record(self._tree.classify, 0)
        return self

    def compute(self, batch: ForwardBatch) -> Tensor:
        """See `EncoderBackend`."""
        with one_torch_thread():
            return self._run(self._body, batch, self._whole_sequences(batch))

    def classify(self, batch: ForwardBatch) -> Tensor:
        """See `EncoderBackend`."""
        assert self._head is not None
        with one_torch_thread():
            return self._run(self._head, batch, _NO_CACHE)

    @staticmethod
    def _run(program: Recorded, batch: ForwardBatch, cache: CacheView) -> Tensor:
        program.run(batch, cache, [])
        return program.hidden(batch.token_ids.numel())

    def _record(self, compute: Callable[[Recorder], None], n_layers: int) -> Recorded:
        groups = [self._group] if n_layers else []
        program = Program(self._native, self._pool, self.kernels)
        recorder = Recorder(program, self._weights, {}, groups)
        compute(recorder)
        return Recorded(program, recorder, slice(n_layers), groups)

    @property
    def _group(self) -> Paged:
        return self._spec.attention.cache

    def _whole_sequences(self, batch: ForwardBatch) -> CacheView:
        """Keys and values of the step, which all layers keep in the same place, one after the other."""
        tile: int = self._native.TILE
        lengths = torch.tensor(batch.starts).diff()
        tiles = (lengths + tile - 1) // tile
        n_slots = int(tiles.sum()) * tile
        if n_slots > self._n_slots:
            own = new_layer_cache(self._native, heads_of(self._spec.attention), n_slots, torch.float32)
            self._layers, self._n_slots = (own,) * self._spec.n_layers, n_slots
        slots = ((tiles.cumsum(0) - tiles) * tile).repeat_interleave(lengths) + batch.positions
        view = GroupView(slots, torch.split(slots, lengths.tolist()), (0,) * len(lengths))
        return CacheView(self._layers, {self._group: view})
