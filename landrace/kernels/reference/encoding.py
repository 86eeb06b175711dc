"""Float weights to ggml's blocks with the least weighted error: what is written to files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from landrace.kernels.reference import block_encoders, super_encoders
from landrace.kernels.reference.blocks import BLOCKS, quantize

_Pack = Callable[[Tensor, Tensor | None], Tensor]

_BLOCKS: Mapping[str, _Pack] = MappingProxyType(
    {
        "Q4_0": block_encoders.pack_q4_0,
        "Q4_1": block_encoders.pack_q4_1,
        "Q5_0": block_encoders.pack_q5_0,
        "Q5_1": block_encoders.pack_q5_1,
        "IQ4_NL": block_encoders.pack_iq4_nl,
        "MXFP4": block_encoders.pack_mxfp4,
    }
)
_SUPER_BLOCKS: Mapping[str, tuple[_Pack, int]] = MappingProxyType(
    {
        "Q2_K": (super_encoders.pack_q2_k, 16),
        "Q3_K": (super_encoders.pack_q3_k, 16),
        "Q4_K": (super_encoders.pack_q4_k, 32),
        "Q5_K": (super_encoders.pack_q5_k, 32),
        "Q6_K": (super_encoders.pack_q6_k, 16),
        "IQ4_XS": (super_encoders.pack_iq4_xs, 32),
    }
)
"""How each is packed, and the values of a group."""
_WIDE = ("F32", "BF16")
"""They hold whatever a float32 is."""
_ROUNDED = (*_WIDE, "F16", "Q8_0")
ENCODED = (*_ROUNDED, *_BLOCKS, *_SUPER_BLOCKS)
"""The types that there is an encoder for."""

_LARGEST = 60000.0
"""Greater values have scales that may be no float16."""
_VALUES_AT_A_TIME = 1 << 17
"""The temporaries stay in the processor's cache, and memory is bounded."""


def encode(values: Tensor, block_type: str, importance: Tensor | None = None) -> Tensor:
    """Floating [rows, columns] to uint8 [rows, bytes per row] of a type of `ENCODED`.

    `importance` [columns], above 0: what an error counts in each column, such as the mean square of the inputs that it
    is multiplied with. Eight bits and floats are rounded without it. ValueError for another type, for rows that are not
    whole blocks, and for NaN, infinity and values that are too large.
    """
    if block_type not in ENCODED:
        raise ValueError(f"No encoder for {block_type}; there is one for {', '.join(ENCODED)}.")
    rows, columns = values.shape
    block = BLOCKS[block_type]
    if columns % block.elements:
        raise ValueError(f"{columns} columns are not whole {block.elements}-value blocks of {block_type}.")
    n_rows = max(1, _VALUES_AT_A_TIME // columns)
    packed = [_pack(some.float(), block_type, importance) for some in torch.split(values, n_rows)]
    return torch.cat(packed).view(rows, -1)


def _pack(values: Tensor, block_type: str, importance: Tensor | None) -> Tensor:
    # Not written as ">=": NaN is not less than anything.
    if block_type not in _WIDE and not bool((values.abs() < _LARGEST).all()):
        raise ValueError(f"It holds NaN, infinity or a value of {_LARGEST:.0f} or more.")
    if block_type in _ROUNDED:
        return quantize(values, block_type)
    if block_type in _BLOCKS:
        counts = None if importance is None else _in_groups(importance.expand_as(values), 32)
        return _BLOCKS[block_type](_in_groups(values, 32), counts)
    pack, size = _SUPER_BLOCKS[block_type]
    shape = (size, -1, BLOCKS[block_type].elements // size)
    counts = None if importance is None else _in_groups(importance.expand_as(values), size).view(shape)
    return pack(_in_groups(values, size).view(shape), counts)


def _in_groups(values: Tensor, size: int) -> Tensor:
    """[rows, columns] to [size, groups]."""
    return values.reshape(-1, size).T.contiguous()
