"""A real GGUF model opened whole, against transformers and llama.cpp. One layer of SmolLM2 keeps it quick."""

from __future__ import annotations

import copy
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from landrace.checkpoints.adapter import read_adapter, write_adapter
from landrace.checkpoints.checkpoint import Checkpoint, open_checkpoint
from landrace.checkpoints.gguf_file import read_gguf
from landrace.checkpoints.gguf_write import write_gguf
from landrace.checkpoints.write import write_checkpoint
from landrace.errors import CheckpointError, LandraceError, UnsupportedError
from landrace.models.batch import ForwardBatch
from landrace.models.declared import shapes_of
from landrace.models.decoder import Decoder
from landrace.models.families import read_config
from landrace.models.lora_spec import LoraSpec

IDS = [1, 9690, 198, 2683, 359, 253, 5356, 5646, 11173]


def cut(smollm2: Path, path: Path, *, plain: bool, **metadata: Any) -> Path:
    """SmolLM2 with its first layer only: as stored, or (`plain`) as float32."""
    file = read_gguf(smollm2)
    tensors: dict[str, tuple[Tensor, str]] = {}
    for name, info in file.tensors.items():
        if not name.startswith("blk.") or name.startswith("blk.0."):
            stored = info.load() if plain or info.dtype == "F32" else info.raw()
            tensors[name] = (stored, "F32" if plain else info.dtype)
    write_gguf(path, file.metadata | {"llama.block_count": 1} | metadata, tensors)
    return path


