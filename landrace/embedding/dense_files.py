"""`Dense` layers as sentence-transformers keeps them: each in a folder of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from landrace.checkpoints.bounded import read_json
from landrace.checkpoints.safetensors_file import read_safetensors_folder
from landrace.embedding.dense import ACTIVATIONS, Dense
from landrace.errors import CheckpointError, UnsupportedError

MAX_BYTES = 1 << 20
_KEYS = {"in_features", "out_features", "bias", "activation_function", "module_input_name", "module_output_name"}
_PLACE = (None, "sentence_embedding")


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
    if activation not in ACTIVATIONS:
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
        tensors[name].load().double().numpy() if name in tensors else None for name in ("linear.weight", "linear.bias")
    )
    assert weight is not None
    return Dense(weight, bias, activation)
