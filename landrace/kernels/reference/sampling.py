"""Token choice in torch: see `SamplingRule` for what is kept of a row and how a token is chosen from it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from landrace.kernels.sampling_rule import NOT_FINITE, SamplingRule


def choose_tokens(
    logits: Tensor,
    rows: Sequence[int],
    rules: Sequence[SamplingRule],
    uniforms: Sequence[float],
    masks: Sequence[Tensor | None] = (),
) -> list[int]:
    """One token for each of `rows` of float32 `logits` [R, vocab], which stay as they are, by its rule and its uniform
    number (unused where the temperature is 0), of those that its mask allows (see `SamplingRule`); NOT_FINITE for a row
    without probabilities."""
    tokens = [NOT_FINITE] * len(rows)
    if not rows:
        return tokens
    x = _only_allowed(_take(logits, rows), masks)
    told = [x.amax(-1).isfinite().long()]
    if any(rule.temperature == 0 for rule in rules):
        told.append(x.argmax(-1))
    finite, *best = torch.stack(told).tolist()  # at once: a device is waited for
    for i, rule in enumerate(rules):
        if finite[i] and rule.temperature == 0:
            tokens[i] = best[0][i]
    drawn = [i for i, rule in enumerate(rules) if finite[i] and rule.temperature > 0]
    if drawn:
        filtered = filter_logits(_take(x, drawn), [rules[i] for i in drawn])
        for i, token in zip(drawn, _look_up(filtered, [uniforms[i] for i in drawn]), strict=True):
            tokens[i] = token
    return tokens


def filter_logits(logits: Tensor, rules: Sequence[SamplingRule]) -> Tensor:
    """The rules' filters on `logits` [B, vocab]: each row's greatest logit becomes 0, what is dropped -inf."""

    def column(values: Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=logits.device)[:, None]

    vocab = logits.shape[1]
    x = (logits - logits.amax(-1, keepdim=True)) / column([rule.temperature for rule in rules])
    floor = column([math.log(rule.min_p) if rule.min_p > 0 else -math.inf for rule in rules])
    rows = [row for row, rule in enumerate(rules) if 0 < rule.top_k < vocab]
    if rows:
        ranks = torch.tensor([rules[row].top_k for row in rows], device=x.device)[:, None]
        best = x[rows].topk(int(ranks.max()), dim=-1).values
        kth = best.gather(1, ranks - 1)
        x[rows] = x[rows].masked_fill(x[rows] < kth, -math.inf)
    rows = [row for row, rule in enumerate(rules) if rule.top_p < 1]
    if rows:
        floor[rows] = floor[rows].maximum(_nucleus_floor(x[rows], column([rules[row].top_p for row in rows])))
    return x.masked_fill_(x < floor, -math.inf)


def log_total(x: Tensor) -> Tensor:
    """[..., 1] log of the sum of e^x over the last dimension. Added in float64 on a GPU, where the order of a sum
    depends on how many rows there are."""
    return (x.double() if x.is_cuda else x).logsumexp(-1, keepdim=True).to(x.dtype)


def _only_allowed(x: Tensor, masks: Sequence[Tensor | None]) -> Tensor:
    """-inf for every token that its row's mask does not allow; a row that held NaN or +inf is all NaN."""
    masked = [(row, mask) for row, mask in enumerate(masks) if mask is not None]
    if not masked:
        return x
    rows = [row for row, _ in masked]
    words = torch.stack([mask for _, mask in masked]).to(x.device)
    bits = (words[:, :, None] >> torch.arange(32, device=x.device)) & 1
    allowed = torch.zeros(len(rows), x.shape[1], dtype=torch.bool, device=x.device)
    known = min(x.shape[1], bits[0].numel())
    allowed[:, :known] = bits.flatten(1)[:, :known].bool()
    own = x[rows]
    sound = own.amax(-1, keepdim=True).isfinite()
    own = own.masked_fill(~allowed, -math.inf).masked_fill(~sound, math.nan)
    return x.index_put((torch.tensor(rows, device=x.device),), own)


def _take(x: Tensor, rows: Sequence[int]) -> Tensor:
    """Rows of `x`: itself where they are all of its rows in order."""
    return x if len(rows) == len(x) and list(rows) == list(range(len(x))) else x[list(rows)]


def _nucleus_floor(x: Tensor, top_p: Tensor) -> Tensor:
    """[B, 1]: the least logit of each row's nucleus. Sorts only as much of the vocabulary as the nuclei need."""
    vocab = x.shape[1]
    whole = log_total(x)
    n_sorted = min(vocab, 256)
    while True:
        best = x.topk(n_sorted, dim=-1).values
        share = (best - whole).double().exp()
        # At least one token, also where p is less than float32 can tell from 0.
        size = ((share.cumsum(-1) - share) < top_p).sum(-1, keepdim=True).clamp(min=1)
        if n_sorted == vocab or bool((size < n_sorted).all()):
            return best.gather(1, size - 1)
        n_sorted = min(vocab, n_sorted * 8)


def _look_up(filtered: Tensor, uniforms: Sequence[float]) -> list[int]:
    """The token in whose share of [0, 1), shares laid end to end by id, each row's uniform number falls."""
    cumulative = filtered.exp().cumsum(-1, dtype=torch.float64)
    # A uniform number is at most 1 - 2^-53, and its product with the total is rounded to less than the total.
    target = torch.tensor(uniforms, dtype=torch.float64, device=filtered.device)[:, None] * cumulative[:, -1:]
    tokens: list[int] = torch.searchsorted(cumulative, target, right=True)[:, 0].tolist()
    return tokens
