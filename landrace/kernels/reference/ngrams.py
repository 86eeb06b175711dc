"""Which rows of hashed tables belong to the n-grams that end at each token, and how they gate residual streams."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from landrace.kernels.ngrams import NGrams


def ngram_rows(ids: Tensor, starts: Sequence[int], before: Tensor | None, form: NGrams) -> tuple[Tensor, Tensor]:
    """[T, tables] rows of the one matrix that all tables lie in, and the tokens that the next rows find.

    ids [T]; `starts`: S + 1 row indices; before [S, longest - 1]: 1 + the tokens before each sequence's first row,
    latest first, 0 where there is none; None: all begin.
    """
    n = form.n_before
    if before is None:
        before = ids.new_zeros(len(starts) - 1, n)
    sequences = [ids[start:end] + 1 for start, end in pairwise(starts)]
    known = [torch.cat((old.flip(0).long(), own)) for old, own in zip(before, sequences, strict=True)]
    windows = torch.cat([line.unfold(0, n + 1, 1).flip(1) for line in known])
    last = torch.stack([line[len(line) - n :].flip(0) for line in known])
    tokens = windows - 1
    # From the first filler on, seen from the row's own token back, all are fillers.
    cut = ((tokens == form.filler) | (tokens < 0))[:, 1:].cumsum(1) > 0
    tokens = torch.cat((tokens[:, :1], tokens[:, 1:].masked_fill(cut, form.filler)), 1)
    mixed, rows = tokens[:, 0] * form.multipliers[0], []
    firsts = list(accumulate(form.sizes, initial=0))
    for table, (first, size) in enumerate(zip(firsts, form.sizes, strict=False)):
        if table % form.per_length == 0:
            place = table // form.per_length + 1
            mixed = mixed ^ (tokens[:, place] * form.multipliers[place])
        rows.append(mixed.remainder(size) + first)
    return torch.stack(rows, 1), last


def gated_values(keys: Tensor, queries: Tensor, values: Tensor, count: int) -> Tensor:
    """[T, count * d]: the values [T, d] for each stream, times sigmoid of the root of how its key meets its query, in
    float32. keys and queries [T, count * d]."""
    each = (keys.float() * queries.float()).view(len(keys), count, -1)
    met = each.sum(-1) / values.shape[-1] ** 0.5
    root = met.abs().clamp(min=1e-6).sqrt() * met.sign()
    gates: Tensor = root.sigmoid()
    return (gates[..., None] * values[:, None]).flatten(1)
