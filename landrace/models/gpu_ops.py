"""`GpuOps`: the operations of one serving step by Triton kernels, where there is one for them, else as the reference's.

A row's sums do not depend on the rows beside it in any of the kernels (`kernels.gpu`). Imported only where Triton is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from landrace.kernels.activation import Activation
from landrace.kernels.gpu.attention import attention
from landrace.kernels.gpu.experts import Projection, experts
from landrace.kernels.gpu.heads import turn_and_keep
from landrace.kernels.gpu.norm import norm as normed_rows
from landrace.kernels.gpu.paged import MOST_SHARING, WIDEST, HeadSizes, PagedPlan, plan_paged
from landrace.kernels.gpu.product import product
from landrace.kernels.layer_cache import LayerCache
from landrace.kernels.reference.attention import AttentionPlan
from landrace.kernels.reference.routing import Routing
from landrace.models.adapters import AdapterBank
from landrace.models.batch import ForwardBatch
from landrace.models.cache_spec import Paged
from landrace.models.ffn_spec import Moe
from landrace.models.mixer_spec import Gqa, Mixer, RopeSpec
from landrace.models.mixers.gqa import GqaBlock
from landrace.models.params import Experts, Linear, Norm, Vector, as_parameter
from landrace.models.reference_ops import Reduce, ReferenceOps


class GpuOps(ReferenceOps):
    """See `Ops`. Without gradients."""

    any_experts = True

    @staticmethod
    def in_place(mixer: Mixer) -> bool:
        """See `ReferenceOps`."""
        if not isinstance(mixer, Gqa) or mixer.alibi or mixer.chunks is not None or mixer.mask.sees_ahead:
            return False
        if mixer.selection is not None:
            return False
        return mixer.head_dim <= WIDEST and mixer.n_heads // mixer.n_kv_heads <= MOST_SHARING

    @staticmethod
    def prepare(decoder: nn.Module) -> None:
        """Lays the matrices of queries, keys and values side by side in memory, so that they are one product."""
        for block in decoder.modules():
            if isinstance(block, GqaBlock) and block.spec.q_rank is None:
                _lay_side_by_side([block.q_proj, block.k_proj, block.v_proj])

    def __init__(
        self, batch: ForwardBatch, adapters: AdapterBank, product_dtype: torch.dtype, reduce: Reduce | None
    ) -> None:
        super().__init__(batch, adapters, product_dtype, reduce)
        self._paged_plans: dict[tuple[Paged, HeadSizes], PagedPlan] = {}

    def take_plans(
        self,
        attention_plans: Mapping[Paged, AttentionPlan],
        paged_plans: Mapping[tuple[Paged, HeadSizes], PagedPlan],
        rotary: Mapping[RopeSpec, tuple[Tensor, Tensor]],
    ) -> None:
        super().take_plans(attention_plans, paged_plans, rotary)
        self._paged_plans.update((key, plan) for key, plan in paged_plans.items())

    def linears(self, x: Tensor, weights: Sequence[Linear], *, norm: Norm | None = None) -> list[Tensor]:
        x = self._normed(x, norm)
        if self._adapters:
            return [self._linear(x, weight) for weight in weights]
        results: list[Tensor] = []
        for run in _side_by_side(weights):
            first, widths = run[0], [one.weight.shape[0] for one in run]
            bias = None if first.bias is None else _whole([one.bias for one in run if one.bias is not None])
            results += torch.split(product(x, _whole([one.weight for one in run]), bias), widths, 1)
        return results

    def gated(self, x: Tensor, gate: Linear, up: Linear, activation: Activation, *, norm: Norm | None = None) -> Tensor:
        if self._adapters or (gate.bias is None) != (up.bias is None):
            return super().gated(x, gate, up, activation, norm=norm)
        beside = (up.weight, up.bias)
        return product(self._normed(x, norm), gate.weight, gate.bias, beside=beside, activation=activation)

    def add_linear(
        self,
        into: Tensor | None,
        x: Tensor,
        weight: Linear,
        factor: float = 1.0,
        *,
        gate: Tensor | None = None,
        norm: Norm | None = None,
    ) -> Tensor:
        if self._adapters or into is None or gate is not None:
            return super().add_linear(into, x, weight, factor, gate=gate, norm=norm)
        return product(self._normed(x, norm), weight.weight, weight.bias, into=into, factor=factor)

    def keep(
        self, spec: Gqa, cache: int, q: Tensor, k: Tensor, v: Tensor, norms: tuple[Norm, Norm] | None, eps: float
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        own = spec.qk_norm
        usual = own is None or (own.when == "before_rope" and own.over == "head")
        if self._batch.cache is None or not usual or spec.temperature is not None:
            return super().keep(spec, cache, q, k, v, norms, eps)
        kept = self._batch.cache.layers[cache]
        assert isinstance(kept, LayerCache) and kept.values is not None
        if kept.keys.dtype == torch.float16:  # keeps what is finite finite
            return super().keep(spec, cache, q, k, v, norms, eps)
        turned = turn_and_keep(
            q,
            k,
            v,
            kept.keys,
            kept.values,
            self._batch.cache.groups[spec.cache].write_slots,
            None if spec.rope is None else self._tables(spec.rope),
            normed=own is not None,
            weights=None if norms is None else (norms[0].weight, norms[1].weight),
            eps=eps,
        )
        return turned, (kept.keys, kept.values)

    def attend(
        self,
        spec: Gqa,
        q: Tensor,
        past: tuple[Tensor, Tensor],
        sinks: Vector | None,
        further: tuple[Tensor, Tensor] | None,
    ) -> Tensor:
        if self._batch.cache is None or not self.in_place(spec):
            return super().attend(spec, q, past, sinks, further)
        own = None if sinks is None else sinks.weight
        plan = self._paged_plan(spec.cache, HeadSizes(spec.n_heads // spec.n_kv_heads, spec.head_dim, q.dtype))
        return attention(q, *past, plan, scale=spec.score_factor, mask=spec.mask, sinks=own).flatten(1)

    def experts(
        self,
        into: Tensor | None,
        x: Tensor,
        routing: Routing,
        gate: Experts,
        up: Experts,
        down: Experts,
        spec: Moe,
        factor: float,
    ) -> Tensor:
        if self._adapters:
            return super().experts(into, x, routing, gate, up, down, spec, factor)
        own = [Projection(one.weight, one.bias) for one in (gate, up, down)]
        chosen, worth = routing.experts.contiguous(), routing.weights.contiguous()
        x = x.to(self._product_dtype)
        return experts(
            into,
            x,
            chosen,
            worth,
            own[0],
            own[1],
            own[2],
            activation=spec.activation,
            weight_on_input=spec.weight_on_input,
            factor=factor,
        )

    def _normed(self, x: Tensor, norm: Norm | None) -> Tensor:
        if norm is None or norm.groups > 1:
            return super()._normed(x, norm)
        return normed_rows(x, norm.weight, norm.eps, self._product_dtype)

    def _product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return product(x, weight, bias)

    def _logits(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return product(x, weight, bias, dtype=torch.float32)

    def _paged_plan(self, kept: Paged, sizes: HeadSizes) -> PagedPlan:
        if (kept, sizes) not in self._paged_plans:
            assert self._batch.cache is not None
            view, device = self._batch.cache.groups[kept], self._batch.token_ids.device
            plan = plan_paged(self._batch.starts, view.sequence_slots, view.first_positions, sizes, device)
            self._paged_plans[kept, sizes] = plan
        return self._paged_plans[kept, sizes]


def _lay_side_by_side(weights: Sequence[Linear]) -> None:
    """Moves the matrices, and their biases if all have one, into one piece of memory."""
    leaves = ["weight"] + ["bias"] * all(one.bias is not None for one in weights)
    for leaf in leaves:
        own = [getattr(one, leaf) for one in weights]
        whole = torch.cat(own)
        for one, part in zip(weights, torch.split(whole, [len(tensor) for tensor in own]), strict=True):
            setattr(one, leaf, as_parameter(part))


def _side_by_side(weights: Sequence[Linear]) -> list[list[Linear]]:
    """Runs of weights that follow each other in memory."""
    runs: list[list[Linear]] = []
    for weight in weights:
        if runs and _follows(runs[-1][-1], weight):
            runs[-1].append(weight)
        else:
            runs.append([weight])
    return runs


def _follows(one: Linear, other: Linear) -> bool:
    if one.bias is None or other.bias is None:
        return one.bias is other.bias and _behind(one.weight, other.weight)
    return _behind(one.weight, other.weight) and _behind(one.bias, other.bias)


def _behind(one: Tensor, other: Tensor) -> bool:
    same = one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()
    return same and other.storage_offset() == one.storage_offset() + one.numel() and one.shape[1:] == other.shape[1:]


def _whole(parts: Sequence[Tensor]) -> Tensor:
    """Tensors that follow each other in memory as one."""
    first = parts[0]
    size = (sum(len(part) for part in parts), *first.shape[1:])
    return first.as_strided(size, first.stride())
