"""Attention over sequences of different lengths laid end to end.

Sequences of similar length are padded into groups, and each group is one scaled-dot-product call.
Rows are padded on the right: a causal mask hides every padded key from every real query, and padded
queries are dropped, so what fills the padding never matters.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from landrace.kernels.mask import Mask

_WASTE = 1.25
"""A group may hold this many times as many padded positions as real ones."""

_SHORT = 128 * 128
"""Up to this many scores a head, writing them out beats the fused kernel on a CPU, above all in the backward pass."""

WRITTEN = 1 << 24
"""About so many scores are written out at a time where the fused kernel does not know what to do with them."""


@dataclass(frozen=True)
class SequenceGroup:
    """G sequences padded to Q queries and K keys."""

    n_rows: int
    """Real query rows."""
    places: Tensor | None
    """[n_rows] where each row goes in the padded [G * Q]; None: nothing is padded."""
    q_lengths: Tensor
    """[G]."""
    k_lengths: Tensor
    """[G]."""
    k_firsts: Tensor
    """[G]: the position of each sequence's first key."""
    n_queries: int
    n_keys: int
    slots: Tensor | None
    """[G, K] cache slots of the keys; None: the keys are the packed rows themselves."""
    members: Sequence[int]
    """[G] of the step's sequences."""
    whole: bool
    """Whether every sequence begins with this step's rows, so that each row's past is among them."""
    masks: dict[Mask, Tensor] = field(default_factory=dict)

    def positions(self, begin: int, end: int) -> Tensor:
        """[G, end - begin] of the queries from begin to end, counted from the sequence's first key: the last query is
        aligned with the last key."""
        return torch.arange(begin, end, device=self.k_lengths.device) + (self.k_lengths - self.q_lengths)[:, None]

    def distances(self, begin: int, end: int) -> Tensor:
        """[G, end - begin, K] position of the key less that of the query."""
        return torch.arange(self.n_keys, device=self.k_lengths.device) - self.positions(begin, end)[:, :, None]

    def seen(self, mask: Mask, begin: int, end: int) -> Tensor:
        """[G, 1, end - begin, K] true where a query may look."""
        queries, firsts = self.positions(begin, end), self.k_firsts[:, None]
        keys = torch.arange(self.n_keys, device=queries.device)
        first_seen = mask.first_seen(queries + firsts) - firsts
        last_seen = (self.k_lengths - 1)[:, None].expand_as(queries) if mask.sees_ahead else queries
        seen = (keys <= last_seen[:, :, None]) & (keys >= first_seen[:, :, None])
        # A padded query may see nothing, and a softmax over nothing is NaN: let it see key 0; it is dropped later.
        seen[:, :, 0] |= queries >= self.k_lengths[:, None]
        return seen[:, None]

    def mask(self, mask: Mask) -> Tensor:
        """[G, 1, Q, K] true where a query may look."""
        if mask not in self.masks:
            self.masks[mask] = self.seen(mask, 0, self.n_queries)
        return self.masks[mask]


@dataclass(frozen=True)
class AttentionPlan:
    """How the sequences of one batch are grouped; made once a batch and used by every layer."""

    groups: tuple[SequenceGroup, ...]
    order: Tensor | None
    """[T] packed rows, group by group; None: they already lie so."""
    inverse: Tensor | None
    """[T] undoes `order`."""
    fresh: bool
    """Whether every sequence starts here (no cache), so that its keys are its own rows."""

    def padded(self, rows: Tensor) -> Iterator[Tensor]:
        """Packed rows [T, heads, d] by group, [G, heads, Q, d]."""
        parts = torch.split(_take(rows, self.order), [group.n_rows for group in self.groups])
        return (_pad(part, group) for part, group in zip(parts, self.groups, strict=True))

    def past(self, rows: Tensor, dtype: torch.dtype) -> Iterator[Tensor]:
        """Keys or values by group, [G, heads, K, d]: packed rows where every sequence starts here, else a layer's flat
        cache [n_slots, heads, d]."""
        if self.fresh:
            return self.padded(rows)
        return (rows[group.slots].to(dtype).transpose(1, 2) for group in self.groups)


