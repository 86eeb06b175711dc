"""DeepSeek-V4 as its vendor publishes it: opened by its folder, against transformers with the values it stands for."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

pytest.importorskip("transformers")
sys.path += [str(Path(__file__).parents[1] / folder) for folder in ("models", "quantize")]

from cpu_models import on_cpu
from deepseek_v4_files import Published, publish
from quantise_models import VOCABULARY, vocabulary
from safetensors.torch import load_file, save_file
from test_gguf_models import llama_cpp_logits
from tiny_models import random_ids, reference_logits, worst
from torch import Tensor

from landrace.checkpoints.checkpoint import Checkpoint, open_checkpoint
from landrace.errors import CheckpointError, UnsupportedError
from landrace.kernels.reference.dense import rms_norm
from landrace.model import cpu_decoder
from landrace.models.batch import ForwardBatch
from landrace.models.decoder import Decoder
from landrace.quantize.quantize import quantize

IDS = random_ids((140, 9))
"""The first has a row compressed from 128 positions."""
ROUNDED = 0.02
"""What rounding the inputs of products with bfloat16, and to 8 bits those with 4-bit floats, may change of a logit, on
average."""


def opened(checkpoint: Checkpoint) -> Decoder:
    return Decoder(checkpoint.spec).load(checkpoint.tensors())


@torch.no_grad()
def logits(decoder: Any, sequences: list[list[int]] = IDS) -> list[Tensor]:
    return list(decoder(ForwardBatch.packed(sequences)).split([len(ids) for ids in sequences]))


@pytest.mark.parametrize(("experts", "block_type"), [("fp4", "MXFP4"), ("fp8", "F8_F32")])
def test_a_folder_means_what_its_formula_says(
    experts: str, block_type: str, extension: ModuleType, tmp_path: Path
) -> None:
    made = publish(tmp_path, experts=experts)
    expected = reference_logits(made.model, IDS)
    checkpoint = open_checkpoint(tmp_path)
    decoder = opened(checkpoint)
    assert worst(logits(decoder), expected) < 1e-4
    assert worst(logits(on_cpu(extension, decoder, "float32")), expected) < 1e-4
    served = logits(cpu_decoder(checkpoint, extension, threads=2))
    differ = torch.cat([(ours - theirs).abs().flatten() for ours, theirs in zip(served, expected, strict=True)])
    assert differ.mean() < ROUNDED
    held = {name: tensor.block_type for name, tensor in checkpoint.stored().items()}
    assert held["layers.3.mlp.experts.down_proj.weight"] == block_type
    for name in ("q_a_proj", "q_b_proj", "kv_proj", "o_a_proj", "o_b_proj", "index_q_proj"):
        assert held[f"layers.1.self_attn.{name}.weight"] == "F8_F32", "multiplied as it is stored"
    assert held["layers.1.mlp.shared_expert.up_proj.weight"] == "F8_F32"
    assert held["layers.1.self_attn.compress_proj.weight"] == "BF16"


@torch.no_grad()
def guessed(made: Published, ids: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    """By transformers' layers: the streams that the model leaves, the logits of what the guessing layer makes of them
    for each token but the first, and the streams that it leaves."""
    left: list[Tensor] = []

    def note(_: Any, inputs: Any, output: Tensor) -> None:
        left.append(output)

    eps, model, layer = made.model.config.rms_norm_eps, made.model.model, made.guessing.model
    handle = model.layers[-1].register_forward_hook(note)
    model(input_ids=torch.tensor([ids]), use_cache=False)
    handle.remove()
    embedded = rms_norm(model.embed_tokens(torch.tensor(ids[1:])), made.stem["enorm.weight"], eps)
    streams = rms_norm(left[0][0, :-1], made.stem["hnorm.weight"], eps) @ made.stem["h_proj.weight"].t()
    streams = streams + (embedded @ made.stem["e_proj.weight"].t())[:, None]
    handles = (
        layer.layers[0].register_forward_pre_hook(lambda _, inputs: (streams[None],)),
        layer.layers[0].register_forward_hook(note),
    )
    read = layer(inputs_embeds=streams[None, :, 0], use_cache=False).last_hidden_state[0]
    for one in handles:
        one.remove()
    return left[0][0].flatten(1), made.model.lm_head(read), left[1][0].flatten(1)


@torch.no_grad()
def ours(decoder: Any, ids: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    _, hidden = decoder.with_hidden(ForwardBatch.packed([ids]))
    logits, left = decoder.with_hidden(replace(ForwardBatch.packed([ids[1:]]), hidden=hidden[:-1].contiguous()))
    return hidden, logits, left


def test_the_layer_that_guesses(extension: ModuleType, tmp_path: Path) -> None:
    made = publish(tmp_path)
    plain = open_checkpoint(tmp_path)
    checkpoint = plain.with_mtp()
    decoder = opened(checkpoint)
    expected = guessed(made, IDS[0])
    for one in (decoder, on_cpu(extension, decoder, "float32")):
        assert worst(list(ours(one, IDS[0])), list(expected)) < 1e-4
        assert worst(logits(one), reference_logits(made.model, IDS)) < 1e-4
    assert plain.spec.mtp is None and replace(checkpoint.spec, mtp=None) == plain.spec
    assert checkpoint.left_out == () and len(plain.left_out) > 30
    held = {name: tensor.block_type for name, tensor in checkpoint.stored().items()}
    assert held["mtp.hidden_proj.weight"] == held["mtp.embedding_proj.weight"] == "F8_F32"
    assert held["mtp.layer.mlp.experts.gate_proj.weight"] == "MXFP4"


EPS = 2.0**-8
OF_LLAMA_CPP = {"hc_mult": 4, "hc_eps": EPS, "rms_norm_eps": EPS, "index_head_dim": 64, "sliding_window": 16}
"""It knows four streams only, keeps one epsilon, and rotates an indexer's rows by Hadamard matrices of 64."""


