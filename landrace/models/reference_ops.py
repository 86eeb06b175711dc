"""`ReferenceOps`: the operations of one step in PyTorch, differentiable, on any device. The oracle of other backends.

The residual stream, norms and rotations are float32; within a branch, products and what passes between them are
`product_dtype`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from landrace.kernels.activation import Activation
from landrace.kernels.gpu.paged import HeadSizes, PagedPlan
from landrace.kernels.layer_cache import LayerCache, kept_as
from landrace.kernels.ngrams import NGrams
from landrace.kernels.reference.attention import AttentionPlan, attention
from landrace.kernels.reference.dense import gated, layer_norm, linear, rms_norm
from landrace.kernels.reference.experts import ExpertAdapter, ExpertProjection, experts
from landrace.kernels.reference.heads import alibi_slopes, fading_rates, normed, temperature
from landrace.kernels.reference.latents import absorbed, head_linear
from landrace.kernels.reference.recurrence import Rows, l2_norm
from landrace.kernels.reference.rotary import rotate
from landrace.kernels.reference.routing import Routing, route
from landrace.kernels.reference.short_conv import spread_taps
from landrace.kernels.router import Router
from landrace.models.adapters import AdapterBank
from landrace.models.batch import ForwardBatch
from landrace.models.cache_spec import Paged
from landrace.models.ffn_spec import Moe
from landrace.models.mixer_spec import Gdn, Gqa, Kda, Lightning, Mixer, Mla, RopeSpec
from landrace.models.params import (
    AbsorbedLinear,
    Experts,
    HeadLinear,
    Kernel,
    LayerNorm,
    Linear,
    Norm,
    RouterWeights,
    Table,
    Vector,
)
from landrace.models.reference_compressed import ReferenceCompressed
from landrace.models.reference_states import ReferenceStates
from landrace.models.rope import further_ropes

Reduce = Callable[[Tensor, Callable[[Tensor], Tensor]], Tensor]
"""From the wanted rows' normalised hidden states [R, d_model], and the function that makes float32 logits of such rows,
to what the forward pass returns."""


class ReferenceOps(ReferenceCompressed):
    """See `Ops`. `reduce`: what the head returns instead of logits."""

    any_experts: ClassVar[bool] = False
    """Whether experts are computed without asking the host who goes to which."""

    def __init__(
        self, batch: ForwardBatch, adapters: AdapterBank, product_dtype: torch.dtype, reduce: Reduce | None
    ) -> None:
        super().__init__(batch)
        self._adapters = [(rows.rows, adapters[rows.place]) for rows in batch.adapters]
        self._product_dtype = product_dtype
        self._reduce = reduce
        self.kept_hidden: Tensor | None = None

    @staticmethod
    def in_place(mixer: Mixer) -> bool:
        """Whether attention reads the layer's cache where it lies, by a `PagedPlan`."""
        return False

    def take_plans(
        self,
        attention_plans: Mapping[Paged, AttentionPlan],
        paged_plans: Mapping[tuple[Paged, HeadSizes], PagedPlan],
        rotary: Mapping[RopeSpec, tuple[Tensor, Tensor]],
    ) -> None:
        """Where they are known already, they are not made of the batch."""
        self._attention_plans.update((kept, plan) for kept, plan in attention_plans.items())
        self._rotary = dict(rotary)

    def embed(self, table: Table, factor: float) -> Tensor:
        rows = F.embedding(self._batch.token_ids, table.weight).float()
        return rows if factor == 1.0 else rows * factor

    def add_embedding(self, into: Tensor, table: Table, of: Literal["positions", "types"]) -> Tensor:
        numbers = self._batch.positions if of == "positions" else self._batch.token_types
        rows = table.weight[0] if numbers is None else F.embedding(numbers, table.weight)
        return into + rows.float()

    def hidden(self, width: int) -> Tensor:
        assert self._batch.hidden is not None
        return self._batch.hidden

    def keep_hidden(self, x: Tensor, norm: Norm | None) -> None:
        self.kept_hidden = x if norm is None else self.norm(x, norm)

    def join(self, parts: Sequence[tuple[Tensor, Norm]]) -> Tensor:
        return torch.cat([self._normed(x, norm) for x, norm in parts], -1)

    def norm(self, x: Tensor, norm: Norm) -> Tensor:
        if isinstance(norm, LayerNorm):
            return layer_norm(x, norm.weight, norm.bias, norm.eps)
        if norm.groups == 1:
            return rms_norm(x, norm.weight, norm.eps)
        parts = rms_norm(x.view(len(x), norm.groups, -1), None, norm.eps)
        return (parts * norm.weight.view(-1, parts.shape[-1])).flatten(1)

    def linears(self, x: Tensor, weights: Sequence[Linear], *, norm: Norm | None = None) -> list[Tensor]:
        x = self._normed(x, norm)
        return [self._linear(x, weight) for weight in weights]

    def gated(self, x: Tensor, gate: Linear, up: Linear, activation: Activation, *, norm: Norm | None = None) -> Tensor:
        x = self._normed(x, norm)
        return gated(self._linear(x, gate), self._linear(x, up), activation)

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
        branch = self._linear(x if norm is None else self._normed(x, norm), weight)
        return _added(into, branch if gate is None else branch * gate.sigmoid(), factor)

    def keep(
        self, spec: Gqa, cache: int, q: Tensor, k: Tensor, v: Tensor, norms: tuple[Norm, Norm] | None, eps: float
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        q = q.view(-1, spec.n_heads, spec.head_dim)
        k, v = (x.view(-1, spec.n_kv_heads, spec.head_dim) for x in (k, v))
        weights = (None, None) if norms is None else (norms[0].weight, norms[1].weight)

        def norm(when: str) -> None:
            nonlocal q, k
            if spec.qk_norm is not None and spec.qk_norm.when == when:
                q, k = normed(q, weights[0], spec.qk_norm, eps), normed(k, weights[1], spec.qk_norm, eps)

        norm("before_rope")
        if spec.rope is not None:
            cos, sin = self._tables(spec.rope)
            q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        norm("after_rope")
        if spec.temperature is not None:
            q = q * temperature(self._batch.positions, spec.temperature)[:, None, None]
        q, k = q.to(v.dtype), k.to(v.dtype)
        view = self._batch.cache
        if view is not None:
            kept = view.layers[cache]
            assert isinstance(kept, LayerCache) and kept.values is not None
            keys, values = kept.keys, kept.values
            write_slots = view.groups[spec.cache].write_slots
            keys.index_copy_(0, write_slots, kept_as(k, keys.dtype))
            values.index_copy_(0, write_slots, kept_as(v, values.dtype))
            k, v = keys, values
        return q, (k, v)

    def turn_on(self, spec: Gqa, q: Tensor) -> tuple[Tensor, Tensor]:
        assert spec.rope is not None
        before, older = (rotate(q, *self._tables(rope)).to(q.dtype) for rope in further_ropes(spec.rope))
        return before, older

    def attend(
        self,
        spec: Gqa,
        q: Tensor,
        past: tuple[Tensor, Tensor],
        sinks: Vector | None,
        further: tuple[Tensor, Tensor] | None,
    ) -> Tensor:
        slopes = alibi_slopes(spec.n_heads).to(q.device) if spec.alibi else None
        own = None if sinks is None else sinks.weight
        plan = self._attention_plan(spec.cache)
        mixed = attention(
            q if further is None else torch.cat((q, *further), -1),
            *past,
            plan,
            scale=spec.score_factor,
            mask=spec.mask,
            sinks=own,
            slopes=slopes,
            chosen=None if spec.selection is None else self._chosen,
            chunk=None if spec.chunks is None else spec.chunks.size,
        )
        return mixed.flatten(1)

    def keep_latents(self, spec: Mla, cache: int, q: Tensor, latents: Tensor, norm: Norm) -> tuple[Tensor, Tensor]:
        q = q.view(-1, spec.n_heads, spec.nope_dim + spec.rope_dim)
        straight, turned = q[..., : spec.nope_dim], q[..., spec.nope_dim :]
        latents = latents[:, None]
        latent, beside = latents[..., : spec.kv_rank], latents[..., spec.kv_rank :]
        latent = rms_norm(latent, norm.weight, norm.eps)
        if spec.rope is not None:
            cos, sin = self._tables(spec.rope)
            turned, beside = rotate(turned, cos, sin), rotate(beside, cos, sin)
        kept = torch.cat((latent, beside), -1).to(q.dtype)
        view = self._batch.cache
        if view is not None:
            layer = view.layers[cache]
            assert isinstance(layer, LayerCache)
            kept = self._put(layer.keys, spec.cache, kept)
        return torch.cat((straight, turned.to(q.dtype)), -1), kept

    def attend_latents(
        self, spec: Mla, q: Tensor, past: Tensor, keys: AbsorbedLinear, values: HeadLinear, sinks: Vector | None
    ) -> Tensor:
        """With a cache, which holds latents, in their own width; without one keys and values of all heads are made
        once, which is cheaper. Both are the same but for rounding."""
        facts: dict[str, Any] = {
            "scale": spec.scale,
            "mask": spec.mask,
            "sinks": None if sinks is None else sinks.weight,
            "chosen": None if spec.selection is None else self._chosen,
        }
        plan = self._attention_plan(spec.cache)
        if self._batch.cache is not None:
            queries = torch.cat((self._absorbed(q[..., : spec.nope_dim], keys), q[..., spec.nope_dim :]), -1)
            mixed = attention(queries, past, past[..., : spec.kv_rank], plan, **facts)
            return self._head_linear(mixed, values).flatten(1)
        latents, beside = past[:, 0, : spec.kv_rank], past[..., spec.kv_rank :]
        k, v = (self._linear(latents, weight).view(latents.shape[0], spec.n_heads, -1) for weight in (keys, values))
        k = torch.cat((k, beside.expand(-1, spec.n_heads, -1)), -1)
        return attention(q, k, v, plan, **facts).flatten(1)

    def by_stream(self, x: Tensor, weight: Linear, count: int) -> Tensor:
        (rows,) = self.linears(x.view(len(x) * count, -1), [weight])
        return rows.view(len(x), -1)

    def by_head(self, x: Tensor, weight: HeadLinear) -> Tensor:
        return self._head_linear(x.view(x.shape[0], weight.n_heads, -1), weight).flatten(1)

    def conv(
        self, cache: int, xs: Sequence[Tensor], kernels: Sequence[Kernel], *, first: int, dilation: int = 1
    ) -> list[Tensor]:
        taps = [spread_taps(kernel.weight.flatten(1), dilation) for kernel in kernels]
        return [
            self._states.convolve(cache, first + n, x, own) for n, (x, own) in enumerate(zip(xs, taps, strict=True))
        ]

    def delta(
        self,
        spec: Gdn | Kda,
        cache: int,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        a: Tensor,
        b: Tensor,
        a_log: Vector,
        dt_bias: Vector,
    ) -> Tensor:
        share = spec.n_value_heads // spec.n_heads

        def heads(x: Tensor) -> Tensor:
            normed = l2_norm(x.float().view(-1, spec.n_heads, spec.key_dim))
            return normed.repeat(1, share, 1) if spec.rounds else normed.repeat_interleave(share, 1)

        def by_head(x: Tensor) -> Tensor:
            return x.float().view(-1, spec.n_value_heads, x.shape[-1] // spec.n_value_heads)

        def rows_of(q: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor) -> Rows:
            rate, x = a_log.weight.exp()[:, None], by_head(a) + by_head(dt_bias.weight)
            floor = spec.decay_floor
            decay = -rate * F.softplus(x) if floor is None else floor * (rate * x).sigmoid()
            return Rows(heads(q) * spec.key_dim**-0.5, heads(k), by_head(v), decay, b.float().sigmoid())

        return self._states.recur(cache, q, [k, v, a, b], rows_of).flatten(1).to(v.dtype)

    def lightning(self, spec: Lightning, cache: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        rates = fading_rates(spec.n_heads, spec.fading).to(q.device)[:, None]

        def rows_of(q: Tensor, k: Tensor, v: Tensor) -> Rows:
            queries, keys, values = (F.silu(x.float()).view(-1, spec.n_heads, spec.head_dim) for x in (q, k, v))
            return Rows(queries, keys, values, -rates.expand(q.shape[0], -1, -1), None)

        return self._states.recur(cache, q, [k, v], rows_of).flatten(1).to(v.dtype)

    def route(self, x: Tensor, weights: RouterWeights, router: Router) -> Routing:
        return self.routing(self._product(x.float(), weights.weight, weights.bias), weights, router)

    def routing(self, logits: Tensor, weights: RouterWeights, router: Router) -> Routing:
        """Where a router's logits [T, n_experts] send the tokens."""
        chosen = None if weights.table is None else weights.table[self._batch.token_ids]
        return route(logits, router, choice_bias=weights.choice_bias, chosen=chosen)

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
        branch = experts(
            x.to(self._product_dtype),
            routing,
            *map(self._projection, (gate, up, down)),
            activation=spec.activation,
            weight_on_input=spec.weight_on_input,
        )
        return _added(into, branch, factor)

    def ngrams(self, form: NGrams, cache: int, table: Table) -> Tensor:
        rows = self._states.ngrams(cache, 0, form)
        return F.embedding(rows, table.weight).flatten(1).float()

    def head(self, x: Tensor, weight: Linear | Table, norm: Norm | None, divisor: float) -> Tensor:
        if self._batch.logit_rows is not None:
            x = x.index_select(0, self._batch.logit_rows)
        hidden = x if norm is None else rms_norm(x, norm.weight, norm.eps)
        bias = weight.bias if isinstance(weight, Linear) else None

        def logits(rows: Tensor) -> Tensor:
            y = self._logits(rows.to(self._product_dtype), weight.weight, bias)
            return y if divisor == 1.0 else y / divisor

        return logits(hidden) if self._reduce is None else self._reduce(hidden, logits)

    def hear(self, weight: str, x: Tensor, expert: int | None = None) -> None:
        """Called with the rows that a named weight multiplies, an expert's with its number; for whoever listens."""

    @cached_property
    def _states(self) -> ReferenceStates:
        return ReferenceStates(self._batch)

    def _normed(self, x: Tensor, norm: Norm | None) -> Tensor:
        return (x if norm is None else rms_norm(x, norm.weight, norm.eps)).to(self._product_dtype)

    def _projection(self, weight: Experts) -> ExpertProjection:
        adapters = [
            ExpertAdapter(rows, *adapter.pairs[weight.name], adapter.scale)
            for rows, adapter in self._adapters
            if weight.name in adapter.pairs
        ]
        return ExpertProjection(weight.weight, weight.bias, adapters, partial(self.hear, weight.name))

    def _product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return linear(x, weight, bias)

    def _logits(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The product in float32."""
        return linear(x, weight, bias).float()

    def _linear(self, x: Tensor, weight: Linear) -> Tensor:
        self.hear(weight.name, x)
        y = self._product(x, weight.weight, weight.bias)
        for rows, adapter in self._adapters:
            pair = adapter.pairs.get(weight.name)
            if pair is None:
                continue
            a, b = pair
            low = linear(x if rows is None else x.index_select(0, rows), a, None) * adapter.scale
            up = b.to(low.dtype).t()
            y = torch.addmm(y, low, up) if rows is None else y.index_add(0, rows, low @ up)
        return y

    def _absorbed(self, q: Tensor, weight: AbsorbedLinear) -> Tensor:
        y = absorbed(q, weight.weight)
        for rows, adapter in self._adapters:
            if pair := adapter.pairs.get(weight.name):
                a, b = pair
                low = absorbed(q if rows is None else q.index_select(0, rows), b) * adapter.scale
                y = _added_to(y, rows, low @ a.to(low.dtype))
        return y

    def _head_linear(self, x: Tensor, weight: HeadLinear) -> Tensor:
        y = head_linear(x, weight.weight)
        for rows, adapter in self._adapters:
            if pair := adapter.pairs.get(weight.name):
                a, b = pair
                low = (x if rows is None else x.index_select(0, rows)) @ a.to(x.dtype).t() * adapter.scale
                y = _added_to(y, rows, head_linear(low, b))
        return y


def _added(into: Tensor | None, branch: Tensor, factor: float) -> Tensor:
    if into is None:
        return branch if factor == 1.0 else factor * branch
    return torch.add(into, branch, alpha=factor)


def _added_to(y: Tensor, rows: Tensor | None, change: Tensor) -> Tensor:
    return y + change if rows is None else y.index_add(0, rows, change)
