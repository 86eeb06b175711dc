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


def rotate_pairs(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """The same for the last channels, of which neighbours pair: channel 2i with channel 2i + 1 of those."""
    straight, turned = x[..., : -2 * cos.shape[-1]], x[..., -2 * cos.shape[-1] :].float()
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    first, second = turned[..., 0::2], turned[..., 1::2]
    pairs = torch.stack((first * cos - second * sin, second * cos + first * sin), -1)
    return torch.cat((straight.float(), pairs.flatten(-2)), -1)
