"""The GGUF reader: against the `gguf` package, and against damaged and hostile files."""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch

from landrace.checkpoints.gguf_file import MAX_ARRAY_VALUES, read_gguf
from landrace.checkpoints.gguf_write import write_encoded_gguf, write_gguf
from landrace.errors import CheckpointError, LandraceError, OptionError, UnsupportedError
from landrace.kernels.reference.blocks import BLOCKS, quantize

METADATA: dict[str, Any] = {
    "general.architecture": "llama",
    "general.name": "Größe 大",
    "llama.block_count": 2,
    "a.negative": -5,
    "a.large": 1 << 40,
    "a.float": 0.5,
    "a.flag": True,
    "tokenizer.ggml.tokens": ["a", "", "é"],
    "tokenizer.ggml.token_type": [1, 2, -3],
    "a.floats": [0.25, -1.0],
    "a.flags": [True, False],
}


def sample_tensors() -> dict[str, tuple[torch.Tensor, str]]:
    torch.manual_seed(0)
    tensors = {kind: (torch.randn(3, 256), kind) for kind in ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1")}
    tensors["vector"] = (torch.randn(7), "F32")
    tensors["cube"] = (torch.randn(2, 3, 32), "Q8_0")
    tensors["packed"] = (torch.randint(0, 256, (2, 2 * 210), dtype=torch.uint8), "Q6_K")
    return tensors


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    path = tmp_path / "sample.gguf"
    write_gguf(path, METADATA, sample_tensors())
    return path


def test_written_file_reads_back(sample: Path) -> None:
    file = read_gguf(sample)
    assert file.version == 3 and file.metadata == METADATA
    for name, (tensor, kind) in sample_tensors().items():
        info = file.tensors[name]
        assert info.dtype == kind
        if tensor.dtype == torch.uint8:
            assert torch.equal(info.raw(), tensor) and info.load().shape == (2, 512)
        else:
            assert info.shape == tuple(tensor.shape)
            assert torch.equal(info.raw(), quantize(tensor.reshape(-1, tensor.shape[-1]), kind))
            torch.testing.assert_close(info.load().float(), tensor, atol=0.4, rtol=0.02)
    assert file.tensors["BF16"].load().dtype == torch.bfloat16


def test_the_gguf_package_reads_what_we_write(sample: Path) -> None:
    reader = gguf.GGUFReader(sample)
    fields = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    assert fields == METADATA
    ours = read_gguf(sample)
    assert [tensor.name for tensor in reader.tensors] == list(ours.tensors)
    for tensor in reader.tensors:
        info = ours.tensors[tensor.name]
        theirs = gguf.quants.dequantize(np.array(tensor.data), tensor.tensor_type)
        assert info.shape == tuple(int(n) for n in reversed(tensor.shape))
        assert np.array_equal(info.load().float().numpy(), theirs.reshape(info.shape), equal_nan=True)


def test_we_read_what_the_gguf_package_writes(tmp_path: Path) -> None:
    path = tmp_path / "theirs.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_custom_alignment(64)
    writer.add_uint16("a.short", 9)
    writer.add_float64("a.double", 0.1)
    writer.add_int8("a.byte", -3)
    writer.add_array("a.nested", [[1, 2], [3]])
    values = np.random.default_rng(0).standard_normal((5, 64)).astype(np.float32)
    writer.add_tensor(
        "w", gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q5_1), raw_dtype=gguf.GGMLQuantizationType.Q5_1
    )
    writer.add_tensor("b", values[0])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    file = read_gguf(path)
    assert (file.metadata["a.short"], file.metadata["a.double"], file.metadata["a.byte"]) == (9, 0.1, -3)
    assert file.metadata["a.nested"] == [[1, 2], [3]]
    assert np.array_equal(file.tensors["b"].load().numpy(), values[0])
    theirs = gguf.quants.dequantize(
        gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q5_1), gguf.GGMLQuantizationType.Q5_1
    )
    assert np.array_equal(file.tensors["w"].load().numpy(), theirs)


def test_smollm2_reads_like_the_gguf_package(smollm2_path: Path) -> None:
    ours, theirs = read_gguf(smollm2_path), gguf.GGUFReader(smollm2_path)
    for name, value in ours.metadata.items():
        assert theirs.fields[name].contents() == value, name
    assert [tensor.name for tensor in theirs.tensors] == list(ours.tensors)
    for tensor in theirs.tensors[:12]:
        values = gguf.quants.dequantize(np.array(tensor.data), tensor.tensor_type)
        assert np.array_equal(ours.tensors[tensor.name].load().numpy(), values)


