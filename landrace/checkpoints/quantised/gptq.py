"""GPTQ, and AutoRound where it packs alike: integers of 2 to 8 bits along the inputs, with groups in any order.

`qweight` int32 [n_in * bits / 32, n_out], `scales` [groups, n_out], `qzeros` int32 [groups, n_out * bits / 32] and, for
activation order, `g_idx` [n_in]. A value is scale * (number - zero point); the first version of the format stores zero
points less 1, the planar one as they are, and its words hold planes of bits (GPTQModel's documentation of
`checkpoint_format`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from landrace.checkpoints.quantised.parts import (
    Parts,
    Unpack,
    columns_by_group,
    finite,
    group_numbers,
    require,
    unpack_bits,
    unpack_planes,
    words_for,
)
from landrace.checkpoints.quantised.scaled import BLOCK, integer_block, integer_blocks
from landrace.checkpoints.tensor_info import TensorInfo
from landrace.errors import CheckpointError
from landrace.models.families.config import Config

_LESS = {"gptq": 1, "gptq_v2": 0, "gptq_p": 0}
"""By how much zero points are stored less than they are."""
PLANE = 32
"""Numbers whose planes lie together."""
MAX_BITS = 8
"""Bits may differ from module to module; the shapes tell."""
NO_EFFECT = (
    r"quant_method|method|bits|group_size|act_order|sym|true_sequential|damp.*|static_groups|dataset|tokenizer|batch_size|"
    r"block_name_to_quantize|module_name_preceding_first_block|modules_in_block_to_quantize|model_seqlen|use_.*|"
    r"max_input_length|cache_.*|disable_exllama|exllama_config|model_file_base_name|model_name_or_path|lm_head|meta|"
    r"pad_token_id|backend|quantizer|dynamic|pack_dtype|hessian|mse|failsafe|offload.*|is_marlin_format|v2|"
    # AutoRound: how the rounding was learnt.
    r"amp|autoround_version|auto_round_version|block_name_to_quantize|data_type|enable_.*|extra_config|gradient_accumulate_steps|"
    r"iters|lr|low_gpu_mem_usage|minmax_lr|not_use_best_mse|nsamples|scale_dtype|seqlen|to_quant_block_names|train_bs|"
    r"quant_block_list|super_bits|super_group_size|act_.*|layer_config|low_cpu_mem_usage|batch_size|supported_types",
)


def read_gptq(settings: Config, parts: Parts) -> None:
    """Reads every module with a `qweight`."""
    for key in ("checkpoint_format", "format"):
        settings.require(key, *_LESS)
    settings.require("is_marlin_format", False)
    version = settings.get("checkpoint_format") or "gptq"
    ordered = bool(settings.get("desc_act"))
    size = settings.get("group_size")
    settings.finish(NO_EFFECT)
    unpack = unpack_planes if version == "gptq_p" else unpack_bits
    put_by_inputs(parts, size if type(size) is int else None, _LESS[version], needs_order=ordered, unpack=unpack)


def put_by_inputs(
    parts: Parts, group_size: int | None, less: int, *, needs_order: bool = False, unpack: Unpack = unpack_bits
) -> None:
    """Makes a matrix of every module with a `qweight`, whose zero points are stored less `less`. `needs_order`: its
    groups are in an order of their own. `unpack`: how numbers lie in words."""
    for module in parts.named(".qweight"):
        if needs_order and f"{module}.g_idx" not in parts.left:
            raise CheckpointError(f"config.json says desc_act, but the checkpoint has no '{module}.g_idx'.")
        packed = _packed(parts, module, group_size, unpack)
        shape, name = (packed.n_out, packed.n_in), f"{module}.weight"
        if packed.in_blocks:
            kind = integer_block(packed.bits, packed.scales.dtype)
            parts.put(name, kind, shape, partial(_blocks, kind, packed, less), packed.order)
        else:
            parts.put(name, "F32", shape, partial(_rows, packed, less))


@dataclass(frozen=True)
class _Packed:
    bits: int
    n_out: int
    n_in: int
    groups: Tensor
    """[n_in]: which scale each input has."""
    order: Tensor | None
    """The inputs by their groups, where those are not neighbours; None: as they are."""
    in_blocks: bool
    """Whether every 32 inputs of that order share a scale."""
    weight: TensorInfo
    scales: TensorInfo
    zeros: TensorInfo
    unpack: Unpack

    def numbers(self, first: int, end: int) -> Tensor:
        """uint8 [end - first, n_in]."""
        return self.unpack(self.weight.load()[:, first:end].T, self.bits, self.n_in)


def _packed(parts: Parts, module: str, group_size: int | None, unpack: Unpack) -> _Packed:
    """CheckpointError where the tensors are missing or do not fit one another."""
    weight, scales, zeros = (parts.take(f"{module}.{leaf}", module) for leaf in ("qweight", "scales", "qzeros"))
    order = parts.take_if(f"{module}.g_idx")
    for info in (weight, scales, zeros):
        if len(info.shape) != 2 or 0 in info.shape:
            raise CheckpointError(f"'{info.name}' has the shape {list(info.shape)}, which is no matrix.")
    n_groups, n_out = scales.shape
    # Zero points are packed along the outputs, so that their number tells the bits.
    bits = 32 * zeros.shape[1] // n_out
    if not 2 <= bits <= MAX_BITS:
        raise CheckpointError(f"'{zeros.name}' has the shape {list(zeros.shape)}, which fits no {n_out} outputs.")
    n_in = weight.shape[0] * 32 // bits
    require(weight, (words_for(bits, n_in), n_out), "I32")
    require(zeros, (n_groups, words_for(bits, n_out)), "I32")
    require(scales, scales.shape, "F32", "F16", "BF16")
    if unpack is unpack_planes and (n_in % PLANE or n_out % PLANE):
        raise CheckpointError(f"'{weight.name}' has {n_in} inputs and {n_out} outputs, which are not whole planes.")
    given = group_size if group_size is not None and group_size > 0 else n_in
    if -(-n_in // given) != n_groups:
        given = n_in // n_groups
        if n_in % n_groups and order is None:
            raise CheckpointError(f"'{scales.name}' has {n_groups} groups, which do not fit {n_in} inputs.")
    groups = torch.arange(n_in) // given
    columns = None
    if order is not None:
        listed = group_numbers(order, n_in, n_groups)
        if not torch.equal(listed, groups):  # many writers list the groups though they are in order
            groups, columns = listed, columns_by_group(listed, BLOCK)
            return _Packed(bits, n_out, n_in, groups, columns, columns is not None, weight, scales, zeros, unpack)
    in_blocks = n_in % BLOCK == 0 and (given % BLOCK == 0 or given == n_in)
    return _Packed(bits, n_out, n_in, groups, None, in_blocks, weight, scales, zeros, unpack)


def _blocks(kind: str, packed: _Packed, less: int, first: int, end: int) -> Tensor:
    numbers, groups = packed.numbers(first, end), packed.groups
    if packed.order is not None:
        numbers, groups = numbers[:, packed.order], groups[packed.order]
    scales, zeros = (one[:, first:end].T[:, groups[::BLOCK]] for one in (finite(packed.scales), _zeros(packed, less)))
    return integer_blocks(kind, numbers, scales, zeros)


def _rows(packed: _Packed, less: int, first: int, end: int) -> Tensor:
    numbers = packed.numbers(first, end).float()
    scales, zeros = (one[:, first:end].T[:, packed.groups] for one in (finite(packed.scales), _zeros(packed, less)))
    return numbers.sub_(zeros).mul_(scales)


def _zeros(packed: _Packed, less: int) -> Tensor:
    """Zero points, uint8 [groups, n_out], with `less` added to what is stored."""
    words, bits = packed.zeros.load(), packed.bits
    if less and 32 % bits == 0:
        # Whole words, so that what the writer's subtraction borrowed from a neighbour is given back.
        words = (words.long() + less * sum(1 << at for at in range(0, 32, bits))).to(torch.int32)
        less = 0
    return (packed.unpack(words, bits, packed.n_out) + less) & (1 << bits) - 1
