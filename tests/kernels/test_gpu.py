"""Triton kernels against the reference in float64: on a CUDA device also in bfloat16, else in the interpreter."""

from __future__ import annotations

from itertools import accumulate

import pytest
import torch
from torch import Tensor

from landrace.kernels.activation import Activation
from landrace.kernels.mask import FULL, Chunked, Mask, Sliding
from landrace.kernels.reference.attention import attention as reference_attention
from landrace.kernels.reference.attention import plan_attention
from landrace.kernels.reference.dense import gated, rms_norm
from landrace.kernels.reference.experts import ExpertProjection
from landrace.kernels.reference.experts import experts as reference_experts
from landrace.kernels.reference.rotary import rotate
from landrace.kernels.reference.routing import Routing

ACTIVATIONS = [
    Activation(),
    Activation("clamp_before", 1.0),
    Activation("clamp_after", 1.0),
    Activation("oai", 2.0, 1.7),
    Activation("situ", 1.5, 2.0),
    Activation("situ", alpha=2.0),
]


class Maker:
    """Random tensors on a device in a type."""

    def __init__(self, device: str, dtype: torch.dtype) -> None:
        self.device, self.dtype = device, dtype
        self._generator = torch.Generator().manual_seed(3)

    def wide(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self._generator).to(self.device)

    def __call__(self, *shape: int) -> Tensor:
        return self.wide(*shape).to(self.dtype)

    def order(self, n: int) -> Tensor:
        return torch.randperm(n, generator=self._generator).to(self.device)

    def same(self, found: Tensor, expected: Tensor) -> bool:
        """Whether they differ by rounding only; NaN is not the same."""
        error = (found.double() - expected.double()).norm() / expected.double().norm()
        return error.item() < (1e-2 if self.dtype == torch.bfloat16 else 1e-6)


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def make(request: pytest.FixtureRequest, triton_device: str) -> Maker:
    if triton_device == "cpu" and request.param == torch.bfloat16:
        pytest.skip("the interpreter computes no products of bfloat16")
    return Maker(triton_device, request.param)


@pytest.mark.parametrize(("n_rows", "n_in", "n_out"), [(1, 96, 40), (5, 1040, 70), (70, 72, 130), (0, 64, 64)])
def test_product(make: Maker, n_rows: int, n_in: int, n_out: int) -> None:
    from landrace.kernels.gpu.product import product

    x, weight, bias, into = make(n_rows, n_in), make(n_out, n_in), make.wide(n_out), make.wide(n_rows, n_out)
    expected = x.double() @ weight.double().T + bias
    if n_rows == 0:
        assert product(x, weight, bias).shape == (0, n_out)
        return
    assert make.same(product(x, weight, bias), expected)
    assert make.same(product(x, weight, bias, dtype=torch.float32), expected)
    assert make.same(product(x, weight, bias, into=into, factor=0.5), into + 0.5 * expected)


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda activation: activation.kind)
def test_gated_product(make: Maker, activation: Activation) -> None:
    from landrace.kernels.gpu.product import product

    for n_rows, n_in, n_out in ((1, 96, 40), (5, 1040, 70)):
        x, gate, up = make(n_rows, n_in) / n_in**0.5, make(n_out, n_in), make(n_out, n_in)
        biases = make.wide(n_out), make.wide(n_out)
        found = product(x, gate, biases[0], beside=(up, biases[1]), activation=activation)
        wide = [x.double() @ one.double().T + bias for one, bias in zip((gate, up), biases, strict=True)]
        assert make.same(found, gated(*wide, activation))


def test_norm(make: Maker) -> None:
    from landrace.kernels.gpu.norm import norm

    x, weight = make.wide(3, 72), make.wide(72)
    assert make.same(norm(x, weight, 1e-5, make.dtype), rms_norm(x, weight, 1e-5))


