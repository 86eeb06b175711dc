"""StepFun Step-3: queries out of a normalised projection of low rank, one head of keys and values for all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from landrace.kernels.router import Router
from landrace.models.families.config import Config
from landrace.models.families.dense import n_layers, read_attention, read_decoder, read_mlp
from landrace.models.families.family import AT_TOP, Family, TextHalf
from landrace.models.families.moe import TRAINING, mixed, read_experts, sparse_from_list
from landrace.models.families.names import Naming
from landrace.models.ffn_spec import Dense, Moe
from landrace.models.spec import ModelSpec

STEP3 = {
    "vocab_size": 128815, "hidden_size": 7168, "intermediate_size": 18432, "num_hidden_layers": 61,
    "num_attention_heads": 64, "num_key_value_heads": 1, "head_dim": 256, "share_q_dim": 2048,
    "max_position_embeddings": 65536, "rms_norm_eps": 1e-5, "rope_theta": 500_000.0, "tie_word_embeddings": False,
    "moe_num_experts": 48, "moe_top_k": 3, "moe_intermediate_size": 5120, "share_expert_dim": 5120,
    "norm_expert_weight": False,
}  # fmt: skip
NAMING = Naming(
    renamed={
        "self_attn.q_a_proj": "self_attn.q_proj",
        "self_attn.q_a_norm": "self_attn.inter_norm",
        "self_attn.q_proj": "self_attn.wq",
        "mlp.router": "moe.gate",
        "mlp.experts": "moe",
        "mlp.shared_expert": "share_expert",
    }
)


def read_step3(config: Config) -> ModelSpec:
    experts, chosen = read_experts(config, "moe_num_experts", "moe_top_k")
    router = Router(chosen, renorm=config.flag("norm_expert_weight"))
    hidden = config.size("moe_intermediate_size")
    moe = Moe(experts, hidden, router, shared=Dense(config.size("share_expert_dim")))
    attention = replace(read_attention(config), q_rank=config.size("share_q_dim"))
    sparse = sparse_from_list(config, "moe_layers_enum") or [n > 0 for n in range(n_layers(config))]
    return read_decoder(config, attention, mixed(sparse, read_mlp(config), moe))


FAMILIES: Mapping[str, Family] = {
    "step3_text": Family(
        read_step3,
        STEP3,
        (NAMING,),
        {"num_attention_groups": "num_key_value_heads", "max_position_embedding": "max_position_embeddings"},
        no_effect=(*TRAINING, "max_seq_len|model_max_length"),
    )
}
TEXT_HALVES: Mapping[str, TextHalf] = {
    "step3_vl": TextHalf(
        "step3_text",
        AT_TOP,
        (r"(model\.)?(vision_model|vit_\w+)\..*",),
        no_effect=(r"vision_config|understand_projector_stride|projector_bias|image_token_len|patch_token_len",),
    )
}
