"""Adapters on latent attention: what the hub keeps as kv_b_proj is two projections here."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import peft
import pytest
import torch
import transformers

from landrace.checkpoints.adapter import read_adapter, write_adapter
from landrace.checkpoints.checkpoint import Checkpoint, open_checkpoint
from landrace.models.adapters import fresh_tensors
from landrace.models.batch import AdapterRows, ForwardBatch
from landrace.models.cpu_decoder import CpuDecoder
from landrace.models.decoder import Decoder
from landrace.models.lora_spec import INDEXER_PROJECTIONS, LATENT_PROJECTIONS, LoraSpec

SIZES: dict[str, Any] = {
    "vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "q_lora_rank": 24, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 12,
    "pad_token_id": None, "bos_token_id": 1, "eos_token_id": 2, "max_position_embeddings": 128,
}  # fmt: skip
EXPERTS: dict[str, Any] = {
    "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 20, "n_group": 1, "topk_group": 1,
    "first_k_dense_replace": 1, "num_nextn_predict_layers": 0,
}  # fmt: skip
INDEX: dict[str, Any] = {"index_topk": 8, "index_n_heads": 16, "index_head_dim": 12}
THEIRS = ["q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj"]
IDS = list(range(3, 40))


def saved(folder: Path, kind: str) -> tuple[Any, Checkpoint]:
    torch.manual_seed(0)
    config = (
        transformers.DeepseekV3Config(**SIZES, **EXPERTS, initializer_range=0.1)
        if kind == "deepseek_v3"
        else transformers.DeepseekV32Config(**SIZES, **EXPERTS, **INDEX, initializer_range=0.1)
        if kind == "deepseek_v32"
        else transformers.MiniCPM3Config(**SIZES, dim_model_base=32)
    )
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    model.save_pretrained(folder)
    return model, open_checkpoint(folder)


def check(extension: ModuleType, checkpoint: Checkpoint, spec: LoraSpec, tensors: dict[str, Any], theirs: Any) -> None:
    """Logits with the adapter on both backends are those of peft's model."""
    decoder = Decoder(checkpoint.spec).load(checkpoint.tensors())
    served = CpuDecoder(checkpoint.spec, extension, threads=2).load(checkpoint.stored())
    with torch.no_grad():
        expected = theirs(torch.tensor([IDS])).logits[0]
        plain = decoder(ForwardBatch.packed([IDS]))
        for one in (decoder, served):
            place = one.add_adapter(spec, tensors)
            ours = one(ForwardBatch.packed([IDS], adapters=(AdapterRows(place, None),)))
            torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-4)
    assert (plain - expected).abs().max() > 0.1


@pytest.mark.parametrize("targets", [THEIRS, ["kv_b_proj"]])
@pytest.mark.parametrize("kind", ["deepseek_v3", "deepseek_v32", "minicpm3"])
def test_pefts_adapter(kind: str, targets: list[str], extension: ModuleType, tmp_path: Path) -> None:
    model, checkpoint = saved(tmp_path / "model", kind)
    chosen_by = INDEXER_PROJECTIONS[:3] if kind == "deepseek_v32" and len(targets) > 1 else ()
    targets = [*targets, *chosen_by]
    theirs = peft.get_peft_model(model, peft.LoraConfig(r=4, lora_alpha=6, target_modules=targets)).eval()
    torch.manual_seed(2)
    for name, parameter in theirs.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    theirs.save_pretrained(tmp_path / "a")
    spec, tensors, _ = read_adapter(tmp_path / "a", checkpoint.hub_sources)
    assert spec.rank == 4
    all_of_them = {*LATENT_PROJECTIONS, "o_proj", *chosen_by}
    assert set(spec.targets) == ({"k_b_proj", "v_b_proj"} if len(targets) == 1 else all_of_them)
    check(extension, checkpoint, spec, tensors, theirs)
    # Written again it is the same file's worth: both halves share one A.
    write_adapter(tmp_path / "again", spec, tensors, checkpoint.hub_sources, "base", {})
    before, after = (peft.utils.save_and_load.load_peft_weights(str(tmp_path / name)) for name in ("a", "again"))
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("kind", ["deepseek_v3", "minicpm3"])
def test_our_adapter_in_peft(kind: str, extension: ModuleType, tmp_path: Path) -> None:
    """Halves that were tuned apart have two A's, which the hub's one module takes under one another."""
    model, checkpoint = saved(tmp_path / "model", kind)
    spec = LoraSpec(3, 6.0, (*LATENT_PROJECTIONS, "o_proj"))
    torch.manual_seed(1)
    shapes = Decoder(checkpoint.spec).adaptable(spec.targets)
    tensors = {name: torch.randn_like(tensor) * 0.2 for name, tensor in fresh_tensors(shapes, spec).items()}
    write_adapter(tmp_path / "a", spec, tensors, checkpoint.hub_sources, "base", {})
    again, ours, _ = read_adapter(tmp_path / "a", checkpoint.hub_sources)
    assert again == spec and all(torch.equal(ours[name], tensors[name]) for name in tensors)
    theirs = peft.PeftModel.from_pretrained(model, tmp_path / "a").eval()
    check(extension, checkpoint, spec, tensors, theirs)
