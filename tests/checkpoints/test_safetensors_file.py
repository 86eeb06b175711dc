"""The safetensors reader: against the safetensors library, and against damaged and hostile files."""

from __future__ import annotations

import json
import random
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from landrace.checkpoints.safetensors_file import MAX_HEADER_BYTES, read_safetensors, read_safetensors_folder
from landrace.checkpoints.tensor_info import require_weights
from landrace.errors import CheckpointError, LandraceError, UnsupportedError

TENSORS = {
    "a": torch.randn(3, 5),
    "b": torch.randn(4, dtype=torch.float16),
    "c": torch.randn(2, 3, 2).bfloat16(),
    "ids": torch.arange(6),
    "none": torch.zeros(0, 4),
    "one": torch.tensor(1.5),
}


def write(path: Path, header: Any, data: bytes = b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def entry(shape: Any = (2,), offsets: Any = (0, 8), dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def test_reads_what_the_library_writes(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_file(TENSORS, path, metadata={"format": "pt"})
    infos = read_safetensors(path)
    assert infos.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert infos[name].shape == tuple(tensor.shape)
        if tensor.is_floating_point():
            assert torch.equal(infos[name].load(), tensor) and infos[name].load().dtype == tensor.dtype


def test_loaded_tensors_are_their_own(tmp_path: Path) -> None:
    """Changing a loaded tensor must change neither the file nor what is loaded next."""
    path = tmp_path / "m.safetensors"
    save_file({"a": torch.ones(4)}, path)
    infos = read_safetensors(path)
    infos["a"].load().zero_()
    assert infos["a"].load().tolist() == load_file(path)["a"].tolist() == [1] * 4


def test_unaligned_data_are_read(tmp_path: Path) -> None:
    text = json.dumps({"a": entry()}).encode()
    text += b" " * (5 - len(text) % 8)
    path = write(tmp_path / "m.safetensors", text, struct.pack("<2f", 1.5, -2))
    assert read_safetensors(path)["a"].load().tolist() == [1.5, -2]


@pytest.mark.parametrize("dtype", ["I8", "F64", "F8_E4M3", "U8", "BOOL"])
def test_types_that_are_not_weights_are_refused_by_name(dtype: str, tmp_path: Path) -> None:
    size = {"F64": 8}.get(dtype, 1)
    info = read_safetensors(write(tmp_path / "m", {"layer.w": entry((2,), (0, 2 * size), dtype)}, bytes(2 * size)))
    with pytest.raises(UnsupportedError, match=f"'layer.w' is stored as {dtype}"):
        require_weights(info["layer.w"])


BROKEN: dict[str, tuple[Any, bytes]] = {
    "not json": (b"{'a'", b""),
    "not utf-8": (b'{"\xff": 1}', b""),
    "list": ([], b""),
    "deep": (b'{"a":' + b"[" * 100_000, b""),
    "entry": ({"a": 3}, b""),
    "missing field": ({"a": {"dtype": "F32", "shape": [2]}}, bytes(8)),
    "extra field": ({"a": entry() | {"x": 1}}, bytes(8)),
    "half a character": (b'{"\\ud800":1}', b""),
    "same name": (b'{"a":%b,"a":%b}' % ((json.dumps(entry()).encode(),) * 2), bytes(8)),
    "negative shape": ({"a": entry((-2, -1))}, bytes(8)),
    "fractional shape": ({"a": entry((2.0,))}, bytes(8)),
    "boolean shape": ({"a": entry((True, 2))}, bytes(8)),
    "huge shape": ({"a": entry((1 << 62, 1 << 62))}, bytes(8)),
    "huge number": (b'{"a":{"dtype":"F32","shape":[%b],"data_offsets":[0,8]}}' % (b"9" * 5000), bytes(8)),
    "many dimensions": ({"a": entry((1,) * 5000)}, bytes(8)),
    "shape text": ({"a": {"dtype": "F32", "shape": "2", "data_offsets": [0, 8]}}, bytes(8)),
    "three offsets": ({"a": entry(offsets=(0, 4, 8))}, bytes(8)),
    "backwards": ({"a": entry((0,), (8, 0))}, bytes(8)),
    "size": ({"a": entry((3,))}, bytes(8)),
    "outside": ({"a": entry(offsets=(1 << 40, (1 << 40) + 8))}, bytes(8)),
    "truncated": ({"a": entry()}, bytes(7)),
    "trailing": ({"a": entry()}, bytes(9)),
    "gap": ({"a": entry(), "b": entry(offsets=(9, 17))}, bytes(17)),
    "overlap": ({"a": entry(), "b": entry(offsets=(4, 12))}, bytes(12)),
}


@pytest.mark.parametrize("name", BROKEN)
def test_damage_is_one_clear_error(name: str, tmp_path: Path) -> None:
    path = write(tmp_path / "m.safetensors", *BROKEN[name])
    with pytest.raises(CheckpointError) as caught:
        read_safetensors(path)
    assert str(path) in caught.value.message and len(caught.value.message) < 400


@pytest.mark.parametrize("data", [b"", b"1234567", struct.pack("<Q", 1 << 62), struct.pack("<Q", 100) + b"{}"])
def test_header_lengths_are_bounded(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="damaged"):
        read_safetensors(path)


def test_a_huge_header_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", MAX_HEADER_BYTES + 1))
        file.truncate(MAX_HEADER_BYTES + 100)
    with pytest.raises(CheckpointError, match="claims a header"):
        read_safetensors(path)


def test_an_unknown_type_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"'a'.*'F3'"):
        read_safetensors(write(tmp_path / "m", {"a": entry(dtype="F3")}, bytes(8)))


def test_random_damage_is_refused_wherever_the_library_refuses(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_file({"a": torch.ones(2, 3), "b": torch.ones(4).half()}, path)
    whole, rng = path.read_bytes(), random.Random(11)
    refused = 0
    for _ in range(800):
        changed = bytearray(whole)
        for _ in range(rng.randrange(1, 4)):
            changed[rng.randrange(len(changed) - 32)] = rng.randrange(256)
        path.write_bytes(changed[: rng.choice([len(changed), rng.randrange(len(changed))])])
        try:
            for info in read_safetensors(path).values():
                info.load()
        except LandraceError:
            refused += 1
            continue
        try:
            with safe_open(path, "pt") as file:
                assert list(file.keys())
        except SafetensorError as error:
            raise AssertionError("accepted a file that the library refuses") from error
    assert refused > 300


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    save_file({"a": torch.ones(2)}, tmp_path / "model-1.safetensors")
    save_file({"b": torch.zeros(3), "c": torch.ones(1)}, tmp_path / "model-2.safetensors")
    write_index(tmp_path, {"a": "model-1.safetensors", "b": "model-2.safetensors", "c": "model-2.safetensors"})
    return tmp_path


def write_index(folder: Path, weight_map: Any) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def test_shards_are_one_checkpoint(sharded: Path) -> None:
    infos = read_safetensors_folder(sharded)
    assert sorted(infos) == ["a", "b", "c"] and infos["b"].path.name == "model-2.safetensors"


@pytest.mark.parametrize(
    "place",
    [
        "../model-2.safetensors",
        "/etc/passwd",
        "..",
        "sub/model-2.safetensors",
        3,
        None,
        "..\\m.safetensors",
        ".hidden.safetensors",
        "m.safetensors\0",
        "weights.bin",
        "m" * 300 + ".safetensors",
        "\ud800.safetensors",
    ],
)
def test_an_index_points_nowhere_else(place: Any, sharded: Path) -> None:
    write_index(sharded, {"a": "model-1.safetensors", "b": place})
    with pytest.raises(CheckpointError, match="not the name of a shard"):
        read_safetensors_folder(sharded)


@pytest.mark.parametrize(
    ("weight_map", "says"),
    [
        ({"a": "model-1.safetensors", "b": "model-2.safetensors"}, "does not list 'c'"),
        ({"a": "model-1.safetensors", "x": "model-1.safetensors"}, "lists 'x'"),
        ({"a": "model-9.safetensors"}, "missing"),
        ({}, "no weight_map"),
        ([], "no weight_map"),
        (None, "no weight_map"),
    ],
)
def test_an_index_that_contradicts_its_shards_is_refused(weight_map: Any, says: str, sharded: Path) -> None:
    write_index(sharded, weight_map)
    with pytest.raises(CheckpointError, match=says):
        read_safetensors_folder(sharded)


def test_pickles_are_never_opened(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch pwned'\ntR.")
    with pytest.raises(UnsupportedError, match="pickle") as caught:
        read_safetensors_folder(tmp_path)
    assert caught.value.hint and not Path("pwned").exists()


def test_a_folder_without_weights_says_so(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="neither"):
        read_safetensors_folder(tmp_path)
