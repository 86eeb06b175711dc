"""GLM-4.5, 4.5-Air, 4.6 and 4.7 (`glm4_moe`) and the text half of GLM-4.5V. They rotate halves of a part of each
head."""

from __future__ import annotations

from collections.abc import Mapping

from landrace.kernels.head_form import QkNorm
from landrace.models.families.config import Config
from landrace.models.families.dense import read_attention, read_decoder, read_mlp
from landrace.models.families.family import Family, TextHalf
from landrace.models.families.glm import PREFIXES, VISION
from landrace.models.families.moe import TRAINING, mixed, read_deepseek_mixture, sparse_after
from landrace.models.families.names import DEEPSEEK_EXPERTS, with_experts
from landrace.models.spec import ModelSpec

GLM4_MOE = {
    "vocab_size": 151552, "hidden_size": 4096, "intermediate_size": 10944, "num_hidden_layers": 46,
    "num_attention_heads": 96, "num_key_value_heads": 8, "max_position_embeddings": 131072, "rms_norm_eps": 1e-5,
    "rope_theta": 10_000.0, "partial_rotary_factor": 0.5, "tie_word_embeddings": False, "attention_bias": False,
    "use_qk_norm": False, "n_routed_experts": 128, "n_shared_experts": 1, "num_experts_per_tok": 8,
    "moe_intermediate_size": 1408, "routed_scaling_factor": 1.0, "norm_topk_prob": True, "n_group": 1, "topk_group": 1,
    "first_k_dense_replace": 1, "num_nextn_predict_layers": 1,
}  # fmt: skip
GLM4V_MOE_TEXT = {
    **GLM4_MOE, "vocab_size": 151424, "max_position_embeddings": 65536, "attention_bias": True,
    "num_nextn_predict_layers": None,
}  # fmt: skip

NAMINGS = with_experts(DEEPSEEK_EXPERTS)
ALIASES = {"num_local_experts": "n_routed_experts", "num_mtp_layers": "num_nextn_predict_layers"}


def read_glm4_moe(config: Config) -> ModelSpec:
    attention = read_attention(
        config,
        qkv_bias=config.flag("attention_bias"),
        qk_norm=QkNorm("before_rope") if config.flag("use_qk_norm") else None,
        partial_rotary=True,
    )
    sparse = sparse_after(config, "first_k_dense_replace")
    return read_decoder(config, attention, mixed(sparse, read_mlp(config), read_deepseek_mixture(config)))


FAMILIES: Mapping[str, Family] = {
    "glm4_moe": Family(read_glm4_moe, GLM4_MOE, NAMINGS, ALIASES, no_effect=TRAINING),
    "glm4v_moe_text": Family(
        read_glm4_moe, GLM4V_MOE_TEXT, NAMINGS, ALIASES, no_effect=TRAINING, fixed={"use_qk_norm": False}
    ),
}
TEXT_HALVES: Mapping[str, TextHalf] = {
    "glm4v_moe": TextHalf("glm4v_moe_text", PREFIXES, VISION),
}
