"""Residual streams, [T, count * d_model]: what weights them, one row of them for a branch, and its result to them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from landrace.kernels.reference.dense import rms_norm
from landrace.kernels.streams import HyperConnections


def stream_weights(
    streams: Tensor, weight: Tensor, base: Tensor, scale: Tensor, form: HyperConnections, eps: float
) -> Tensor:
    """What `form` weights streams by, in float32: for each stream what it gives to the branch, then what it takes, then
    for each stream how much of it goes to each. [T, n], [T, 2n] or [T, 2n + n^2]: as many as `scale` has parts.

    weight [as many, n * d_model], base [as many], scale [1, 2 or 3]; eps of the norm.
    """
    return weights_of(F.linear(rms_norm(streams, None, eps), weight), base, scale, form)


def weights_of(products: Tensor, base: Tensor, scale: Tensor, form: HyperConnections) -> Tensor:
    """The same of the normalised streams' products with `weight`."""
    n = form.count
    sizes = [n, n, n * n][: scale.numel()]
    scales = torch.cat([one.expand(size) for one, size in zip(scale, sizes, strict=True)])
    gives, *others = torch.split(products * scales + base, sizes, -1)
    found = [gives.sigmoid() + form.eps]
    if others:
        found.append(form.post_factor * others[0].sigmoid() + form.post_eps)
    if len(others) > 1:
        found.append(doubly_stochastic(others[1].view(-1, n, n), form).flatten(1))
    return torch.cat(found, -1)


def doubly_stochastic(logits: Tensor, form: HyperConnections) -> Tensor:
    """[..., n, n] with rows and columns that sum to 1, nearly: the softmax of each row, and then columns and rows
    divided by their sums in turn."""
    mix = logits.softmax(-1) + form.eps
    for turn in range(form.iterations):
        if turn:
            mix = mix / (mix.sum(-1, keepdim=True) + form.eps)
        mix = mix / (mix.sum(-2, keepdim=True) + form.eps)
    return mix


def collapsed(streams: Tensor, count: int, weights: Tensor | None = None) -> Tensor:
    """[T, d_model]: the sum of the streams, each times its weight [T, count or more]; None: their mean."""
    each = streams.view(len(streams), count, -1)
    return each.mean(1) if weights is None else (each * weights[:, :count, None]).sum(1)


def attended_blocks(sums: Sequence[Tensor], scores: Tensor, norm: Tensor | None, eps: float) -> Tensor:
    """[T, d_model]: the sum of blocks' sums, each times the softmax over them of its RMS norm, with the weight `norm`
    if there is one, times scores [d_model] (attention residuals; Kimi Team, 2026)."""
    each = torch.stack(tuple(sums), 1)
    weight = scores if norm is None else scores * norm
    shares = (rms_norm(each, None, eps) * weight).sum(-1).softmax(-1)
    return (each * shares[..., None]).sum(1)


def spread(streams: Tensor, branch: Tensor, weights: Tensor, count: int, first: int, mixes: bool) -> Tensor:
    """Each stream, or what of all of them goes to it, plus its weight times the branch's result [T, d_model].

    weights: from `first` on one for each stream, and where they mix the matrix [from, to] behind them.
    """
    each, behind = streams.view(len(streams), count, -1), first + count
    if mixes:
        each = weights[:, behind : behind + count * count].view(-1, count, count).mT @ each
    return (each + weights[:, first:behind, None] * branch[:, None]).flatten(1)
