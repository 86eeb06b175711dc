"""Recurrences of linear attention, over sequences of different lengths laid end to end, in float32.

A head's state S [key_dim, value_dim] goes from row to row:

    S <- e^decay S;  u = beta (v - S^T k), or v;  S <- S + k u^T;  out = S^T q

with one decay for all of a head (the gated delta rule, Yang et al., 2024) or for each channel of its key (Kimi delta
attention, 2025); u is v where nothing is corrected (lightning attention, Qin et al., 2024).

`sequential` does that, and is the definition. `chunked` takes 64 positions at a time: what rows of a chunk do to one
another is a triangular system, and the state goes from chunk to chunk. Chunks lie on a grid from the sequence's start,
wherever a step begins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK = 64
_PART = 16
"""Rows of a chunk whose channels' decays are compared pair by pair."""
_FEW_ROWS = 8
"""Up to so many rows of a sequence, going from row to row is faster."""
L2_EPS = 1e-6


@dataclass(frozen=True)
class Rows:
    """What a recurrence reads, row by row and in float32, of H heads."""

    q: Tensor
    """[T, H, key_dim], like k."""
    k: Tensor
    v: Tensor
    """[T, H, value_dim]."""
    decay: Tensor
    """[T, H, 1] or [T, H, key_dim]: logarithms of the factors on the state, at most 0."""
    beta: Tensor | None
    """[T, H]; None: u is v."""

    def at(self, rows: Tensor) -> Rows:
        """Those rows, of any shape; the row after the last is one that changes nothing."""

        def taken(x: Tensor) -> Tensor:
            return F.pad(x, (0, 0) * (x.dim() - 1) + (0, 1))[rows]

        beta = None if self.beta is None else taken(self.beta)
        return Rows(taken(self.q), taken(self.k), taken(self.v), taken(self.decay), beta)


def l2_norm(x: Tensor) -> Tensor:
    """x / sqrt(sum of x^2 + 1e-6) over the last dimension."""
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + L2_EPS)


