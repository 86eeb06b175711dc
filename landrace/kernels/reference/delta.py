"""The gated delta rule (Yang et al., 2024), over sequences of different lengths laid end to end, in float32.

A head's state S [key_dim, value_dim] goes from row to row:

    S <- e^decay S;  u = beta (v - S^T k);  S <- S + k u^T;  out = S^T q

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
_FEW_ROWS = 8
"""Up to so many rows of a sequence, going from row to row is faster."""
L2_EPS = 1e-6


@dataclass(frozen=True)
class DeltaRows:
    """What the rule reads, row by row and in float32, of H heads."""

    q: Tensor
    """[T, H, key_dim], like k."""
    k: Tensor
    v: Tensor
    """[T, H, value_dim]."""
    decay: Tensor
    """[T, H]: logarithms of the factors on the state, at most 0."""
    beta: Tensor
    """[T, H]."""

    def at(self, rows: Tensor) -> DeltaRows:
        """Those rows, of any shape; the row after the last is one that changes nothing."""
        return DeltaRows(*(F.pad(x, (0, 0) * (x.dim() - 1) + (0, 1))[rows] for x in vars(self).values()))


def l2_norm(x: Tensor) -> Tensor:
    """x / sqrt(sum of x^2 + 1e-6) over the last dimension."""
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + L2_EPS)


def delta_rule(
    rows: DeltaRows, starts: Sequence[int], first_positions: Sequence[int], states: Tensor | None
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


def sequential(rows: DeltaRows, spans: Sequence[Span], states: Tensor) -> tuple[Tensor, Tensor]:
    """The rule, row by row in order of position: out [rows of the spans, H, value_dim] and the states after them."""
    state = list(states)
    outs: list[list[Tensor]] = [[] for _ in spans]
    for index in range(max(span.length for span in spans)):
        live = [s for s, span in enumerate(spans) if index < span.length]
        now = rows.at(torch.tensor([spans[s].start + index for s in live], device=states.device))
        decayed = torch.stack([state[s] for s in live]) * now.decay.exp()[..., None, None]
        u = now.beta[..., None] * (now.v - torch.einsum("shkv,shk->shv", decayed, now.k))
        changed = decayed + now.k[..., None] * u[..., None, :]
        out = torch.einsum("shkv,shk->shv", changed, now.q)
        for s, one, own in zip(live, changed, out, strict=True):
            state[s] = one
            outs[s].append(own)
    out_rows = [row for own in outs for row in own]
    return torch.stack(out_rows) if out_rows else rows.v[:0], torch.stack(state)


def chunked(rows: DeltaRows, spans: Sequence[Span], states: Tensor) -> tuple[Tensor, Tensor]:
    """The same, chunk by chunk."""
    order = sorted(range(len(spans)), key=lambda s: -_n_chunks(spans[s]))
    places, counts = _grid([spans[s] for s in order], rows.v.shape[0])
    chunk = rows.at(places.to(states.device))
    q, k, v = (x.transpose(1, 2) for x in (chunk.q, chunk.k, chunk.v))  # [chunks, H, CHUNK, ...]
    beta = chunk.beta.transpose(1, 2)[..., None]
    total = chunk.decay.transpose(1, 2).cumsum(-1)
    past = torch.ones(CHUNK, CHUNK, dtype=torch.bool, device=states.device).tril()
    between = (total[..., :, None] - total[..., None, :]).masked_fill(~past, -torch.inf).exp()
    among = (beta * k) @ k.transpose(-1, -2) * between  # its diagonal is not read below
    since_start = total.exp()[..., None]
    own = torch.linalg.solve_triangular(
        among, torch.cat((beta * v, beta * k * since_start), -1), upper=False, unitriangular=True
    )
    u_alone, of_state = own.split((v.shape[-1], k.shape[-1]), -1)
    scores = q @ k.transpose(-1, -2) * between
    q, to_end = q * since_start, k * (total[..., -1:] - total).exp()[..., None]
    kept = total[..., -1].exp()[..., None, None]

    state, done, outs, at = states[order], [], [], 0
    for count in counts:
        state, ended = state[:count], state[count:]
        done.append(ended)
        now = slice(at, at + count)
        u = u_alone[now] - of_state[now] @ state
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
