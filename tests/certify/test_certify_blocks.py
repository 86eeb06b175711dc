"""Certificates of models with latent attention, with states and with layers for pictures: answers included, and
adapters on them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

pytest.importorskip("transformers")

import kimi_k3_oracle
import test_minicpm
from byte_vocabulary import byte_vocabulary
from short_certificates import SHORT, failures, random_adapter
from tiny_models import WITH_LATENTS, WITH_STATES

from landrace.certify import BOUNDS, certify
from landrace.models.lora_spec import PROJECTIONS, LoraSpec

MakeModel = Callable[..., Path]
MIXERS = tuple(name for name in PROJECTIONS if name not in ("gate_proj", "up_proj", "down_proj"))
"""The projections of attention and of recurrent layers: experts have tests of their own."""


@pytest.mark.parametrize("kind", [*WITH_LATENTS, "glm4_moe_lite", *WITH_STATES])
def test_every_type_agrees(kind: str, tiny_model: MakeModel, extension: object) -> None:
    certificate = certify(str(tiny_model(kind)), conversations=SHORT)
    assert certificate.passed, failures(certificate)
    paths = {path.name: path for path in certificate.paths}
    assert {"engine, answers", "as served, answers", "transformers, float32"} <= paths.keys()
    assert paths["as served, answers"].tokens == 2 * 16
    assert paths["as served, one batch"].equal_choices.experts in (None, 1.0)


def test_blocks_chosen_by_means_of_keys(tmp_path: Path, extension: object) -> None:
    """MiniCPM4 in a text longer than its dense length, which transformers is no witness of."""
    embedding = torch.randn(2, 270, 48, generator=torch.Generator().manual_seed(0)) * 0.1
    tensors = {name: tensor * 0.5 if tensor.dim() == 2 else tensor for name, tensor in test_minicpm.tensors().items()}
    tensors |= {"model.embed_tokens.weight": embedding[0].clone(), "lm_head.weight": embedding[1].clone()}
    save_file(tensors, tmp_path / "model.safetensors")
    config = {**test_minicpm.CONFIG, "vocab_size": 270, "bos_token_id": 256, "eos_token_id": 257}
    (tmp_path / "config.json").write_text(json.dumps(config))
    byte_vocabulary().save(str(tmp_path / "tokenizer.json"))
    long = "The boiler was replaced on Monday, and the old one was taken away. " * 5
    certificate = certify(str(tmp_path), conversations=[[{"role": "user", "content": long}]])
    assert certificate.passed, failures(certificate)
    paths = {path.name: path for path in certificate.paths}
    assert paths["as served, one batch"].tokens > test_minicpm.DENSE + 100
    assert paths["as served, one batch"].equal_choices.positions == 1.0
    if rough := paths.get("trainer, bfloat16 products"):
        assert rough.equal_choices.positions is not None and rough.equal_choices.positions > 0.95


def test_kimi_k3(tmp_path: Path, extension: object) -> None:
    """Which transformers is no witness of, with an adapter on every linear layer."""
    save_file(kimi_k3_oracle.tensors(vocab=270), tmp_path / "model.safetensors")
    config = {**kimi_k3_oracle.CONFIG, "vocab_size": 270, "bos_token_id": 256, "eos_token_id": 257}
    (tmp_path / "config.json").write_text(json.dumps(config))
    byte_vocabulary().save(str(tmp_path / "tokenizer.json"))
    adapter = random_adapter(tmp_path, tmp_path / "adapter", LoraSpec(2, 4.0), 0.1)
    for one in (None, adapter):
        certificate = certify(str(tmp_path), one, conversations=SHORT)
        assert certificate.passed, failures(certificate)
        assert any("what Kimi-K3 adds" in reason for reason in certificate.skipped)


def test_layers_that_text_passes_by(tiny_model: MakeModel, extension: object) -> None:
    """Llama 3.2 Vision, whose embedding has rows for pictures past the vocabulary."""
    certificate = certify(str(tiny_model("mllama")), conversations=SHORT)
    assert certificate.passed, failures(certificate)
    assert "transformers, float32" in {path.name for path in certificate.paths}


@pytest.mark.parametrize("kind", ["deepseek_v3", "qwen3_next", "kimi_linear", "minimax"])
def test_what_is_served_in_bfloat16_agrees(kind: str, tiny_model: MakeModel, extension: object) -> None:
    certificate = certify(str(tiny_model(kind, torch.bfloat16)), conversations=SHORT)
    assert certificate.passed, failures(certificate)
    served = next(path for path in certificate.paths if path.name == "as served, one batch")
    assert served.bound == BOUNDS["bfloat16"]


@pytest.mark.parametrize("kind", ["minicpm3", "qwen3_next", "kimi_linear", "minimax"])
def test_an_adapter_on_every_mixer_agrees(kind: str, tiny_model: MakeModel, tmp_path: Path, extension: object) -> None:
    pytest.importorskip("peft")
    folder = tiny_model(kind)
    adapter = random_adapter(folder, tmp_path / "adapter", LoraSpec(2, 4.0, targets=MIXERS), 0.1)
    certificate = certify(str(folder), adapter, conversations=SHORT)
    assert certificate.passed, failures(certificate)
    assert "transformers, float32" in {path.name for path in certificate.paths}
