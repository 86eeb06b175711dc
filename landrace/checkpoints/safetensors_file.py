"""safetensors files, single and sharded: the header is checked here before any number in it is used.

The format: eight bytes with the header's length, a JSON header, then the data without gaps.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

from landrace.checkpoints.bounded import file_size, parse_json, read_json, read_range
from landrace.checkpoints.tensor_info import TensorInfo
from landrace.errors import CheckpointError, UnsupportedError

SINGLE_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"
MAX_HEADER_BYTES = 1 << 25
MAX_INDEX_BYTES = 1 << 26
MAX_DIMENSIONS = 16

_SHARD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,200}\.safetensors", re.ASCII)
_BITS = {
    "BOOL": 8,
    "U8": 8,
    "I8": 8,
    "U16": 16,
    "I16": 16,
    "U32": 32,
    "I32": 32,
    "U64": 64,
    "I64": 64,
    "F16": 16,
    "BF16": 16,
    "F32": 32,
    "F64": 64,
    "C64": 64,
    "F8_E4M3": 8,
    "F8_E5M2": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
}


def read_safetensors(path: Path) -> dict[str, TensorInfo]:
    """The tensors one file holds, in the order of its header. CheckpointError when the file contradicts itself."""
    size = file_size(path)
    if size < 8:
        raise _broken(path, "it is shorter than its own header")
    length = int.from_bytes(read_range(path, 0, 8).numpy().tobytes(), "little")
    if length > min(size - 8, MAX_HEADER_BYTES):
        raise _broken(path, f"it claims a header of {length} bytes")
    header = parse_json(read_range(path, 8, length).numpy().tobytes(), f"The header of {path}")
    header.pop("__metadata__", None)
    infos = {name: _tensor_info(path, name, entry, 8 + length) for name, entry in header.items()}
    _check_coverage(path, infos, 8 + length, size)
    return infos


def read_safetensors_folder(folder: Path) -> dict[str, TensorInfo]:
    """The tensors of `model.safetensors`, or of every shard that `model.safetensors.index.json` lists."""
    if (folder / SINGLE_NAME).is_file():
        return read_safetensors(folder / SINGLE_NAME)
    if (folder / INDEX_NAME).is_file():
        return _read_shards(folder)
    if any(folder.glob("pytorch_model*.bin")):
        raise UnsupportedError(
            f"{folder} has its weights only as pytorch_model.bin, a pickle, which can run code when it is opened.",
            hint="Use a model that is published as safetensors, or convert it where you trust it.",
        )
    raise CheckpointError(f"{folder} has neither {SINGLE_NAME} nor {INDEX_NAME}.")


def _tensor_info(path: Path, name: str, entry: Any, data_start: int) -> TensorInfo:
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise _broken(path, f"the entry of '{name}' is not dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not _are_counts(shape) or len(shape) > MAX_DIMENSIONS or not _are_counts(offsets) or len(offsets) != 2:
        raise _broken(path, f"the shape or the offsets of '{name}' are not counts")
    if not isinstance(dtype, str) or dtype not in _BITS:
        raise UnsupportedError(f"The tensor '{name}' of {path} has the unknown type {str(dtype)[:40]!r}.")
    start, end = offsets
    if (end - start) * 8 != math.prod(shape) * _BITS[dtype]:
        raise _broken(path, f"'{name}' has offsets that do not match its shape")
    return TensorInfo(name, dtype, tuple(shape), end - start, path, data_start + start)


def _are_counts(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 1 << 63 for value in values)


def _check_coverage(path: Path, infos: dict[str, TensorInfo], data_start: int, size: int) -> None:
    """Every byte of the data belongs to exactly one tensor."""
    at = data_start
    for info in sorted(infos.values(), key=lambda info: (info.offset, info.nbytes)):
        if info.offset != at:
            raise _broken(path, f"'{info.name}' overlaps another tensor or leaves a gap before it")
        at += info.nbytes
    if at != size:
        raise _broken(path, f"its tensors end at byte {at}, but the file at {size}")


def _read_shards(folder: Path) -> dict[str, TensorInfo]:
    index_path = folder / INDEX_NAME
    weight_map = read_json(index_path, MAX_INDEX_BYTES).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index_path} has no weight_map.")
    listed: dict[str, set[str]] = {}
    for name, shard in weight_map.items():
        listed.setdefault(_shard_name(index_path, shard), set()).add(name)
    infos: dict[str, TensorInfo] = {}
    for shard, names in sorted(listed.items()):
        if not (folder / shard).is_file():
            raise CheckpointError(f"The shard {shard} that {index_path} lists is missing.", hint="Fetch it again.")
        found = read_safetensors(folder / shard)
        for name in sorted(names ^ found.keys()):
            place = "lists" if name in names else "does not list"
            raise CheckpointError(f"{INDEX_NAME} {place} '{name}' in {shard}, and the shard says otherwise.")
        infos.update(found)
    return infos


def _shard_name(index_path: Path, shard: Any) -> str:
    """A plain file name: an index can point at nothing outside its own folder."""
    if not isinstance(shard, str) or not _SHARD.fullmatch(shard):
        raise CheckpointError(f"{index_path} lists {str(shard)[:80]!r}, which is not the name of a shard beside it.")
    return shard


def _broken(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(f"{path} is damaged: {reason}.", hint="Fetch the file again.")
