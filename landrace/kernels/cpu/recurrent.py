"""Recurrent layers in a program: what their operations keep of a sequence is a part of its state (`LayerState`)."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

import torch
from torch import Tensor

from landrace.kernels.activation import Gate
from landrace.kernels.cpu.program import Program
from landrace.kernels.cpu.weights import PackedVector
from landrace.kernels.layer_cache import LayerState, untouched_zeros


def short_conv(
    program: Program, xs: Sequence[int], weights: Sequence[PackedVector], width: int, dilation: int = 1
) -> None:
    """Each of `xs` = silu of its causal convolution; weights [channels * width], a channel's oldest row first. A tap
    meets every `dilation`-th row.

    Keeps for each of them a part of the state: the last (width - 1) * dilation rows, and behind them those of guesses.
    """
    parts = [{"x": x, "weight": weight} for x, weight in zip(xs, weights, strict=True)]
    program.add("short_conv", parts=parts, width=width, dilation=dilation)


def delta(
    program: Program,
    *,
    n_heads: int,
    n_value_heads: int,
    key_dim: int,
    value_dim: int,
    rounds: bool = False,
    floor: float | None = None,
    q: int,
    k: int,
    v: int,
    a: int,
    b: int,
    a_log: PackedVector,
    dt_bias: PackedVector,
    out: int,
) -> None:
    """out = what the value heads' states say to q: the gated delta rule of `kernels.reference.recurrence`, with q and k
    normalised, decay -e^a_log * softplus(a + dt_bias), or with a floor, which is negative, floor * sigmoid(e^a_log * (a
    + dt_bias)), and beta sigmoid(b). A head has one a and dt_bias, or one for each channel of its key. Overwrites q, k,
    a and b.

    Keeps two parts of the state: [n_value_heads, key_dim, value_dim in whole vectors], and of each guess its k, v, a
    and b as they are then. `rounds`: see `Gdn`.
    """
    program.add(
        "delta", n_heads=n_heads, n_value_heads=n_value_heads, key_dim=key_dim, value_dim=value_dim, rounds=rounds,
        floor=floor, q=q, k=k, v=v, a=a, b=b, a_log=a_log, dt_bias=dt_bias, out=out,
    )  # fmt: skip


def lightning(program: Program, head_dim: int, rates: Tensor, *, q: int, k: int, v: int, out: int) -> None:
    """out = what the heads' states say to silu(q) once silu(k) and silu(v) are in them; a state fades by e^-rate a row,
    rates [n_heads]. Overwrites q, k and v.

    Keeps two parts of the state: [n_heads, head_dim, head_dim in whole vectors], and of each guess silu(k) and silu(v).
    """
    program.add("lightning", head_dim=head_dim, rates=rates, q=q, k=k, v=v, out=out)


def gated_norm(program: Program, x: int, gate: int, weight: PackedVector, eps: float, by: Gate = "silu") -> None:
    """x = each head of x normalised, times silu or the sigmoid of its gate; weight [head_dim]."""
    program.add("gated_norm", x=x, gate=gate, weight=weight, eps=eps, by=by)


def new_layer_state(
    native: ModuleType, shapes: Sequence[tuple[int, ...]], n_states: int, n_guesses: int = 0
) -> LayerState:
    """Zeroed memory for `n_states` states with parts of these shapes, which have room for `n_guesses`; rows of matrices
    are in whole vectors."""
    tile: int = native.TILE
    padded = [(*shape[:-1], -(-shape[-1] // tile) * tile if len(shape) == 3 else shape[-1]) for shape in shapes]
    return LayerState(tuple(untouched_zeros((n_states, *shape), torch.float32) for shape in padded), n_guesses)
