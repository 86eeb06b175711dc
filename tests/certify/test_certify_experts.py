"""Certificates of models with experts: every type, answers included, and routers that rounding brings past a tie."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

pytest.importorskip("transformers")

from matrix import mostly_long
from short_certificates import SHORT, failures, random_adapter
from tiny_models import WITH_EXPERTS

from landrace.certify import BOUNDS, certify
from landrace.certify.certificate import compare_scores
from landrace.certify.choices import follow, hear_trainer
from landrace.checkpoints import open_checkpoint
from landrace.models.decoder import Decoder
from landrace.models.lora_spec import LoraSpec

MakeModel = Callable[..., Path]


@pytest.mark.parametrize("kind", mostly_long(WITH_EXPERTS, ("gpt_oss", "glm4_moe", "llama4")))
def test_every_type_with_experts_agrees(kind: str, tiny_model: MakeModel, extension: object) -> None:
    certificate = certify(str(tiny_model(kind)), conversations=SHORT)
    assert certificate.passed, failures(certificate)
    paths = {path.name: path for path in certificate.paths}
    assert {"engine, answers", "as served, answers", "transformers, float32"} <= paths.keys()
    assert paths["as served, answers"].tokens == 2 * 16
    assert paths["as served, one batch"].equal_choices.experts == 1.0
    assert all("bfloat16" in reason for reason in certificate.skipped)


@pytest.mark.parametrize("kind", ["gpt_oss", "glm4_moe"])
def test_what_is_served_in_bfloat16_agrees(kind: str, tiny_model: MakeModel, extension: object) -> None:
    certificate = certify(str(tiny_model(kind, torch.bfloat16)), conversations=SHORT)
    assert certificate.passed, failures(certificate)
    served = next(path for path in certificate.paths if path.name == "as served, one batch")
    assert served.bound == BOUNDS["bfloat16"]
    experts = served.equal_choices.experts
    assert experts is not None and experts > 0.98
    # On the same experts, rounding moves a probability by some hundredths at most; another expert by far more.
    assert served.largest < 0.1


@pytest.mark.parametrize("kind", ["gpt_oss", "qwen3_vl_moe", "qwen3_moe", "deepseek_v2"])
def test_an_adapter_on_experts_agrees(kind: str, tiny_model: MakeModel, tmp_path: Path, extension: object) -> None:
    pytest.importorskip("peft")
    folder = tiny_model(kind)
    adapter = random_adapter(folder, tmp_path / "adapter", LoraSpec(2, 4.0), 0.2)
    certificate = certify(str(folder), adapter, conversations=SHORT)
    assert certificate.passed, failures(certificate)
    assert "transformers, float32" in {path.name for path in certificate.paths}


def test_a_choice_past_a_tie_is_told_from_rounding(tiny_model: MakeModel) -> None:
    checkpoint = open_checkpoint(tiny_model("glm4_moe"))
    exact = Decoder(checkpoint.spec).load(checkpoint.tensors())
    rounding = Decoder(checkpoint.spec, product_dtype=torch.bfloat16).load(exact.named_tensors())
    generator = torch.Generator().manual_seed(0)
    sequences = [tuple(torch.randint(0, 256, (200,), generator=generator).tolist()) for _ in range(4)]
    own, _ = hear_trainer(exact, sequences, None)
    scores, heard = hear_trainer(rounding, sequences, None)
    followed, equal = follow(exact, sequences, None, heard)
    apart = compare_scores("apart", own, scores, BOUNDS["bfloat16"])
    together = compare_scores("together", followed, scores, BOUNDS["bfloat16"], equal)
    assert equal.experts is not None and 0.98 < equal.experts < 1
    assert together.passed and together.largest < 0.1 < apart.largest


def test_a_router_that_chooses_wrongly_fails(tiny_model: MakeModel) -> None:
    checkpoint = open_checkpoint(tiny_model("qwen3_moe"))
    decoder = Decoder(checkpoint.spec).load(checkpoint.tensors())
    sequences = [tuple(range(3, 60))]
    scores, heard = hear_trainer(decoder, sequences, None)
    same, equal = follow(decoder, sequences, None, heard)
    assert equal.experts == 1 and compare_scores("right", same, scores, BOUNDS["float32"], equal).passed
    wrong = [[(heard[0][0][0].roll(1, dims=-1),), *heard[0][1:]]]
    followed, equal = follow(decoder, sequences, None, wrong)
    assert equal.experts is not None and equal.experts < 0.95
    assert not compare_scores("wrong", followed, followed, BOUNDS["bfloat16"], equal).passed


def test_the_language_model_inside_a_wrapper_s_wrapper(tiny_model: MakeModel) -> None:
    """Qwen's Omni types keep the thinker in an object of its own, and its tensors under a prefix."""
    folder = tiny_model("qwen3_omni_moe_thinker")
    weights = load_file(folder / "model.safetensors")
    prefix = "" if next(iter(weights)).startswith("thinker.") else "thinker."
    save_file({f"{prefix}{name}": t for name, t in weights.items()}, folder / "model.safetensors", {"format": "pt"})
    thinker = json.loads((folder / "config.json").read_text())
    outer = {"model_type": "qwen3_omni_moe", "thinker_config": thinker, "talker_config": {}, "code2wav_config": {}}
    (folder / "config.json").write_text(json.dumps(outer))
    certificate = certify(str(folder), conversations=SHORT[:1])
    assert certificate.passed, failures(certificate)
    assert "transformers, float32" in {path.name for path in certificate.paths}


def test_what_transformers_cannot_open_is_told(tiny_model: MakeModel) -> None:
    folder = tiny_model("qwen3_vl_moe")
    text = json.loads((folder / "config.json").read_text())["text_config"]
    (folder / "config.json").write_text(json.dumps({**text, "tie_word_embeddings": False}))
    weights = load_file(folder / "model.safetensors")
    renamed = {n.replace("language_model.", ""): t for n, t in weights.items() if "visual" not in n}
    save_file(renamed, folder / "model.safetensors", {"format": "pt"})
    certificate = certify(str(folder), conversations=SHORT[:1])
    assert certificate.passed, failures(certificate)
    assert "transformers, float32: it has no language model of the type qwen3_vl_moe_text" in certificate.skipped
