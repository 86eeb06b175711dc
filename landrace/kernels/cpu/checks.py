"""What the kernels are told of tensors is true."""

from __future__ import annotations

import torch
from torch import Tensor


def check_tensor(
    tensor: Tensor, dtype: torch.dtype, shape: tuple[int, ...], name: str, stride: tuple[int, ...] | None = None
) -> None:
    """`stride`: of each dimension, in elements; None: contiguous."""
    fits = tensor.dtype == dtype and tensor.shape == shape and tensor.is_cpu
    if not fits or not (tensor.is_contiguous() if stride is None else _lies_in_steps_of(tensor, stride)):
        layout = "contiguous" if stride is None else f"of strides {list(stride)}"
        raise ValueError(
            f"{name} must be {dtype} {list(shape)}, {layout}, in main memory, not {tensor.dtype} {list(tensor.shape)}."
        )


def _lies_in_steps_of(tensor: Tensor, stride: tuple[int, ...]) -> bool:
    """Whether these are the tensor's strides, as far as they matter: where a dimension has one element they do not."""
    steps = zip(tensor.shape, tensor.stride(), stride, strict=True)
    return tensor.numel() == 0 or all(size == 1 or ours == theirs for size, ours, theirs in steps)
