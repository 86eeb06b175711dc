"""Parameters out of files: many stored tensors for one parameter, many parameters in one stored tensor."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch.utils._python_dispatch import TorchDispatchMode

from landrace.checkpoints import bounded, tensor_info
from landrace.checkpoints.checkpoint import open_checkpoint
from landrace.checkpoints.parameters import stored_parameters
from landrace.checkpoints.safetensors_file import read_safetensors
from landrace.checkpoints.tensor_info import TensorInfo
from landrace.checkpoints.write import write_checkpoint
from landrace.errors import CheckpointError, UnsupportedError
from landrace.models.families.weights import Source
from landrace.models.stored import StoredTensor, held_as

SIZES: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "pad_token_id": None,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "max_position_embeddings": 128,
}
EXPERTS = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 40, "norm_topk_prob": True}
KINDS = {
    "one tensor an expert": lambda: transformers.Qwen3MoeConfig(**SIZES, **EXPERTS),
    "experts with biases, transposed and alternating": lambda: transformers.GptOssConfig(
        **SIZES, num_local_experts=6, num_experts_per_tok=2, sliding_window=8
    ),
    "transposed experts and a dense layer": lambda: transformers.Llama4TextConfig(
        **SIZES, num_local_experts=4, interleave_moe_layer_step=2, intermediate_size_mlp=56
    ),
    "a bias with an axis more": lambda: transformers.Ernie4_5_MoeConfig(
        **{k: v for k, v in SIZES.items() if k != "head_dim"}, moe_num_experts=6, moe_k=2, moe_intermediate_size=40
    ),
}


def saved(kind: str, folder: Path, **options: Any) -> Any:
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(KINDS[kind](), attn_implementation="eager").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    model.save_pretrained(folder, **options)
    return model


@pytest.fixture
def ranges(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Path, int, int]]:
    """Every stretch of a file that is read from now on."""
    found: list[tuple[Path, int, int]] = []

    def counted(path: Path, offset: int, out: torch.Tensor) -> None:
        found.append((path, offset, offset + out.numel()))
        bounded_read(path, offset, out)

    bounded_read = bounded.read_into
    monkeypatch.setattr(bounded, "read_into", counted)
    monkeypatch.setattr(tensor_info, "read_into", counted)
    return found


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("as_stored", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_every_byte_is_read_once(
    kind: str, as_stored: bool, native: bool, tmp_path: Path, ranges: list[tuple[Path, int, int]]
) -> None:
    saved(kind, tmp_path, save_original_format=not native)
    checkpoint = open_checkpoint(tmp_path)
    ranges.clear()
    if as_stored:
        values = {name: stored.floats() for name, stored in checkpoint.stored().items()}
    else:
        values = dict(checkpoint.tensors())
    ranges.sort()
    assert all(end <= begin for (_, _, end), (_, begin, _) in pairwise(ranges))
    used = {tensor for source in checkpoint.sources.values() for tensor in source.tensors}
    assert sum(end - begin for _, begin, end in ranges) == sum(checkpoint.tensor_infos[name].nbytes for name in used)
    theirs = load_file(tmp_path / "model.safetensors")
    for name, source in checkpoint.sources.items():
        assert torch.equal(values[name], source.take(theirs)), name
    assert len({tensor.untyped_storage().data_ptr() for tensor in values.values()}) == len(values)


@pytest.mark.parametrize("kind", KINDS)
def test_a_parameter_may_be_read_again(kind: str, tmp_path: Path) -> None:
    saved(kind, tmp_path)
    theirs = load_file(tmp_path / "model.safetensors")
    checkpoint = open_checkpoint(tmp_path)
    stored = checkpoint.stored()
    for _ in range(2):
        for name in reversed(stored):
            assert torch.equal(stored[name].floats(), checkpoint.sources[name].take(theirs)), name


class Held(TorchDispatchMode):
    """The most bytes that tensors made under it held at once."""

    def __init__(self) -> None:
        super().__init__()
        self.storages: dict[int, Any] = {}
        self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in (out,) if isinstance(out, torch.Tensor) else ():
            storage = tensor.untyped_storage()
            self.storages[storage._cdata] = storage._weak_ref()
        # A storage that nobody holds any more has expired.
        alive = {key: ref for key, ref in self.storages.items() if not torch.UntypedStorage._expired(ref)}
        for key in self.storages.keys() - alive.keys():
            torch.UntypedStorage._free_weak_ref(self.storages[key])
        self.storages = alive
        held = 0
        for ref in alive.values():
            storage = torch.UntypedStorage._new_with_weak_ptr(ref)
            held += storage.nbytes() if storage is not None else 0
        self.most = max(self.most, held)
        return out


@pytest.mark.parametrize("kind", KINDS)
def test_loading_holds_little_more_than_the_weights(kind: str, tmp_path: Path) -> None:
    saved(kind, tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    with Held() as held:
        tensors = dict(checkpoint.tensors())
    weights = sum(tensor.nbytes for tensor in tensors.values())
    assert weights <= held.most <= 1.1 * weights


@pytest.mark.parametrize("shard_bytes", [1 << 40, 20_000])
@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_what_we_write_is_what_transformers_wrote(kind: str, native: bool, shard_bytes: int, tmp_path: Path) -> None:
    saved(kind, tmp_path / "theirs", save_original_format=not native)
    checkpoint = open_checkpoint(tmp_path / "theirs")
    ours = tmp_path / "ours"
    write_checkpoint(ours, checkpoint.config, checkpoint.sources, checkpoint.tensors(), shard_bytes=shard_bytes)
    stored = {name: tensor for shard in ours.glob("*.safetensors") for name, tensor in load_file(shard).items()}
    theirs = load_file(tmp_path / "theirs" / "model.safetensors")
    assert stored.keys() == theirs.keys() and all(torch.equal(stored[name], theirs[name]) for name in theirs)
    again = dict(open_checkpoint(ours).tensors())
    assert all(torch.equal(again[name], tensor) for name, tensor in checkpoint.tensors())


def test_one_layout_becomes_the_other(tmp_path: Path) -> None:
    """What was read of a file with joint experts is written as the hub has them, and transformers reads it."""
    model = saved("one tensor an expert", tmp_path / "native", save_original_format=False)
    checkpoint = open_checkpoint(tmp_path / "native")
    hub = open_checkpoint(_saved_again(model, tmp_path / "hub")).sources
    write_checkpoint(tmp_path / "ours", checkpoint.config, hub, checkpoint.tensors())
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours").state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in model.state_dict().items())


def _saved_again(model: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    return folder


def infos(folder: Path, tensors: dict[str, torch.Tensor]) -> dict[str, TensorInfo]:
    save_file(tensors, folder / "t.safetensors")
    return read_safetensors(folder / "t.safetensors")


def test_rows_in_many_places(tmp_path: Path) -> None:
    """Each form of source, in 16 bits: the bytes are those that `take` gives."""
    torch.manual_seed(0)
    tensors = {
        **{f"e.{n}.w": torch.randn(4, 6).bfloat16() for n in range(11)},
        "joint": torch.randn(3, 8, 6).bfloat16(),
        "turned": torch.randn(3, 6, 8).bfloat16(),
        "bias": torch.randn(3, 8).bfloat16(),
        "matrix": torch.randn(6, 8).bfloat16(),
        "more": torch.randn(2, 5).bfloat16(),
        "norm": torch.randn(7).bfloat16(),
    }
    sources = {
        "stacked": Source("e.{}.w", stacked=11),
        "part of each": Source("e.{}.w", (1, 3), stacked=11),
        "first": Source("joint", (0, 3), per_expert=True),
        "rest": Source("joint", (3, 8), per_expert=True),
        "even": Source("turned", (0, 8), step=2, per_expert=True, transposed=True),
        "odd": Source("turned", (1, 8), step=2, per_expert=True, transposed=True),
        "even bias": Source("bias", (0, 8), step=2, per_expert=True),
        "odd bias": Source("bias", (1, 8), step=2, per_expert=True),
        "turned matrix": Source("matrix", transposed=True),
        "entry": Source("more", entry=1),
        "norm": Source("norm", form="plus_one"),
        "head": Source("joint", form="unit_rows"),
    }
    found = stored_parameters(sources, infos(tmp_path, tensors))
    for name, source in sources.items():
        expected = source.take(tensors)
        assert found[name].shape == tuple(expected.shape), name
        assert torch.equal(found[name].floats(), expected), name
        assert torch.equal(found[name].values(), expected.float()), name
    assert {found[name].block_type for name in found} == {"BF16", "F32"}
    assert found["norm"].block_type == "F32" and found["head"].block_type == "BF16"


def test_types_that_do_not_go_together(tmp_path: Path) -> None:
    stored = infos(tmp_path, {"e.0.w": torch.zeros(2, 2), "e.1.w": torch.zeros(2, 2).half()})
    with pytest.raises(UnsupportedError, match="F16, F32"):
        stored_parameters({"w": Source("e.{}.w", stacked=2)}, stored)
    block = TensorInfo("w", "Q8_0", (32, 32), 34 * 32, tmp_path / "t.safetensors", 0)
    with pytest.raises(UnsupportedError, match="not by rows"):
        stored_parameters({"w": Source("w", transposed=True)}, {"w": block})


def test_shapes_that_do_not_go_together(tmp_path: Path) -> None:
    stored = infos(tmp_path, {"e.0.w": torch.zeros(2, 2), "e.1.w": torch.zeros(3, 2), "one": torch.zeros(())})
    for source in (Source("e.{}.w", stacked=2), Source("e.0.w", (0, 3)), Source("e.0.w", entry=2), Source("one")):
        with pytest.raises(CheckpointError):
            stored_parameters({"w": source}, stored)


def test_quantised_experts_keep_their_blocks(tmp_path: Path) -> None:
    """Rows of experts are whole rows, and are held in other types expert by expert; routers and biases stay."""
    values = torch.randn(3, 4, 64)
    experts = StoredTensor.of(values)
    held = held_as("layers.0.mlp.experts.up_proj.weight", experts, "int8")
    assert held.block_type == "Q8_0" and held.shape == (3, 4, 64) and held.read().shape == (12, 68)
    torch.testing.assert_close(held.values(), values, atol=0.05, rtol=0)
    for name in ("layers.0.mlp.router.weight", "layers.0.mlp.experts.up_proj.bias"):
        assert held_as(name, experts, "int8") is experts
