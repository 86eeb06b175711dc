"""The reference of recurrences and of short convolutions: the chunked form against the sequential one, with gradients,
and both against plain loops."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from landrace.kernels.reference.recurrence import CHUNK, Rows, Span, chunked, l2_norm, recur, sequential
from landrace.kernels.reference.short_conv import short_conv

H, DK, DV = 3, 8, 12


KINDS = {"a decay for each head": (1, True), "for each channel": (DK, True), "nothing is corrected": (1, False)}


def random_rows(n: int, kind: str = "a decay for each head", seed: int = 0) -> Rows:
    n_decays, corrects = KINDS[kind]
    draw = torch.Generator().manual_seed(seed)
    q, k = (l2_norm(torch.randn(n, H, DK, generator=draw)) for _ in range(2))
    v = torch.randn(n, H, DV, generator=draw)
    decay = -torch.rand(n, H, n_decays, generator=draw).mul(4).exp().sub(1) * 0.1
    return Rows(q, k, v, decay, torch.rand(n, H, generator=draw) if corrects else None)


def by_hand(rows: Rows, span: Span, state: Tensor) -> tuple[Tensor, Tensor]:
    """Head by head in float64."""
    out = torch.empty(span.length, H, DV, dtype=torch.float64)
    state = state.double().clone()
    for index in range(span.length):
        q, k, v, decay = (x[span.start + index].double() for x in (rows.q, rows.k, rows.v, rows.decay))
        for h in range(H):
            state[h] *= decay[h].exp()[:, None]
            u = v[h]
            if rows.beta is not None:
                u = rows.beta[span.start + index, h] * (u - k[h] @ state[h])
            state[h] += torch.outer(k[h], u)
            out[index, h] = q[h] @ state[h]
    return out, state


LENGTHS = ([1], [64], [65], [200, 3, 64, 130], [7, 1, 1, 90], [1, 1, 1])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("first", [0, 37])
def test_both_forms_are_the_recurrence(lengths: list[int], first: int, kind: str) -> None:
    rows, starts = random_rows(sum(lengths), kind), [0]
    for length in lengths:
        starts.append(starts[-1] + length)
    positions = [(first * (s + 1)) % 150 for s in range(len(lengths))]
    states = torch.randn(len(lengths), H, DK, DV, generator=torch.Generator().manual_seed(3))
    spans = [Span(start, end - start, at) for (start, end), at in zip(pairwise(starts), positions, strict=True)]
    expected = [by_hand(rows, span, state) for span, state in zip(spans, states, strict=True)]
    for rule in (sequential, chunked):
        out, after = rule(rows, spans, states)
        torch.testing.assert_close(out.double(), torch.cat([one for one, _ in expected]), rtol=0, atol=1e-5)
        torch.testing.assert_close(after.double(), torch.stack([one for _, one in expected]), rtol=0, atol=1e-5)
    out, after = recur(rows, starts, positions, states)
    torch.testing.assert_close(out.double(), torch.cat([one for one, _ in expected]), rtol=0, atol=1e-5)
    torch.testing.assert_close(after.double(), torch.stack([one for _, one in expected]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_that_begins_within_a_chunk_goes_on_in_it(kind: str) -> None:
    rows = random_rows(150, kind)
    zero = torch.zeros(1, H, DK, DV)
    whole, end = chunked(rows, [Span(0, 150, 0)], zero)
    first, between = chunked(rows, [Span(0, 50, 0)], zero)
    second, after = chunked(rows, [Span(50, 100, 50)], between)
    torch.testing.assert_close(torch.cat((first, second)), whole, rtol=0, atol=1e-5)
    torch.testing.assert_close(after, end, rtol=0, atol=1e-5)
    on_grid, state = chunked(rows, [Span(0, 2 * CHUNK, 0)], zero)
    assert torch.equal(on_grid, whole[: 2 * CHUNK]), "chunks that are whole are the same ones"
    assert torch.equal(chunked(rows, [Span(2 * CHUNK, 22, 2 * CHUNK)], state)[0], whole[2 * CHUNK :])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lengths", [[130], [70, 9, 100]], ids=str)
def test_gradients_of_the_chunked_form(lengths: list[int], kind: str) -> None:
    spans, at = [], 0
    for length in lengths:
        spans.append(Span(at, length, 0))
        at += length
    found = []
    for rule in (sequential, chunked):
        rows = Rows(*(None if x is None else x.requires_grad_(True) for x in vars(random_rows(at, kind)).values()))
        states = torch.randn(len(spans), H, DK, DV, generator=torch.Generator().manual_seed(1)).requires_grad_(True)
        out, after = rule(rows, spans, states)
        weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(2))
        ((out * weight).sum() + after.square().sum()).backward()
        found.append([x.grad for x in (*vars(rows).values(), states) if x is not None])
    for one, other in zip(*found, strict=True):
        assert one is not None and other is not None
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4 * one.abs().max().item())


@pytest.mark.parametrize("kind", KINDS)
def test_strong_decay_makes_no_nan(kind: str) -> None:
    """e^(-sum of decays) of a chunk is more than a float holds."""
    rows = random_rows(100, kind)
    decay = torch.full_like(rows.decay, -9.0)
    decay[:, :, -1] = -0.01  # Beside channels that fade at once one that stays, where there are several.
    rows = replace(rows, decay=decay.requires_grad_(True))
    spans, zero = [Span(0, 100, 0)], torch.zeros(1, H, DK, DV)
    out, _ = chunked(rows, spans, zero)
    torch.testing.assert_close(out, sequential(rows, spans, zero)[0], rtol=0, atol=1e-5)
    out.sum().backward()
    assert rows.decay.grad is not None and rows.decay.grad.isfinite().all()


@pytest.mark.parametrize("width", [1, 2, 4])
def test_convolutions(width: int) -> None:
    draw = torch.Generator().manual_seed(0)
    lengths, channels = (9, 1, 2, 5), 6
    weight = torch.randn(channels, width, generator=draw)
    sequences = [torch.randn(length, channels, generator=draw) for length in lengths]
    expected = []
    for sequence in sequences:
        padded = torch.nn.functional.pad(sequence.t()[None], (width - 1, 0))
        expected.append(torch.nn.functional.silu(torch.conv1d(padded, weight[:, None], groups=channels))[0].t())
    starts = [0, 9, 10, 12, 17]
    out, _ = short_conv(torch.cat(sequences), weight, starts, None)
    torch.testing.assert_close(out, torch.cat(expected))
    # In two steps, the second of which goes on from the first one's tails.
    cuts = (4, 0, 1, 3)
    tails: Tensor | None = None
    parts = []
    for part in ([s[:cut] for s, cut in zip(sequences, cuts, strict=True)],
                 [s[cut:] for s, cut in zip(sequences, cuts, strict=True)]):  # fmt: skip
        at = [0]
        for one in part:
            at.append(at[-1] + len(one))
        out, tails = short_conv(torch.cat(part), weight, at, tails)
        parts.append([out[start:end] for start, end in pairwise(at)])
    joined = torch.cat([torch.cat(both) for both in zip(*parts, strict=True)])
    torch.testing.assert_close(joined, torch.cat(expected), rtol=0, atol=1e-6)
