"""Adapters on the experts of a mixture: modules of their own in peft's files, one weight here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from safetensors.torch import save_file

from landrace.checkpoints.adapter import check_writable, read_adapter, write_adapter
from landrace.checkpoints.checkpoint import Checkpoint, open_checkpoint
from landrace.errors import UnsupportedError
from landrace.models.adapters import fresh_tensors
from landrace.models.batch import AdapterRows, ForwardBatch
from landrace.models.decoder import Decoder
from landrace.models.lora_spec import LoraSpec

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


def test_what_is_written_is_read_again_and_names_every_expert(tmp_path: Path) -> None:
    _, checkpoint = saved(tmp_path / "model")
    spec = LoraSpec(3, 6.0)
    tensors = adapter_for(Decoder(checkpoint.spec), spec)
    write_adapter(tmp_path / "a", spec, tensors, checkpoint.hub_sources, "base", {})
    names = set(peft.utils.save_and_load.load_peft_weights(str(tmp_path / "a")))
    assert "base_model.model.model.layers.1.mlp.experts.5.down_proj.lora_B.weight" in names
    assert "base_model.model.model.layers.0.mlp.down_proj.lora_B.weight" in names
    again, ours, _ = read_adapter(tmp_path / "a", checkpoint.hub_sources)
    assert again.scale == spec.scale and set(again.targets) == {name.split(".")[-2] for name in tensors}
    assert ours.keys() == tensors.keys()
    assert all(torch.equal(ours[name], tensors[name]) for name in tensors)


def test_logits_in_peft_are_ours(tmp_path: Path) -> None:
    """Where every layer has experts: peft mistakes a dense layer's projections for those of experts."""
    model, checkpoint = saved(tmp_path / "model", transformers.Qwen3MoeConfig(**SIZES, **EXPERTS))
    spec = LoraSpec(3, 6.0)
    decoder = Decoder(checkpoint.spec).load(checkpoint.tensors())
    tensors = adapter_for(decoder, spec)
    write_adapter(tmp_path / "a", spec, tensors, checkpoint.hub_sources, "base", {})
    theirs = peft.PeftModel.from_pretrained(model, tmp_path / "a").eval()
    place = decoder.add_adapter(spec, tensors)
    batch = ForwardBatch.packed([IDS])
    with torch.no_grad():
        expected = theirs(torch.tensor([IDS])).logits[0]
        plain = decoder(batch)
        ours = decoder(ForwardBatch.packed([IDS], adapters=(AdapterRows(place, None),)))
    assert (plain - ours).abs().max() > 0.1
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-4)


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
    _, ours, _ = read_adapter(tmp_path / "a", checkpoint.hub_sources)
    assert all(torch.equal(ours[name], tensors[name]) for name in tensors)


def test_experts_in_one_tensor_are_refused(tmp_path: Path) -> None:
    config = transformers.GptOssConfig(**SIZES, num_local_experts=4, num_experts_per_tok=2, sliding_window=8)
    _, checkpoint = saved(tmp_path / "model", config)
    decoder = Decoder(checkpoint.spec)
    for targets, fine in ((("q_proj", "o_proj"), True), (("up_proj",), False)):
        spec = LoraSpec(2, 2.0, targets)
        tensors = adapter_for(decoder, spec)
        if fine:
            write_adapter(tmp_path / "a", spec, tensors, checkpoint.hub_sources, "base", {})
            assert read_adapter(tmp_path / "a", checkpoint.hub_sources)[1].keys() == tensors.keys()
        else:
            with pytest.raises(UnsupportedError, match="experts"):
                check_writable(decoder.adaptable(targets), checkpoint.hub_sources)
            with pytest.raises(UnsupportedError, match="experts"):
                write_adapter(tmp_path / "b", spec, tensors, checkpoint.hub_sources, "base", {})
