"""A tiny DeepSeek-V4 as its vendor publishes it, and transformers' models of what its files stand for.

Matrices of attention, of shared experts and of the guessing layer's stem are 8-bit floats in blocks whose scales are
powers of two; those of routed experts are pairs of 4-bit floats, stored as int8, with such a scale for 32 values of a
row; the rest is bfloat16 or float32. The names are those of the vendor's own modules.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from quantised_writers import Written, fp8, mxfp4
from safetensors.torch import load_file, save_file
from tiny_models import reference
from torch import Tensor

KWARGS: dict[str, Any] = {
    "vocab_size": 260, "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 1,
    "max_position_embeddings": 512, "initializer_range": 0.1, "rms_norm_eps": 0.003, "tie_word_embeddings": False,
    "head_dim": 32, "q_lora_rank": 32, "moe_intermediate_size": 32, "n_routed_experts": 4, "n_shared_experts": 1,
    "num_experts_per_tok": 2, "routed_scaling_factor": 1.5, "sliding_window": 8, "o_groups": 2, "o_lora_rank": 32,
    "index_n_heads": 32, "index_head_dim": 32, "index_topk": 3, "hc_mult": 2, "hc_sinkhorn_iters": 3,
    "swiglu_limit": 0.5, "pad_token_id": None, "bos_token_id": None, "eos_token_id": None,
}  # fmt: skip
SPARSE, HEAVY = "compressed_sparse_attention", "heavily_compressed_attention"
KINDS = {0: "sliding_attention", 4: SPARSE, 128: HEAVY}
RATIOS = [0, 4, 128, 4]
YARN = {"beta_fast": 32, "beta_slow": 1, "factor": 4, "original_max_position_embeddings": 64, "type": "yarn"}
"""As config.json has it."""
BLOCK = [32, 32]
SETTINGS = {
    "activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8", "scale_fmt": "ue8m0",
    "weight_block_size": BLOCK,
}  # fmt: skip
IN_8_BITS = r".*\.(attn\.(wq_a|wq_b|wkv|wo_a|wo_b|indexer\.wq_b)|shared_experts\.w[123]|[eh]_proj)\.weight"
EXPERTS = r".*\.ffn\.experts\.\d+\.w[123]\.weight"
EXACT = r".*(hc_.*_(fn|base|scale)|attn_sink|ape|gate\.bias|tid2eid)"


@dataclass(frozen=True)
class Published:
    model: Any
    """transformers' model with the values that the files stand for."""
    guessing: Any
    """Of one layer: the one that guesses the token after the next one."""
    stem: Mapping[str, Tensor]
    """What that one has before its layer."""


def published_name(name: str) -> str:
    """Of what transformers writes."""
    changes = {"embed_tokens.": "embed.", "hc_head.hc_": "hc_head_", ".attn.norm.": ".attn.kv_norm."}
    name = name.removeprefix("model.")
    for written, published in changes.items():
        name = name.replace(written, published)
    return name


def stored(name: str, tensor: Tensor, experts: str) -> Written:
    """Its parts by what follows the name of its module, and the values they stand for."""
    if re.fullmatch(EXPERTS, name) and experts == "fp4":
        codes, exponents, values = mxfp4(tensor)
        return {"weight": codes.view(torch.int8), "scale": exponents.view(torch.float8_e8m0fnu)}, values
    if re.fullmatch(f"{IN_8_BITS}|{EXPERTS}", name):
        return fp8(*BLOCK, "scale", torch.float8_e8m0fnu)(tensor)
    kept = tensor if re.fullmatch(EXACT, name) else tensor.bfloat16()
    return {"": kept}, kept.to(tensor.dtype)


def publish(folder: Path, *, experts: str = "fp4", guesses: bool = True, **changes: Any) -> Published:
    """Writes the folder. `changes`: of the configuration, under keys that both know."""
    scaled = {"rope_type": "yarn", **{key: value for key, value in YARN.items() if key != "type"}}
    own = {"layer_types": [KINDS[ratio] for ratio in RATIOS], "mlp_layer_types": ["hash_moe", *["moe"] * 3]}
    usual = {**KWARGS, **changes, "compress_rates": {SPARSE: 4, HEAVY: 128}, "rope_parameters": scaled}
    usual |= {"partial_rotary_factor": 0.25}
    alone = {"num_hidden_layers": 1, "layer_types": [KINDS[0]], "mlp_layer_types": ["moe"]}
    model, guessing = (reference("deepseek_v4", {**usual, **changes}) for changes in (own, alone))
    with torch.no_grad():
        for parameter in guessing.parameters():
            parameter.mul_(1.07)  # otherwise both begin alike
    files, meant = {}, []
    for one, place in ((model, ""), (guessing, "mtp.0.")):
        one.save_pretrained(folder / "plain")
        written = load_file(folder / "plain" / "model.safetensors")
        for name, tensor in written.items():
            name = published_name(name)
            if place:
                if name.startswith(("embed.", "head.")):
                    continue
                name = place + name.removeprefix("layers.0.")
            files[name] = tensor
        meant.append(written)
    draw, width = torch.Generator().manual_seed(9), KWARGS["hidden_size"]
    stem = {name: torch.rand(width, generator=draw) + 0.5 for name in ("enorm.weight", "hnorm.weight")}
    stem |= {f"{x}_proj.weight": torch.randn(width, width, generator=draw) * width**-0.5 for x in "eh"}
    files |= {f"mtp.0.{name}": tensor for name, tensor in stem.items()}
    parts, values = {}, {}
    for name, tensor in files.items():
        if guesses or not name.startswith("mtp."):
            own_parts, values[name] = stored(name, tensor, experts)
            module = name.removesuffix("weight") if "" not in own_parts else name
            parts |= {f"{module}{leaf}": part.contiguous() for leaf, part in own_parts.items()}
        else:
            values[name] = tensor
    for one, written, place in ((model, meant[0], ""), (guessing, meant[1], "mtp.0.")):
        for name in written:
            theirs = published_name(name)
            theirs = place + theirs.removeprefix("layers.0.") if place else theirs
            written[name] = values.get(theirs, written[name]).contiguous()
        one.config.save_pretrained(folder / "plain")
        save_file(written, folder / "plain" / "model.safetensors", metadata={"format": "pt"})
        again = type(one).from_pretrained(folder / "plain", attn_implementation="eager").float().eval()
        one.load_state_dict(again.state_dict())
    save_file(parts, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({**config(experts), **changes}))
    stem = {name: values[f"mtp.0.{name}"] for name in stem}
    return Published(model, guessing, stem)


def config(experts: str) -> dict[str, Any]:
    """With the keys of the published one."""
    own = {
        "architectures": ["DeepseekV4ForCausalLM"], "model_type": "deepseek_v4", "attention_bias": False,
        "attention_dropout": 0.0, "hidden_act": "silu", "initializer_range": 0.02, "hc_eps": 1e-6,
        "compress_ratios": [*RATIOS, 0], "compress_rope_theta": 160000, "rope_theta": 10000, "rope_scaling": YARN,
        "qk_rope_head_dim": 8, "num_hash_layers": 1, "num_nextn_predict_layers": 1, "norm_topk_prob": True,
        "scoring_func": "sqrtsoftplus", "topk_method": "noaux_tc", "torch_dtype": "bfloat16", "use_cache": True,
        "transformers_version": "4.57.1", "quantization_config": SETTINGS, "expert_dtype": experts,
    }  # fmt: skip
    return {**KWARGS, **own}
