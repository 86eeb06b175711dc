"""A checkpoint's weights as a GGUF file in one of llama.cpp's mixes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
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
from landrace.errors import CheckpointError, UnsupportedError
from landrace.kernels.reference.encoding import encode
from landrace.models.families.gguf_kimi_k3 import with_folded_norms
from landrace.models.families.gguf_writing import gguf_of, keeps_drafts
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


PIECE = 1 << 24
"""So many values of a tensor are in memory as float32, or those of one entry of its first axis."""


@dataclass(frozen=True)
class GgufTensor:
    """A tensor to be written: its values are read when their turn comes."""

    shape: tuple[int, ...]
    pieces: Callable[[], Iterable[Tensor]]
    """Its values, some entries of the first axis at a time."""
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


def as_written(checkpoint: Checkpoint) -> Checkpoint:
    """The model with its layer that guesses the token after the next one, where the files hold all of one and llama.cpp
    passes it by."""
    if checkpoint.format == "gguf" or not checkpoint.left_out or not keeps_drafts(checkpoint.config):
        return checkpoint
    with suppress(UnsupportedError):  # Files may hold a part of one.
        return checkpoint.with_mtp()
    return checkpoint


def gguf_model(checkpoint: Checkpoint) -> GgufModel:
    """The model as a GGUF file tells of it: all that a GGUF file holds, or what is made of a folder's parameters.

    UnsupportedError for a folder whose model or tokenizer GGUF files cannot say.
    """
    if checkpoint.format == "safetensors":
        return _of_folder(checkpoint)
    metadata = {key: value for key, value in checkpoint.metadata.items() if not key.startswith("split.")}
    tensors = {
        name: GgufTensor(info.shape, partial(_loaded, info), info) for name, info in checkpoint.tensor_infos.items()
    }
    return GgufModel(metadata, tensors, checkpoint.sources)


def _of_folder(checkpoint: Checkpoint) -> GgufModel:
    metadata, factors, sources = gguf_of(checkpoint.config, mtp=checkpoint.spec.mtp is not None)
    metadata = {"general.name": checkpoint.path.name, **metadata}
    metadata |= gguf_vocabulary(checkpoint.path, checkpoint.spec.vocab_size)
    params, rows = with_folded_norms(checkpoint.stored()), total_rows(sources.values())
    parts: dict[str, dict[str, Source]] = {}
    for name, source in sources.items():
        parts.setdefault(source.tensor, {})[name] = source
    tensors = {name: GgufTensor((len(values),), partial(_listed, values)) for name, values in factors.items()}
    for name, own in parts.items():
        param, source = next(iter(own.items()))
        shape = source.stored_shape(params[param].shape, rows.get(name))
        whole = params[param].block_type in WHOLE
        as_it_is = replace(source, rows=None) == Source(name) and shape == params[param].shape
        pieces = partial(_read, params[param]) if as_it_is else partial(_assembled, name, shape, own, params)
        tensors[name] = GgufTensor(_as_written(name, shape), pieces, whole=whole)
    return GgufModel(metadata, tensors, sources)


def _cuts(shape: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """Entries [first, end) of a tensor's first axis that are one piece."""
    step = max(1, PIECE // prod(shape[1:])) if len(shape) > 1 else shape[0]
    return ((first, min(first + step, shape[0])) for first in range(0, shape[0], step))


def _read(param: StoredTensor) -> Iterable[Tensor]:
    return [param.floats()] if param.part is None else (param.part(*cut).floats() for cut in _cuts(param.shape))


def _loaded(info: TensorInfo) -> Iterable[Tensor]:
    return (part.load() for part in _parts(info))


def _parts(info: TensorInfo) -> Iterable[TensorInfo]:
    return map(info.part, _cuts(info.shape)) if len(info.shape) > 1 else [info]


def _listed(values: Sequence[float]) -> Iterable[Tensor]:
    return [torch.tensor(values)]


def _as_written(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """llama.cpp's convolutions have no axis of length 1 between the others, unless q, k and v have one each."""
    if "ssm_conv1d_" in name:
        return shape
    return (shape[0], *(size for size in shape[1:-1] if size > 1), *shape[1:][-1:])


def _assembled(
    name: str, shape: tuple[int, ...], parts: Mapping[str, Source], params: Mapping[str, StoredTensor]
) -> Iterable[Tensor]:
    """A tensor of the file out of the parameters that it holds."""
    made = torch.empty(shape)
    for param, source in parts.items():
        source.put({name: made}, params[param].floats().float())
    return [made]


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

    def encoded() -> Iterator[Iterable[Tensor]]:
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


def _encoded(name: str, tensor: GgufTensor, kind: str, importance: Tensor | None) -> Iterator[Tensor]:
    """The bytes of its pieces. `importance`: [columns] or [experts, columns]."""
    if tensor.stored is not None and tensor.stored.dtype == kind:
        yield from (part.raw() for part in _parts(tensor.stored))
        return
    first = 0
    for values in tensor.pieces():
        counts = importance
        if importance is not None and importance.dim() > 1:
            counts, first = importance[first : first + len(values)], first + len(values)
        try:
            yield _encoded_piece(values, kind, counts)
        except ValueError as error:
            raise CheckpointError(f"The tensor {name!r} cannot be written as {kind}: {error}") from error


def _encoded_piece(values: Tensor, kind: str, importance: Tensor | None) -> Tensor:
    if kind in WHOLE:
        return values.to(WHOLE[kind]).view(torch.uint8)
    if importance is None or importance.dim() == 1:
        return encode(values.reshape(-1, values.shape[-1]), kind, importance)
    return torch.cat([encode(one, kind, counts) for one, counts in zip(values, importance, strict=True)])
