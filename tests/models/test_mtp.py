"""Layers that guess the token after the next one, from models' own files.

transformers leaves them out. The oracle: transformers' own model of one layer, which reads what the projection of token
and hidden state makes instead of embeddings.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from cpu_models import on_cpu
from safetensors.torch import load_file, save_file
from test_gguf_delta_models import KINDS as DELTA_KINDS
from test_gguf_delta_models import made, metadata, write
from tiny_models import random_ids, reference, worst
from torch import Tensor

from landrace.checkpoints.checkpoint import Checkpoint, open_checkpoint
from landrace.errors import UnsupportedError
from landrace.kernels.reference.dense import rms_norm
from landrace.models.batch import ForwardBatch
from landrace.models.decoder import Decoder

pytest.importorskip("transformers")

ONE_LAYER = {"num_hidden_layers": 1, "mlp_layer_types": ["sparse"], "layer_types": ["full_attention"]}
OF_DEEPSEEK = {"num_nextn_predict_layers": 1}


@dataclass(frozen=True)
class Kind:
    """A family's names of the layer; {} is the number after the last layer's."""

    layer: str = "model.layers.{}."
    embedding_norm: str = "model.layers.{}.enorm"
    hidden_norm: str = "model.layers.{}.hnorm"
    proj: str = "model.layers.{}.eh_proj"
    norm: str = "model.layers.{}.shared_head.norm"
    around_zero: bool = False
    counted: bool = True
    one_layer: tuple[str, ...] = ("num_hidden_layers",)
    """Which of ONE_LAYER the family's configuration has."""
    copies: tuple[str, ...] = ("embed_tokens", "shared_head.head")
    """Tensors of the layer that are those of the model once more."""


QWEN = Kind(
    "mtp.layers.0.",
    "mtp.pre_fc_norm_embedding",
    "mtp.pre_fc_norm_hidden",
    "mtp.fc",
    "mtp.norm",
    around_zero=True,
    counted=False,
    one_layer=("num_hidden_layers", "layer_types"),
    copies=(),
)
SPARSE = ("num_hidden_layers", "mlp_layer_types")
KINDS = {
    "deepseek_v3": Kind(one_layer=("num_hidden_layers", "first_k_dense_replace")),
    "glm4_moe_lite": Kind(one_layer=SPARSE),
    "glm4_moe": Kind(one_layer=("num_hidden_layers", "first_k_dense_replace")),
    "hy_v3": Kind(norm="model.layers.{}.final_layernorm", one_layer=SPARSE, copies=()),
    "qwen3_next": QWEN,
    "qwen3_5_text": QWEN,
    "qwen3_5_moe_text": QWEN,
}


@dataclass(frozen=True)
class Made:
    """A folder with such a layer, and what it is made of."""

    model: Any
    layer: Any
    """transformers' model of that layer alone."""
    stem: Mapping[str, Tensor]
    eps: float


def made_of(kind: str, shared: Path, folder: Path) -> Made:
    facts = KINDS[kind]
    kwargs = json.loads((shared / "families" / "tiny_configs.json").read_text())[kind]["kwargs"]
    own = {**ONE_LAYER, "first_k_dense_replace": 0}
    counted = OF_DEEPSEEK if facts.counted else {}
    model = reference(kind, kwargs)
    alone = reference(kind, {**kwargs, **{key: own[key] for key in facts.one_layer}})
    with torch.no_grad():
        for parameter in alone.parameters():
            parameter.mul_(1.07)  # otherwise both begin alike
    model.save_pretrained(folder)
    alone.save_pretrained(folder / "alone")
    tensors, of_layer = load_file(folder / "model.safetensors"), load_file(folder / "alone" / "model.safetensors")
    n, width = model.config.num_hidden_layers, model.config.hidden_size
    generator = torch.Generator().manual_seed(9)
    stem = {name: torch.rand(width, generator=generator) + 0.5 for name in ("embedding_norm", "hidden_norm")}
    stem["proj"] = torch.randn(width, 2 * width, generator=generator) * width**-0.5
    for name, tensor in of_layer.items():
        if name.startswith("model.layers.0."):
            tensors[facts.layer.format(n) + name.removeprefix("model.layers.0.")] = tensor
    tensors[facts.norm.format(n) + ".weight"] = of_layer["model.norm.weight"]
    for name, tensor in stem.items():
        stored = tensor - 1 if facts.around_zero and "norm" in name else tensor
        tensors[getattr(facts, name).format(n) + ".weight"] = stored
    for name in facts.copies:
        tensors[f"model.layers.{n}.{name}.weight"] = torch.zeros(4, 4)
    save_file(tensors, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **counted}))
    return Made(model, alone, stem, model.config.rms_norm_eps)


