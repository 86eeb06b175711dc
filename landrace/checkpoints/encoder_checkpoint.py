"""`open_encoder_checkpoint`: an encoder on disk as an `EncoderSpec` and a stream of canonical tensors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from landrace.checkpoints.bounded import read_json, readable
from landrace.checkpoints.checkpoint import (
    MAX_CONFIG_BYTES,
    Progress,
    check_names,
    hash_files,
    matching,
    with_ones,
)
from landrace.checkpoints.gguf_file import read_gguf
from landrace.checkpoints.parameters import stored_parameters
from landrace.checkpoints.safetensors_file import read_safetensors_folder
from landrace.checkpoints.tensor_info import TensorInfo
from landrace.errors import CheckpointError, UnsupportedError
from landrace.models.encoder_spec import EncoderSpec
from landrace.models.families.encoders import EncoderModel, encoder_shapes, is_encoder_type, read_encoder_config
from landrace.models.families.gguf_encoders import ARCHITECTURE, encoder_config_from_gguf, read_gguf_encoder
from landrace.models.families.weights import Source
from landrace.models.stored import StoredTensor


@dataclass
class EncoderCheckpoint:
    """An opened encoder: its description, and where its tensors are. Nothing of the weights is in memory."""

    path: Path
    format: Literal["safetensors", "gguf"]
    config: dict[str, Any]
    """A `config.json`; for GGUF, the one that its metadata amount to."""
    spec: EncoderSpec
    sources: dict[str, Source]
    """Canonical parameter name to the stored tensors that make it."""
    tensor_infos: Mapping[str, TensorInfo]
    """Stored name to description, for every tensor in the files."""
    metadata: dict[str, Any] = field(default_factory=dict)
    """GGUF key-values; empty for safetensors."""
    left_out: tuple[str, ...] = ()
    """Tensors that carry nothing for rows and scores: heads for training, and poolers without a classifier."""
    _sha256: str | None = field(default=None, repr=False)

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """(canonical name, values), one parameter in memory at a time."""
        for name, stored in self.stored().items():
            yield name, stored.floats()

    def stored(self) -> dict[str, StoredTensor]:
        """Canonical name to the parameter as the files store it; nothing is read yet."""
        return stored_parameters(self.sources, self.tensor_infos)

    def sha256(self, progress: Progress | None = None) -> str:
        """Of the weights: see `Checkpoint.sha256`."""
        if self._sha256 is None:
            self._sha256 = hash_files({info.path for info in self.tensor_infos.values()}, progress)
        return self._sha256


def is_encoder(path: Path) -> bool:
    """Whether a model folder or a .gguf file says that it is an encoder. CheckpointError for what cannot be read."""
    with readable(path):
        if not path.is_dir():
            return read_gguf(path).metadata.get("general.architecture") == ARCHITECTURE
        file = path / "config.json"
        return file.is_file() and is_encoder_type(read_json(file, MAX_CONFIG_BYTES).get("model_type"))


def open_encoder_checkpoint(path: Path) -> EncoderCheckpoint:
    """Opens a folder with config.json and safetensors, or a .gguf file.

    CheckpointError: damaged, or the tensors are not the ones that the configuration needs.
    UnsupportedError: well formed, but no encoder, or one whose arithmetic is not implemented.
    """
    with readable(path):
        return _open_folder(path) if path.is_dir() else _open_gguf(path)


def _open_folder(path: Path) -> EncoderCheckpoint:
    if not (path / "config.json").is_file():
        raise CheckpointError(f"{path} has no config.json.", hint="A model folder holds config.json and *.safetensors.")
    config = read_json(path / "config.json", MAX_CONFIG_BYTES)
    if not is_encoder_type(config.get("model_type")):
        raise _no_encoder(path)
    infos = read_safetensors_folder(path)
    return _checked(path, "safetensors", config, read_encoder_config(config, infos), infos, {})


def _open_gguf(path: Path) -> EncoderCheckpoint:
    file = read_gguf(path)
    if file.metadata.get("general.architecture") != ARCHITECTURE:
        raise _no_encoder(path)
    config = encoder_config_from_gguf(file.metadata, len(file.metadata.get("tokenizer.ggml.tokens") or ()))
    model = read_gguf_encoder(config, {name: info.shape for name, info in file.tensors.items()})
    return _checked(path, "gguf", config, model, file.tensors, file.metadata)


def _checked(
    path: Path,
    kind: Literal["safetensors", "gguf"],
    config: dict[str, Any],
    model: EncoderModel,
    infos: Mapping[str, TensorInfo],
    metadata: dict[str, Any],
) -> EncoderCheckpoint:
    check_names(path, model.sources, infos, model.ignorable)
    shapes = encoder_shapes(model.spec)
    infos = with_ones(model.sources, infos, shapes) if kind == "gguf" else infos
    stored = stored_parameters(model.sources, infos)
    for name, shape in shapes.items():
        if stored[name].shape != shape:
            raise CheckpointError(
                f"{path}: '{model.sources[name].tensor}' gives {name} the shape {list(stored[name].shape)}, but the "
                f"configuration says {list(shape)}."
            )
    used: Iterable[str] = {tensor for source in model.sources.values() for tensor in source.tensors}
    left_out = tuple(name for name in matching(infos, model.ignorable) if name not in used)
    return EncoderCheckpoint(path, kind, config, model.spec, model.sources, infos, metadata, left_out)


def _no_encoder(path: Path) -> UnsupportedError:
    return UnsupportedError(f"{path} is no encoder.", hint="Open it as a language model.")
