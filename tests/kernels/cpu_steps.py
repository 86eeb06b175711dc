"""What the tests of the C++ kernels share: random weights of every kind, one-operation programs, and float64 sums."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from landrace.kernels.cpu.cache import CacheShape, new_layer_cache
from landrace.kernels.cpu.program import Program
from landrace.kernels.cpu.step import StepInput
from landrace.kernels.cpu.weights import KINDS, PackedMatrix, PackedVector, WeightMemory, matrix_bytes, vector_bytes
from landrace.kernels.layer_cache import LayerCache
from landrace.kernels.reference.blocks import BLOCKS, dequantize, quantize

FLOATS = ("F32", "F16", "BF16")
CODES = ("F8_F32", "E5M2_F32", "NF4_F32", "FP4_F32")
"""Floats of fewer bits, with scales."""
QUANTISED = tuple(kind for kind in KINDS if kind not in (*FLOATS, *CODES))
"""The kinds whose products round the rows to 8 bits."""
HALVES = {
    "Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2), "Q8_0": (0,),
    "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,), "IQ4_NL": (0,), "IQ4_XS": (0,), "I4_F16": (0,),
}  # fmt: skip
"""Where a block keeps its float16 scales and minima."""
POISONED_ROWS = 208
"""More rows than any step of these tests has."""


def stored_matrix(block_type: str, n_out: int, n_in: int, seed: int = 0) -> Tensor:
    """Rows of random blocks: every stored integer occurs, scales are finite, and some are zero or denormal."""
    generator = torch.Generator().manual_seed(seed)
    if block_type in FLOATS:
        return quantize(torch.randn(n_out, n_in, generator=generator), block_type)
    block = BLOCKS[block_type]
    raw = torch.randint(0, 256, (n_out * n_in // block.elements, block.bytes), generator=generator, dtype=torch.uint8)
    if block_type == "MXFP4":
        raw[:, 0] = torch.randint(112, 122, (len(raw),), generator=generator, dtype=torch.uint8)
        raw[::7, 0] = torch.arange(len(raw[::7]), dtype=torch.uint8) % 3
    elif block_type == "I4_BF16":
        raw[:, :2] = (torch.randn(len(raw), 1, generator=generator) * 0.02).bfloat16().view(torch.uint8)
    elif block_type.endswith("_F32"):
        if block_type == "E5M2_F32":
            raw[raw & 124 == 124] = 5  # infinities and codes for NaN
        elif block_type != "I8_F32":
            raw[raw & 127 == 127] = 5  # the two codes for NaN
        n_scales = len(raw) if block_type != "NVFP4_F32" else n_out  # which has one for all of a row
        scales = torch.randn(n_scales, 1, generator=generator).repeat_interleave(len(raw) // n_scales, dim=0)
        raw[:, :4] = (scales * 0.002).view(torch.uint8)
    for at in HALVES.get(block_type, ()):
        scales = torch.randn(len(raw), 1, generator=generator) * 0.02
        scales[torch.rand(len(raw), 1, generator=generator) < 0.05] = 0.0
        scales[torch.rand(len(raw), 1, generator=generator) < 0.05] = 3e-6
        raw[:, at : at + 2] = scales.half().view(torch.uint8)
    return raw.view(n_out, -1)


def rows_of(n: int, width: int, seed: int = 1) -> Tensor:
    """Rows of mixed sizes."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, width, generator=generator) * torch.rand(n, 1, generator=generator).mul(6).sub(3).exp()


class Kernels:
    """The extension with a pool of three threads, and the weights packed for one test."""

    def __init__(self, extension: ModuleType, pool: Any) -> None:
        self.extension = extension
        self.pool = pool
        self._memories: list[WeightMemory] = []

    def program(self, isa: str) -> Program:
        return Program(self.extension, self.pool, isa)

    def matrix(self, stored: Tensor, block_type: str, n_in: int) -> PackedMatrix:
        memory = self._memory(matrix_bytes(self.extension, block_type, stored.shape[0], n_in))
        return memory.matrix(stored, block_type, n_in)

    def vector(self, values: Tensor) -> PackedVector:
        return self._memory(vector_bytes(values.numel())).vector(values)

    def _memory(self, n_bytes: int) -> WeightMemory:
        self._memories.append(WeightMemory(self.extension, self.pool, n_bytes))
        return self._memories[-1]

    def same_everywhere(self, compute: Callable[[str, int], Tensor]) -> Tensor:
        """Calls compute(instruction set, threads) for all of them; the results must be equal to the bit."""
        names = self.extension.instruction_sets()
        results = {(name, threads): compute(name, threads) for name in names for threads in (1, 2, 3)}
        first = next(iter(results.values()))
        for (name, threads), result in results.items():
            assert torch.equal(result.isnan(), first.isnan()), f"{name} with {threads} threads: other places are NaN"
            assert torch.equal(result.nan_to_num(), first.nan_to_num()), f"{name} with {threads} threads differs"
        return first


