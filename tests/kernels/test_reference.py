"""The reference kernels against plain float64 arithmetic, on ragged, empty and poisoned inputs."""

from __future__ import annotations

import math
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from transformers.models.gpt_oss.modeling_gpt_oss import eager_attention_forward

from landrace.kernels.activation import Activation
from landrace.kernels.mask import FULL, Chunked, Mask, Sliding
from landrace.kernels.reference import attention as attention_module
from landrace.kernels.reference.attention import attention, plan_attention
from landrace.kernels.reference.dense import gated, linear, rms_norm
from landrace.kernels.reference.heads import alibi_slopes
from landrace.kernels.reference.rotary import rotate

CPU = torch.device("cpu")


@pytest.mark.parametrize("rows", [0, 1, 2, 3, 7, 255, 256, 257])
@pytest.mark.parametrize("bias", [False, True])
def test_linear(rows: int, bias: bool) -> None:
    generator = torch.Generator().manual_seed(rows)
    x = torch.randn(rows, 33, generator=generator)
    weight = torch.randn(17, 33, generator=generator)
    b = torch.randn(17, generator=generator) if bias else None
    expected = x.double() @ weight.double().t() + (b.double() if b is not None else 0)
    result = linear(x, weight, b)
    assert result.is_contiguous()
    torch.testing.assert_close(result.double(), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("rows", [1, 5, 300])
def test_the_gradient_of_linear(rows: int) -> None:
    x = torch.randn(rows, 9, requires_grad=True)
    weight = torch.randn(4, 9, requires_grad=True)
    grad = torch.randn(rows, 4)
    linear(x, weight, None).backward(grad)
    assert x.grad is not None
    assert weight.grad is not None
    torch.testing.assert_close(x.grad, grad @ weight, atol=1e-4, rtol=0)
    torch.testing.assert_close(weight.grad, grad.t() @ x, atol=1e-3, rtol=0)


def test_linear_computes_in_the_dtype_of_x() -> None:
    x, weight = torch.randn(3, 8).bfloat16(), torch.randn(4, 8)
    result = linear(x, weight, torch.ones(4))
    assert result.dtype == torch.bfloat16
    torch.testing.assert_close(result.float(), x.float() @ weight.t() + 1, atol=0.1, rtol=0.02)


def test_rms_norm_keeps_nan_and_survives_zero() -> None:
    x = torch.tensor([[0.0, 0.0], [3.0, 4.0], [math.nan, 1.0]])
    result = rms_norm(x, torch.tensor([1.0, 2.0]), 1e-6)
    root = math.sqrt(12.5)
    torch.testing.assert_close(result[:2], torch.tensor([[0.0, 0.0], [3 / root, 8 / root]]), atol=1e-5, rtol=0)
    assert result[2].isnan().all()


def test_gates() -> None:
    """Each kind in float64 by its definition, beyond its limit on both sides, with its gradient."""
    gate, up = torch.cartesian_prod(torch.linspace(-9, 9, 37), torch.linspace(-3, 3, 13)).double().unbind(1)
    gate.requires_grad_()
    low, near = gate.clamp(max=2.0), up.clamp(-2.0, 2.0)
    expected = {
        Activation(): gate / (1 + (-gate).exp()) * up,
        Activation("clamp_before", limit=2.0): low / (1 + (-low).exp()) * near,
        Activation("clamp_after", limit=2.0): (gate / (1 + (-gate).exp())).clamp(max=2.0) * near,
        Activation("oai", limit=2.0, alpha=1.7): low / (1 + (-1.7 * low).exp()) * (near + 1),
        Activation("situ", limit=2.0, alpha=4.0): 4 * (gate / 4).tanh() / (1 + (-gate).exp()) * 2 * (up / 2).tanh(),
        Activation("situ", alpha=4.0): 4 * (gate / 4).tanh() / (1 + (-gate).exp()) * up,
    }
    for activation, values in expected.items():
        result = gated(gate, up, activation)
        torch.testing.assert_close(result, values, atol=1e-12, rtol=0)
        (ours,) = torch.autograd.grad(result.sum(), gate)
        (theirs,) = torch.autograd.grad(values.sum(), gate, retain_graph=True)
        torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=0)
        assert gated(torch.tensor([math.nan, 1.0]), torch.tensor([1.0, math.nan]), activation).isnan().all()


