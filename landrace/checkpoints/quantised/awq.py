"""AWQ in the order of its GEMM kernels: integers along the outputs, with groups of inputs.

`qweight` int32 [n_in, n_out * bits / 32], `qzeros` int32 [groups, n_out * bits / 32], `scales` [groups, n_out]. With 4
bits, the eight numbers of a word are those of outputs 0, 2, 4, 6, 1, 3, 5, 7, from the lowest bit on (AutoAWQ,
`WQLinear_GEMM`); with others, numbers are in order (GPTQModel, `pack_awq`). A value is scale * (number - zero point).
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from landrace.checkpoints.quantised.parts import Parts, finite, require, unpack_bits, words_for
from landrace.checkpoints.quantised.scaled import BLOCK, integer_block, integer_blocks
from landrace.checkpoints.tensor_info import TensorInfo
from landrace.errors import CheckpointError
from landrace.models.families.config import Config

BITS = range(2, 9)
"""They may differ from module to module; the shapes tell."""
_PLACES = (0, 4, 1, 5, 2, 6, 3, 7)
"""Where in a word of 4-bit numbers those of outputs 0 to 7 are."""


def read_awq(settings: Config, parts: Parts) -> None:
    """Reads every module with a `qweight`."""
    for key in ("bits", "w_bit"):
        settings.require(key, *BITS)
    for key in ("version", "format", "checkpoint_format"):
        settings.require(key, "gemm", "GEMM")
    settings.finish(
        (
            r"quant_method|method|group_size|q_group_size|zero_point|sym|desc_act|lm_head|pack_dtype|meta|dynamic|backend|"
            r"modules_to_not_convert|do_fuse|fuse_max_seq_len|.*exllama.*",
        )
    )
    put_by_outputs(parts)


def put_by_outputs(parts: Parts) -> None:
    """Makes a matrix of every module with a `qweight`."""
    for module in parts.named(".qweight"):
        weight, zeros, scales = (parts.take(f"{module}.{leaf}", module) for leaf in ("qweight", "qzeros", "scales"))
        if len(weight.shape) != 2 or len(scales.shape) != 2 or 0 in (*weight.shape, *scales.shape):
            raise CheckpointError(f"'{weight.name}' or '{scales.name}' is no matrix.")
        n_in, (n_groups, n_out) = weight.shape[0], scales.shape
        bits = 32 * weight.shape[1] // n_out
        if bits not in BITS:
            raise CheckpointError(f"'{weight.name}' has the shape {list(weight.shape)}, which fits no {n_out} outputs.")
        require(weight, (n_in, words_for(bits, n_out)), "I32")
        require(zeros, (n_groups, words_for(bits, n_out)), "I32")
        require(scales, (n_groups, n_out), "F16", "BF16", "F32")
        if n_in % n_groups:
            raise CheckpointError(f"'{scales.name}' has {n_groups} groups, which do not fit {n_in} inputs.")
        if (n_in // n_groups) % BLOCK == 0:
            kind = integer_block(bits, scales.dtype)
            parts.put(f"{module}.weight", kind, (n_out, n_in), partial(_blocks, kind, bits, weight, zeros, scales))
        else:
            parts.put(f"{module}.weight", "F32", (n_out, n_in), partial(_values, bits, weight, zeros, scales))


def _values(bits: int, weight: TensorInfo, zeros: TensorInfo, scales: TensorInfo, first: int, end: int) -> Tensor:
    group_size = weight.shape[0] // scales.shape[0]
    offsets = _outputs(bits, zeros, first, end).float().repeat_interleave(group_size, dim=1)
    by = finite(scales)[:, first:end].T.repeat_interleave(group_size, dim=1)
    return _outputs(bits, weight, first, end).float().sub_(offsets).mul_(by)


def _blocks(
    kind: str, bits: int, weight: TensorInfo, zeros: TensorInfo, scales: TensorInfo, first: int, end: int
) -> Tensor:
    blocks = weight.shape[0] // scales.shape[0] // BLOCK
    by = finite(scales)[:, first:end].T.repeat_interleave(blocks, dim=1)
    offsets = _outputs(bits, zeros, first, end).repeat_interleave(blocks, dim=1)
    return integer_blocks(kind, _outputs(bits, weight, first, end), by, offsets)


def _outputs(bits: int, words: TensorInfo, first: int, end: int) -> Tensor:
    """Outputs [first, end) of int32 [n, n_out * bits / 32], uint8 [end - first, n]."""
    stored = words.load()
    numbers = unpack_bits(stored, bits, 32 * stored.shape[1] // bits)
    if bits == 4:
        numbers = numbers.view(len(stored), -1, len(_PLACES))[:, :, torch.tensor(_PLACES)].flatten(1)
    return numbers[:, first:end].T
