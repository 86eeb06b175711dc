"""Tencent Hunyuan dense (0.5B to 7B) and the text half of HunyuanOCR: q and k are normalised after the rotation."""

from __future__ import annotations

from collections.abc import Mapping

from landrace.kernels.head_form import QkNorm
from landrace.models.families.config import Config
from landrace.models.families.dense import read_attention, read_decoder, read_mlp
from landrace.models.families.family import AT_TOP, Family, TextHalf
from landrace.models.families.llama import SHAPE
from landrace.models.families.names import Naming
from landrace.models.mixer_spec import Gqa
from landrace.models.spec import ModelSpec

HUNYUAN = {**SHAPE, "vocab_size": 290943, "rms_norm_eps": 1e-5}
NAMING = Naming(
    renamed={"self_attn.q_norm": "self_attn.query_layernorm", "self_attn.k_norm": "self_attn.key_layernorm"}
)
NO_EFFECT = (
    r"\w+_id|org_vocab_size|dense_list",
    # Fields of the 7B's mixture and latent-attention siblings, left in dense files with `num_experts` 1.
    r"moe_.*|expert_.*|(num|n)_shared_expert.*|n_group|topk_group|group_limited_greedy|norm_topk_prob",
    r"routed_scaling_factor|use_mixed_mlp_moe|num_media_embeds|capacity_factor|cla_share_factor",
    r"(q|kv)_lora_rank|(qk_nope|qk_rope|v)_head_dim|pool_type|class_num|anyres_.*|vit_.*|video_.*|im_.*",
)
FIXED = {
    "norm_type": "rms", "num_experts": 1, "use_qk_norm": True, "use_rotary_pos_emb": True, "use_cla": False,
    "use_mla": False, "position_embedding_xdrope": False, "add_classification_head": False,
}  # fmt: skip


def read_hunyuan(config: Config) -> ModelSpec:
    return read_decoder(config, read_normed_attention(config), read_mlp(config))


def read_normed_attention(config: Config) -> Gqa:
    bias = config.flag("attention_bias")
    config.require("attention_head_dim", config.get("head_dim"))
    return read_attention(config, bias=bias, qk_norm=QkNorm("after_rope"), ntk_alpha=True)


FAMILIES: Mapping[str, Family] = {
    "hunyuan_v1_dense": Family(read_hunyuan, HUNYUAN, (NAMING,), no_effect=NO_EFFECT, fixed=FIXED),
    "hunyuan_vl_text": Family(
        read_hunyuan,
        {**HUNYUAN, "tie_word_embeddings": True},
        (NAMING,),
        no_effect=NO_EFFECT,
        fixed={**FIXED, "position_embedding_xdrope": (False, True)},
    ),
}

TEXT_HALVES: Mapping[str, TextHalf] = {
    "hunyuan_vl": TextHalf(
        "hunyuan_vl_text",
        AT_TOP,
        (r"(model\.)?(vit|visual|vision_tower)\..*",),
        ties_by_default=True,
        no_effect=("vision_config", r"im_\w+_id"),
    ),
}