def plan_attention(
    starts: Sequence[int],
    sequence_slots: Sequence[Tensor] | None,
    device: torch.device,
    first_positions: Sequence[int] | None = None,
) -> AttentionPlan:
    """Groups S sequences; s has rows starts[s] to starts[s + 1] and, with a cache, its keys in sequence_slots[s]: those
    of its positions from first_positions[s] on (None: from 0)."""
    q_lengths = [end - start for start, end in pairwise(starts)]
    k_lengths = q_lengths if sequence_slots is None else [slots.numel() for slots in sequence_slots]
    by_length = sorted(range(len(q_lengths)), key=lambda s: (q_lengths[s], k_lengths[s]))
    memberships: list[list[int]] = []
    area = widest = 0
    for s in by_length:
        own = q_lengths[s] * k_lengths[s]
        widest = max(widest, k_lengths[s])
        members = memberships[-1] if memberships else []
        if members and (len(members) + 1) * q_lengths[s] * widest <= _WASTE * (area + own):
            members.append(s)
            area += own
        else:
            memberships.append([s])
            area, widest = own, k_lengths[s]
    memberships = sorted(sorted(members) for members in memberships)
    k_firsts = [0] * len(k_lengths) if first_positions is None else first_positions
    groups = tuple(
        _make_group(members, q_lengths, k_lengths, k_firsts, sequence_slots, device) for members in memberships
    )
    sequence = [s for members in memberships for s in members]
    if sequence == sorted(sequence):
        return AttentionPlan(groups, order=None, inverse=None, fresh=sequence_slots is None)
    order = torch.cat([torch.arange(starts[s], starts[s + 1]) for s in sequence])
    inverse = torch.empty_like(order).scatter_(0, order, torch.arange(order.numel()))
    return AttentionPlan(groups, order.to(device), inverse.to(device), fresh=sequence_slots is None)


def decode_plan(slots: Tensor, lengths: Tensor, firsts: Tensor) -> AttentionPlan:
    """Of S sequences with one row each: s has its keys in the first lengths[s] of slots[s], from the position firsts[s]
    on. slots [S, K] int64: beyond a sequence's own, any that hold finite keys. Only shapes are looked at here, so what
    is computed by the plan can be repeated for other numbers in the same tensors."""
    one = SequenceGroup(
        n_rows=slots.shape[0],
        places=None,
        q_lengths=torch.ones_like(lengths),
        k_lengths=lengths,
        k_firsts=firsts,
        n_queries=1,
        n_keys=slots.shape[1],
        slots=slots,
        members=range(slots.shape[0]),
        whole=False,
    )
    return AttentionPlan((one,), order=None, inverse=None, fresh=False)


def _make_group(
    members: list[int],
    q_lengths: list[int],
    k_lengths: list[int],
    k_firsts: Sequence[int],
    sequence_slots: Sequence[Tensor] | None,
    device: torch.device,
) -> SequenceGroup:
    n_queries = max(q_lengths[s] for s in members)
    n_keys = max(k_lengths[s] for s in members)
    places = None
    if any(q_lengths[s] != n_queries for s in members):
        places = torch.cat([torch.arange(q_lengths[s]) + g * n_queries for g, s in enumerate(members)]).to(device)
    slots = None
    if sequence_slots is not None:
        slots = torch.empty(len(members), n_keys, dtype=torch.long, device=device)
        for g, s in enumerate(members):
            # Padding repeats the sequence's own first key: a masked score of another's NaN would still be NaN.
            slots[g] = sequence_slots[s][0]
            slots[g, : k_lengths[s]] = sequence_slots[s]
    return SequenceGroup(
        n_rows=sum(q_lengths[s] for s in members),
        places=places,
        q_lengths=torch.tensor([q_lengths[s] for s in members], device=device),
        k_lengths=torch.tensor([k_lengths[s] for s in members], device=device),
        k_firsts=torch.tensor([k_firsts[s] for s in members], device=device),
        n_queries=n_queries,
        n_keys=n_keys,
        slots=slots,
        members=members,
        whole=all(q_lengths[s] == k_lengths[s] and k_firsts[s] == 0 for s in members),
    )


