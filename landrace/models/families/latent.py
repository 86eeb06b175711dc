"""Reads what families with latent attention have in common."""

from __future__ import annotations

from landrace.models.families.config import MAX_SIZE, Config
from landrace.models.families.names import Naming
from landrace.models.families.rope import read_rope, yarn_scale
from landrace.models.mixer_spec import Mla

NAMES = Naming(
    renamed={
        "self_attn.q_a_norm": "self_attn.q_a_layernorm",
        "self_attn.kv_a_norm": "self_attn.kv_a_layernorm",
        "self_attn.kv_a_proj": "self_attn.kv_a_proj_with_mqa",
    },
    fused={"self_attn.kv_b_proj": ("self_attn.k_b_proj", "self_attn.v_b_proj")},
    by_head=("self_attn.kv_b_proj.weight",),
)


def read_latent_attention(config: Config, *, turns: bool = True) -> Mla:
    """Full latent attention, with rotary embedding if it `turns`, else perhaps without channels for it. The norms
    of the ranks have an epsilon of their own in all of these families but GLM-5.3, whatever `rms_norm_eps` says."""
    nope_dim, turned = config.size("qk_nope_head_dim"), "qk_rope_head_dim"
    rope_dim = config.size(turned) if turns else config.count(turned, MAX_SIZE)
    n_heads, v_dim = config.size("num_attention_heads"), config.optional_size("v_head_dim")
    return Mla(
        n_heads=n_heads,
        kv_rank=config.size("kv_lora_rank"),
        nope_dim=nope_dim,
        rope_dim=rope_dim,
        v_dim=v_dim or config.size("hidden_size") // n_heads,
        scale=(nope_dim + rope_dim) ** -0.5 * (yarn_scale(config) ** 2 if turns else 1.0),
        rope=read_rope(config, rope_dim) if turns else None,
        q_rank=config.optional_size("q_lora_rank"),
        bias=config.flag("attention_bias"),
    )
