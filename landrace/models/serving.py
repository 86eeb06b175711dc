"""`ServingDecoder`: what the engine needs of a decoder, whichever kernels compute it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import torch
from torch import Tensor

from landrace.kernels.layer_cache import LayerMemory
from landrace.models.batch import ForwardBatch
from landrace.models.lora_spec import LoraSpec
from landrace.models.sampling import SamplingRule
from landrace.models.spec import ModelSpec


class ServingDecoder(Protocol):
    """A loaded decoder: `Decoder` or `CpuDecoder`."""

    spec: ModelSpec
    cache_tile: int
    """Cache blocks must be multiples of this many tokens."""

    @property
    def slow(self) -> tuple[str, ...]:
        """Operations that its kernels leave to PyTorch."""
        ...

    def around_step(self) -> AbstractContextManager[None]:
        """What an engine's step runs in, all of its work with tensors included."""
        ...

    @property
    def device(self) -> torch.device: ...

    @property
    def weight_bytes(self) -> int:
        """Memory that the weights take."""
        ...

    @property
    def held_bytes(self) -> Mapping[str, int]:
        """Memory that each weight takes, by name."""
        ...

    def new_cache(
        self, n_slots: Sequence[int], dtype: torch.dtype | None = None, n_guesses: int = 0
    ) -> tuple[LayerMemory, ...]:
        """Zeroed memory for each layer: by group of `spec.cache_groups`, keys and values of so many tokens, or so many
        states with room for `n_guesses` beside each. `dtype` of keys and values; None: the decoder's own choice."""
        ...

    def add_adapter(self, spec: LoraSpec, tensors: Mapping[str, Tensor]) -> int:
        """Takes an adapter; returns its place for `AdapterRows`. Raises CheckpointError for tensors that do not fit."""
        ...

    def remove_adapter(self, place: int) -> None: ...

    def __call__(self, batch: ForwardBatch) -> Tensor:
        """Float32 logits [R, vocab] of the wanted rows."""
        ...

    def with_hidden(self, batch: ForwardBatch) -> tuple[Tensor, Tensor]:
        """The same, and float32 [T, d_model]: what the head read of every row, after the last norm. A model with an MTP
        layer whose layers keep several streams has what that layer reads instead: all streams, before the norm. A batch
        with `hidden` is one for that layer."""
        ...

    def choose_tokens(
        self,
        logits: Tensor,
        rows: Sequence[int],
        rules: Sequence[SamplingRule],
        uniforms: Sequence[float],
        masks: Sequence[Tensor | None] = (),
    ) -> list[int]:
        """One token for each of `rows` of float32 `logits` [R, vocab], by its rule and its uniform number from [0, 1)
        (unused where the temperature is 0), of those that its mask allows, int32 [n] in main memory as `SamplingRule`
        says; NOT_FINITE for a row without probabilities."""
        ...
