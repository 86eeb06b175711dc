"""Short causal convolutions over sequences of different lengths laid end to end."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor


def short_conv(x: Tensor, weight: Tensor, starts: Sequence[int], tails: Tensor | None) -> tuple[Tensor, Tensor]:
    """silu(sum over j of weight[:, j] * (the row width - 1 - j before)), channel by channel, in float32.

    x [T, channels]; weight [channels, width]; `starts`: S + 1 row indices. tails [S, width - 1, channels]: the rows
    before each sequence's first, oldest first; None: zeros. Returns [T, channels] in x's dtype, and the tails that the
    next rows find.
    """
    n_sequences, n_before = len(starts) - 1, weight.shape[1] - 1
    if tails is None:
        tails = x.new_zeros(n_sequences, n_before, x.shape[1], dtype=torch.float32)
    # Every sequence's tail and then all rows: `places` says where the rows around each row lie in them.
    known = torch.cat((tails.flatten(0, 1), x.float()))
    places, last = _places(starts, n_before)
    places, last = places.to(x.device), last.to(x.device)
    taps = [known[places[:, j]] * weight[:, j] for j in range(n_before + 1)]
    mixed = torch.stack(taps).sum(0) if len(taps) > 1 else taps[0]
    return F.silu(mixed).to(x.dtype), known[last]


def _places(starts: Sequence[int], n_before: int) -> tuple[Tensor, Tensor]:
    """[T, n_before + 1]: the places of the rows up to each row; [S, n_before]: of those before the next."""
    first_row = (len(starts) - 1) * n_before
    lines = []
    for s, (start, end) in enumerate(pairwise(starts)):
        tail = torch.arange(s * n_before, (s + 1) * n_before)
        lines.append(torch.cat((tail, torch.arange(first_row + start, first_row + end))))
    windows = [line.unfold(0, n_before + 1, 1) for line in lines if line.numel() > n_before]
    places = torch.cat(windows) if windows else torch.empty(0, n_before + 1, dtype=torch.long)
    last = [line[line.numel() - n_before :] for line in lines]
    return places, torch.stack(last) if last else torch.empty(0, n_before, dtype=torch.long)


def spread_taps(weight: Tensor, dilation: int) -> Tensor:
    """[channels, (width - 1) * dilation + 1]: the taps with zeros between, so that they meet every so many-th row."""
    channels, width = weight.shape
    if dilation == 1:
        return weight
    spread = weight.new_zeros(channels, width, dilation)
    spread[:, :, 0] = weight
    return spread.flatten(1)[:, : (width - 1) * dilation + 1]
