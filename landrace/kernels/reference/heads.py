"""What is done to attention's heads besides rotating them and mixing positions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from landrace.kernels.activation import Gate
from landrace.kernels.head_form import QkNorm, Temperature
from landrace.kernels.reference.dense import rms_norm


def normed(x: Tensor, weight: Tensor | None, norm: QkNorm, eps: float) -> Tensor:
    """Heads x [T, heads, head_dim] normalised, in float32 (see `QkNorm`).

    weight: [head_dim], over all heads [heads * head_dim], and None for l2.
    """
    if norm.over == "all_heads":
        return rms_norm(x.flatten(1), weight, eps).view_as(x)
    return rms_norm(x, weight, eps)


def temperature(positions: Tensor, form: Temperature) -> Tensor:
    """[T] float32 factors on the queries at positions [T]."""
    return 1 + form.scale * torch.log1p(torch.floor((positions.float() + 1) / form.floor))


def gated_heads(x: Tensor, gate: Tensor) -> Tensor:
    """Each head of x [T, heads, head_dim] times the sigmoid of its gate [T, heads]."""
    return x * gate.sigmoid()[:, :, None]


def alibi_slopes(n_heads: int) -> Tensor:
    """[n_heads] float32, how fast each head's scores fall with distance (Press et al., 2022).

    For n heads, n a power of two, 2^(-8 / n), 2^(-16 / n) and so on; for another number, those of the greatest power of
    two in it and then every second one of twice that power.
    """
    power = 1 << (n_heads.bit_length() - 1)
    exponents = [8 * (i + 1) / power for i in range(power)]
    exponents += [4 * (2 * i + 1) / power for i in range(n_heads - power)]
    return torch.tensor([2.0**-exponent for exponent in exponents])


def fading_rates(n_heads: int, factor: float) -> Tensor:
    """[n_heads] float32, how fast each head's state fades: factor * 2^(-8 (h + 1) / n_heads) of head h (lightning
    attention, Qin et al., 2024)."""
    return torch.tensor([factor * 2.0 ** (-8 * (head + 1) / n_heads) for head in range(n_heads)])


def gated_norm(x: Tensor, gate: Tensor, weight: Tensor, eps: float, by: Gate = "silu") -> Tensor:
    """Each head of x [T, heads * head_dim] normalised and times silu or the sigmoid of its gate [T, heads * head_dim],
    in float32; weight [head_dim]."""
    heads = rms_norm(x.view(x.shape[0], -1, weight.shape[0]), weight, eps)
    return heads.flatten(1) * (F.silu(gate.float()) if by == "silu" else gate.float().sigmoid())
