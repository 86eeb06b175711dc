"""Writes GGUF version 3 files that ggml's own tools read."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from landrace.checkpoints.gguf_file import (
    ARRAY,
    BOOL,
    DEFAULT_ALIGNMENT,
    MAGIC,
    SCALAR_FORMATS,
    STRING,
    WHOLE_IDS,
    stored_bytes,
)
from landrace.errors import OptionError
from landrace.kernels.reference.blocks import BLOCKS, quantize
from landrace.models.stored import WHOLE

Shape = tuple[int, ...]

_UINT32, _INT32, _FLOAT32, _UINT64, _INT64 = 4, 5, 6, 10, 11
OF_NGRAMS = (".ple.layer_multipliers", ".ple.head_vocab_sizes", ".ple.head_offsets")
"""Lists that llama.cpp takes in 64 bits only."""


def write_gguf(path: Path, metadata: Mapping[str, Any], tensors: Mapping[str, tuple[Tensor, str]]) -> None:
    """Write `metadata` and `tensors`, name to (tensor, block type), in the order given.

    A floating tensor is encoded as its block type. A uint8 tensor [..., bytes per row] is taken as encoded already.
    Metadata values are str, bool, int (uint32 where it fits, else int32, uint64 or int64), float (float32), or lists of
    one of them; integers in lists are int32, as ggml stores its vocabularies, or uint64 in what n-grams are hashed by.
    OptionError for a value without a type.
    """
    encoded = {name: _encode(name, tensor, kind) for name, (tensor, kind) in tensors.items()}
    shapes = {name: (shape, tensors[name][1]) for name, (shape, _) in encoded.items()}
    write_encoded_gguf(path, metadata, shapes, ((raw,) for _, raw in encoded.values()))


def write_encoded_gguf(
    path: Path,
    metadata: Mapping[str, Any],
    shapes: Mapping[str, tuple[Shape, str]],
    encoded: Iterable[Iterable[Tensor]],
) -> None:
    """The same for tensors that do not fit into memory: `shapes` says name to (shape, block type), and `encoded` gives
    the bytes of each in that order, piece by piece, as uint8. OptionError where they are not as many as that takes.
    """
    header = [MAGIC, struct.pack("<IQQ", 3, len(shapes), len(metadata))]
    for key, value in metadata.items():
        header += [_string(key), _typed(key, value)]
    offset = 0
    for name, (shape, kind) in shapes.items():
        header.append(_string(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape)))
        ggml_id = WHOLE_IDS[kind] if kind in WHOLE_IDS else BLOCKS[kind].ggml_id
        header.append(struct.pack("<IQ", ggml_id, offset))
        offset += stored_bytes(shape, kind) + -stored_bytes(shape, kind) % DEFAULT_ALIGNMENT
    with path.open("wb") as file:
        file.write(b"".join(header))
        for (name, (shape, kind)), pieces in zip(shapes.items(), encoded, strict=True):
            _pad(file)
            written = sum(file.write(raw.contiguous().view(-1).numpy().data) for raw in pieces)
            if written != stored_bytes(shape, kind):
                raise OptionError(f"'{name}' has {written} bytes, but {kind} {list(shape)} takes another number.")
        _pad(file)


def _pad(file: BinaryIO) -> None:
    file.write(bytes(-file.tell() % DEFAULT_ALIGNMENT))


def _encode(name: str, tensor: Tensor, kind: str) -> tuple[Shape, Tensor]:
    """(shape of the values, their bytes)."""
    if kind in WHOLE:
        return tuple(tensor.shape), tensor.detach().cpu().to(WHOLE[kind]).contiguous().view(torch.uint8)
    if kind not in BLOCKS or BLOCKS[kind].ggml_id is None:
        raise OptionError(
            f"'{name}' cannot be written as {kind}.", hint="Use one of ggml's types, such as F16 or Q8_0."
        )
    block = BLOCKS[kind]
    if tensor.dtype == torch.uint8:
        return (*tensor.shape[:-1], tensor.shape[-1] // block.bytes * block.elements), tensor
    try:
        rows = tensor.detach().cpu().reshape(-1, tensor.shape[-1])
        return tuple(tensor.shape), quantize(rows, kind)
    except ValueError as error:
        raise OptionError(f"'{name}' cannot be written as {kind}: {error}") from error


def _string(value: str) -> bytes:
    data = value.encode("utf-8")
    return struct.pack("<Q", len(data)) + data


def _typed(key: str, value: Any) -> bytes:
    """The value's type number and its bytes."""
    if isinstance(value, (list, tuple)):
        kind = _list_type(key, value)
        items = b"".join(_bytes(kind, item) for item in value)
        return struct.pack("<IIQ", ARRAY, kind, len(value)) + items
    kind = _scalar_type(key, value)
    return struct.pack("<I", kind) + _bytes(kind, value)


def _bytes(kind: int, value: Any) -> bytes:
    return _string(value) if kind == STRING else struct.pack("<" + SCALAR_FORMATS[kind], value)


def _list_type(key: str, values: Sequence[Any]) -> int:
    kinds = {_scalar_type(key, value) for value in values}
    if key.endswith(OF_NGRAMS) and kinds <= {_UINT32, _UINT64}:
        return _UINT64
    if kinds <= {_UINT32, _INT32} and all(value < 1 << 31 for value in values):
        return _INT32
    if len(kinds) != 1:
        raise OptionError(f"The metadata '{key}' is a list of values of different types.")
    return kinds.pop()


def _scalar_type(key: str, value: Any) -> int:
    if isinstance(value, bool):
        return BOOL
    if isinstance(value, str):
        return STRING
    if isinstance(value, float):
        return _FLOAT32
    if isinstance(value, int) and -(1 << 63) <= value < 1 << 64:
        if value < 0:
            return _INT32 if value >= -(1 << 31) else _INT64
        return _UINT32 if value < 1 << 32 else _UINT64
    raise OptionError(f"The metadata '{key}' has a value that GGUF cannot store: {type(value).__name__}.")