def test_rotate_is_a_rotation_of_pairs() -> None:
    x, angles = torch.randn(4, 2, 10), torch.rand(4, 3) * 6
    turned = rotate(x, angles.cos(), angles.sin())
    pairs = torch.complex(x[..., :3].double(), x[..., 3:6].double())
    expected = pairs * torch.polar(torch.ones(4, 1, 3).double(), angles[:, None].double())
    torch.testing.assert_close(turned[..., :3].double(), expected.real, atol=1e-5, rtol=0)
    torch.testing.assert_close(turned[..., 3:6].double(), expected.imag, atol=1e-5, rtol=0)
    assert torch.equal(turned[..., 6:], x[..., 6:])


def mask_of(window: int | None) -> Mask:
    return FULL if window is None else Sliding(window)


def naive(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    window: int | None,
    sinks: Tensor | None = None,
    slopes: Tensor | None = None,
) -> Tensor:
    """One sequence in float64; the last query sits at the last key."""
    n_queries, n_keys, group = q.shape[0], k.shape[0], q.shape[1] // k.shape[1]
    out = torch.empty(q.shape, dtype=torch.float64)
    for i in range(n_queries):
        end = n_keys - n_queries + i
        start = 0 if window is None else max(0, end - window + 1)
        for head in range(q.shape[1]):
            scores = k[start : end + 1, head // group].double() @ q[i, head].double() * scale
            if slopes is not None:
                scores = scores + slopes[head].double() * (torch.arange(start, end + 1) - end)
            weights = scores.exp()
            total = weights.sum() + (0 if sinks is None else sinks[head].double().exp())
            out[i, head] = weights / total @ v[start : end + 1, head // group].double()
    return out


@pytest.mark.parametrize("window", [None, 1, 5])
@pytest.mark.parametrize("lengths", [[1], [4, 4], [3, 1, 9, 40, 2], [140, 3, 150]])
def test_attention_of_whole_sequences(lengths: list[int], window: int | None) -> None:
    generator = torch.Generator().manual_seed(len(lengths))
    total = sum(lengths)
    q = torch.randn(total, 6, 8, generator=generator, requires_grad=True)
    k = torch.randn(total, 2, 8, generator=generator, requires_grad=True)
    v = torch.randn(total, 2, 8, generator=generator, requires_grad=True)
    starts = [sum(lengths[:i]) for i in range(len(lengths) + 1)]
    result = attention(q, k, v, plan_attention(starts, None, CPU), scale=0.3, mask=mask_of(window))
    spans = list(pairwise(starts))
    expected = torch.cat([naive(q[a:b], k[a:b], v[a:b], 0.3, window) for a, b in spans])
    torch.testing.assert_close(result.double(), expected, atol=1e-5, rtol=0)
    grad = torch.randn(result.shape, generator=generator)
    ours = torch.autograd.grad(result, (q, k, v), grad)
    theirs = torch.autograd.grad(expected, (q, k, v), grad.double())
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other.float(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("window", [None, 4])
def test_attention_reads_the_cache_and_nothing_else(window: int | None) -> None:
    """Slots of no sequence hold NaN: one look at them would show."""
    generator = torch.Generator().manual_seed(7)
    queries, keys = [1, 3, 1, 130, 1], [12, 3, 1, 140, 90]
    n_slots = sum(keys) + 20
    order = torch.randperm(n_slots, generator=generator)
    slots = list(order[: sum(keys)].split(keys))
    k, v = torch.full((n_slots, 2, 8), math.nan), torch.full((n_slots, 2, 8), math.nan)
    for own in slots:
        k[own] = torch.randn(own.numel(), 2, 8, generator=generator)
        v[own] = torch.randn(own.numel(), 2, 8, generator=generator)
    q = torch.randn(sum(queries), 4, 8, generator=generator)
    starts = [sum(queries[:i]) for i in range(len(queries) + 1)]
    result = attention(q, k, v, plan_attention(starts, slots, CPU), scale=0.2, mask=mask_of(window))
    expected = torch.cat(
        [naive(q[a : a + n], k[own], v[own], 0.2, window) for a, n, own in zip(starts, queries, slots, strict=False)]
    )
    torch.testing.assert_close(result.double(), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize(("with_sinks", "with_slopes"), [(True, False), (False, True), (True, True)])
def test_sinks_and_slopes(
    monkeypatch: pytest.MonkeyPatch, with_sinks: bool, with_slopes: bool, window: int | None
) -> None:
    """Of short and of long sequences, whole and over a cache; the long ones' scores in slices of a few queries."""
    monkeypatch.setattr(attention_module, "WRITTEN", 20_000)
    generator = torch.Generator().manual_seed(3)
    queries, keys, heads = [3, 1, 140, 130], [3, 9, 140, 133], 6
    sinks = torch.randn(heads, generator=generator, requires_grad=True) if with_sinks else None
    slopes = alibi_slopes(heads) if with_slopes else None
    for q_lengths, k_lengths in ((keys, keys), (queries, keys)):
        q = torch.randn(sum(q_lengths), heads, 8, generator=generator, requires_grad=True)
        k, v = (torch.randn(sum(k_lengths), 2, 8, generator=generator, requires_grad=True) for _ in range(2))
        starts = [sum(q_lengths[:i]) for i in range(5)]
        slots = list(torch.randperm(sum(k_lengths), generator=generator).split(k_lengths))
        if q_lengths is k_lengths:
            slots = list(torch.arange(sum(k_lengths)).split(k_lengths))
        plan = plan_attention(starts, None if q_lengths is k_lengths else slots, CPU)
        result = attention(q, k, v, plan, scale=0.3, mask=mask_of(window), sinks=sinks, slopes=slopes)
        spans = zip(pairwise(starts), slots, strict=True)
        expected = torch.cat([naive(q[a:b], k[own], v[own], 0.3, window, sinks, slopes) for (a, b), own in spans])
        torch.testing.assert_close(result.double(), expected, atol=1e-5, rtol=0)
        leaves = (q, k, v) if sinks is None else (q, k, v, sinks)
        grad = torch.randn(result.shape, generator=generator)
        ours = torch.autograd.grad(result, leaves, grad)
        theirs = torch.autograd.grad(expected, leaves, grad.double())
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one, other.float(), atol=1e-4, rtol=1e-5)


def test_sinks_of_gpt_oss() -> None:
    q, k, v, sinks = torch.randn(1, 4, 9, 8), torch.randn(1, 2, 9, 8), torch.randn(1, 2, 9, 8), torch.randn(4)
    mask = torch.full((9, 9), -torch.inf).triu(1)
    theirs, _ = eager_attention_forward(
        SimpleNamespace(sinks=sinks, num_key_value_groups=2, training=False), q, k, v, mask, 0.3
    )
    packed = (x[0].transpose(0, 1) for x in (q, k, v))
    ours = attention(*packed, plan_attention([0, 9], None, CPU), scale=0.3, mask=FULL, sinks=sinks)
    torch.testing.assert_close(ours, theirs[0])


@pytest.mark.parametrize("mask", [Sliding(1), Sliding(9), Chunked(7), Chunked(64)])
def test_attention_does_not_need_what_no_row_sees(mask: Mask) -> None:
    """Keys from a first position on give what all of them give, and the others may hold NaN."""
    generator = torch.Generator().manual_seed(3)
    queries, keys = [1, 3, 1, 130, 20], [12, 3, 1, 150, 90]
    slots = list(torch.randperm(sum(keys), generator=generator).split(keys))
    k, v, q = (torch.randn(n, heads, 8, generator=generator) for n, heads in ((256, 2), (256, 2), (sum(queries), 4)))
    starts = [sum(queries[:i]) for i in range(len(queries) + 1)]
    whole = attention(q, k, v, plan_attention(starts, slots, CPU), scale=0.2, mask=mask)
    firsts = [max(0, mask.first_seen(n - own)) // 4 * 4 for n, own in zip(keys, queries, strict=True)]
    assert any(firsts)
    for own, first in zip(slots, firsts, strict=True):
        k[own[:first]] = v[own[:first]] = math.nan
    seen = [own[first:] for own, first in zip(slots, firsts, strict=True)]
    result = attention(q, k, v, plan_attention(starts, seen, CPU, firsts), scale=0.2, mask=mask)
    torch.testing.assert_close(result, whole, atol=1e-5, rtol=0)