def with_a_tokenizer(folder: Path) -> str:
    vocabulary().save(str(folder / "tokenizer.json"))
    settings = {"eos_token": "<|im_end|>", "tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return str(folder)


def test_a_gguf_of_it_in_llama_cpp(tmp_path: Path) -> None:
    publish(tmp_path, **OF_LLAMA_CPP, vocab_size=VOCABULARY, eos_token_id=260)
    out = tmp_path / "tiny.gguf"
    quantize(with_a_tokenizer(tmp_path), "f32", out)
    checkpoint, folder = open_checkpoint(out), open_checkpoint(tmp_path)
    assert replace(checkpoint.spec, length_limit=None) == replace(folder.spec, length_limit=None)
    ours, theirs = dict(checkpoint.tensors()), dict(folder.tensors())
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name].float(), theirs[name].float()) for name in ours)
    assert checkpoint.stored()["layers.0.mlp.router.table"].block_type == "I32"
    found = llama_cpp_logits(out, IDS[0], n_ctx=512)
    expected = logits(opened(checkpoint), IDS[:1])[0]
    assert (found - expected).abs().max() < 1e-3 * expected.abs().max()


def test_a_gguf_of_it_in_fewer_bits(tmp_path: Path) -> None:
    publish(tmp_path, **OF_LLAMA_CPP, vocab_size=VOCABULARY, eos_token_id=260)
    out = tmp_path / "tiny.gguf"
    quantize(with_a_tokenizer(tmp_path), "q8_0", out)
    held = {name: tensor.block_type for name, tensor in open_checkpoint(out).stored().items()}
    assert held["layers.0.mlp.router.table"] == "I32"
    exact = ("mlp.router.weight", "attn_hc.weights.weight", "self_attn.sinks.weight", "self_attn.compress_bias.weight")
    assert {held[f"layers.1.{name}"] for name in exact} | {held["hc_head.weights.weight"]} == {"F32"}
    assert held["layers.1.self_attn.o_a_proj.weight"] == held["layers.1.mlp.experts.up_proj.weight"] == "Q8_0"
    near, found = logits(opened(open_checkpoint(tmp_path)), IDS[:1])[0], llama_cpp_logits(out, IDS[0], n_ctx=512)
    assert (found - near).abs().mean() < 0.1 * near.std()