@torch.no_grad()
def expected(made: Made, ids: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    """What the model's head reads, the layer's logits for each token but the first, and what is read for those."""
    hidden = made.model.model(input_ids=torch.tensor([ids]), use_cache=False).last_hidden_state[0]
    embedded = made.model.get_input_embeddings()(torch.tensor(ids[1:]))
    both = (
        rms_norm(embedded, made.stem["embedding_norm"], made.eps),
        rms_norm(hidden[:-1], made.stem["hidden_norm"], made.eps),
    )
    x = torch.cat(both, -1) @ made.stem["proj"].t()
    read = made.layer.model(inputs_embeds=x[None], use_cache=False).last_hidden_state[0]
    return hidden, made.model.get_output_embeddings()(read), read


@torch.no_grad()
def found(decoder: Any, ids: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    _, hidden = decoder.with_hidden(ForwardBatch.packed([ids]))
    logits, read = decoder.with_hidden(replace(ForwardBatch.packed([ids[1:]]), hidden=hidden[:-1].contiguous()))
    return hidden, logits, read


def opened(checkpoint: Checkpoint) -> Decoder:
    return Decoder(checkpoint.spec).load(checkpoint.tensors())


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_with_such_a_layer(kind: str, shared: Path, extension: ModuleType, tmp_path: Path) -> None:
    made = made_of(kind, shared, tmp_path)
    plain = open_checkpoint(tmp_path)
    checkpoint = plain.with_mtp()
    decoder = opened(checkpoint)
    (ids,) = random_ids((30,))
    theirs = expected(made, ids)
    for one in (decoder, on_cpu(extension, decoder, "float32")):
        assert worst(list(found(one, ids)), list(theirs)) < 1e-4
    # It changes nothing for who does not ask, and what it does not use stays on the list.
    assert plain.spec.mtp is None and replace(checkpoint.spec, mtp=None) == plain.spec
    n = len(plain.spec.layers)
    copies = [f"model.layers.{n}.{name}.weight" for name in KINDS[kind].copies]
    assert list(checkpoint.left_out) == copies and len(plain.left_out) > 5


@pytest.mark.parametrize("changed", ["embedding_norm", "hidden_norm", "proj", "norm"])
def test_every_part_counts(changed: str, shared: Path, tmp_path: Path) -> None:
    made = made_of("qwen3_5_text", shared, tmp_path)
    decoder = opened(open_checkpoint(tmp_path).with_mtp())
    wrong = Decoder(decoder.spec).load(
        (name, tensor + 0.3 if name == f"mtp.{changed}.weight" else tensor) for name, tensor in decoder.named_tensors()
    )
    (ids,) = random_ids((12,))
    assert worst([found(wrong, ids)[1]], [expected(made, ids)[1]]) > 1e-2


def test_the_model_itself_computes_as_without(shared: Path, extension: ModuleType, tmp_path: Path) -> None:
    made_of("glm4_moe", shared, tmp_path)
    plain, with_layer = (opened(one) for one in (open_checkpoint(tmp_path), open_checkpoint(tmp_path).with_mtp()))
    batch = ForwardBatch.packed(random_ids((20, 9)))
    for one, other in ((plain, with_layer), [on_cpu(extension, one, "int8") for one in (plain, with_layer)]):  # type: ignore[misc]
        with torch.no_grad():
            assert torch.equal(one(batch), other(batch)) and torch.equal(one(batch), other.with_hidden(batch)[0])


@pytest.mark.parametrize("lost", ["mtp.fc.weight", "mtp.layers.0.mlp.up_proj.weight"])
def test_a_file_without_is_refused_in_one_sentence(lost: str, shared: Path, tmp_path: Path) -> None:
    made_of("qwen3_5_text", shared, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors[lost]
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(UnsupportedError, match=rf"no layer that guesses.*lacks 1 tensor \({lost}\)") as caught:
        open_checkpoint(tmp_path).with_mtp()
    assert caught.value.hint is not None and "--draft ngram" in caught.value.hint


@pytest.mark.parametrize("architecture", DELTA_KINDS)
def test_gguf_files(architecture: str, extension: ModuleType, tmp_path: Path) -> None:
    """Where the layer has the tensors of the last one, it is that one."""
    _, tensors = made(architecture, tmp_path)
    tensors |= {name.replace("blk.3.", "blk.4."): x for name, x in tensors.items() if name.startswith("blk.3.")}
    draw = np.random.default_rng(0)
    stem = {"enorm": (64,), "hnorm": (64,), "eh_proj": (64, 128), "shared_head_norm": (64,)}
    stem = {f"blk.4.nextn.{name}.weight": draw.random(shape, np.float32) for name, shape in stem.items()}  # type: ignore[misc]
    write(tmp_path / "a.gguf", metadata(architecture, block_count=5, nextn_predict_layers=1), {**tensors, **stem})  # type: ignore[arg-type]
    without = open_checkpoint(tmp_path / "a.gguf")
    checkpoint = without.with_mtp()
    assert replace(checkpoint.spec, mtp=None) == without.spec
    assert checkpoint.left_out == ()
    ours = dict(checkpoint.tensors())
    inner = {name.removeprefix("mtp.layer."): x for name, x in ours.items() if name.startswith("mtp.layer.")}
    assert len(inner) > 8
    assert all(torch.equal(x, ours[f"layers.3.{name}"]) for name, x in inner.items())
    names = {"embedding_norm": "enorm", "hidden_norm": "hnorm", "proj": "eh_proj", "norm": "shared_head_norm"}
    for name, theirs in names.items():
        assert np.array_equal(ours[f"mtp.{name}.weight"].numpy(), stem[f"blk.4.nextn.{theirs}.weight"])
    (ids,) = random_ids((20,))
    decoder = opened(checkpoint)
    assert worst(list(found(on_cpu(extension, decoder, "float32"), ids)), list(found(decoder, ids))) < 1e-4
