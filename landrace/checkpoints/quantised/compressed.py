"""compressed-tensors (llm-compressor): integers and floats of 8 and 4 bits, by tensor, row, group or block.

The layouts are those of the library's `compressors`; which scheme holds for which module, of its `utils/match.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from landrace.checkpoints.quantised.fp4 import put_fp4
from landrace.checkpoints.quantised.parts import (
    Parts,
    Rows,
    columns_by_group,
    group_numbers,
    matrix_rows,
    require,
    unpack_bits,
    words_for,
)
from landrace.checkpoints.quantised.scaled import (
    BLOCK,
    FLOATS,
    entry_rows,
    grid_of,
    integer_block,
    integer_blocks,
    put_scaled,
)
from landrace.checkpoints.quantised.settings import matches, refuse_cache_scales
from landrace.checkpoints.tensor_info import TensorInfo
from landrace.errors import CheckpointError, UnsupportedError
from landrace.models.families.config import Config, shown

FORMATS = (
    "dense", "int-quantized", "float-quantized", "naive-quantized", "pack-quantized", "mixed-precision",
    "nvfp4-pack-quantized", "mxfp4-pack-quantized",
)  # fmt: skip
IGNORABLE = (r".*\.(input|output)_(global_)?scale", r".*\.(input|output)_zero_point")
"""How activations were rounded: here they are not."""


def read_compressed(settings: Config, parts: Parts) -> None:
    """Reads every module that has packed or scaled weights; what has none is left as it is."""
    refuse_cache_scales(settings, "kv_cache_scheme")
    settings.require("format", *FORMATS)
    if sparsity := settings.section("sparsity_config"):
        sparsity.require("format", "dense")
    if (transform := settings.section("transform_config")) and transform.get("config_groups"):
        raise UnsupportedError(
            "config.json's quantization_config sets transform_config, and rotated weights are not implemented."
        )
    schemes = _schemes(settings)
    settings.finish(("quant_method|quantization_status|ignore|global_compression_ratio|version|run_compressed",))
    for module in parts.named(".weight_packed"):
        _read_packed(parts, module, _scheme_of(module, schemes))
    for module in parts.named(".weight_scale"):
        weight = f"{module}.weight"
        scheme = _scheme_of(module, schemes)
        zeros = _zeros(parts, weight, scheme)
        put_scaled(parts, weight, parts.take(f"{module}.weight_scale", weight), scheme.get("block_structure"), zeros)


def _schemes(settings: Config) -> list[tuple[list[str], Mapping[str, Any]]]:
    """(targets, how their weights are stored) of every group."""
    groups = settings.get("config_groups")
    if not isinstance(groups, Mapping) or not groups:
        raise settings.wrong("config_groups", groups, "an object of groups")
    found = []
    for group in groups.values():
        if not isinstance(group, Mapping) or not isinstance(group.get("targets"), list):
            raise settings.wrong("config_groups", group, "an object of groups with targets")
        settings_of_group = Config(group, where="config.json's config_groups")
        settings_of_group.require("format", *FORMATS)
        weights = group.get("weights")
        if isinstance(weights, Mapping):
            found.append(([str(target) for target in group["targets"]], weights))
    return found


def _scheme_of(module: str, schemes: list[tuple[list[str], Mapping[str, Any]]]) -> Mapping[str, Any]:
    """A target that names the module counts before one that names its class, which here can only be the layer's."""
    named = [weights for targets, weights in schemes if any(matches(module, target) for target in targets)]
    classes = [weights for targets, weights in schemes if "Linear" in targets]
    if not named and not classes:
        raise CheckpointError(f"'{module}' is quantised, but no group of config.json's config_groups has it.")
    return (named or classes)[0]


def _read_packed(parts: Parts, module: str, scheme: Mapping[str, Any]) -> None:
    name = f"{module}.weight"
    packed = parts.take(f"{name}_packed", name)
    scale = parts.take(f"{name}_scale", name)
    if packed.dtype == "U8":
        whole = parts.take_if(f"{name}_global_scale")
        put_fp4(parts, name, packed, scale, divisor=whole)
    else:
        _put_integers(parts, name, packed, scale, scheme)


def _zeros(parts: Parts, name: str, scheme: Mapping[str, Any]) -> TensorInfo | None:
    found = parts.take_if(f"{name}_zero_point")
    return parts.take(f"{name}_zero_point", name) if found is None and scheme.get("symmetric") is False else found


def _put_integers(parts: Parts, name: str, packed: TensorInfo, scale: TensorInfo, scheme: Mapping[str, Any]) -> None:
    bits = scheme.get("num_bits")
    if type(bits) is not int or not 1 <= bits <= 8:
        raise CheckpointError(f"config.json's config_groups set num_bits to {shown(bits)}, not 1 to 8.")
    shape = tuple(int(size) for size in parts.take(f"{name}_shape", name).load().flatten())
    if len(shape) != 2 or min(shape) < 1:
        raise CheckpointError(f"'{name}_shape' holds {list(shape)}, which is no matrix.")
    n_out, n_in = shape
    require(packed, (n_out, words_for(bits, n_in)), "I32")
    if scale.dtype not in FLOATS:
        raise CheckpointError(f"'{scale.name}' is stored as {scale.dtype}, not as {' or '.join(FLOATS)}.")
    group_size = scheme.get("group_size")
    size = group_size if type(group_size) is int and group_size > 0 else None
    grid = grid_of(scale.name, shape, scale.shape, (1, size) if size else None)
    scales, offset = entry_rows(scale, grid), 1 << bits - 1
    zeros = _zeros(parts, name, scheme)
    if zeros is not None:
        require(zeros, (words_for(bits, grid.n_down), grid.n_across), "I32")
    listed = parts.take_if(f"{name}_g_idx")
    if listed is None and scheme.get("actorder") == "group":
        raise CheckpointError(f"config.json says actorder, but the checkpoint has no '{name}_g_idx'.")
    groups = None if listed is None else group_numbers(listed, n_in, grid.n_across)
    order = None if groups is None else columns_by_group(groups, BLOCK)

    def stored(first: int, end: int) -> Tensor:
        return unpack_bits(matrix_rows(packed, first, end), bits, n_in)

    def zero_rows(first: int, end: int) -> Tensor:
        assert zeros is not None
        numbers: Tensor = unpack_bits(zeros.load().T, bits, grid.n_down).T[first:end]
        return numbers.float()

    def rows(first: int, end: int) -> Tensor:
        numbers = stored(first, end).float()
        numbers -= grid.spread(zero_rows, first, end, groups) if zeros is not None else offset
        return numbers.mul_(grid.spread(scales, first, end, groups))

    kind = integer_block(bits, scale.dtype)

    def of_blocks(entries: Rows, first: int, end: int) -> Tensor:
        if order is None or groups is None:
            return grid.of_blocks(entries, first, end)
        return grid.spread(entries, first, end, groups[order][::BLOCK])

    def blocks(first: int, end: int) -> Tensor:
        of, numbers = of_blocks(scales, first, end), stored(first, end)
        points = torch.full_like(of, offset) if zeros is None else of_blocks(zero_rows, first, end)
        return integer_blocks(kind, numbers if order is None else numbers[:, order], of, points.to(torch.uint8))

    if order is not None or (groups is None and grid.in_blocks):
        parts.put(name, kind, shape, blocks, order)
    else:
        parts.put(name, "F32", shape, rows)