STEM = ("embedding_norm", "hidden_norm", "embedding_proj", "hidden_proj", "hc_head.weights", "norm")


@pytest.mark.parametrize("changed", STEM)
def test_every_part_of_it_counts(changed: str, tmp_path: Path) -> None:
    made = publish(tmp_path)
    decoder = opened(open_checkpoint(tmp_path).with_mtp())
    wrong = Decoder(decoder.spec).load(
        (name, tensor.flip(-1) if name == f"mtp.{changed}.weight" else tensor)
        for name, tensor in decoder.named_tensors()
    )
    assert worst([ours(wrong, IDS[1])[1]], [guessed(made, IDS[1])[1]]) > 1e-3


def test_files_without_such_a_layer_and_with_another(tmp_path: Path) -> None:
    """Later files of the family guess by other layers (DSpark)."""
    publish(tmp_path, guesses=False)
    with pytest.raises(UnsupportedError, match="no layer that guesses"):
        open_checkpoint(tmp_path).with_mtp()
    tensors = load_file(tmp_path / "model.safetensors")
    save_file({**tensors, "mtp.0.main_proj.weight": torch.zeros(4, 4)}, tmp_path / "model.safetensors")
    assert open_checkpoint(tmp_path).left_out == ("mtp.0.main_proj.weight",)
    with pytest.raises(UnsupportedError, match="no layer that guesses"):
        open_checkpoint(tmp_path).with_mtp()


EXPERT, MATRIX = "layers.2.ffn.experts.1.w2", "layers.2.attn.wo_a"
DAMAGE: dict[str, dict[str, Any]] = {
    "no scales of an expert": {f"{EXPERT}.scale": None},
    "no scales of a matrix": {f"{MATRIX}.scale": None},
    "scales alone": {f"{MATRIX}.weight": None},
    "too few scales of an expert": {f"{EXPERT}.scale": lambda t: t[:-1]},
    "scales of another group": {f"{EXPERT}.scale": lambda t: t.repeat(1, 2)},
    "too few scales of a matrix": {f"{MATRIX}.scale": lambda t: t[:-1]},
    "scales of an expert that are numbers": {f"{EXPERT}.scale": lambda t: t.float()},
    "scales of a matrix that are whole numbers": {f"{MATRIX}.scale": lambda t: t.view(torch.uint8)},
    "scales of an expert that are NaN": {
        f"{EXPERT}.scale": lambda t: torch.full_like(t.view(torch.uint8), 255).view(t.dtype)
    },
    "scales of a matrix that are NaN": {
        f"{MATRIX}.scale": lambda t: torch.full_like(t.view(torch.uint8), 255).view(t.dtype)
    },
    "numbers that are NaN": {
        f"{MATRIX}.weight": lambda t: torch.full_like(t.view(torch.uint8), 127).view(t.dtype)
    },
    "pairs in words": {f"{EXPERT}.weight": lambda t: t.view(torch.int32)},
    "a row of pairs": {f"{EXPERT}.weight": lambda t: t[0]},
    "other experts": {f"{EXPERT}.weight": lambda t: t[:-1], f"{EXPERT}.scale": lambda t: t[:-1]},
    "scales beside what has none": {"norm.scale": lambda _: torch.ones(64)},
}  # fmt: skip


@pytest.mark.parametrize("case", DAMAGE)
def test_damage_is_one_clear_error(case: str, tmp_path: Path) -> None:
    publish(tmp_path)
    tensors: dict[str, Any] = load_file(tmp_path / "model.safetensors")
    for name, change in DAMAGE[case].items():
        tensors[name] = None if change is None else change(tensors.get(name))
    kept = {name: tensor.contiguous() for name, tensor in tensors.items() if tensor is not None}
    save_file(kept, tmp_path / "model.safetensors")
    name = next(iter(DAMAGE[case])).split(".")[-2]
    with pytest.raises(CheckpointError, match=name) as caught:
        dict(open_checkpoint(tmp_path).tensors())
    assert "\n" not in str(caught.value)
