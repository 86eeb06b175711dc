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
WHOLE = {"I32": torch.int32, "I64": torch.int64}
"""Whole numbers, which tables of experts by token are stored as."""
_PLAIN = {**_FLOATS, **{dtype: name for name, dtype in WHOLE.items()}}
_KEPT = (".bias", "router.weight", "router.table", "conv.weight", "hc.weights.weight", "hc_head.weights.weight")
_ABSORBED = "k_b_proj.weight"
_EMBEDDINGS = ("embed_tokens.weight", "lm_head.weight")


@dataclass(frozen=True)
class StoredTensor:
    """One parameter, not yet read."""

    block_type: str
    """A key of `kernels.reference.blocks.BLOCKS`, or of `WHOLE`."""
    shape: tuple[int, ...]
    read: Callable[[], Tensor]
    """Its bytes, uint8 [rows, bytes per row]; every axis but the last counts as rows."""
    transposed_heads: int = 0
    """The bytes are those of so many matrices, each transposed, that lie one under another in the parameter."""
    order: Tensor | None = None
    """int32 [columns]: which column of the parameter each stored one is, where columns that are not neighbours share a
    scale (activation order); None: its own."""
    part: Callable[[int, int], StoredTensor] | None = None
    """Entries [first, end) of its first axis as a parameter of their own; None: it is read whole."""

    def values(self) -> Tensor:
        """The values as float32."""
        if self.block_type in WHOLE:
            return self.floats().float()
        width = self.shape[0] // self.transposed_heads if self.transposed_heads else self.shape[-1]
        values = dequantize(self.read(), self.block_type, width)
        return self._formed(values if self.order is None else placed(values, self.order))

    def floats(self) -> Tensor:
        """The values: floats and whole numbers as they are stored, blocks as float32."""
        for dtype, block_type in _PLAIN.items():
            if block_type == self.block_type:
                return self._formed(self.read().contiguous().view(dtype))
        return self.values()

    def _formed(self, values: Tensor) -> Tensor:
        if not self.transposed_heads:
            return values.view(self.shape)
        n_out, n_in = self.shape
        heads = values.view(self.transposed_heads, n_in, n_out // self.transposed_heads)
        return heads.transpose(1, 2).reshape(self.shape)

    @staticmethod
    def of(values: Tensor) -> StoredTensor:
        """A tensor that is in memory already."""
        rows = values.detach().contiguous().reshape(-1, values.shape[-1])
        return StoredTensor(_PLAIN[values.dtype], tuple(values.shape), lambda: rows.view(torch.uint8))


def placed(values: Tensor, order: Tensor) -> Tensor:
    """[rows, columns] with each column in the place that `order` [columns] names."""
    out = torch.empty_like(values)
    out[:, order.long()] = values
    return out


def held_as(name: str, tensor: StoredTensor, weights: Weights, quantize: Quantize = quantize_weights) -> StoredTensor:
    """The parameter `name` in another type. Vectors and convolutions stay as they are, experts' biases and routers too
    (an error there sends a token to another expert), and what weights residual streams. A matrix whose rows are not
    whole blocks of 32 stays unquantised, and so do weights that kernels absorb, which they multiply across their rows.
    With int4, embeddings and heads take 8 bits: their errors reach the logits undamped.

    Reading it raises CheckpointError for values that no block can hold.
    """
    if weights == "stored" or len(tensor.shape) < 2 or name.endswith(_KEPT):
        return tensor
    block_type = _BLOCK_TYPES[weights]
    if weights == "int4" and name in _EMBEDDINGS:
        block_type = _BLOCK_TYPES["int8"]
    if tensor.block_type == block_type or tensor.shape[-1] % BLOCKS[block_type].elements:
        return tensor
    if name.endswith(_ABSORBED) and weights in ("int8", "int4"):
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
