"""Rotary position embedding (Su et al., 2021) in the half layout."""

from __future__ import annotations

import torch
from torch import Tensor


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotates the first 2 * cos.shape[-1] channels of every head in float32; the rest pass through.

    x [T, heads, head_dim], and so the float32 result; cos and sin [T, rotary_dim / 2] float32. Channel i pairs with
    channel i + rotary_dim / 2.
    """
    half = cos.shape[-1]
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    first, second = x[..., :half], x[..., half : 2 * half]
    return torch.cat((first * cos - second * sin, second * cos + first * sin, x[..., 2 * half :]), dim=-1)
