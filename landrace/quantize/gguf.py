"""A checkpoint's weights as a GGUF file in one of llama.cpp's mixes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from landrace.checkpoints.checkpoint import Checkpoint
from landrace.checkpoints.folder import whole_file
from landrace.checkpoints.gguf_write import write_encoded_gguf
from landrace.checkpoints.tensor_info import TensorInfo
from landrace.errors import CheckpointError
from landrace.kernels.reference.encoding import encode
from landrace.models.families.gguf_writing import gguf_of
from landrace.models.families.weights import Source, total_rows
from landrace.models.mixer_spec import Gqa
from landrace.models.spec import ModelSpec
from landrace.models.stored import WHOLE, StoredTensor
from landrace.quantize.mixes import Mix, Model, is_quantised
from landrace.text.gguf_vocabulary import gguf_vocabulary

QUANTIZATION_VERSION = 2
"""Of ggml's block formats; its tools write it into every file that has some."""
TABLES = "I32"
"""How llama.cpp has tables of experts by token."""
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class GgufTensor:
    """A tensor to be written: its values are read when their turn comes."""

    shape: tuple[int, ...]
    values: Callable[[], Tensor]
    stored: TensorInfo | None = None
    """Where it lies, if it comes in this shape."""
    whole: bool = False
    """Whether it holds whole numbers, which no mix rounds."""


@dataclass(frozen=True)
class GgufModel:
    metadata: Mapping[str, Any]
    tensors: Mapping[str, GgufTensor]
    sources: Mapping[str, Source]
    """Where the file keeps each parameter of the decoder."""


def gguf_model(checkpoint: Checkpoint) -> GgufModel:
    """The model as a GGUF file tells of it: all that a GGUF file holds, or what is made of a folder.

    UnsupportedError for a folder whose model or tokenizer GGUF files cannot say.
    """
    if checkpoint.format == "safetensors":
        return _of_folder(checkpoint)
    metadata = {key: value for key, value in checkpoint.metadata.items() if not key.startswith("split.")}
    tensors = {name: GgufTensor(info.shape, info.load, info) for name, info in checkpoint.tensor_infos.items()}
    return GgufModel(metadata, tensors, checkpoint.sources)


def _of_folder(checkpoint: Checkpoint) -> GgufModel:
    metadata, factors, sources = gguf_of(checkpoint.config)
    metadata = {"general.name": checkpoint.path.name, **metadata}
    metadata |= gguf_vocabulary(checkpoint.path, checkpoint.spec.vocab_size)
    params, rows = checkpoint.stored(), total_rows(sources.values())
    parts: dict[str, dict[str, Source]] = {}
    for name, source in sources.items():
        parts.setdefault(source.tensor, {})[name] = source
    tensors = {name: GgufTensor((len(values),), partial(torch.tensor, values)) for name, values in factors.items()}
    for name, own in parts.items():
        param, source = next(iter(own.items()))
        shape = source.stored_shape(params[param].shape, rows.get(name))
        whole = params[param].block_type in WHOLE
        values = partial(_assembled, name, shape, own, params)
        tensors[name] = GgufTensor(_as_written(name, shape), values, whole=whole)
    return GgufModel(metadata, tensors, sources)


def _as_written(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """llama.cpp's convolutions have no axis of length 1 between the others, unless q, k and v have one each."""
    if "ssm_conv1d_" in name:
        return shape
    return (shape[0], *(size for size in shape[1:-1] if size > 1), *shape[1:][-1:])


def _assembled(
    name: str, shape: tuple[int, ...], parts: Mapping[str, Source], params: Mapping[str, StoredTensor]
) -> Tensor:
    """A tensor of the file out of the parameters that it holds."""
    made = torch.empty(shape)
    for param, source in parts.items():
        source.put({name: made}, params[param].floats().float())
    return made


def write_quantised_gguf(
    path: Path,
    model: GgufModel,
    spec: ModelSpec,
    mix: Mix,
    importance: Mapping[str, Tensor],
    progress: Progress | None = None,
) -> dict[str, int]:
    """Writes the file, whole or not at all. `importance`: what the inputs on a tensor's last axis count, [columns] or
    [experts, columns]. Returns how many weights are stored in each block type.

    CheckpointError for values that no block can hold and for a disk that is full.
    """
    facts = Model(len(spec.layers), _heads_per_kv_head(spec), "output.weight" not in model.tensors)
    kinds = {name: _kind(name, tensor, mix, facts) for name, tensor in model.tensors.items()}
    shapes = {name: (tensor.shape, kinds[name]) for name, tensor in model.tensors.items()}
    metadata = {
        **model.metadata,
        "general.file_type": mix.file_type,
        "general.quantization_version": QUANTIZATION_VERSION,
    }

    def encoded() -> Iterator[Tensor]:
        for number, (name, tensor) in enumerate(model.tensors.items()):
            yield _encoded(name, tensor, kinds[name], importance.get(name))
            if progress is not None:
                progress(number + 1, len(model.tensors))

    with whole_file(path) as part:
        write_encoded_gguf(part, metadata, shapes, encoded())
    counts: dict[str, int] = {}
    for shape, kind in shapes.values():
        counts[kind] = counts.get(kind, 0) + prod(shape)
    return counts


def _heads_per_kv_head(spec: ModelSpec) -> int:
    mixers = [layer.mixer for layer in spec.layers]
    return max((mixer.n_heads // mixer.n_kv_heads for mixer in mixers if isinstance(mixer, Gqa)), default=1)


def _kind(name: str, tensor: GgufTensor, mix: Mix, model: Model) -> str:
    if tensor.stored is not None and tensor.stored.dtype in WHOLE:
        return tensor.stored.dtype
    if tensor.whole:
        return TABLES
    return mix.type_of(name, tensor.shape, model) if is_quantised(name, tensor.shape) else "F32"


def _encoded(name: str, tensor: GgufTensor, kind: str, importance: Tensor | None) -> Tensor:
    if tensor.stored is not None and tensor.stored.dtype == kind:
        return tensor.stored.raw()
    if kind in WHOLE:
        return tensor.values().to(WHOLE[kind]).view(torch.uint8)
    *stacked, _, columns = tensor.shape if len(tensor.shape) > 1 else (1, *tensor.shape)
    values = tensor.values().view(*stacked, -1, columns)
    try:
        if importance is None or importance.dim() == 1:
            return encode(values.reshape(-1, columns), kind, importance)
        return torch.cat([encode(*one) for one in zip(values, [kind] * len(values), importance, strict=True)])
    except ValueError as error:
        raise CheckpointError(f"The tensor {name!r} cannot be written as {kind}: {error}") from error
