"""Which positions each row attends to, by the scores of an indexer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from landrace.kernels.mask import FULL, Mask
from landrace.kernels.reference.attention import WRITTEN, AttentionPlan, SequenceGroup


def select(
    q: Tensor, k: Tensor, weights: Tensor, plan: AttentionPlan, *, top_k: int, mask: Mask = FULL
) -> tuple[Tensor, ...]:
    """Of the positions that `mask` shows a row the `top_k` with the greatest sum of weight * relu(q.k) over heads, of
    equal ones the earlier: by group of the plan [G, 1, Q, K], true where a query looks.

    q [T, heads, d] and weights [T, heads] in float32, k packed rows [T, 1, d] or a flat cache, as `attention` takes
    keys. Not differentiable.
    """
    parts = zip(plan.groups, plan.padded(q), plan.past(k, q.dtype), plan.padded(weights[..., None]), strict=True)
    return tuple(_chosen(*part, top_k, mask) for part in parts)


def _chosen(group: SequenceGroup, q: Tensor, k: Tensor, weights: Tensor, top_k: int, mask: Mask) -> Tensor:
    """q [G, heads, Q, d], k [G, 1, K, d], weights [G, heads, Q, 1]."""
    if group.n_keys <= top_k:
        return group.mask(mask)
    together = max(1, WRITTEN // (q.shape[0] * q.shape[1] * group.n_keys))
    parts = []
    for begin in range(0, group.n_queries, together):
        end = min(group.n_queries, begin + together)
        products = (q[:, :, begin:end] @ k.transpose(-1, -2)).relu()
        scores = (weights[:, :, begin:end] * products).sum(1, keepdim=True)
        seen = group.seen(mask, begin, end)
        order = scores.masked_fill(~seen, -torch.inf).sort(dim=-1, descending=True, stable=True).indices
        parts.append(torch.zeros_like(seen).scatter(-1, order[..., :top_k], True) & seen)
    return torch.cat(parts, 2)


def select_pools(
    q: Tensor,
    keys: Tensor,
    places: Sequence[Tensor],
    weights: Tensor,
    plan: AttentionPlan,
    *,
    size: int,
    n_pools: int,
    mask: Mask = FULL,
) -> tuple[Tensor, ...]:
    """Of the whole pools of `size` positions that `mask` shows a row the `n_pools` with the greatest sum of weight *
    relu(q.key) over heads, of equal ones the earlier, and what it sees behind them: by group of the plan [G, 1, Q, K],
    true where a query looks.

    q [T, heads, d] and weights [T, heads] in float32; keys [n, d], of which places[s] are those of sequence s's pools.
    Pools lie on a grid from position 0, which the mask shows to all. Not differentiable.
    """
    parts = zip(plan.groups, plan.padded(q), plan.padded(weights[..., None]), strict=True)
    return tuple(_chosen_pools(*part, keys, places, size, n_pools, mask) for part in parts)


def _chosen_pools(
    group: SequenceGroup,
    q: Tensor,
    weights: Tensor,
    keys: Tensor,
    places: Sequence[Tensor],
    size: int,
    n_pools: int,
    mask: Mask,
) -> Tensor:
    """q [G, heads, Q, d], weights [G, heads, Q, 1]."""
    if group.n_keys < size * (n_pools + 1):
        return group.mask(mask)
    table = pad_sequence([places[s] for s in group.members], batch_first=True)
    keys = keys[table].to(q.dtype)[:, None].transpose(-1, -2)
    together = max(1, WRITTEN // (q.shape[0] * q.shape[1] * group.n_keys))
    parts = []
    for begin in range(0, group.n_queries, together):
        end = min(group.n_queries, begin + together)
        scores = (weights[:, :, begin:end] * (q[:, :, begin:end] @ keys).relu()).sum(1, keepdim=True)
        seen = group.seen(mask, begin, end)
        whole = (group.positions(begin, end) + 1)[:, None, :, None] // size
        numbers = torch.arange(keys.shape[-1], device=q.device)
        order = scores.masked_fill(numbers >= whole, -torch.inf).sort(dim=-1, descending=True, stable=True).indices
        kept = torch.zeros_like(scores, dtype=torch.bool).scatter(-1, order[..., :n_pools], True)
        chosen = F.pad(kept.repeat_interleave(size, -1), (0, group.n_keys - keys.shape[-1] * size))
        chosen |= torch.arange(group.n_keys, device=q.device) // size >= whole
        parts.append(chosen & seen)
    return torch.cat(parts, 2)


def select_blocks(
    q: Tensor, k: Tensor, plan: AttentionPlan, *, n_heads: int, block: int, top_k: int, n_local: int, mask: Mask = FULL
) -> tuple[Tensor, ...]:
    """Of the blocks of `block` positions that `mask` shows a row, for each head of q apart, its own, the n_local - 1
    before it, and those with the greatest q.k, `top_k` together; of equal ones the earlier: by group of the plan [G,
    n_heads, Q, K], true where a query looks, or [G, 1, Q, K] where all look at all.

    q [T, lists, d], one for as many neighbours of the `n_heads`; k packed rows [T, 1, d] or a flat cache. Not
    differentiable.
    """
    sizes = (n_heads // q.shape[1], block, top_k, n_local)
    parts = zip(plan.groups, plan.padded(q), plan.past(k, q.dtype), strict=True)
    return tuple(_chosen_blocks(*part, *sizes, mask) for part in parts)


def _chosen_blocks(
    group: SequenceGroup, q: Tensor, k: Tensor, share: int, block: int, top_k: int, n_local: int, mask: Mask
) -> Tensor:
    """q [G, lists, Q, d], k [G, 1, K, d]."""
    if group.n_keys <= block * top_k:
        return group.mask(mask)
    together = max(1, WRITTEN // (q.shape[0] * q.shape[1] * group.n_keys))
    n_blocks = -(-group.n_keys // block)
    parts = []
    for begin in range(0, group.n_queries, together):
        end = min(group.n_queries, begin + together)
        seen = group.seen(mask, begin, end)
        scores = (q[:, :, begin:end] @ k.transpose(-1, -2)).masked_fill(~seen, -torch.inf)
        blocks = F.pad(scores, (0, n_blocks * block - group.n_keys), value=-torch.inf).reshape(
            *scores.shape[:-1], n_blocks, block
        )
        before = group.positions(begin, end)[:, None, :, None] // block - torch.arange(n_blocks, device=q.device)
        best = blocks.amax(-1).masked_fill((before >= 0) & (before < n_local), torch.inf)
        order = best.sort(dim=-1, descending=True, stable=True).indices[..., :top_k]
        kept = torch.zeros_like(best, dtype=torch.bool).scatter(-1, order, True)
        chosen = kept.repeat_interleave(block, -1)[..., : group.n_keys] & seen
        # A padded query may see nothing, as in `SequenceGroup.seen`.
        chosen[..., 0] |= ~chosen.any(-1)
        parts.append(chosen.repeat_interleave(share, 1))
    return torch.cat(parts, 2)
