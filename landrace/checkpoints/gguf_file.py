"""GGUF (versions 2 and 3, little-endian): a strict reader that trusts no number in the file.

The layout is that of ggml's `docs/gguf.md`: magic, version, counts, typed key-values, tensor infos, padding, data.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

from landrace.checkpoints.bounded import file_size, readable
from landrace.checkpoints.gguf_parts import part_names
from landrace.checkpoints.tensor_info import TensorInfo
from landrace.errors import CheckpointError, UnsupportedError
from landrace.kernels.reference.blocks import BLOCKS
from landrace.models.stored import WHOLE

MAGIC = b"GGUF"
MAX_HEADER_BYTES = 1 << 28
MAX_ARRAY_VALUES = 1 << 23
"""Values in all arrays of one file together. A large vocabulary has a million; a hostile file is stopped here."""
MAX_ARRAY_DEPTH = 4
MAX_DIMENSIONS = 4
MAX_ALIGNMENT = 1 << 20
DEFAULT_ALIGNMENT = 32

SCALAR_FORMATS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q", 12: "d"}
"""`struct` format of each scalar value type."""
BOOL, STRING, ARRAY = 7, 8, 9

_PART_NAMES = "Parts are named as llama.cpp names them: model-00001-of-00003.gguf."

_SMALLEST_VALUE = {kind: struct.calcsize("<" + layout) for kind, layout in SCALAR_FORMATS.items()} | {
    STRING: 8,
    ARRAY: 4 + 8,
}
_SMALLEST_PAIR = 8 + 4 + 1
_SMALLEST_INFO = 8 + 4 + 8 + 4 + 8
_TYPE_BY_ID = {block.ggml_id: name for name, block in BLOCKS.items() if block.ggml_id is not None}
WHOLE_IDS = {"I32": 26, "I64": 27}
"""Of whole numbers."""
_TYPE_BY_ID |= {ggml_id: name for name, ggml_id in WHOLE_IDS.items()}
_UNSUPPORTED_IDS = {9: "Q8_1", 15: "Q8_K", 24: "I8", 25: "I16", 28: "F64"}


@dataclass(frozen=True)
class GgufFile:
    """The header of a GGUF file. The tensors' data stay in the file."""

    path: Path
    version: int
    metadata: dict[str, Any]
    tensors: dict[str, TensorInfo]


def read_gguf(path: Path) -> GgufFile:
    """Read and check the header; of a model in several parts, any of which may be named, those of all of them.

    CheckpointError for a damaged or a missing file, UnsupportedError for one we cannot use.
    """
    named = _read_one(path)
    count = _split(named, "count")
    if count < 2:
        return named
    paths = [path.with_name(name) for name in part_names(path.name)]
    if len(paths) != count:
        raise CheckpointError(f"{path.name} is one of {count} parts, which its name does not say.", hint=_PART_NAMES)
    if missing := [part.name for part in paths if not part.is_file()]:
        raise CheckpointError(
            f"{path.name} is one of {count} parts, of which {', '.join(missing[:5])}"
            f"{f' and {len(missing) - 5} more' if len(missing) > 5 else ''} {'is' if len(missing) == 1 else 'are'} "
            f"not beside it.",
            hint="Put all parts into one folder; `landrace pull` fetches all of them.",
        )
    first = _read_one(paths[0])
    tensors: dict[str, TensorInfo] = {}
    for number, one in enumerate(paths):
        part = first if number == 0 else _read_one(one)
        if (_split(part, "no"), _split(part, "count")) != (number, count):
            raise CheckpointError(f"{part.path.name} does not say that it is part {number + 1} of {count}.")
        if repeated := tensors.keys() & part.tensors.keys():
            raise CheckpointError(f"The tensor '{min(repeated)}' is in several parts of {path}.")
        tensors |= part.tensors
    if _split(first, "tensors.count") not in (0, len(tensors)):
        raise CheckpointError(f"The parts of {path} hold {len(tensors)} tensors, but the first says another number.")
    return GgufFile(first.path, first.version, first.metadata, tensors)


def _read_one(path: Path) -> GgufFile:
    size = file_size(path)
    with readable(path), path.open("rb") as file:
        return _Reader(path, file, size).read()


def _split(file: GgufFile, key: str) -> int:
    value = file.metadata.get(f"split.{key}", 0)
    return value if isinstance(value, int) else 0


