"""Which blocks of positions each row attends to, by means of the keys in them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from landrace.kernels.key_means import COARSE, COARSE_APART, MEAN_OF, WINDOW
from landrace.kernels.layer_cache import kept_as
from landrace.kernels.mask import FULL
from landrace.kernels.reference.attention import WRITTEN, AttentionPlan, SequenceGroup


def packed_means(k: Tensor, plan: AttentionPlan) -> Iterator[Tensor]:
    """By group of the plan the means of every sixteen keys, [G, n_kv_heads, M, d], as far as they are whole; k: packed
    rows [T, n_kv_heads, d] of sequences that start here."""
    for keys in plan.past(k, torch.float32):
        n_sequences, n_heads, n_keys, width = keys.shape
        whole = keys[:, :, : n_keys // MEAN_OF * MEAN_OF].float()
        yield whole.reshape(n_sequences, n_heads, n_keys // MEAN_OF, MEAN_OF, width).mean(3)


def keep_means(k: Tensor, index: Tensor, starts: Sequence[int], sequence_slots: Sequence[Tensor]) -> None:
    """Writes the means that this step's rows make whole: sequence s has the rows starts[s] to starts[s + 1], the last
    of those in sequence_slots[s].

    k [n_slots, n_kv_heads, d], index [n_slots, 1, n_kv_heads * d / 16]: of a mean, all heads' channels in a row, the
    sixteen positions keep every sixteenth value each, from its own on.
    """
    new = []
    for (start, end), slots in zip(pairwise(starts), sequence_slots, strict=True):
        first = (len(slots) - (end - start)) // MEAN_OF
        new.append(slots[first * MEAN_OF : len(slots) // MEAN_OF * MEAN_OF].view(-1, MEAN_OF))
    whole = torch.cat(new)
    means = k[whole].float().mean(1).view(len(whole), index.shape[-1], MEAN_OF)
    shares = means.transpose(1, 2).flatten(0, 1)[:, None]
    index.index_copy_(0, whole.flatten(), kept_as(shares, index.dtype))


def kept_means(index: Tensor, plan: AttentionPlan, n_kv_heads: int) -> Iterator[Tensor]:
    """By group of the plan the means that `keep_means` has written: [G, n_kv_heads, M, d]."""
    for group in plan.groups:
        assert group.slots is not None
        shares = index[group.slots[:, : group.n_keys // MEAN_OF * MEAN_OF], 0]
        n_sequences, n_slots, width = shares.shape
        means = shares.view(n_sequences, n_slots // MEAN_OF, MEAN_OF, width).transpose(2, 3)
        yield means.reshape(*means.shape[:2], n_kv_heads, width * MEAN_OF // n_kv_heads).transpose(1, 2)


def select_by_means(
    q: Tensor,
    means: Iterable[Tensor],
    plan: AttentionPlan,
    *,
    scale: float,
    block: int,
    top_k: int,
    n_first: int,
    n_local: int,
    onset: int,
) -> tuple[Tensor, ...]:
    """For queries from the position `onset` on, for each head of keys apart, the `n_first` blocks of `block` positions,
    the query's own and the n_local - 1 before it, and those in which the heaviest windows lie, `top_k` together; of
    equal ones the earlier: by group of the plan [G, n_heads, Q, K], true where a query looks, or [G, 1, Q, K] where all
    look at all.

    A window is two neighbouring means, a coarse one eight; only those count that the query has behind it. Heads weigh
    a window by exp(scale * q.k), k the mean of its keys, over the sum of the same over coarse windows, and what heads
    with the same keys weigh is added up (InfLLM-v2).

    q [T, n_heads, d]; means, by group [G, n_kv_heads, M, d]. Not differentiable.
    """
    sizes = (scale, block, top_k, n_first, n_local, onset)
    return tuple(
        _by_means(group, queries, own.to(q.dtype), *sizes)
        for group, queries, own in zip(plan.groups, plan.padded(q), means, strict=True)
    )


def _by_means(
    group: SequenceGroup,
    q: Tensor,
    means: Tensor,
    scale: float,
    block: int,
    top_k: int,
    n_first: int,
    n_local: int,
    onset: int,
) -> Tensor:
    """q [G, n_heads, Q, d]."""
    if group.n_keys <= onset:
        return group.mask(FULL)
    share, step, n_blocks = q.shape[1] // means.shape[1], block // MEAN_OF, -(-group.n_keys // block)
    means = means.repeat_interleave(share, 1).transpose(-1, -2)
    together = max(1, WRITTEN // (q.shape[0] * q.shape[1] * group.n_keys))
    parts = []
    for begin in range(0, group.n_queries, together):
        end = min(group.n_queries, begin + together)
        seen, positions = group.seen(FULL, begin, end), group.positions(begin, end)[:, None, :, None]
        scores = scale * (q[:, :, begin:end] @ means)
        behind = (positions + 1) // MEAN_OF - torch.arange(scores.shape[-1], device=q.device)
        windows = scores.unfold(-1, WINDOW, 1).mean(-1)
        coarse = scores.unfold(-1, COARSE, COARSE_APART).mean(-1)
        coarse = coarse.masked_fill(behind[..., : -COARSE + 1 : COARSE_APART] < COARSE, -torch.inf)
        weights = (windows - coarse.logsumexp(-1, keepdim=True)).exp()
        weights = weights.masked_fill(behind[..., : 1 - WINDOW] < WINDOW, -torch.inf)
        weights = weights.view(len(weights), -1, share, *weights.shape[2:]).sum(2)
        reach = F.pad(weights, (WINDOW - 1, n_blocks * step - weights.shape[-1]), value=-torch.inf)
        blocks = torch.arange(n_blocks, device=q.device)
        before = positions // block - blocks
        always = (blocks < n_first) | (before < n_local)
        best = reach.unfold(-1, step + WINDOW - 1, step).amax(-1).masked_fill(always, torch.inf)
        best = best.masked_fill(before < 0, -torch.inf)
        order = best.sort(dim=-1, descending=True, stable=True).indices[..., :top_k]
        kept = torch.zeros_like(best, dtype=torch.bool).scatter(-1, order, True)
        chosen = (kept.repeat_interleave(block, -1)[..., : group.n_keys] | (positions < onset)) & seen
        # A padded query may see nothing, as in `SequenceGroup.seen`.
        chosen[..., 0] |= ~chosen.any(-1)
        parts.append(chosen.repeat_interleave(share, 1))
    return torch.cat(parts, 2)
