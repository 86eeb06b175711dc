"""AWQ in the order of its GEMM kernels: 4-bit integers along the outputs, with groups of inputs.

`qweight` int32 [n_in, n_out / 8], `qzeros` int32 [groups, n_out / 8], `scales` [groups, n_out]; the eight numbers of a
word are those of outputs 0, 2, 4, 6, 1, 3, 5, 7, from the lowest bit on (AutoAWQ, `WQLinear_GEMM`). A value is
scale * (number - zero point).
"""

from __future__ import annotations

import torch
from torch import Tensor

from landrace.checkpoints.quantised.parts import Parts, Rows, finite, require, unpack_bits
from landrace.checkpoints.tensor_info import TensorInfo
from landrace.errors import CheckpointError
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
        parts.put(f"{module}.weight", "F32", (n_out, n_in), _reader(weight, zeros, scales))


def _reader(weight: TensorInfo, zeros: TensorInfo, scales: TensorInfo) -> Rows:
    def rows(first: int, end: int) -> Tensor:
        group_size = weight.shape[0] // scales.shape[0]
        offsets = _outputs(zeros.load())[:, first:end].T.repeat_interleave(group_size, dim=1)
        by = finite(scales)[:, first:end].T.repeat_interleave(group_size, dim=1)
        return _outputs(weight.load())[:, first:end].T.sub(offsets).mul_(by)

    return rows


def _outputs(words: Tensor) -> Tensor:
    """int32 [n, n_out / 8] to float32 [n, n_out]."""
    numbers = unpack_bits(words, BITS, WORD * words.shape[1]).view(len(words), -1, WORD)
    return numbers[:, :, torch.tensor(_PLACES)].flatten(1).float()
