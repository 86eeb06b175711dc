"""`ForwardBatch`: one packed step. Prefill, decode, mixed steps, training and scoring are the same call."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from landrace.kernels.layer_cache import INT4 as INT4
from landrace.kernels.layer_cache import GroupView as GroupView
from landrace.kernels.layer_cache import LayerMemory
from landrace.kernels.layer_cache import LayerState as LayerState
from landrace.kernels.layer_cache import StateView as StateView
from landrace.models.cache_spec import CacheGroup, Paged


@dataclass(frozen=True)
class CacheView:
    """The cache as one step sees it."""

    layers: tuple[LayerMemory, ...]
    """What the decoder's `new_cache` made."""
    groups: Mapping[Paged, GroupView]
    """By what its layers keep, in the order of `ModelSpec.cache_groups`."""
    states: StateView | None = None
    """Of the recurrent layers, where there are any."""

    @staticmethod
    def whole(
        layers: tuple[LayerMemory, ...],
        groups: Iterable[CacheGroup],
        write_slots: Tensor,
        sequence_slots: Sequence[Tensor],
        states: Sequence[int] | None = None,
    ) -> CacheView:
        """The same slots in every group, of all positions from 0 on. `states`: each sequence's, changed in place; None:
        the first ones."""
        firsts = (0,) * len(sequence_slots)
        view = GroupView(write_slots, sequence_slots, firsts)
        own = torch.tensor(range(len(sequence_slots)) if states is None else states, device=write_slots.device)
        in_place = StateView(torch.stack((own, own, torch.zeros_like(own), torch.zeros_like(own)), 1))
        paged = [one.spec for one in groups if isinstance(one.spec, Paged)]
        views = {spec: view if spec.every == 1 else view.of_entries(spec.every) for spec in paged}
        return CacheView(layers, views, in_place)


@dataclass(frozen=True)
class AdapterRows:
    """The packed rows that use the adapter in `place`. `rows` None: all of them."""

    place: int
    rows: Tensor | None


@dataclass(frozen=True)
class ForwardBatch:
    """S sequences laid end to end in T rows; sequence s owns rows `starts[s]` to `starts[s + 1]`."""

    token_ids: Tensor
    """[T] int64."""
    positions: Tensor
    """[T] int64: each row's position in its own sequence."""
    starts: tuple[int, ...]
    """S + 1 row indices, from 0 to T."""
    logit_rows: Tensor | None = None
    """[R] int64 rows whose logits are wanted; None: all."""
    cache: CacheView | None = None
    """None: every sequence is whole and starts at position 0 (training, scoring)."""
    adapters: tuple[AdapterRows, ...] = ()
    hidden: Tensor | None = None
    """[T, d_model] float32: what the head read at each row's position. Then the step is one of the model's MTP layer
    (`ModelSpec.mtp`), and `token_ids` are the tokens after the positions; or one of an encoder's classifier."""
    token_types: Tensor | None = None
    """[T] int64: which of a pair of texts each token is of (encoders); None: the first."""

    @staticmethod
    def packed(
        sequences: list[list[int]] | list[Tensor],
        *,
        device: str | torch.device = "cpu",
        logit_rows: Tensor | None = None,
        adapters: tuple[AdapterRows, ...] = (),
    ) -> ForwardBatch:
        """Whole sequences without a cache, laid end to end."""
        parts = [torch.as_tensor(ids, dtype=torch.long, device=device) for ids in sequences]
        starts = [0]
        for part in parts:
            starts.append(starts[-1] + part.numel())
        return ForwardBatch(
            token_ids=torch.cat(parts),
            positions=torch.cat([torch.arange(part.numel(), device=device) for part in parts]),
            starts=tuple(starts),
            logit_rows=logit_rows,
            adapters=adapters,
        )
