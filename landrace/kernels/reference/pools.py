"""Neighbouring positions on a grid from position 0 of which one row is made, once the last of them is there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor


@dataclass(frozen=True)
class Closing:
    """The rows that a step's rows close."""

    rows: Tensor
    """[N] of the step: the last one of each."""
    sources: Tensor
    """[N, span] int64: where what each is made of lies, among the step's rows or in a flat cache."""
    there: Tensor
    """[N, span]: false before a sequence's beginning."""


def closing(
    positions: Tensor, starts: Sequence[int], seen: Sequence[Tensor], firsts: Sequence[int], size: int, span: int
) -> Closing:
    """Of every `size` positions a row, made of the last `span` of them and of those before. seen[s]: where sequence s
    has the positions from firsts[s] to its last."""
    rows, sources, there = [], [], []
    for (start, end), own, first in zip(pairwise(starts), seen, firsts, strict=True):
        here = positions[start:end]
        closes = (here + 1) % size == 0
        wanted = here[closes][:, None] + torch.arange(1 - span, 1, device=here.device)
        rows.append(torch.arange(start, end, device=here.device)[closes])
        there.append(wanted >= 0)
        sources.append(own[(wanted - first).clamp(min=0)])
    return Closing(torch.cat(rows), torch.cat(sources), torch.cat(there))


def mean_keys(rows: Tensor, bias: Tensor | None) -> Tensor:
    """[N, d]: channel by channel the mean of each pool's keys, weighted by softmax(gates + bias) over the pool where
    there is a bias [size, d]. rows [N, size, d], or [N, size, 2 * d] with gates behind keys."""
    if bias is None:
        return rows.mean(1)
    keys, gates = rows.chunk(2, -1)
    return ((gates + bias).softmax(1) * keys).sum(1)
