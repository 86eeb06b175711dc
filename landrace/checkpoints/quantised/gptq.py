"""GPTQ, and AutoRound where it packs alike: integers of 2 to 8 bits along the inputs, with groups in any order.

`qweight` int32 [n_in * bits / 32, n_out], `scales` [groups, n_out], `qzeros` int32 [groups, n_out * bits / 32] and, for
activation order, `g_idx` [n_in]. A value is scale * (number - zero point); the first version of the format stores zero
points less 1 (GPTQModel's documentation of `checkpoint_format`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from landrace.checkpoints.quantised.parts import Parts, finite, group_numbers, require, unpack_bits, words_for
from landrace.checkpoints.quantised.scaled import BLOCK
from landrace.checkpoints.tensor_info import PLAIN, TensorInfo
from landrace.errors import CheckpointError
from landrace.kernels.reference.code_blocks import i4_blocks
from landrace.models.families.config import Config

MAX_BITS = 8
"""Bits may differ from module to module; the shapes tell."""
NO_EFFECT = (
    r"quant_method|bits|group_size|act_order|sym|true_sequential|damp.*|static_groups|dataset|tokenizer|batch_size|"
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
    settings.require("checkpoint_format", "gptq", "gptq_v2")
    settings.require("is_marlin_format", False)
    second = settings.get("checkpoint_format") == "gptq_v2"
    ordered = bool(settings.get("desc_act"))
    size = settings.get("group_size")
    settings.finish(NO_EFFECT)
    put_by_inputs(parts, size if type(size) is int else None, 0 if second else 1, needs_order=ordered)


def put_by_inputs(parts: Parts, group_size: int | None, less: int, *, needs_order: bool = False) -> None:
    """Makes a matrix of every module with a `qweight`, whose zero points are stored less `less`. `needs_order`: its
    groups are in an order of their own."""
    for module in parts.named(".qweight"):
        if needs_order and f"{module}.g_idx" not in parts.left:
            raise CheckpointError(f"config.json says desc_act, but the checkpoint has no '{module}.g_idx'.")
        packed = _packed(parts, module, group_size)
        shape, name = (packed.n_out, packed.n_in), f"{module}.weight"
        if packed.in_blocks:
            parts.put(name, f"I4_{packed.scales.dtype}", shape, partial(_blocks, packed, less))
        else:
            parts.put(name, "F32", shape, partial(_rows, packed, less))


@dataclass(frozen=True)
class _Packed:
    bits: int
    n_out: int
    n_in: int
    group_size: int
    weight: TensorInfo
    scales: TensorInfo
    zeros: TensorInfo
    order: TensorInfo | None

    @property
    def in_blocks(self) -> bool:
        """Whether the kernels have blocks that hold it: 4 bits, and every 32 inputs with a scale of 16 bits."""
        whole = self.n_in % BLOCK == 0 and (self.group_size % BLOCK == 0 or self.group_size == self.n_in)
        return self.bits == 4 and whole and self.order is None and self.scales.dtype != "F32"

    def numbers(self, first: int, end: int) -> Tensor:
        """uint8 [end - first, n_in]."""
        return unpack_bits(self.weight.load()[:, first:end].T, self.bits, self.n_in)


def _packed(parts: Parts, module: str, group_size: int | None) -> _Packed:
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
    given = group_size if group_size is not None and group_size > 0 else n_in
    if -(-n_in // given) != n_groups:
        given = n_in // n_groups
        if n_in % n_groups and order is None:
            raise CheckpointError(f"'{scales.name}' has {n_groups} groups, which do not fit {n_in} inputs.")
    if order is not None and torch.equal(group_numbers(order, n_in, n_groups), torch.arange(n_in) // given):
        order = None  # many writers list the groups though they are in order
    return _Packed(bits, n_out, n_in, given, weight, scales, zeros, order)


def _blocks(packed: _Packed, less: int, first: int, end: int) -> Tensor:
    groups = torch.arange(0, packed.n_in, BLOCK) // packed.group_size
    scales = finite(packed.scales).to(PLAIN[packed.scales.dtype])[:, first:end].T[:, groups]
    return i4_blocks(packed.numbers(first, end), scales, _zeros(packed, less)[:, first:end].T[:, groups])


def _rows(packed: _Packed, less: int, first: int, end: int) -> Tensor:
    numbers = packed.numbers(first, end).float()
    scales = finite(packed.scales)
    groups = torch.arange(packed.n_in) // packed.group_size
    if packed.order is not None:
        groups = group_numbers(packed.order, packed.n_in, len(scales))
    zeros = _zeros(packed, less).float()
    return numbers.sub_(zeros[:, first:end].T[:, groups]).mul_(scales[:, first:end].T[:, groups])


def _zeros(packed: _Packed, less: int) -> Tensor:
    """Zero points, uint8 [groups, n_out], with `less` added to what is stored."""
    words, bits = packed.zeros.load(), packed.bits
    if less and 32 % bits == 0:
        # Whole words, so that what the writer's subtraction borrowed from a neighbour is given back.
        words = (words.long() + less * sum(1 << at for at in range(0, 32, bits))).to(torch.int32)
        less = 0
    return (unpack_bits(words, bits, packed.n_out) + less) & (1 << bits) - 1