def string(text: str | bytes) -> bytes:
    data = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(data)) + data


def header(
    pairs: Sequence[bytes] = (),
    infos: Sequence[bytes] = (),
    *,
    version: int = 3,
    n_pairs: int | None = None,
    n_infos: int | None = None,
) -> bytes:
    counts = (len(infos) if n_infos is None else n_infos, len(pairs) if n_pairs is None else n_pairs)
    head = b"GGUF" + struct.pack("<IQQ", version, *counts) + b"".join(pairs) + b"".join(infos)
    return head + bytes(-len(head) % 32)


def info(name: str = "w", shape: tuple[int, ...] = (32,), kind: int = 0, offset: int = 0) -> bytes:
    return string(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def deep_array(depth: int) -> bytes:
    return struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * depth + struct.pack("<IQ", 0, 0)


BROKEN = {
    "empty": b"",
    "magic": b"GGML" + bytes(60),
    "only the magic": b"GGUF",
    "pairs": header(n_pairs=1 << 60),
    "tensors": header(n_infos=1 << 60),
    "key length": header([struct.pack("<Q", 1 << 62)]),
    "string length": header([string("k") + struct.pack("<IQ", 8, 1 << 40)]),
    "string not utf-8": header([string("k") + struct.pack("<I", 8) + string(b"\xff\xfe")]),
    "key not utf-8": header([string(b"\xff") + struct.pack("<IB", 0, 1)]),
    "array length": header([string("k") + struct.pack("<IIQ", 9, 0, 1 << 61)]),
    "array of strings": header([string("k") + struct.pack("<IIQ", 9, 8, 1 << 30)]),
    "array type": header([string("k") + struct.pack("<IIQ", 9, 77, 0)]),
    "nesting": header([string("k") + deep_array(3000)]),
    "value type": header([string("k") + struct.pack("<IB", 13, 0)]),
    "boolean": header([string("k") + struct.pack("<IB", 7, 2)]),
    "same key": header([string("k") + struct.pack("<IB", 0, 1)] * 2),
    "alignment": header([string("general.alignment") + struct.pack("<II", 4, 48)]),
    "alignment 0": header([string("general.alignment") + struct.pack("<II", 4, 0)]),
    "alignment huge": header([string("general.alignment") + struct.pack("<II", 4, 1 << 31)]),
    "alignment text": header([string("general.alignment") + struct.pack("<I", 8) + string("32")]),
    "same tensor": header([], [info(), info(offset=128)]) + bytes(256),
    "outside": header([], [info(offset=1 << 50)]) + bytes(128),
    "truncated data": header([], [info()]) + bytes(127),
    "misaligned": header([], [info(offset=4)]) + bytes(256),
    "overlap": header([], [info(), info("v", offset=96)]) + bytes(512),
    "overflow": header([], [info(shape=(1 << 32, 1 << 32))]) + bytes(128),
    "wraps to nothing": header([], [info(shape=(1 << 63, 2, 1))]) + bytes(128),
    "no dimensions": header([], [info(shape=())]) + bytes(128),
    "many dimensions": header([], [info(shape=(1,) * 9)]) + bytes(128),
    "billions of dimensions": header([], [string("w") + struct.pack("<I", 1 << 31)]),
    "empty dimension": header([], [info(shape=(32, 0))]) + bytes(128),
    "half a block": header([], [info(shape=(33,), kind=8)]) + bytes(128),
    "tensor type": header([], [info(kind=4000)]) + bytes(128),
}


@pytest.mark.parametrize("name", BROKEN)
def test_damage_is_one_clear_error(name: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(BROKEN[name])
    with pytest.raises(CheckpointError, match=r"damaged|not a GGUF file") as caught:
        read_gguf(path)
    assert len(caught.value.message) < 300


def test_arrays_are_bounded_together(tmp_path: Path) -> None:
    half = MAX_ARRAY_VALUES // 2 + 1
    pair = struct.pack("<IIQ", 9, 0, half) + bytes(half)
    path = tmp_path / "big.gguf"
    path.write_bytes(header([string("a") + pair, string("b") + pair]))
    with pytest.raises(CheckpointError, match="arrays hold more"):
        read_gguf(path)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (header(version=1), "version 1"),
        (header(version=4), "version 4"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
        (header([], [info(kind=15, shape=(256,))]) + bytes(128), "'w' is stored as Q8_K"),
    ],
)
def test_other_formats_are_named(data: bytes, says: str, tmp_path: Path) -> None:
    path = tmp_path / "other.gguf"
    path.write_bytes(data)
    with pytest.raises(UnsupportedError, match=says):
        read_gguf(path)


def test_missing_files_and_folders_are_clear_errors(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent.gguf"):
        with pytest.raises(CheckpointError, match="no file"):
            read_gguf(path)


def damage(data: bytes, rng: random.Random) -> bytes:
    kind = rng.randrange(4)
    at = rng.randrange(len(data))
    if kind == 0:
        return data[:at]
    changed = bytearray(data)
    if kind == 1:
        for _ in range(rng.randrange(1, 6)):
            changed[rng.randrange(len(changed))] = rng.randrange(256)
    elif kind == 2:
        number = rng.choice([0, 1, 255, 1 << 31, 1 << 32, (1 << 63) - 1, (1 << 64) - 1])
        changed[at : at + 8] = struct.pack("<Q", number)
    else:
        del changed[at : at + rng.randrange(1, 9)]
    return bytes(changed)


def test_random_damage_never_crashes(tmp_path: Path) -> None:
    path = tmp_path / "fuzz.gguf"
    write_gguf(path, METADATA, {"w": (torch.zeros(2, 32), "Q4_1"), "v": (torch.zeros(4), "F32")})
    whole = path.read_bytes()
    rng = random.Random(5)
    refused = 0
    for _ in range(1500):
        path.write_bytes(damage(whole, rng))
        try:
            for tensor in read_gguf(path).tensors.values():
                tensor.load()
        except LandraceError:
            refused += 1
    assert refused > 500


def test_a_file_that_shrinks_after_the_header_is_a_clear_error(sample: Path) -> None:
    file = read_gguf(sample)
    sample.write_bytes(sample.read_bytes()[:-2000])
    with pytest.raises(CheckpointError, match="ends before"):
        file.tensors["packed"].load()


@pytest.mark.parametrize("kind", [kind for kind, block in BLOCKS.items() if block.ggml_id is not None])
def test_llama_sized_rows_of_each_type_are_accounted(kind: str, tmp_path: Path) -> None:
    block = BLOCKS[kind]
    raw = torch.randint(0, 256, (3, 512 // block.elements * block.bytes), dtype=torch.uint8)
    path = tmp_path / "t.gguf"
    write_gguf(path, {}, {"w": (raw, kind)})
    found = read_gguf(path).tensors["w"]
    assert found.shape == (3, 512) and torch.equal(found.raw(), raw)


def test_tensors_can_be_written_one_by_one(tmp_path: Path) -> None:
    tensors = {"experts": (torch.randn(3, 2, 32), "F16"), "b": (torch.randn(5), "F32")}
    encoded = [(tensor.half() if kind == "F16" else tensor).view(torch.uint8) for tensor, kind in tensors.values()]
    write_gguf(tmp_path / "whole.gguf", METADATA, tensors)
    shapes = {name: (tuple(tensor.shape), kind) for name, (tensor, kind) in tensors.items()}
    write_encoded_gguf(tmp_path / "one.gguf", METADATA, shapes, ([raw] for raw in encoded))
    assert (tmp_path / "one.gguf").read_bytes() == (tmp_path / "whole.gguf").read_bytes()
    pieces = ([raw[:1], raw[1:]] for raw in encoded)
    write_encoded_gguf(tmp_path / "pieces.gguf", METADATA, shapes, pieces)
    assert (tmp_path / "pieces.gguf").read_bytes() == (tmp_path / "whole.gguf").read_bytes()
    write_gguf(tmp_path / "raw.gguf", METADATA, {"experts": (encoded[0], "F16"), "b": (encoded[1], "F32")})
    assert (tmp_path / "raw.gguf").read_bytes() == (tmp_path / "whole.gguf").read_bytes()
    with pytest.raises(OptionError, match="bytes"):
        write_encoded_gguf(tmp_path / "bad.gguf", METADATA, shapes, [[encoded[0]], [encoded[1][:-1]]])


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.gguf"
    for metadata, tensors in (
        ({"k": None}, {}),
        ({"k": [1, "a"]}, {}),
        ({"k": 1 << 70}, {}),
        ({}, {"w": (torch.zeros(1, 33), "Q8_0")}),
        ({}, {"w": (torch.zeros(1, 256), "Q6_K")}),
        ({}, {"w": (torch.zeros(1, 32), "Q9")}),
    ):
        with pytest.raises(OptionError):
            write_gguf(path, metadata, tensors)
        assert not path.exists()