def recur(
    rows: Rows, starts: Sequence[int], first_positions: Sequence[int], states: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Out [T, H, value_dim], and the states after each sequence's last row.

    `starts`: S + 1 row indices; `first_positions`: of each sequence's first row; states [S, H, key_dim, value_dim]
    before it, None: zeros.
    """
    n_sequences = len(starts) - 1
    if states is None:
        states = rows.v.new_zeros(n_sequences, *rows.k.shape[1:], rows.v.shape[2])
    lengths = [end - start for start, end in pairwise(starts)]
    few = [s for s in range(n_sequences) if lengths[s] <= _FEW_ROWS]
    many = [s for s in range(n_sequences) if lengths[s] > _FEW_ROWS]
    outs, places, after = [], [], []
    for some, rule in ((few, sequential), (many, chunked)):
        if some:
            spans = [Span(starts[s], lengths[s], first_positions[s]) for s in some]
            out, left = rule(rows, spans, states[some])
            outs.append(out)
            places += [row for span in spans for row in range(span.start, span.start + span.length)]
            after.append(left)
    if not outs:
        return torch.empty_like(rows.v), states
    device = rows.v.device
    back = torch.tensor(places, device=device).argsort()
    order = torch.tensor([*few, *many], device=device).argsort()
    return torch.cat(outs)[back], torch.cat(after)[order]


@dataclass(frozen=True)
class Span:
    """A sequence's rows in a step, and the position of the first."""

    start: int
    length: int
    position: int


def sequential(rows: Rows, spans: Sequence[Span], states: Tensor) -> tuple[Tensor, Tensor]:
    """Row by row in order of position: out [rows of the spans, H, value_dim] and the states after them."""
    state = list(states)
    outs: list[list[Tensor]] = [[] for _ in spans]
    for index in range(max(span.length for span in spans)):
        live = [s for s, span in enumerate(spans) if index < span.length]
        now = rows.at(torch.tensor([spans[s].start + index for s in live], device=states.device))
        decayed = torch.stack([state[s] for s in live]) * now.decay.exp()[..., None]
        u = now.v
        if now.beta is not None:
            u = now.beta[..., None] * (u - torch.einsum("shkv,shk->shv", decayed, now.k))
        changed = decayed + now.k[..., None] * u[..., None, :]
        out = torch.einsum("shkv,shk->shv", changed, now.q)
        for s, one, own in zip(live, changed, out, strict=True):
            state[s] = one
            outs[s].append(own)
    return torch.stack([row for own in outs for row in own]), torch.stack(state)


def chunked(rows: Rows, spans: Sequence[Span], states: Tensor) -> tuple[Tensor, Tensor]:
    """The same, chunk by chunk."""
    order = sorted(range(len(spans)), key=lambda s: -_n_chunks(spans[s]))
    places, counts = _grid([spans[s] for s in order], rows.v.shape[0])
    chunk = rows.at(places.to(states.device))
    q, k, v = (x.transpose(1, 2) for x in (chunk.q, chunk.k, chunk.v))  # [chunks, H, CHUNK, ...]
    total = chunk.decay.transpose(1, 2).cumsum(-2)
    since_start = total.exp()
    of_state: Tensor | None = None
    if chunk.beta is None:
        u_alone, scores = v, _within(q, k, total)
    else:
        beta = chunk.beta.transpose(1, 2)[..., None]
        among, scores = _within(torch.stack((beta * k, q)), k, total)  # The diagonal of `among` is not read.
        own = torch.linalg.solve_triangular(
            among, torch.cat((beta * v, beta * k * since_start), -1), upper=False, unitriangular=True
        )
        u_alone, of_state = own.split((v.shape[-1], k.shape[-1]), -1)
    q, to_end = q * since_start, k * (total[..., -1:, :] - total).exp()
    kept = total[..., -1, :].exp()[..., None]

    state, done, outs, at = states[order], [], [], 0
    for count in counts:
        state, ended = state[:count], state[count:]
        done.append(ended)
        now = slice(at, at + count)
        u = u_alone[now] if of_state is None else u_alone[now] - of_state[now] @ state
        outs.append(q[now] @ state + scores[now] @ u)
        state = kept[now] * state + to_end[now].transpose(-1, -2) @ u
        at += count
    after = torch.cat((state, *reversed(done)))
    out = torch.cat(outs).transpose(1, 2).flatten(0, 1)
    wanted = torch.tensor([row for span in spans for row in range(span.start, span.start + span.length)])
    where = torch.empty(rows.v.shape[0] + 1, dtype=torch.long)
    where[places.flatten()] = torch.arange(places.numel())
    back = torch.tensor(order, device=states.device).argsort()
    return out[where[wanted].to(states.device)], after[back]


def _within(x: Tensor, y: Tensor, total: Tensor) -> Tensor:
    """[..., CHUNK, CHUNK]: the sum over channels of x_i y_j e^(total_i - total_j) for rows j <= i of a chunk, else 0.

    x and y [..., CHUNK, key_dim]; total [..., CHUNK, 1 or key_dim], which falls from row to row. No exponent is above
    0, so none overflows: where channels differ, rows are compared pair by pair within a part of the chunk, and with the
    rows before it by way of the part's beginning.
    """
    if total.shape[-1] == 1:
        return x @ y.transpose(-1, -2) * _pairwise(total)[..., 0]
    lines = []
    for start in range(0, CHUNK, _PART):
        part = slice(start, start + _PART)
        own, here = x[..., part, :], total[..., part, :]
        line = torch.einsum("...ic,...ijc,...jc->...ij", own, _pairwise(here), y[..., part, :])
        if start:
            border = total[..., start - 1 : start, :]
            before = y[..., :start, :] * (border - total[..., :start, :]).exp()
            line = torch.cat(((own * (here - border).exp()) @ before.transpose(-1, -2), line), -1)
        lines.append(F.pad(line, (0, CHUNK - line.shape[-1])))
    return torch.cat(lines, -2)


def _pairwise(total: Tensor) -> Tensor:
    """[..., n, n, channels]: e^(total_i - total_j) for rows j <= i, else 0."""
    n = total.shape[-2]
    past = torch.ones(n, n, dtype=torch.bool, device=total.device).tril()[..., None]
    return (total[..., :, None, :] - total[..., None, :, :]).masked_fill(~past, -torch.inf).exp()


def _n_chunks(span: Span) -> int:
    return -(-(span.position % CHUNK + span.length) // CHUNK)


def _grid(spans: Sequence[Span], nothing: int) -> tuple[Tensor, list[int]]:
    """[chunks, CHUNK]: each place's row, or `nothing`. First come the first chunks of all, then the second ones and so
    on, of which there are `counts`. The spans with most chunks come first."""
    lines = []
    for span in spans:
        line = torch.full((_n_chunks(span) * CHUNK,), nothing)
        first = span.position % CHUNK
        line[first : first + span.length] = torch.arange(span.start, span.start + span.length)
        lines.append(line.view(-1, CHUNK))
    places, counts = [], []
    for index in range(len(lines[0])):
        own = [line[index] for line in lines if index < len(line)]
        places += own
        counts.append(len(own))
    return torch.stack(places), counts
