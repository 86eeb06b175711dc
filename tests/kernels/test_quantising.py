"""Quantised weights: C++ and the reference to the bit, Q8_0 against the `gguf` package, Q4_0 by its errors."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch
from gguf import GGMLQuantizationType, quants
from torch import Tensor

from landrace.kernels.cpu.quantising import quantize_weights
from landrace.kernels.reference import blocks
from landrace.kernels.reference.quantising import quantize_weights as reference

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
TARGETS = ("Q8_0", "Q4_0")
LARGEST = {"Q8_0": 65519.0 * 127, "Q4_0": 65519.0 * 8}
"""A magnitude whose scale is still a float16."""


def rows(kind: str, target: str, n_rows: int = 70, columns: int = 96) -> Tensor:
    """Values that fit `target`; 70 rows of 3 blocks are no whole number of vectors."""
    generator = torch.Generator().manual_seed(3)
    values = torch.randn(n_rows, columns, generator=generator)
    scales = torch.rand(n_rows, 1, generator=generator)
    if kind == "outliers":
        values[torch.rand(n_rows, columns, generator=generator) < 0.03] *= 20
    elif kind == "ties":
        values = (values * 4).round() / 4
    elif kind == "constant":
        values = values[:, :1].expand(-1, columns).clone()
    elif kind == "sparse":
        values[torch.rand(n_rows, columns, generator=generator) < 0.9] = 0
        values[:9] = 0
        values[9:12] = -0.0
    elif kind == "tiny":  # scales that are denormal or zero as float16, and denormal values
        values *= torch.exp(scales * 90 - 104)
    elif kind == "huge":
        values *= LARGEST[target] / values.abs().amax(1, keepdim=True) * torch.exp(-scales * 3)
        values[0, 0] = LARGEST[target]
        values[1, 40] = -LARGEST[target]
    return values


KINDS = ("normal", "outliers", "ties", "constant", "sparse", "tiny", "huge")


@pytest.mark.matrix
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("target", TARGETS)
def test_the_reference_s_bits(extension: ModuleType, pool: Any, isa: str, target: str, kind: str) -> None:
    for dtype in DTYPES:
        values = rows(kind, target).clamp(-65504, 65504) if dtype == torch.float16 else rows(kind, target)
        values = values.clamp(-0.99 * LARGEST[target], 0.99 * LARGEST[target]).to(dtype)
        assert torch.equal(quantize_weights(extension, pool, isa, values, target), reference(values, target))


def test_any_number_of_threads(extension: ModuleType, isa: str) -> None:
    values = rows("outliers", "Q4_0", 301, 416)
    for target in TARGETS:
        expected = reference(values, target)
        for threads in (1, 2, 5):
            assert torch.equal(
                quantize_weights(extension, extension.ThreadPool(threads), isa, values, target), expected
            )


def test_values_that_are_not_contiguous(extension: ModuleType, pool: Any) -> None:
    values = rows("normal", "Q4_0", 64, 96).T
    for target in TARGETS:
        assert torch.equal(quantize_weights(extension, pool, "plain", values, target), reference(values, target))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "tiny"])
def test_eight_bits_are_ggml_s(kind: str) -> None:
    values = rows(kind, "Q8_0")
    theirs = quants.quantize(values.numpy(), GGMLQuantizationType.Q8_0)
    assert torch.equal(reference(values, "Q8_0"), torch.from_numpy(theirs))


def weighted_errors(values: Tensor, stored: Tensor) -> Tensor:
    """Of every block, in float64, weighted as the reference says."""
    x = values.double().view(-1, 32)
    missed = x - blocks.dequantize(stored, "Q4_0", values.shape[1]).double().view(-1, 32)
    return ((x.abs() + x.abs().mean(1, keepdim=True)) * missed.square()).sum(1)


@pytest.mark.parametrize("kind", KINDS)
def test_no_block_of_four_bits_is_worse_than_ggml_s(kind: str) -> None:
    values = rows(kind, "Q4_0", 400, 128)
    ours = weighted_errors(values, reference(values, "Q4_0"))
    theirs = weighted_errors(values, blocks.quantize(values, "Q4_0"))
    assert (ours <= theirs * (1 + 1e-5)).all()
    if kind in ("normal", "outliers"):
        assert ours.sum() < 0.95 * theirs.sum()


def test_the_search_finds_nearly_the_best_scale() -> None:
    values = rows("normal", "Q4_0", 200, 128)
    x = values.double().view(-1, 32)
    weights = x.abs() + x.abs().mean(1, keepdim=True)
    best = torch.full((len(x),), float("inf"), dtype=torch.float64)
    for scale in torch.linspace(0.05, 0.8, 1500, dtype=torch.float64):
        for signed in (scale, -scale):
            q = (x / signed).round().clamp(-8, 7)
            best = torch.minimum(best, (weights * (x - signed * q).square()).sum(1))
    assert weighted_errors(values, reference(values, "Q4_0")).sum() < 1.01 * best.sum()


def test_what_a_scale_cannot_reach_becomes_zero(extension: ModuleType, pool: Any, isa: str) -> None:
    values = torch.full((2, 64), 2.0**-22)
    values[1] = 2.0**-149
    stored = quantize_weights(extension, pool, isa, values, "Q4_0")
    assert torch.equal(blocks.dequantize(stored, "Q4_0", 64), torch.zeros(2, 64))
    assert torch.equal(stored, reference(values, "Q4_0"))
    above = reference(values[:1] * 1.001, "Q4_0")
    assert blocks.dequantize(above, "Q4_0", 64).count_nonzero() == 64
    assert not blocks.dequantize(reference(values, "Q8_0"), "Q8_0", 64).any()


@pytest.mark.parametrize("target", TARGETS)
def test_values_without_a_scale_are_refused(extension: ModuleType, pool: Any, isa: str, target: str) -> None:
    for wrong in (float("nan"), float("inf"), -float("inf"), LARGEST[target] * 1.001, -1e38):
        for at in ((0, 0), (69, 95)):
            values = rows("normal", target)
            values[at] = wrong
            for quantise in (
                lambda v: quantize_weights(extension, pool, isa, v, target),
                lambda v: reference(v, target),
            ):
                with pytest.raises(ValueError, match="NaN, infinity or a value of"):
                    quantise(values)


def test_other_types_and_shapes_are_refused(extension: ModuleType, pool: Any) -> None:
    good = torch.ones(2, 64)
    for values, target, message in (
        (good, "Q4_1", "not to Q4_1"),
        (good.int(), "Q4_0", "int32"),
        (good[0], "Q4_0", r"\[64\]"),
        (good[:, :33], "Q8_0", "whole blocks"),
        (good[:0], "Q8_0", r"\[0, 64\]"),
    ):
        for quantise in (lambda v, t: quantize_weights(extension, pool, "plain", v, t), reference):
            with pytest.raises(ValueError, match=message):
                quantise(values, target)
    for values, message in ((good.double(), "float64"), (good.to("meta"), "main memory")):
        with pytest.raises(ValueError, match=message):
            quantize_weights(extension, pool, "plain", values, "Q4_0")
    with pytest.raises(ValueError, match="no instruction set mmx"):
        quantize_weights(extension, pool, "mmx", good, "Q4_0")
