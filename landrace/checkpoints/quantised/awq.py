"""AWQ in the order of its GEMM kernels: 4-bit integers along the outputs, with groups of inputs.

`qweight` int32 [n_in, n_out / 8], `qzeros` int32 [groups, n_out / 8], `scales` [groups, n_out]; the eight numbers of a
word are those of outputs 0, 2, 4, 6, 1, 3, 5, 7, from the lowest bit on (AutoAWQ, `WQLinear_GEMM`). A value is
scale * (number - zero point).
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from landrace.checkpoints.quantised.parts import Parts, finite, require, unpack_bits
from landrace.checkpoints.quantised.scaled import BLOCK
from landrace.checkpoints.tensor_info import PLAIN, TensorInfo
from landrace.errors import CheckpointError
from landrace.kernels.reference.code_blocks import i4_blocks
from landrace.models.families.config import Config

BITS = 4
WORD = 32 // BITS
_PLACES = (0, 4, 1, 5, 2, 6, 3, 7)
"""Where in a word the numbers of outputs 0 to 7 are."""


def read_awq(settings: Config, parts: Parts) -> None:
    """Reads every module with a `qweight`."""
    for key in ("bits", "w_bit"):
        settings.require(key, BITS)
    settings.require("version", "gemm", "GEMM")
    settings.finish(
        (
            r"quant_method|group_size|q_group_size|zero_point|modules_to_not_convert|backend|do_fuse|fuse_max_seq_len|.*exllama.*",
        )
    )
    put_by_outputs(parts)


def put_by_outputs(parts: Parts) -> None:
    """Makes a matrix of every module with a `qweight`."""
    for module in parts.named(".qweight"):
        weight, zeros, scales = (parts.take(f"{module}.{leaf}", module) for leaf in ("qweight", "qzeros", "scales"))
        if len(weight.shape) != 2 or len(scales.shape) != 2 or 0 in (*weight.shape, *scales.shape):
            raise CheckpointError(f"'{weight.name}' or '{scales.name}' is no matrix.")
        n_in, n_out, n_groups = weight.shape[0], WORD * weight.shape[1], scales.shape[0]
        require(weight, (n_in, n_out // WORD), "I32")
        require(zeros, (n_groups, n_out // WORD), "I32")
        require(scales, (n_groups, n_out), "F16", "BF16", "F32")
        if n_in % n_groups:
            raise CheckpointError(f"'{scales.name}' has {n_groups} groups, which do not fit {n_in} inputs.")
        in_blocks = (n_in // n_groups) % BLOCK == 0 and scales.dtype != "F32"
        dtype, read = (f"I4_{scales.dtype}", _blocks) if in_blocks else ("F32", _values)
        parts.put(f"{module}.weight", dtype, (n_out, n_in), partial(read, weight, zeros, scales))


def _values(weight: TensorInfo, zeros: TensorInfo, scales: TensorInfo, first: int, end: int) -> Tensor:
    group_size = weight.shape[0] // scales.shape[0]
    offsets = _outputs(zeros, first, end).float().repeat_interleave(group_size, dim=1)
    by = finite(scales)[:, first:end].T.repeat_interleave(group_size, dim=1)
    return _outputs(weight, first, end).float().sub_(offsets).mul_(by)


def _blocks(weight: TensorInfo, zeros: TensorInfo, scales: TensorInfo, first: int, end: int) -> Tensor:
    blocks = weight.shape[0] // scales.shape[0] // BLOCK
    by = finite(scales).to(PLAIN[scales.dtype])[:, first:end].T.repeat_interleave(blocks, dim=1)
    offsets = _outputs(zeros, first, end).repeat_interleave(blocks, dim=1)
    return i4_blocks(_outputs(weight, first, end), by, offsets)


def _outputs(words: TensorInfo, first: int, end: int) -> Tensor:
    """Outputs [first, end) of int32 [n, n_out / 8], uint8 [end - first, n]."""
    stored = words.load()
    numbers = unpack_bits(stored, BITS, WORD * stored.shape[1]).view(len(stored), -1, WORD)
    return numbers[:, :, torch.tensor(_PLACES)].flatten(1)[:, first:end].T
