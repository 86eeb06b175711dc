"""`StoredTensor`: a weight as its checkpoint stores it, and the ways to hold it in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from landrace.kernels.reference.blocks import BLOCKS, dequantize, quantize

Weights = Literal["stored", "float32", "bfloat16", "int8", "int4"]
"""How matrices are held. stored: in the checkpoint's own type. int8, int4: in blocks of 32 with a scale."""
WEIGHTS: tuple[Weights, ...] = ("stored", "float32", "bfloat16", "int8", "int4")

_BLOCK_TYPES = {"float32": "F32", "bfloat16": "BF16", "int8": "Q8_0", "int4": "Q4_0"}


@dataclass(frozen=True)
class StoredTensor:
    """One parameter, not yet read."""

    block_type: str
    """A key of `kernels.reference.blocks.BLOCKS`."""
    shape: tuple[int, ...]
    read: Callable[[], Tensor]
    """Its bytes, uint8 [rows, bytes per row]; every axis but the last counts as rows."""

    def values(self) -> Tensor:
        """The values as float32."""
        return dequantize(self.read(), self.block_type, self.shape[-1]).view(self.shape)

    @staticmethod
    def of(values: Tensor) -> StoredTensor:
        """A tensor that is in memory already."""
        names = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
        rows = values.detach().contiguous().reshape(-1, values.shape[-1])
        return StoredTensor(names[values.dtype], tuple(values.shape), lambda: rows.view(torch.uint8))


def held_as(tensor: StoredTensor, weights: Weights, *, is_embedding: bool = False) -> StoredTensor:
    """The tensor in another type. Vectors stay as they are; a matrix whose rows are not whole blocks of 32 stays
    unquantised. With int4, embeddings and heads take 8 bits: their errors reach the logits undamped."""
    if weights == "stored" or len(tensor.shape) < 2:
        return tensor
    block_type = _BLOCK_TYPES[weights]
    if weights == "int4" and is_embedding:
        block_type = _BLOCK_TYPES["int8"]
    if tensor.block_type == block_type or tensor.shape[-1] % BLOCKS[block_type].elements:
        return tensor

    def read() -> Tensor:
        values = tensor.values().view(-1, tensor.shape[-1])
        return quantize(values, block_type)

    return StoredTensor(block_type, tensor.shape, read)
