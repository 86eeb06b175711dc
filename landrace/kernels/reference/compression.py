"""Rows that are compressed from the positions before them, and which of them and of a window each row attends to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from landrace.kernels.reference.attention import WRITTEN, AttentionPlan, SequenceGroup, plan_attention


def compressed(values: Tensor, gates: Tensor, bias: Tensor, there: Tensor) -> Tensor:
    """[N, width]: the sum of values, each channel weighted by the softmax of gates + bias over the span, in float32.

    values and gates [N, span, parts * width], bias [ratio, parts * width]: of the positions of the row itself the last
    part counts, of `ratio` positions before them the first. there [N, span]: which of them count.
    """
    ratio = bias.shape[0]
    parts = values.shape[1] // ratio
    shape = (values.shape[0], parts, ratio, parts, values.shape[2] // parts)
    own = torch.arange(parts, device=values.device)
    values, gates = (
        x.float().reshape(shape)[:, own, :, own].transpose(0, 1).flatten(1, 2)
        for x in (values, gates.float() + bias.repeat(parts, 1))
    )
    return (values * gates.masked_fill(~there[..., None], -torch.inf).softmax(1)).sum(1)


@dataclass(frozen=True)
class CompressedPlan:
    """What a step's attention reads: of each sequence its compressed rows, and then those of its window."""

    plan: AttentionPlan
    """Over the M rows that are read, laid end to end."""
    slots: Tensor
    """[M] int64: where each of them lies among its like."""
    is_compressed: Tensor
    """[M]."""
    last: Tensor
    """[M]: its position; of a compressed row the last one that it is compressed from."""

    def gathered(self, rows: Tensor | None, compressed: Tensor | None) -> Tensor:
        """[M, 1, width]: those of positions and compressed ones as they are read, zeros for what is None."""
        parts = [
            (one, place)
            for one, place in ((rows, ~self.is_compressed), (compressed, self.is_compressed))
            if one is not None
        ]
        found = parts[0][0].new_zeros(self.slots.numel(), *parts[0][0].shape[1:])
        for one, place in parts:
            found = found.index_copy(0, place.nonzero()[:, 0], one[self.slots[place]].to(found.dtype))
        return found

    def seen(self, positions: Tensor, window: int) -> tuple[Tensor, ...]:
        """By group [G, 1, Q, K], true where a query looks: at what is there of compressed rows, and at its window."""
        queries = self.plan.padded(positions[:, None, None])
        return tuple(self._seen(group, own, window) for group, own in zip(self.plan.groups, queries, strict=True))

    def _seen(self, group: SequenceGroup, positions: Tensor, window: int) -> Tensor:
        assert group.slots is not None
        last, is_compressed = self.last[group.slots][:, None, None], self.is_compressed[group.slots][:, None, None]
        there = torch.arange(group.n_keys, device=last.device) < group.k_lengths[:, None, None, None]
        return there & (last <= positions) & (is_compressed | (last > positions - window))

    def chosen(self, q: Tensor, k: Tensor, weights: Tensor, seen: Sequence[Tensor], top_k: int) -> tuple[Tensor, ...]:
        """Of the compressed rows that are seen the `top_k` with the greatest sum of weight * relu(q.k) over heads, of
        equal ones the earlier; and all others that are seen.

        q [T, heads, d] and weights [T, heads] in float32, k [M, 1, d] as they are read. Not differentiable.
        """
        parts = zip(
            self.plan.groups, self.plan.padded(q), self.plan.past(k, q.dtype), self.plan.padded(weights[..., None]),
            seen, strict=True,
        )  # fmt: skip
        return tuple(self._chosen(*part, top_k) for part in parts)

    def _chosen(self, group: SequenceGroup, q: Tensor, k: Tensor, weights: Tensor, seen: Tensor, top_k: int) -> Tensor:
        assert group.slots is not None
        is_compressed = self.is_compressed[group.slots][:, None, None]
        together = max(1, WRITTEN // (q.shape[0] * q.shape[1] * group.n_keys))
        parts = []
        for begin in range(0, group.n_queries, together):
            here = slice(begin, begin + together)
            scores = (weights[:, :, here] * (q[:, :, here] @ k.transpose(-1, -2)).relu()).sum(1, keepdim=True)
            among = seen[:, :, here] & is_compressed
            order = scores.masked_fill(~among, -torch.inf).sort(dim=-1, descending=True, stable=True).indices
            best = torch.zeros_like(among).scatter(-1, order[..., :top_k], True)
            parts.append(torch.where(is_compressed, best & among, seen[:, :, here]))
        return torch.cat(parts, 2)


def plan_compressed(
    starts: Sequence[int], seen: Sequence[Tensor], firsts: Sequence[int], compressed: Sequence[Tensor], ratio: int
) -> CompressedPlan:
    """seen[s]: where sequence s has the positions from firsts[s] to its last; compressed[s]: where its compressed rows
    lie."""
    device = seen[0].device
    slots, is_compressed, last, places, begin = [], [], [], [], 0
    for own, first, entries in zip(seen, firsts, compressed, strict=True):
        n_entries, n = entries.numel(), own.numel()
        slots += [entries, own]
        is_compressed += [torch.ones(n_entries, dtype=torch.bool), torch.zeros(n, dtype=torch.bool)]
        last += [(torch.arange(n_entries) + 1) * ratio - 1, torch.arange(first, first + n)]
        places.append(torch.arange(begin, begin + n_entries + n, device=device))
        begin += n_entries + n
    plan = plan_attention(starts, places, device)
    return CompressedPlan(plan, torch.cat(slots), torch.cat(is_compressed).to(device), torch.cat(last).to(device))
