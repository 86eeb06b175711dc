"""Gives a tree of blocks its weights for PyTorch."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from landrace.errors import CheckpointError
from landrace.models.params import as_parameter


def load_weights(
    tree: nn.Module, tensors: Iterable[tuple[str, Tensor]], device: str | torch.device = "cpu", under: str = ""
) -> None:
    """Gives every parameter whose name begins with `under` its tensor, exactly once, cast to the parameter's dtype.

    Raises CheckpointError for an unknown name, a second copy, a wrong shape, a tensor that is not floating point, or a
    parameter nobody gave.
    """
    missing = {name: parameter for name, parameter in tree.named_parameters() if name.startswith(under)}
    for name, tensor in tensors:
        parameter = missing.pop(name, None)
        if parameter is None:
            raise CheckpointError(f"The model has no place for the tensor {name!r}, or it came twice.")
        if tuple(tensor.shape) != tuple(parameter.shape):
            raise CheckpointError(
                f"The tensor {name!r} has shape {list(tensor.shape)}, but the configuration says "
                f"{list(parameter.shape)}."
            )
        if tensor.is_floating_point() != parameter.is_floating_point():
            raise CheckpointError(f"The tensor {name!r} holds {tensor.dtype}, not floating-point weights.")
        path, _, leaf = name.rpartition(".")
        setattr(tree.get_submodule(path), leaf, as_parameter(tensor.detach().to(device=device, dtype=parameter.dtype)))
    if missing:
        some = ", ".join(list(missing)[:5])
        raise CheckpointError(f"The checkpoint lacks {len(missing)} tensors the configuration asks for: {some}.")
