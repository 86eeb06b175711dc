"""Certificates of models with latent attention and with states: every type, answers included, and adapters on them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers")

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