@pytest.fixture(scope="module")
def stored(smollm2_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return open_checkpoint(cut(smollm2_path, tmp_path_factory.mktemp("gguf") / "m.gguf", plain=False))


@pytest.fixture(scope="module")
def reference(stored: Checkpoint) -> Any:
    """The same file in transformers."""
    transformers = pytest.importorskip("transformers")
    return transformers.AutoModelForCausalLM.from_pretrained(
        stored.path.parent, gguf_file=stored.path.name, dtype=torch.float32
    ).eval()


def logits(checkpoint: Checkpoint) -> Tensor:
    decoder = Decoder(checkpoint.spec)
    decoder.load(checkpoint.tensors())
    with torch.no_grad():
        return decoder(ForwardBatch.packed([IDS]))


def test_the_whole_file_opens(smollm2_path: Path) -> None:
    checkpoint = open_checkpoint(smollm2_path)
    assert checkpoint.format == "gguf" and len(checkpoint.spec.layers) == 30 and checkpoint.spec.tie_embeddings
    assert checkpoint.metadata["general.architecture"] == "llama"
    assert set(checkpoint.sources) == set(shapes_of(checkpoint.spec))


def test_weights_are_those_that_transformers_reads(stored: Checkpoint, reference: Any, tmp_path: Path) -> None:
    theirs = reference.state_dict()
    sources = read_config(stored.config).sources
    for name, tensor in stored.tensors():
        assert torch.equal(tensor, sources[name].take(theirs)), name
    with torch.no_grad():
        torch.testing.assert_close(logits(stored), reference(torch.tensor([IDS])).logits[0], atol=1e-3, rtol=1e-4)

    write_checkpoint(tmp_path / "hub", stored.config, sources, stored.tensors())
    again = type(reference).from_pretrained(tmp_path / "hub").state_dict()
    assert again.keys() == theirs.keys() and all(torch.equal(again[name], theirs[name]) for name in theirs)


def test_llama_cpp_reads_what_we_write_and_agrees(smollm2_path: Path, tmp_path: Path) -> None:
    llama_cpp = pytest.importorskip("llama_cpp")
    path = cut(smollm2_path, tmp_path / "plain.gguf", plain=True)
    model = llama_cpp.Llama(str(path), n_ctx=32, n_threads=1, logits_all=True, verbose=False)
    model.eval(IDS)
    theirs = torch.tensor(model.scores[: len(IDS)])
    ours = logits(open_checkpoint(path))
    torch.testing.assert_close(ours, theirs, atol=0.02, rtol=0.01)
    assert torch.equal(ours.argmax(-1), theirs.argmax(-1))


def test_an_adapter_on_a_gguf_base_has_the_hubs_names(stored: Checkpoint, reference: Any, tmp_path: Path) -> None:
    """Trained on a GGUF file, loaded by peft on the hub's model: the rotary rows of B must be the hub's."""
    peft = pytest.importorskip("peft")
    sources = read_config(stored.config).sources
    spec = LoraSpec(2, 3.0, ("q_proj", "k_proj"))
    shapes = shapes_of(stored.spec)
    torch.manual_seed(0)
    tensors = {}
    for module in ("layers.0.self_attn.q_proj", "layers.0.self_attn.k_proj"):
        out, inner = shapes[f"{module}.weight"]
        tensors |= {f"{module}.lora_A": torch.randn(2, inner) / 30, f"{module}.lora_B": torch.randn(out, 2)}
    write_adapter(tmp_path / "a", spec, tensors, sources, "HuggingFaceTB/SmolLM2-135M-Instruct", {})
    assert read_adapter(tmp_path / "a", sources)[0] == spec

    merged = dict(stored.tensors())
    for module in ("layers.0.self_attn.q_proj", "layers.0.self_attn.k_proj"):
        merged[f"{module}.weight"] += spec.scale * tensors[f"{module}.lora_B"] @ tensors[f"{module}.lora_A"]
    decoder = Decoder(stored.spec)
    decoder.load(merged.items())
    model = peft.PeftModel.from_pretrained(copy.deepcopy(reference), tmp_path / "a").eval()
    with torch.no_grad():
        theirs = model(torch.tensor([IDS])).logits[0]
        torch.testing.assert_close(decoder(ForwardBatch.packed([IDS])), theirs, atol=1e-3, rtol=1e-3)


def tiny(path: Path) -> Path:
    """A whole llama file of a few thousand bytes."""
    width, ffn, heads, head_dim = 32, 64, 4, 8
    shapes = {
        "attn_q": (heads * head_dim, width),
        "attn_k": (head_dim, width),
        "attn_v": (head_dim, width),
        "attn_output": (width, heads * head_dim),
        "ffn_gate": (ffn, width),
        "ffn_up": (ffn, width),
        "ffn_down": (width, ffn),
    }
    tensors: dict[str, tuple[Tensor, str]] = {"token_embd.weight": (torch.randn(5, width), "Q8_0")}
    for name, shape in shapes.items():
        tensors[f"blk.0.{name}.weight"] = (torch.randn(shape), "Q4_0")
    for name in ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"):
        tensors[f"{name}.weight"] = (torch.ones(width), "F32")
    metadata = {
        "general.architecture": "llama",
        "llama.block_count": 1,
        "llama.embedding_length": width,
        "llama.feed_forward_length": ffn,
        "llama.attention.head_count": heads,
        "llama.attention.head_count_kv": 1,
        "llama.context_length": 64,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "tokenizer.ggml.tokens": list("abcde"),
    }
    write_gguf(path, metadata, tensors)
    return path


def test_random_damage_is_refused_or_gives_the_right_shapes(tmp_path: Path) -> None:
    path = tiny(tmp_path / "tiny.gguf")
    whole, rng, refused = path.read_bytes(), random.Random(1), 0
    assert logits_shape(path) == (9, 5)
    for _ in range(600):
        changed = bytearray(whole)
        for _ in range(rng.randrange(1, 4)):
            changed[rng.randrange(1500)] = rng.randrange(256)
        path.write_bytes(changed)
        try:
            checkpoint = open_checkpoint(path)
            Decoder(checkpoint.spec).load(checkpoint.tensors())
        except LandraceError:
            refused += 1
    assert 300 < refused < 600


def logits_shape(path: Path) -> tuple[int, ...]:
    checkpoint = open_checkpoint(path)
    decoder = Decoder(checkpoint.spec)
    decoder.load(checkpoint.tensors())
    return tuple(decoder(ForwardBatch.packed([[i % 5 for i in range(9)]])).shape)


def test_other_files_are_refused(smollm2_path: Path, tmp_path: Path) -> None:
    path = tmp_path / "bad.gguf"
    with pytest.raises(CheckpointError, match=r"lacks 9 tensors"):
        open_checkpoint(cut(smollm2_path, path, plain=False, **{"llama.block_count": 2}))
    with pytest.raises(UnsupportedError, match="mamba"):
        open_checkpoint(cut(smollm2_path, path, plain=False, **{"general.architecture": "mamba"}))
    with pytest.raises(CheckpointError):
        open_checkpoint(cut(smollm2_path, path, plain=False, **{"llama.attention.head_count": 5}))
