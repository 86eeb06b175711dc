"""`Dense`: a linear layer behind the pooling, as sentence-transformers keeps it in a folder of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from landrace.checkpoints.bounded import read_json
from landrace.checkpoints.safetensors_file import read_safetensors_folder
from landrace.errors import CheckpointError, UnsupportedError

MAX_BYTES = 1 << 20
_ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "Identity": lambda x: x,
    "Tanh": torch.tanh,
    "ReLU": F.relu,
    "GELU": F.gelu,
    "Sigmoid": torch.sigmoid,
    "SiLU": F.silu,
}
_KEYS = {"in_features", "out_features", "bias", "activation_function", "module_input_name", "module_output_name"}
_PLACE = (None, "sentence_embedding")


@dataclass(frozen=True)
class Dense:
    """activation(W x + b). Computed vector by vector, so that none depends on the others."""

    weight: NDArray[np.float64]
    """[out, in]."""
    bias: NDArray[np.float64] | None
    activation: str

    def __call__(self, vector: NDArray[np.float32]) -> NDArray[np.float32]:
        """Float32 [in] to [out]."""
        # No library product: how that adds up may depend on the number of threads.
        found = np.einsum("oi,i->o", self.weight, vector.astype(np.float64), optimize=False)
        found = found if self.bias is None else found + self.bias
        values = _ACTIVATIONS[self.activation](torch.from_numpy(found.astype(np.float32)))
        return cast("NDArray[np.float32]", values.numpy())


def read_dense(folder: Path) -> Dense:
    """From a module's folder. CheckpointError for tensors of another shape than it says, UnsupportedError for an
    activation or a key that is not known here, and for weights in pickles."""
    file = folder / "config.json"
    config = read_json(file, MAX_BYTES)
    places = (config.get("module_input_name"), config.get("module_output_name"))
    unknown = sorted(key for key in config.keys() - _KEYS if config[key])
    if unknown or any(place not in _PLACE for place in places):
        raise UnsupportedError(
            f"{file} sets {unknown[0] if unknown else 'module_input_name'}, which is not implemented."
        )
    activation = str(config.get("activation_function", "Tanh")).rpartition(".")[2]
    if activation not in _ACTIVATIONS:
        raise UnsupportedError(f"{file} has the activation {activation!r}, which is not implemented.")
    if not (folder / "model.safetensors").is_file():
        raise UnsupportedError(f"{folder} has no model.safetensors.", hint="Save the module as safetensors.")
    tensors = read_safetensors_folder(folder)
    shapes: dict[str, tuple[Any, ...]] = {"linear.weight": (config.get("out_features"), config.get("in_features"))}
    if config.get("bias", True):
        shapes["linear.bias"] = (config.get("out_features"),)
    found = {name: tensor.shape for name, tensor in tensors.items()}
    if found != shapes:
        raise CheckpointError(f"{folder} holds {found}, but its config.json says {shapes}.")
    weight, bias = (
        tensors[name].load().to(torch.float64).numpy() if name in tensors else None
        for name in ("linear.weight", "linear.bias")
    )
    assert weight is not None
    return Dense(weight, bias, activation)
