"""`StoredTensor`: a weight as its checkpoint stores it, and the ways to hold it in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from landrace.errors import CheckpointError
from landrace.kernels.reference import blocks
from landrace.kernels.reference.blocks import BLOCKS, dequantize
from landrace.kernels.reference.quantising import quantize_weights

Weights = Literal["stored", "float32", "bfloat16", "int8", "int4"]
"""How matrices are held. stored: in the checkpoint's own type. int8, int4: in blocks of 32 with a scale."""
WEIGHTS: tuple[Weights, ...] = ("stored", "float32", "bfloat16", "int8", "int4")

Quantize = Callable[[Tensor, str], Tensor]
"""`quantize_weights` of the reference, or of other kernels with the same bits."""

_BLOCK_TYPES = {"float32": "F32", "bfloat16": "BF16", "int8": "Q8_0", "int4": "Q4_0"}
_FLOATS = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
_KEPT = (".bias", "router.weight", "conv.weight")
_EMBEDDINGS = ("embed_tokens.weight", "lm_head.weight")


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

    def floats(self) -> Tensor:
        """The values: floats as they are stored, blocks as float32."""
        for dtype, block_type in _FLOATS.items():
            if block_type == self.block_type:
                return self.read().contiguous().view(dtype).view(self.shape)
        return self.values()

    @staticmethod
    def of(values: Tensor) -> StoredTensor:
        """A tensor that is in memory already."""
        rows = values.detach().contiguous().reshape(-1, values.shape[-1])
        return StoredTensor(_FLOATS[values.dtype], tuple(values.shape), lambda: rows.view(torch.uint8))


def held_as(name: str, tensor: StoredTensor, weights: Weights, quantize: Quantize = quantize_weights) -> StoredTensor:
    """The parameter `name` in another type. Vectors and convolutions stay as they are, experts' biases and routers
    too (an error there sends a token to another expert); a matrix whose rows are not whole blocks of 32 stays
    unquantised. With int4, embeddings and heads take 8 bits: their errors reach the logits undamped.

    Reading it raises CheckpointError for values that no block can hold.
    """
    if weights == "stored" or len(tensor.shape) < 2 or name.endswith(_KEPT):
        return tensor
    block_type = _BLOCK_TYPES[weights]
    if weights == "int4" and name in _EMBEDDINGS:
        block_type = _BLOCK_TYPES["int8"]
    if tensor.block_type == block_type or tensor.shape[-1] % BLOCKS[block_type].elements:
        return tensor

    def read() -> Tensor:
        values = tensor.floats().view(-1, tensor.shape[-1])
        if block_type in _FLOATS.values():
            return blocks.quantize(values, block_type)
        try:
            return quantize(values, block_type)
        except ValueError as error:
            raise CheckpointError(f"The tensor {name!r} cannot be held as {weights}: {error}") from error

    return StoredTensor(block_type, tensor.shape, read)