class _Take(torch.autograd.Function):
    """x[rows] for rows that are all different, so that the gradient is a copy and not a sum."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Tensor) -> Tensor:
        ctx.save_for_backward(rows)
        ctx.shape = x.shape
        return x.index_select(0, rows)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (rows,) = ctx.saved_tensors
        return grads[0].new_zeros(ctx.shape).index_copy_(0, rows, grads[0]), None


def _take(x: Tensor, rows: Tensor | None) -> Tensor:
    return x if rows is None else _Take.apply(x, rows)  # type: ignore[no-untyped-call]


def _pad(rows: Tensor, group: SequenceGroup) -> Tensor:
    """The group's rows [n_rows, heads, d] as [G, heads, Q, d]."""
    n_sequences = group.q_lengths.numel()
    if group.places is not None:
        blank = rows.new_zeros(n_sequences * group.n_queries, *rows.shape[1:])
        rows = blank.index_copy(0, group.places, rows)
    return rows.view(n_sequences, group.n_queries, *rows.shape[1:]).transpose(1, 2)


@dataclass(frozen=True)
class _Scoring:
    """What becomes of q.k before and in the softmax."""

    scale: float
    mask: Mask
    sinks: Tensor | None
    slopes: Tensor | None
    chosen: Tensor | None
    """[G, 1 or heads, Q, K] true where a query looks; None: wherever the mask shows."""
    chunk: int | None
    """A query is three side by side: for keys of its own chunk of so many positions, of the one before, of earlier
    ones."""

    def seen(self, group: SequenceGroup, begin: int, end: int) -> Tensor:
        """[G, 1 or heads, end - begin, K] true where the queries from begin to end look."""
        if self.chosen is not None:
            return self.chosen[:, :, begin:end]
        whole = end - begin == group.n_queries
        return group.mask(self.mask) if whole else group.seen(self.mask, begin, end)


def _attend(q: Tensor, k: Tensor, v: Tensor, group: SequenceGroup, scoring: _Scoring) -> Tensor:
    """One group: q [G, heads, Q, d], k [G, kv_heads, K, d], v [G, kv_heads, K, e], result [G, heads, Q, e]."""
    if group.n_queries * group.n_keys <= _SHORT:
        return _attend_written(q, k, v, group, scoring, 0, group.n_queries)
    if scoring.sinks is not None or scoring.slopes is not None or scoring.chunk is not None:
        return _attend_in_slices(q, k, v, group, scoring)
    ahead = scoring.mask.sees_ahead
    plain = group.whole and scoring.chosen is None and scoring.mask.first_seen(group.n_keys - 1) <= 0
    plain = plain and not (ahead and group.places is not None)
    return F.scaled_dot_product_attention(
        q,
        k,
        v,
        attn_mask=None if plain else scoring.seen(group, 0, group.n_queries),
        is_causal=plain and not ahead,
        scale=scoring.scale,
        enable_gqa=q.shape[1] != k.shape[1],
    )


