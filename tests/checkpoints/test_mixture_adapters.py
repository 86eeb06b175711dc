"""Adapters on every type with experts that peft can train: ours opened there, theirs opened here, with equal logits."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from matrix import mostly_long

sys.path.append(str(Path(__file__).parents[1] / "models"))

from tiny_models import WITH_EXPERTS, reference

from landrace.checkpoints.adapter import read_adapter, write_adapter
from landrace.checkpoints.checkpoint import Checkpoint, open_checkpoint
from landrace.models.adapters import fresh_tensors
from landrace.models.batch import AdapterRows, ForwardBatch
from landrace.models.decoder import Decoder
from landrace.models.lora_spec import PROJECTIONS, LoraSpec

MIXTURES = (
    *WITH_EXPERTS,
    *("minimax_m3_vl_text", "minimax_m3_vl", "deepseek_v2", "deepseek_v3", "kimi_k25", "deepseek_v32", "glm_moe_dsa"),
    *("glm4_moe_lite", "hy_v4", "qwen3_next", "qwen3_5_moe_text", "qwen3_5_moe", "kimi_linear", "minimax"),
    *("qwen4_exp_text", "glm5_next"),
)
USUAL = ("qwen2_moe", "qwen3_moe", "deepseek_v2", "minimax_m2")
IDS = list(range(3, 40))


@pytest.fixture
def saved(shared: Path, tmp_path: Path, request: pytest.FixtureRequest) -> tuple[Any, Checkpoint, Decoder]:
    """The model of a type in transformers, and ours of its folder."""
    entry = json.loads((shared / "families" / "tiny_configs.json").read_text())[request.param]
    of_text = entry["auto_class"] == "AutoModelForCausalLM"
    model = reference(request.param, entry["kwargs"], None if of_text else entry["model_class"])
    model.save_pretrained(tmp_path / "model")
    checkpoint = open_checkpoint(tmp_path / "model")
    return model, checkpoint, Decoder(checkpoint.spec).load(checkpoint.tensors())


def assert_same_logits(model: Any, decoder: Decoder, spec: LoraSpec, tensors: dict[str, torch.Tensor]) -> None:
    place = decoder.add_adapter(spec, tensors)
    with torch.no_grad():
        expected = model.eval()(input_ids=torch.tensor([IDS]), use_cache=False).logits[0]
        plain = decoder(ForwardBatch.packed([IDS]))
        ours = decoder(ForwardBatch.packed([IDS], adapters=(AdapterRows(place, None),)))
    assert (plain - ours).abs().max() > 0.1
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-4)


OURS = {"all": PROJECTIONS, "some": ("up_proj", "o_proj"), "experts' inputs": ("gate_proj", "up_proj")}


@pytest.mark.parametrize("targets", OURS)
@pytest.mark.parametrize("saved", mostly_long(MIXTURES, USUAL), indirect=True)
def test_ours_in_peft(saved: tuple[Any, Checkpoint, Decoder], targets: str, tmp_path: Path) -> None:
    model, checkpoint, decoder = saved
    spec = LoraSpec(3, 6.0, OURS[targets])
    torch.manual_seed(1)
    fresh = fresh_tensors(decoder.adaptable(spec.targets), spec)
    tensors = {name: torch.randn_like(tensor) * 0.1 for name, tensor in fresh.items()}
    write_adapter(tmp_path / "a", spec, tensors, checkpoint.adapter_sources[0], "base", {})
    again, ours, _ = read_adapter(tmp_path / "a", *checkpoint.adapter_sources)
    assert again.scale == spec.scale and all(torch.equal(ours.pop(name), tensors[name]) for name in tensors)
    # What shares a module with one of them comes with it, and changes nothing.
    assert not any(tensor.any() for name, tensor in ours.items() if name.endswith("lora_B"))
    assert_same_logits(peft.PeftModel.from_pretrained(model, tmp_path / "a"), decoder, spec, tensors)


THEIRS: dict[str, dict[str, Any]] = {
    "modules": {"target_modules": ["o_proj", "gate_proj", "up_proj", "down_proj", "w1", "w2", "w3"]},
    "parameters": {"target_modules": ["o_proj"], "target_parameters": ["experts.gate_up_proj", "experts.down_proj"]},
    "one parameter": {"target_modules": ["o_proj"], "target_parameters": ["experts.down_proj"]},
}


@pytest.mark.parametrize("options", THEIRS)
@pytest.mark.parametrize("saved", mostly_long(MIXTURES, USUAL), indirect=True)
def test_pefts_here(saved: tuple[Any, Checkpoint, Decoder], options: str, tmp_path: Path) -> None:
    model, checkpoint, decoder = saved
    towers = r".*(visual|vision|audio|talker).*"
    chosen = dict(THEIRS[options])
    if checkpoint.config["model_type"] == "ernie4_5_vl_moe" and "target_parameters" in chosen:
        # Its experts for pictures are not ours.
        chosen["target_parameters"] = [f"text_moe.{name}" for name in chosen["target_parameters"]]
    config = peft.LoraConfig(r=4, lora_alpha=6, task_type="CAUSAL_LM", exclude_modules=towers, **chosen)
    theirs = peft.get_peft_model(model, config)
    torch.manual_seed(2)
    for name, parameter in theirs.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    theirs.save_pretrained(tmp_path / "a")
    spec, tensors, _ = read_adapter(tmp_path / "a", *checkpoint.adapter_sources)
    assert_same_logits(theirs, decoder, spec, tensors)
