"""4-bit floats, E2M1: mxfp4 with a power of two for 32 values, nvfp4 with an 8-bit float for 16 and one scale for all.

A byte holds two values, the first in its low half. E2M1 and E8M0 are those of the OCP Microscaling Formats (2023).
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from landrace.checkpoints.quantised.parts import Parts, finite, matrix_rows, require
from landrace.checkpoints.quantised.scaled import BLOCK, FP8, put_scaled
from landrace.checkpoints.quantised.settings import refuse_cache_scales
from landrace.checkpoints.tensor_info import TensorInfo
from landrace.errors import CheckpointError
from landrace.kernels.reference.code_blocks import E2M1, nvfp4_blocks
from landrace.models.families.config import Config

NV_GROUP = 16
_NAN = 255
"""The power of two that stands for NaN."""

IGNORABLE = (r".*\.(input|output|activation)_(global_)?scale",)


def read_mxfp4(settings: Config, parts: Parts) -> None:
    """gpt-oss: `X_blocks` [..., groups, 16] and `X_scales` [..., groups] make `X_blocks` [..., values]."""
    settings.finish((r"quant_method|modules_to_not_convert|dequantize|ignore",))
    for name in parts.named("_blocks"):
        packed = parts.take(f"{name}_blocks", name)
        scale = parts.take(f"{name}_scales", name)
        if len(packed.shape) < 3:
            raise CheckpointError(f"'{packed.name}' has the shape {list(packed.shape)}, which is too few axes.")
        rows = replace(packed, shape=(*packed.shape[:-2], math.prod(packed.shape[-2:])))
        put_fp4(parts, packed.name, rows, scale)


def read_modelopt(settings: Config, parts: Parts) -> None:
    """NVIDIA's ModelOpt: nvfp4 as `X.weight` in bytes with `X.weight_scale` and `X.weight_scale_2`, or float8."""
    refuse_cache_scales(settings, "kv_cache_scheme", "kv_cache_quant_algo")
    settings.require("quant_algo", "NVFP4", "FP8", "MXFP4")
    settings.finish((r"quant_(method|type)|producer|config_groups|ignore|exclude_modules|group_size",))
    for module in parts.named(".weight_scale"):
        name = f"{module}.weight"
        scale = parts.take(f"{name}_scale", name)
        weight = parts.left.get(name)
        if weight is not None and weight.dtype in FP8:
            put_scaled(parts, name, scale)
        else:
            put_fp4(parts, name, parts.take(name, name), scale, factor=parts.take_if(f"{name}_scale_2"))


def put_fp4(
    parts: Parts,
    name: str,
    packed: TensorInfo,
    scale: TensorInfo,
    *,
    factor: TensorInfo | None = None,
    divisor: TensorInfo | None = None,
) -> None:
    """The matrix `name` of bytes with two values each [..., n_out, n_in / 2] and their scales. For nvfp4, `factor` or
    `divisor` is a number that multiplies or divides all scales."""
    if packed.dtype not in ("U8", "I8") or len(packed.shape) < 2:
        raise CheckpointError(
            f"'{packed.name}' is stored as {packed.dtype} {list(packed.shape)}, not as rows of bytes."
        )
    shape = (*packed.shape[:-1], 2 * packed.shape[-1])
    if factor is None and divisor is None:
        _put_mx(parts, name, shape, packed, scale)
        return
    require(scale, (*shape[:-1], shape[-1] // NV_GROUP), "F8_E4M3")

    def whole() -> Tensor:
        one = torch.ones(()) if factor is None else _number(factor)
        one = one if divisor is None else one / _number(divisor)
        if not one.isfinite():
            raise CheckpointError(f"'{name}' is quantised with a scale for all that is 1 / 0.")
        return one

    def scales(first: int, end: int) -> Tensor:
        found = matrix_rows(scale, first, end)
        if found.float().isnan().any():
            raise CheckpointError(f"'{scale.name}' holds scales that are NaN.")
        return found

    def rows(first: int, end: int) -> Tensor:
        by = scales(first, end).float() * whole()
        return _values(_codes(matrix_rows(packed, first, end))) * by.repeat_interleave(NV_GROUP, dim=1)

    def blocks(first: int, end: int) -> Tensor:
        return nvfp4_blocks(_codes(matrix_rows(packed, first, end)), scales(first, end), whole())

    in_blocks = shape[-1] % BLOCK == 0
    parts.put(name, "NVFP4_F32" if in_blocks else "F32", shape, blocks if in_blocks else rows)


def _put_mx(parts: Parts, name: str, shape: tuple[int, ...], packed: TensorInfo, scale: TensorInfo) -> None:
    """Its blocks are ggml's MXFP4 with the values in another order: what ggml has in a byte are 16 values apart."""
    require(scale, (*shape[:-1], shape[-1] // BLOCK), "U8", "F8_E8M0")
    if shape[-1] % BLOCK:
        raise CheckpointError(f"'{name}' has rows of {shape[-1]} values, which are not whole groups of {BLOCK}.")

    def rows(first: int, end: int) -> Tensor:
        codes = _codes(matrix_rows(packed, first, end)).view(end - first, -1, BLOCK)
        exponents = matrix_rows(scale, first, end).view(torch.uint8)
        if (exponents == _NAN).any():
            raise CheckpointError(f"'{scale.name}' holds scales that are NaN.")
        halves = codes[..., :16] | codes[..., 16:] << 4
        return torch.cat((exponents[..., None], halves), dim=-1).view(end - first, -1)

    parts.put(name, "MXFP4", shape, rows)


def _codes(packed: Tensor) -> Tensor:
    packed = packed.view(torch.uint8)
    return torch.stack((packed & 15, packed >> 4), dim=-1).flatten(-2)


def _values(codes: Tensor) -> Tensor:
    return torch.tensor(E2M1)[codes.int()]


def _number(info: TensorInfo) -> Tensor:
    if math.prod(info.shape) != 1:
        raise CheckpointError(f"'{info.name}' has the shape {list(info.shape)}, but it must be one number.")
    return finite(info).reshape(())