def _attend_in_slices(q: Tensor, k: Tensor, v: Tensor, group: SequenceGroup, scoring: _Scoring) -> Tensor:
    """The same with the scores of a few queries at a time written out, and once more in the backward pass."""
    together = max(1, WRITTEN // (q.shape[0] * q.shape[1] * group.n_keys))
    parts = []
    for begin in range(0, group.n_queries, together):
        end = min(group.n_queries, begin + together)
        arguments = (q[:, :, begin:end], k, v, group, scoring, begin, end)
        if torch.is_grad_enabled():
            parts.append(checkpoint(_attend_written, *arguments, use_reentrant=False, preserve_rng_state=False))
        else:
            parts.append(_attend_written(*arguments))
    return torch.cat(parts, dim=2)


def _attend_written(
    q: Tensor, k: Tensor, v: Tensor, group: SequenceGroup, scoring: _Scoring, begin: int, end: int
) -> Tensor:
    """Queries from begin to end with their scores written out; heads that share keys are one batch entry."""
    n, heads, n_queries, _ = q.shape
    kv_heads, n_keys = k.shape[1], k.shape[2]
    seen = scoring.seen(group, begin, end)
    keys = k.reshape(n * kv_heads, n_keys, -1).transpose(1, 2)
    scores, *further = (
        (torch.bmm(one.reshape(n * kv_heads, -1, one.shape[-1]), keys).float() * scoring.scale).view(
            n, heads, n_queries, n_keys
        )
        for one in torch.split(q, k.shape[-1], -1)
    )
    if scoring.chunk is not None:
        of_keys = torch.arange(n_keys, device=k.device) // scoring.chunk
        apart = (group.positions(begin, end) // scoring.chunk)[:, None, :, None] - of_keys
        scores = torch.where(apart == 0, scores, torch.where(apart == 1, further[0], further[1]))
    if scoring.slopes is not None:
        scores = scores + scoring.slopes[:, None, None] * group.distances(begin, end)[:, None]
    scores = scores.masked_fill(~seen, -torch.inf)
    if scoring.sinks is None:
        weights = scores.softmax(-1)
    else:
        sinks = scoring.sinks.float()[:, None, None].expand(n, -1, n_queries, 1)
        weights = torch.cat((scores, sinks), -1).softmax(-1)[..., :-1]
    weights = weights.to(v.dtype).reshape(n * kv_heads, -1, n_keys)
    return torch.bmm(weights, v.reshape(n * kv_heads, n_keys, -1)).view(n, heads, n_queries, -1)


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    plan: AttentionPlan,
    *,
    scale: float,
    mask: Mask,
    sinks: Tensor | None = None,
    slopes: Tensor | None = None,
    chosen: Sequence[Tensor] | None = None,
    chunk: int | None = None,
) -> Tensor:
    """softmax(scale * q.k) v over the positions that `mask` shows; returns [T, heads, v's head_dim].

    q [T, heads, head_dim]. Without a cache k and v are packed rows [T, kv_heads, head_dim]; with one they are the
    layer's flat cache [n_slots, kv_heads, head_dim] in any dtype, this step's rows already written. v may have heads of
    another width. Both in float32:
    sinks [heads], a score of each head that takes part in the softmax and has no value; slopes [heads], which times
    (position of the key - position of the query) are added to the scores. chosen: by group of the plan, [G, 1
    or heads, Q, K] true where a query looks, instead of `mask` (`selection`).
    chunk: dual chunk attention (An et al., 2024), where a row's head in q is three side by side, [T, heads, 3 *
    head_dim]: for keys of its own chunk of so many positions, of the one before, and of all earlier ones.
    """
    mixed = []
    parts = zip(plan.groups, plan.padded(q), plan.past(k, q.dtype), plan.past(v, q.dtype), strict=True)
    for index, (group, queries, keys, values) in enumerate(parts):
        scoring = _Scoring(scale, mask, sinks, slopes, None if chosen is None else chosen[index], chunk)
        out = _attend(queries, keys, values, group, scoring)
        mixed.append(_take(out.transpose(1, 2).reshape(-1, out.shape[1], out.shape[3]), group.places))
    return _take(mixed[0] if len(mixed) == 1 else torch.cat(mixed), plan.inverse)
