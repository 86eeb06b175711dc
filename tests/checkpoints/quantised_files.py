"""Tiny models of transformers whose weights are written in a published quantised form."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from quantised_writers import Writer
from safetensors.torch import load_file, save_file
from torch import Tensor

SIZES: dict[str, Any] = {
    "vocab_size": 260, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 128, "pad_token_id": None,
}  # fmt: skip
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
LATENTS: dict[str, Any] = {
    **SIZES, "num_key_value_heads": 4, "head_dim": 16, "q_lora_rank": 32, "kv_lora_rank": 32, "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 16, "v_head_dim": 32, "n_routed_experts": 4, "num_experts_per_tok": 2,
    "moe_intermediate_size": 32, "n_group": 2, "topk_group": 1, "first_k_dense_replace": 1,
}  # fmt: skip
MODELS: dict[str, Callable[[], Any]] = {
    "dense": lambda: transformers.LlamaConfig(**SIZES),
    "experts": lambda: transformers.Qwen3MoeConfig(**SIZES, **EXPERTS),
    "latents": lambda: transformers.DeepseekV3Config(**LATENTS),
    "wide latents": lambda: transformers.DeepseekV3Config(**LATENTS | {"kv_lora_rank": 64}),
    "chosen latents": lambda: transformers.DeepseekV32Config(
        **LATENTS, index_topk=6, index_n_heads=16, index_head_dim=32
    ),
    "states": lambda: transformers.Qwen3NextConfig(
        **SIZES, **EXPERTS, shared_expert_intermediate_size=32, layer_types=["linear_attention", "full_attention"],
        linear_key_head_dim=16, linear_value_head_dim=16, linear_num_key_heads=2, linear_num_value_heads=4,
    ),
    "gpt-oss": lambda: transformers.GptOssConfig(
        **SIZES, num_local_experts=4, num_experts_per_tok=2, sliding_window=8, rope_parameters=None
    ),
}  # fmt: skip


def is_quantised(name: str) -> bool:
    return name.startswith("model.layers.") and name.endswith("_proj.weight")


def write_model(
    folder: Path, kind: str, settings: dict[str, Any], write: Writer, wanted: Callable[[str], bool] = is_quantised
) -> Any:
    """A tiny model in the form; returns transformers' own with the values that the files stand for. The parts of a
    tensor that is no module's weight follow its own name."""
    torch.manual_seed(0)
    config = MODELS[kind]()
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    model.save_pretrained(folder)
    plain = load_file(folder / "model.safetensors")
    stored: dict[str, Tensor] = {}
    for name, tensor in plain.items():
        if wanted(name):
            parts, values = write(tensor)
            module = name.removesuffix("weight")
            stored |= {f"{module}{leaf}": part for leaf, part in parts.items()}
            plain[name] = values
        else:
            stored[name] = tensor
    save_file({name: tensor.contiguous() for name, tensor in plain.items()}, folder / "model.safetensors")
    again = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").float().eval()
    save_file({name: tensor.contiguous() for name, tensor in stored.items()}, folder / "model.safetensors")
    change_settings(folder, settings)
    return again


def change_settings(folder: Path, settings: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": settings}))