@pytest.mark.parametrize(("head_dim", "rotary_dim"), [(16, 16), (20, 12), (16, 0)])
@pytest.mark.parametrize("normed", [False, True])
def test_heads_are_turned_and_kept(make: Maker, head_dim: int, rotary_dim: int, normed: bool) -> None:
    from landrace.kernels.gpu.heads import turn_and_keep

    n, heads, kv_heads = 5, 9, 2
    beside = make(n, (heads + 2 * kv_heads) * head_dim)
    q, k, v = torch.split(beside, [heads * head_dim, kv_heads * head_dim, kv_heads * head_dim], 1)
    slots = torch.tensor([3, 1, 29, 7, 8], device=make.device)
    keys, values = (torch.full((30, kv_heads, head_dim), torch.nan).to(beside) for _ in range(2))
    angles = make.wide(n, rotary_dim // 2)
    tables = (angles.cos(), angles.sin()) if rotary_dim else None
    weights = (make.wide(head_dim), make.wide(head_dim)) if normed else None
    found = turn_and_keep(q, k, v, keys, values, slots, tables, normed=normed, weights=weights, eps=1e-5)
    wide = [x.float().reshape(n, -1, head_dim) for x in (q, k)]
    if weights is not None:
        wide = [rms_norm(x, weight, 1e-5) for x, weight in zip(wide, weights, strict=True)]
    if tables is not None:
        wide = [rotate(x, *tables) for x in wide]
    assert make.same(found, wide[0])
    assert make.same(keys[slots], wide[1])
    assert torch.equal(values[slots], v.reshape(n, kv_heads, head_dim))
    assert keys.isnan().sum() == values.isnan().sum() == 25 * kv_heads * head_dim


ROWS_AND_KEYS = {
    "single rows": ([1, 1, 1], [1, 64, 700], [0, 0, 0]),
    "chunks": ([1, 19, 40], [30, 19, 300], [0, 0, 0]),
    "what was forgotten": ([1, 2], [9, 12], [700, 40]),
}


@pytest.mark.parametrize("step", ROWS_AND_KEYS)
@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim", "mask"),
    [(4, 2, 16, FULL), (4, 4, 20, Sliding(9)), (6, 2, 8, Chunked(24)), (4, 2, 16, Sliding(400))],
)
def test_attention_over_scattered_slots(
    make: Maker, step: str, heads: int, kv_heads: int, head_dim: int, mask: Mask
) -> None:
    """What nobody's slots hold, NaN here, changes nothing."""
    from landrace.kernels.gpu.attention import attention
    from landrace.kernels.gpu.paged import HeadSizes, plan_paged

    n_rows, n_keys, firsts = ROWS_AND_KEYS[step]
    if firsts[0] and mask != Sliding(9):
        pytest.skip("only what no row sees is forgotten")
    n_slots = sum(n_keys) + 7
    keys, values = (torch.full((n_slots, kv_heads, head_dim), torch.nan, device=make.device) for _ in range(2))
    slots = torch.split(make.order(n_slots)[: sum(n_keys)], n_keys)
    for own in slots:
        keys[own], values[own] = make.wide(2, len(own), kv_heads, head_dim)
    keys, values, q = keys.to(make.dtype), values.to(make.dtype), make(sum(n_rows), heads, head_dim)
    starts, device = [0, *accumulate(n_rows)], torch.device(make.device)
    sizes = HeadSizes(heads // kv_heads, head_dim, make.dtype)
    plan = plan_paged(starts, slots, firsts, sizes, device)
    wide = [x.double() for x in (q, keys, values)]
    groups = plan_attention(starts, slots, device, firsts)
    for sinks in (None, make.wide(heads)):
        found = attention(q, keys, values, plan, scale=head_dim**-0.5, mask=mask, sinks=sinks)
        expected = reference_attention(*wide, groups, scale=head_dim**-0.5, mask=mask, sinks=sinks)
        assert make.same(found, expected)


@pytest.mark.parametrize(
    ("n_rows", "biased", "activation", "weight_on_input"),
    [(1, False, Activation(), False), (37, True, Activation("oai", 2.0, 1.7), False), (40, False, Activation(), True)],
)
def test_experts(make: Maker, n_rows: int, biased: bool, activation: Activation, weight_on_input: bool) -> None:
    """An expert of NaN that nobody chose changes nothing."""
    from landrace.kernels.gpu.experts import Projection, experts

    n_experts, d, hidden, top_k = 6, 72, 40, 3
    weights = [make(n_experts, *shape) for shape in ((hidden, d), (hidden, d), (d, hidden))]
    biases = [make.wide(n_experts, size) if biased else None for size in (hidden, hidden, d)]
    for weight in weights:
        weight[4] = torch.nan
    those = torch.tensor([0, 1, 2, 3, 5], device=make.device)
    chosen = torch.stack([those[make.order(5)[:top_k]].sort().values for _ in range(n_rows)])
    x, worth, into = make(n_rows, d), make.wide(n_rows, top_k).abs(), make.wide(n_rows, d)
    facts = {"activation": activation, "weight_on_input": weight_on_input}
    own = [Projection(weight, bias) for weight, bias in zip(weights, biases, strict=True)]
    found = experts(into, x, chosen, worth, *own, factor=0.7, **facts)
    theirs = [ExpertProjection(weight.double(), bias) for weight, bias in zip(weights, biases, strict=True)]
    expected = reference_experts(x.double(), Routing(chosen, worth), *theirs, **facts)
    assert make.same(found, into + 0.7 * expected)