class _Reader:
    """One pass over the header. `_at` counts the bytes taken; nothing past `_end` is ever asked for."""

    def __init__(self, path: Path, file: BinaryIO, size: int) -> None:
        self._path = path
        self._file = file
        self._size = size
        self._end = min(size, MAX_HEADER_BYTES)
        self._at = 0
        self._array_values = 0

    def read(self) -> GgufFile:
        version = self._version()
        n_tensors, n_pairs = self._number("Q"), self._number("Q")
        self._check_count(n_pairs, _SMALLEST_PAIR, "key-values")
        metadata: dict[str, Any] = {}
        for _ in range(n_pairs):
            key = self._string("a key")
            if key in metadata:
                raise self._broken(f"the key '{key}' is repeated")
            metadata[key] = self._value(self._number("I"), depth=0)
        return GgufFile(self._path, version, metadata, self._tensors(n_tensors, self._alignment(metadata)))

    def _version(self) -> int:
        if self._take(4, "the magic number") != MAGIC:
            raise CheckpointError(f"{self._path} is not a GGUF file: it does not start with 'GGUF'.")
        version = self._number("I")
        if version & 0xFFFF == 0:
            raise UnsupportedError(f"{self._path.name} is a big-endian GGUF file.", hint="Use the little-endian one.")
        if version not in (2, 3):
            raise UnsupportedError(f"{self._path.name} is GGUF version {version}; versions 2 and 3 are read.")
        return version

    def _value(self, kind: int, depth: int) -> Any:
        if kind == STRING:
            return self._string("a string")
        if kind == ARRAY:
            return self._array(depth)
        if kind not in SCALAR_FORMATS:
            raise self._broken(f"a value has the unknown type {kind}")
        return self._scalars(kind, 1)[0]

    def _array(self, depth: int) -> list[Any]:
        if depth == MAX_ARRAY_DEPTH:
            raise self._broken(f"arrays are nested more than {MAX_ARRAY_DEPTH} deep")
        kind, count = self._number("I"), self._number("Q")
        if kind not in _SMALLEST_VALUE:
            raise self._broken(f"an array has the unknown type {kind}")
        self._check_count(count, _SMALLEST_VALUE[kind], "array values")
        self._array_values += count
        if self._array_values > MAX_ARRAY_VALUES:
            raise self._broken(f"its arrays hold more than {MAX_ARRAY_VALUES} values")
        if kind in SCALAR_FORMATS:
            return self._scalars(kind, count)
        return [self._value(kind, depth + 1) for _ in range(count)]

    def _scalars(self, kind: int, count: int) -> list[Any]:
        layout = f"<{count}{SCALAR_FORMATS[kind]}"
        values = list(struct.unpack(layout, self._take(struct.calcsize(layout), "a value")))
        if kind != BOOL:
            return values
        if any(value > 1 for value in values):
            raise self._broken("a boolean is neither 0 nor 1")
        return [bool(value) for value in values]

    def _alignment(self, metadata: dict[str, Any]) -> int:
        value = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
        if not isinstance(value, int) or not 1 <= value <= MAX_ALIGNMENT or value & (value - 1):
            raise self._broken(f"its alignment is not a power of two up to {MAX_ALIGNMENT}")
        return value

    def _tensors(self, count: int, alignment: int) -> dict[str, TensorInfo]:
        self._check_count(count, _SMALLEST_INFO, "tensors")
        described = [self._tensor_info() for _ in range(count)]
        data_start = -(-self._at // alignment) * alignment
        tensors: dict[str, TensorInfo] = {}
        for name, kind, shape, offset in described:
            if name in tensors:
                raise self._broken(f"the tensor '{name}' is repeated")
            if offset % alignment:
                raise self._broken(f"the tensor '{name}' starts at {offset}, which is not a multiple of {alignment}")
            nbytes = stored_bytes(shape, kind)
            if data_start + offset + nbytes > self._size:
                raise self._broken(f"the tensor '{name}' reaches past the end of the file")
            tensors[name] = TensorInfo(name, kind, shape, nbytes, self._path, data_start + offset)
        self._check_overlap(tensors)
        return tensors

    def _tensor_info(self) -> tuple[str, str, tuple[int, ...], int]:
        name = self._string("a tensor's name")
        n_dimensions = self._number("I")
        if not 1 <= n_dimensions <= MAX_DIMENSIONS:
            raise self._broken(f"the tensor '{name}' has {n_dimensions} dimensions")
        shape = tuple(self._number("Q") for _ in range(n_dimensions))[::-1]
        if 0 in shape:
            raise self._broken(f"the tensor '{name}' has an empty dimension")
        kind = self._tensor_type(name, self._number("I"))
        if kind in BLOCKS and shape[-1] % BLOCKS[kind].elements:
            raise self._broken(f"the tensor '{name}' has rows of {shape[-1]} values, not whole {kind} blocks")
        return name, kind, shape, self._number("Q")

    def _tensor_type(self, name: str, ggml_id: int) -> str:
        if ggml_id in _UNSUPPORTED_IDS:
            raise UnsupportedError(
                f"The tensor '{name}' is stored as {_UNSUPPORTED_IDS[ggml_id]}, which is not supported.",
                hint=f"Supported are {', '.join(BLOCKS)}.",
            )
        if ggml_id not in _TYPE_BY_ID:
            raise self._broken(f"the tensor '{name}' has the unknown type {ggml_id}")
        return _TYPE_BY_ID[ggml_id]

    def _check_overlap(self, tensors: dict[str, TensorInfo]) -> None:
        ordered = sorted(tensors.values(), key=lambda info: info.offset)
        for before, after in pairwise(ordered):
            if before.offset + before.nbytes > after.offset:
                raise self._broken(f"the tensors '{before.name}' and '{after.name}' overlap")

    def _string(self, what: str) -> str:
        try:
            return self._take(self._number("Q"), what).decode("utf-8")
        except UnicodeDecodeError as error:
            raise self._broken(f"{what} is not UTF-8") from error

    def _number(self, layout: str) -> int:
        layout = "<" + layout
        value: int = struct.unpack(layout, self._take(struct.calcsize(layout), "a number"))[0]
        return value

    def _check_count(self, count: int, smallest: int, what: str) -> None:
        if count > (self._end - self._at) // smallest:
            raise self._broken(f"it claims {count} {what}, more than fit in it")

    def _take(self, count: int, what: str) -> bytes:
        if count > self._end - self._at:
            raise self._broken(f"it ends inside {what}")
        data = self._file.read(count)
        if len(data) < count:
            raise self._broken(f"it ended while {what} was read")
        self._at += count
        return data

    def _broken(self, reason: str) -> CheckpointError:
        return CheckpointError(f"{self._path} is damaged: {reason}.", hint="Fetch the file again.")


def stored_bytes(shape: tuple[int, ...], kind: str) -> int:
    """What a tensor takes in the file."""
    if kind in WHOLE:
        return math.prod(shape) * WHOLE[kind].itemsize
    return math.prod(shape) // BLOCKS[kind].elements * BLOCKS[kind].bytes
