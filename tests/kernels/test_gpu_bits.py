"""On a CUDA device a row has the same bits alone, in a batch and in a chunk, however a kernel is dealt out."""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate

import pytest
import torch
from torch import Tensor

from landrace.kernels.mask import FULL, Mask, Sliding

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
DTYPES = [torch.bfloat16, torch.float32]
PARTS = [(0, 1), (650, 651), (3, 9), (10, 27), (0, 40), (5, 69), (0, 100), (1, 130), (0, 300), (100, 612)]


def random(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, device="cuda").to(dtype)


def check_parts(compute: Callable[[int, int], Tensor], n_rows: int) -> None:
    whole = compute(0, n_rows)
    for begin, end in PARTS:
        assert torch.equal(compute(begin, end), whole[begin:end]), (begin, end)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n_out", "n_in"), [(4096, 1024), (1024, 2048), (1024, 3072), (20000, 512), (200, 1000)])
def test_products(n_out: int, n_in: int, dtype: torch.dtype) -> None:
    from landrace.kernels.gpu.product import product

    x, into = random(700, n_in, dtype=dtype), random(700, n_out)
    one, other = (random(n_out, n_in, dtype=dtype) / n_in**0.5 for _ in range(2))
    check_parts(lambda begin, end: product(x[begin:end], one, dtype=torch.float32), 700)
    check_parts(lambda begin, end: product(x[begin:end], one, into=into[begin:end]), 700)
    check_parts(lambda begin, end: product(x[begin:end], one, beside=(other, None)), 700)


STEPS = [
    [(0, 512)],
    [(512, 1000)],
    [(1690, 1700)],
    [(3, 4), (255, 256), (256, 257), (1023, 1024), (1600, 1601), (1699, 1700)],
    [(0, 64), (900, 901), (1, 1500)],
    [(1000, 1003), (77, 80)],
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim", "mask"),
    [(16, 8, 128, FULL), (64, 8, 64, Sliding(128)), (32, 8, 128, Sliding(700)), (8, 2, 256, FULL)],
)
def test_attention(heads: int, kv_heads: int, head_dim: int, mask: Mask, dtype: torch.dtype) -> None:
    from landrace.kernels.gpu.attention import attention
    from landrace.kernels.gpu.paged import HeadSizes, plan_paged

    length = 1700
    keys, values = (random(length + 50, kv_heads, head_dim, dtype=dtype) for _ in range(2))
    slots = torch.randperm(length + 50, device="cuda")[:length]
    q, sizes = random(length, heads, head_dim, dtype=dtype), HeadSizes(heads // kv_heads, head_dim, dtype)

    def compute(step: list[tuple[int, int]]) -> list[Tensor]:
        counts = [end - begin for begin, end in step]
        seen = [slots[:end] for _, end in step]
        plan = plan_paged([0, *accumulate(counts)], seen, [0] * len(step), sizes, torch.device("cuda"))
        rows = torch.cat([q[begin:end] for begin, end in step])
        return list(torch.split(attention(rows, keys, values, plan, scale=head_dim**-0.5, mask=mask), counts))

    (whole,) = compute([(0, length)])
    for step in STEPS:
        for (begin, end), found in zip(step, compute(step), strict=True):
            assert torch.equal(found, whole[begin:end]), (step, begin, end)


@pytest.mark.parametrize("dtype", DTYPES)
def test_experts(dtype: torch.dtype) -> None:
    from landrace.kernels.gpu.experts import Projection, experts

    n_experts, d, hidden, top_k = 32, 512, 320, 4
    x, into, worth = random(700, d, dtype=dtype), random(700, d), random(700, top_k).abs()
    own = [
        Projection(random(n_experts, *shape, dtype=dtype) / 20, None)
        for shape in ((hidden, d), (hidden, d), (d, hidden))
    ]
    chosen = torch.rand(700, n_experts, device="cuda").topk(top_k).indices.sort().values
    check_parts(lambda a, b: experts(into[a:b], x[a:b], chosen[a:b], worth[a:b], *own), 700)


def test_programs_that_share_a_result_do_not_race() -> None:
    from landrace.kernels.gpu.attention import attention
    from landrace.kernels.gpu.paged import HeadSizes, plan_paged
    from landrace.kernels.gpu.product import product

    x, weight, into = random(1, 2048, dtype=torch.bfloat16), random(1024, 2048, dtype=torch.bfloat16), random(1, 1024)
    keys, values = (random(5000, 8, 128, dtype=torch.bfloat16) for _ in range(2))
    slots = [torch.randperm(5000, device="cuda")[:n] for n in (4500, 700, 30)]
    q, sizes = random(3, 16, 128, dtype=torch.bfloat16), HeadSizes(2, 128, torch.bfloat16)
    plan = plan_paged([0, 1, 2, 3], slots, [0] * 3, sizes, torch.device("cuda"))
    products, mixed = set(), set()
    for _ in range(500):
        products.add(product(x, weight, into=into).sum().item())
        mixed.add(attention(q, keys, values, plan, scale=0.1, mask=FULL).float().sum().item())
    assert len(products) == len(mixed) == 1
