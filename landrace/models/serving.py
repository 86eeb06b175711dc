"""`ServingDecoder`: what the engine needs of a decoder, whichever kernels compute it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from landrace.kernels.layer_cache import LayerCache
from landrace.models.batch import ForwardBatch
from landrace.models.lora_spec import LoraSpec
from landrace.models.spec import ModelSpec


class ServingDecoder(Protocol):
    """A loaded decoder: `Decoder` or `CpuDecoder`."""

    spec: ModelSpec

    @property
    def device(self) -> torch.device: ...

    @property
    def weight_bytes(self) -> int:
        """Memory that the weights take."""
        ...

    def new_cache(self, n_slots: int, dtype: torch.dtype | None = None) -> tuple[LayerCache, ...]:
        """Zeroed memory for the keys and values of `n_slots` tokens; None: the decoder's own choice of type."""
        ...

    def add_adapter(self, spec: LoraSpec, tensors: Mapping[str, Tensor]) -> int:
        """Takes an adapter; returns its slot for `AdapterRows`. Raises CheckpointError for tensors that do not fit."""
        ...

    def remove_adapter(self, slot: int) -> None: ...

    def __call__(self, batch: ForwardBatch) -> Tensor:
        """Float32 logits [R, vocab] of the wanted rows."""
        ...