def as_kernel_sees(x: Tensor, block_type: str) -> Tensor:
    """The rows in float64 as the product with `block_type` reads them.

    For bfloat16 matrices rounded to bfloat16. For quantised ones groups of 32 with scale = (greatest magnitude) / 127
    and values rounded to nearest, ties to even; groups with outliers, beyond 6.5 times the row's root mean square, also
    keep the remainder, rounded to 254ths of the scale.
    """
    if block_type not in QUANTISED:
        return (x.bfloat16() if block_type == "BF16" else x).double()
    groups = x.view(x.shape[0], x.shape[1] // 32, 32)
    greatest = groups.abs().amax(-1, keepdim=True)
    empty = greatest < 1e-30
    inverse = torch.where(empty, 0.0, 127.0 / torch.where(empty, 1.0, greatest))
    scale = torch.where(empty, 0.0, greatest / 127.0)
    scaled = groups * inverse
    whole = scaled.round()
    seen = whole.double() * scale.double()
    outliers = greatest > 6.5 * x.square().mean(-1).sqrt()[:, None, None]
    remainder = ((scaled - whole) * 254).round().double() * (scale / 254).double()
    return torch.where(outliers & ~empty, seen + remainder, seen).view(x.shape)


def expected_product(x: Tensor, stored: Tensor, block_type: str) -> tuple[Tensor, Tensor]:
    """(x W^T, |x| |W|^T) in float64 on the numbers the kernel sees; the second bounds what rounding may cost."""
    weights = dequantize(stored, block_type, x.shape[1]).double()
    seen = as_kernel_sees(x, block_type)
    return seen @ weights.t(), seen.abs() @ weights.abs().t()


def assert_near(result: Tensor, expected: Tensor, size: Tensor | float, tolerance: float = 1e-5) -> None:
    """|result - expected| <= tolerance * size, element by element."""
    excess = (result.double() - expected).abs() - tolerance * torch.as_tensor(size).double() - 1e-30
    assert not (excess > 0).any() and result.isfinite().all(), f"{excess.max().item():.3g} too far"


def poisoned_caches(
    kernels: Kernels, shapes: Sequence[CacheShape], n_slots: int, dtype: torch.dtype
) -> list[LayerCache]:
    """Caches with NaN in every slot."""
    caches = [new_layer_cache(kernels.extension, shape, n_slots, dtype) for shape in shapes]
    for tensor in (tensor for cache in caches for tensor in cache.tensors):
        tensor.fill_(math.nan if tensor.is_floating_point() else 99)
    return caches


def assert_same(result: Tensor, expected: Tensor) -> None:
    """Equal to the bit, NaN where the other is NaN."""
    torch.testing.assert_close(result, expected, rtol=0, atol=0, equal_nan=True)


def plain_step(
    n_rows: int,
    *,
    token_ids: Tensor | None = None,
    logit_rows: Sequence[int] = (),
    adapter_rows: Sequence[Sequence[int]] = (),
) -> StepInput:
    """A step of one sequence, for programs without attention."""
    return StepInput(
        token_ids=torch.zeros(n_rows, dtype=torch.long) if token_ids is None else token_ids,
        positions=torch.arange(n_rows),
        starts=(0, n_rows),
        groups=(),
        logit_rows=torch.tensor(logit_rows, dtype=torch.long),
        adapter_rows=adapter_rows,
    )


def poison(program: Program, buffers: dict[int, int]) -> None:
    """NaN in every row of buffers (number: width)."""
    for buffer, width in buffers.items():
        program.write(buffer, torch.full((POISONED_ROWS, width), math.nan))
