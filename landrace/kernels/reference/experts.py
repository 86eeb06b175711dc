"""A mixture of experts: each token's rows times the matrices of the experts it goes to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from landrace.kernels.activation import SWIGLU, Activation
from landrace.kernels.reference.dense import gated, linear
from landrace.kernels.reference.routing import Routing


@dataclass(frozen=True)
class ExpertAdapter:
    """A low-rank change of one projection of every expert, for some rows: y = y + scale * B A x."""

    rows: Tensor | None
    """[n] int64, all different: the rows that use it; None: all."""
    a: Tensor
    """[n_experts, rank, in]."""
    b: Tensor
    """[n_experts, out, rank]."""
    scale: float


@dataclass(frozen=True)
class ExpertProjection:
    """One projection of every expert."""

    weight: Tensor
    """[n_experts, out, in]."""
    bias: Tensor | None = None
    """[n_experts, out]."""
    adapters: Sequence[ExpertAdapter] = ()
    hear: Callable[[Tensor, int], None] | None = None
    """Called with the rows that an expert multiplies, and its number."""


def experts(
    x: Tensor,
    routing: Routing,
    gate: ExpertProjection,
    up: ExpertProjection,
    down: ExpertProjection,
    *,
    activation: Activation = SWIGLU,
    weight_on_input: bool = False,
) -> Tensor:
    """The sum over a row's experts e of weight * down_e(activation(gate_e(x), up_e(x))), as x [T, d] and in its dtype.

    Products are in x's dtype; the sum is float32 and runs in the order of the experts' numbers. With `weight_on_input`
    the weight multiplies x instead of the result.
    """
    n_rows, top_k = routing.experts.shape
    flat = routing.experts.flatten()
    order = flat.argsort(stable=True)
    counts = flat.bincount(minlength=gate.weight.shape[0]).tolist()
    total = torch.zeros(n_rows, x.shape[1], dtype=torch.promote_types(x.dtype, torch.float32), device=x.device)
    weights = routing.weights.flatten()
    projections = [(projection, _users(projection, n_rows)) for projection in (gate, up, down)]
    for expert, places in enumerate(torch.split(order, counts)):
        if places.numel() == 0:
            continue
        rows = places // top_k
        worth = weights[places, None]
        inputs = x.index_select(0, rows)
        if weight_on_input:
            inputs = (inputs * worth).to(x.dtype)
        one, other = (_project(inputs, rows, expert, *projection) for projection in projections[:2])
        out = _project(gated(one, other, activation), rows, expert, *projections[2]).to(total.dtype)
        total.index_add_(0, rows, out if weight_on_input else out * worth)
    return total.to(x.dtype)


def _users(projection: ExpertProjection, n_rows: int) -> list[Tensor | None]:
    """For each adapter, which rows use it: [n_rows] bool, or None where all do."""
    users: list[Tensor | None] = []
    for adapter in projection.adapters:
        if adapter.rows is None:
            users.append(None)
        else:
            blank = torch.zeros(n_rows, dtype=torch.bool, device=adapter.rows.device)
            users.append(blank.index_fill(0, adapter.rows, True))
    return users


def _project(
    x: Tensor, rows: Tensor, expert: int, projection: ExpertProjection, users: Sequence[Tensor | None]
) -> Tensor:
    """One expert's product of x [n, in], which belongs to `rows` [n], with what adapters add to it."""
    bias = projection.bias
    if projection.hear is not None:
        projection.hear(x, expert)
    y = linear(x, projection.weight[expert], None if bias is None else bias[expert])
    for adapter, used in zip(projection.adapters, users, strict=True):
        places = None if used is None else used[rows].nonzero().squeeze(1)
        low = linear(x if places is None else x.index_select(0, places), adapter.a[expert], None) * adapter.scale
        change = linear(low, adapter.b[expert], None)
        y = y + change if places is None else y.index_add(0, places, change)
    return y
