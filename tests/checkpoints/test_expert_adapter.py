"""Adapters on the experts of a mixture: modules of their own in peft's files, or parameters with all of a layer's; one
weight here."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from safetensors.torch import save_file

from landrace.checkpoints.adapter import read_adapter, write_adapter
from landrace.checkpoints.checkpoint import Checkpoint, open_checkpoint
from landrace.errors import CheckpointError
from landrace.models.adapters import fresh_tensors
from landrace.models.batch import AdapterRows, ForwardBatch
from landrace.models.decoder import Decoder
from landrace.models.lora_spec import PROJECTIONS, LoraSpec

SIZES: dict[str, Any] = {
    "vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": None, "bos_token_id": 1, "eos_token_id": 2,
    "max_position_embeddings": 128,
}  # fmt: skip
EXPERTS = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 40}
IDS = list(range(3, 40))


def saved(folder: Path, config: Any = None) -> tuple[Any, Checkpoint]:
    torch.manual_seed(0)
    config = config or transformers.Qwen3MoeConfig(**SIZES, **EXPERTS, mlp_only_layers=[0])
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    model.save_pretrained(folder)
    return model, open_checkpoint(folder)


def adapter_for(decoder: Decoder, spec: LoraSpec) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return {name: torch.randn_like(t) * 0.2 for name, t in fresh_tensors(decoder.adaptable(spec.targets), spec).items()}


def test_modules_for_each_expert(tmp_path: Path) -> None:
    """As transformers 4 had them, where every layer has experts and all their projections are adapted: peft reads that
    still, and so do we."""
    model, checkpoint = saved(tmp_path / "model", transformers.Qwen3MoeConfig(**SIZES, **EXPERTS))
    spec = LoraSpec(3, 6.0)
    decoder = Decoder(checkpoint.spec).load(checkpoint.tensors())
    tensors = adapter_for(decoder, spec)
    write_adapter(tmp_path / "a", spec, tensors, checkpoint.hub_sources, "base", {})
    names = set(peft.utils.save_and_load.load_peft_weights(str(tmp_path / "a")))
    assert "base_model.model.model.layers.1.mlp.experts.5.down_proj.lora_B.weight" in names
    again, ours, _ = read_adapter(tmp_path / "a", *checkpoint.adapter_sources)
    assert again.scale == spec.scale and set(again.targets) == {name.split(".")[-2] for name in tensors}
    assert ours.keys() == tensors.keys()
    assert all(torch.equal(ours[name], tensors[name]) for name in tensors)
    assert_same_logits(peft.PeftModel.from_pretrained(model, tmp_path / "a").eval(), decoder, spec, tensors)


def test_experts_that_an_adapter_leaves_out_get_zeros(tmp_path: Path) -> None:
    _, checkpoint = saved(tmp_path / "model")
    spec = LoraSpec(2, 2.0, ("up_proj",))
    tensors = adapter_for(Decoder(checkpoint.spec), spec)
    tensors["layers.2.mlp.experts.up_proj.lora_B"][4] = 0
    tensors["layers.2.mlp.experts.up_proj.lora_A"][4] = 0
    write_adapter(tmp_path / "a", spec, tensors, checkpoint.hub_sources, "base", {})
    weights = peft.utils.save_and_load.load_peft_weights(str(tmp_path / "a"))
    save_file(
        {name: tensor for name, tensor in weights.items() if "layers.2.mlp.experts.4" not in name},
        tmp_path / "a" / "adapter_model.safetensors",
    )
    config = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    config["target_modules"] = r".*up_proj"
    (tmp_path / "a" / "adapter_config.json").write_text(json.dumps(config))
    _, ours, _ = read_adapter(tmp_path / "a", *checkpoint.adapter_sources)
    assert all(torch.equal(ours[name], tensors[name]) for name in tensors)


TEXT = {**SIZES, "initializer_range": 0.2, "pad_token_id": 0}
TOGETHER: dict[str, Callable[[], Any]] = {
    "gpt_oss": lambda: transformers.GptOssForCausalLM(
        transformers.GptOssConfig(**TEXT, num_local_experts=4, num_experts_per_tok=2, sliding_window=8)
    ),
    # As large one way as the other, so that only the convention tells A from B.
    "llama4_text": lambda: transformers.Llama4ForCausalLM(
        transformers.Llama4TextConfig(
            **{**TEXT, "intermediate_size": 16}, intermediate_size_mlp=48, num_local_experts=4, num_experts_per_tok=1,
            interleave_moe_layer_step=2, attention_chunk_size=8,
        )
    ),
    "qwen3_vl_moe": lambda: transformers.Qwen3VLMoeForConditionalGeneration(
        transformers.Qwen3VLMoeConfig(
            text_config={**TEXT, **EXPERTS, "mlp_only_layers": [0], "rope_parameters": {
                "rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}},
            vision_config={"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "patch_size": 4,
                           "out_hidden_size": 32, "num_position_embeddings": 16, "deepstack_visual_indexes": [0]},
        )
    ),
    "step3p7": lambda: transformers.Step3p7ForConditionalGeneration(
        transformers.Step3p7Config(
            text_config={
                **TEXT, "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 40,
                "share_expert_dim": 24, "layer_types": ["full_attention"] * 3,
                "sliding_window": 8, "mlp_layer_types": ["dense", "sparse", "sparse"], "swiglu_limits": [0] * 3,
                "swiglu_limits_shared": [0] * 3,
            },
            vision_config={"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
                           "image_size": 16, "patch_size": 4},
        )
    ),
    # The hub's files have its experts one by one; peft adapts them as transformers holds them.
    "qwen3_moe": lambda: transformers.Qwen3MoeForCausalLM(transformers.Qwen3MoeConfig(**TEXT, **EXPERTS)),
    "hy_v3": lambda: transformers.HYV3ForCausalLM(
        transformers.HYV3Config(
            **TEXT, **EXPERTS, num_shared_experts=1, mlp_layer_types=["dense", "sparse", "sparse"]
        )
    ),
}  # fmt: skip
KEPT_TOGETHER = ("gpt_oss", "llama4_text", "qwen3_vl_moe", "step3p7")


def made(kind: str, folder: Path) -> tuple[Any, Checkpoint, Decoder]:
    torch.manual_seed(0)
    model = TOGETHER[kind]().eval()
    model.set_attn_implementation("eager")
    model.save_pretrained(folder)
    checkpoint = open_checkpoint(folder)
    return model, checkpoint, Decoder(checkpoint.spec).load(checkpoint.tensors())


def assert_same_logits(model: Any, decoder: Decoder, spec: LoraSpec, tensors: dict[str, torch.Tensor]) -> None:
    place = decoder.add_adapter(spec, tensors)
    with torch.no_grad():
        expected = model(input_ids=torch.tensor([IDS])).logits[0]
        plain = decoder(ForwardBatch.packed([IDS]))
        ours = decoder(ForwardBatch.packed([IDS], adapters=(AdapterRows(place, None),)))
    assert (plain - ours).abs().max() > 0.1
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("targets", [PROJECTIONS, ("up_proj", "o_proj"), ("down_proj",)])
@pytest.mark.parametrize("kind", KEPT_TOGETHER)
def test_peft_loads_ours_on_experts_in_one_tensor(kind: str, targets: tuple[str, ...], tmp_path: Path) -> None:
    model, checkpoint, decoder = made(kind, tmp_path / "model")
    spec = LoraSpec(3, 6.0, targets)
    tensors = adapter_for(decoder, spec)
    write_adapter(tmp_path / "a", spec, tensors, checkpoint.adapter_sources[0], "base", {})
    assert_same_logits(peft.PeftModel.from_pretrained(model, tmp_path / "a").eval(), decoder, spec, tensors)


@pytest.mark.parametrize("kind", KEPT_TOGETHER)
def test_experts_in_one_tensor_are_read_again_bit_for_bit(kind: str, tmp_path: Path) -> None:
    _, checkpoint, decoder = made(kind, tmp_path / "model")
    spec = LoraSpec(3, 7.5, rslora=True)
    tensors = adapter_for(decoder, spec)
    write_adapter(tmp_path / "a", spec, tensors, checkpoint.adapter_sources[0], "base", {})
    again, ours, _ = read_adapter(tmp_path / "a", *checkpoint.adapter_sources)
    assert again.scale == spec.scale and set(again.targets) == {name.split(".")[-2] for name in tensors}
    assert ours.keys() == tensors.keys()
    assert all(torch.equal(ours[name], tensors[name]) for name in tensors)


BOTH = ["experts.gate_up_proj", "experts.down_proj"]


@pytest.mark.parametrize(
    "options",
    [
        {"target_modules": [], "target_parameters": BOTH},
        {
            "target_modules": r"model\.(language_model\.)?layers\..*\.(q|o)_proj",
            "target_parameters": ["experts.down_proj"],
        },
        {
            "target_modules": ["q_proj"],
            "exclude_modules": r".*vision.*",
            "target_parameters": ["gate_up_proj", "down_proj"],
            "rank_pattern": {"gate_up_proj": 2, "q_proj": 6},
            "alpha_pattern": {"2.mlp.experts.down_proj": 3},
            "use_rslora": True,
        },
    ],
)
@pytest.mark.parametrize("kind", TOGETHER)
def test_we_load_pefts_on_experts_in_one_tensor(kind: str, options: dict[str, Any], tmp_path: Path) -> None:
    model, checkpoint, decoder = made(kind, tmp_path / "model")
    peft_adapter(model, tmp_path / "a", **options)
    spec, tensors, _ = read_adapter(tmp_path / "a", *checkpoint.adapter_sources)
    assert_same_logits(peft.PeftModel.from_pretrained(model, tmp_path / "a").eval(), decoder, spec, tensors)


def peft_adapter(model: Any, folder: Path, **options: Any) -> None:
    wrapped = peft.get_peft_model(model, peft.LoraConfig(r=4, lora_alpha=6, task_type="CAUSAL_LM", **options))
    torch.manual_seed(2)
    for name, parameter in wrapped.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    wrapped.save_pretrained(folder)
    wrapped.unload()


def test_modules_that_peft_turns_into_parameters(tmp_path: Path) -> None:
    """Of Qwen3-MoE's projections by name it makes parameters with twice the rank, under a pattern of its own."""
    model, checkpoint, decoder = made("qwen3_moe", tmp_path / "model")
    peft_adapter(model, tmp_path / "a", target_modules=["k_proj", "gate_proj", "up_proj", "down_proj"])
    assert "gate_proj" not in json.loads((tmp_path / "a" / "adapter_config.json").read_text())["target_modules"]
    spec, tensors, _ = read_adapter(tmp_path / "a", *checkpoint.adapter_sources)
    assert spec.targets == ("k_proj", "gate_proj", "up_proj", "down_proj")
    assert_same_logits(peft.PeftModel.from_pretrained(model, tmp_path / "a").eval(), decoder, spec, tensors)


def test_tensors_of_another_model_s_experts_are_refused(tmp_path: Path) -> None:
    _, checkpoint, decoder = made("gpt_oss", tmp_path / "model")
    spec = LoraSpec(2, 2.0, ("down_proj",))
    write_adapter(tmp_path / "a", spec, adapter_for(decoder, spec), checkpoint.adapter_sources[0], "base", {})
    weights = peft.utils.save_and_load.load_peft_weights(str(tmp_path / "a"))
    for change, says in (
        (lambda name, t: {name.replace("experts.", "experts.base_layer."): t}, "base_layer"),
        (lambda name, t: {name: t[:7] if "lora_A" in name else t}, "not rank 2"),
        (lambda name, t: {} if "layers.2" in name else {name: t}, "no weights for it"),
    ):
        changed = {key: value for name, t in weights.items() for key, value in change(name, t).items()}
        save_file(changed, tmp_path / "a" / "adapter_model.safetensors")
        with pytest.raises(CheckpointError, match=says):
            read_adapter(tmp_path / "a", *checkpoint.adapter_sources)
