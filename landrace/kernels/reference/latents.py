"""Products of latent attention that are taken head by head, so that no key and no value is made of a latent."""

from __future__ import annotations

import torch
from torch import Tensor


def absorbed(q: Tensor, weight: Tensor) -> Tensor:
    """q [T, heads, n] times each head's own rows of weight [heads * n, rank]: [T, heads, rank].

    Its product with a latent c is that of q with the key weight c, since q.(W c) = (q W).c.
    """
    return torch.einsum("thn,hnr->thr", q, _by_head(weight, q))


def head_linear(x: Tensor, weight: Tensor) -> Tensor:
    """x [T, heads, rank] times each head's own rows of weight [heads * n, rank], transposed: [T, heads, n]."""
    return torch.einsum("thr,hnr->thn", x, _by_head(weight, x))


def _by_head(weight: Tensor, like: Tensor) -> Tensor:
    return weight.to(like.dtype).view(like.shape[1], -1, weight.shape[1])
