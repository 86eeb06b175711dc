"""ERNIE 4.5 with experts: text (`ernie4_5_moe`), and the text half of ERNIE 4.5 VL, whose layers hold a second set of
experts for images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from landrace.errors import UnsupportedError
from landrace.kernels.router import Router
from landrace.models.families.config import MAX_LAYERS, Config
from landrace.models.families.dense import n_layers, read_attention, read_decoder, read_mlp
from landrace.models.families.family import AT_TOP, Family, TextHalf
from landrace.models.families.moe import TRAINING, mixed, read_experts, sparse_by_name
from landrace.models.families.names import JOINT, Naming, with_experts
from landrace.models.ffn_spec import Dense, Moe
from landrace.models.spec import ModelSpec

ERNIE_MOE = {
    "vocab_size": 103424, "hidden_size": 2560, "intermediate_size": 12288, "num_hidden_layers": 28,
    "num_attention_heads": 20, "num_key_value_heads": 4, "max_position_embeddings": 131072, "rms_norm_eps": 1e-5,
    "rope_theta": 500_000.0, "tie_word_embeddings": True, "use_bias": False, "moe_intermediate_size": 1536, "moe_k": 6,
    "moe_num_experts": 64, "moe_num_shared_experts": 2, "moe_norm_min": 1e-12, "moe_layer_start_index": 1,
    "moe_layer_end_index": -1, "moe_layer_interval": 1,
}  # fmt: skip
ERNIE_VL_MOE = {**ERNIE_MOE, "moe_intermediate_size": [1536, 512]}

RENAMED = {"mlp.router": "mlp.gate", "mlp.shared_expert": "mlp.shared_experts"}
HUB_BIAS, OWN_BIAS = "mlp.moe_statics.e_score_correction_bias", "mlp.gate.moe_statics.e_score_correction_bias"
NAMINGS = with_experts(
    {**RENAMED, "mlp.router.choice_bias": HUB_BIAS},
    {**RENAMED, "mlp.router.choice_bias": OWN_BIAS},
    base=Naming(first_entry=(HUB_BIAS, OWN_BIAS), interleaved=True),
)
VL_BIAS = "mlp.text_moe.gate.moe_statics.e_score_correction_bias"
VL_NAMINGS = (
    # The experts for text are the first of the list, as is their bias.
    Naming(renamed=NAMINGS[0].renamed, first_entry=(HUB_BIAS,), transposed=("mlp.gate.weight",), interleaved=True),
    Naming(
        renamed={**RENAMED, "mlp.router": "mlp.text_moe.gate", "mlp.router.choice_bias": VL_BIAS},
        fused={theirs.replace("mlp.", "mlp.text_moe."): ours for theirs, ours in JOINT.items()},
        first_entry=(VL_BIAS,),
        interleaved=True,
    ),
)


def read_ernie_moe(config: Config) -> ModelSpec:
    bias, tied = config.flag("use_bias"), config.flag("tie_word_embeddings")
    if bias and tied:
        raise UnsupportedError(
            "An output head with a bias that shares its weights with the embedding is not supported."
        )
    sizes = Config({key: _of_text(config, key) for key in ("moe_intermediate_size", "moe_num_experts", "moe_k")})
    experts, chosen = read_experts(sizes, "moe_num_experts", "moe_k")
    hidden = sizes.size("moe_intermediate_size")
    shared = config.get("moe_num_shared_experts")
    router = Router(chosen, choice_bias=True, renorm=True, renorm_floor=config.number("moe_norm_min"))
    always = Dense(hidden * config.size("moe_num_shared_experts"), bias) if shared else None
    ffns = mixed(_sparse(config), read_mlp(config, bias), Moe(experts, hidden, router, shared=always))
    return read_decoder(config, read_attention(config, bias=bias), ffns, lm_head_bias=bias)


def _of_text(config: Config, key: str) -> object:
    """Where text and images have numbers of their own, text's is the first."""
    value = config.get(key)
    return value[0] if isinstance(value, Sequence) and value else value


def _sparse(config: Config) -> list[bool]:
    named = sparse_by_name(config)
    if named is not None:
        return named
    count, bounds = n_layers(config), []
    for key in ("moe_layer_start_index", "moe_layer_end_index"):
        value = _of_text(config, key)
        if isinstance(value, bool) or not isinstance(value, int):
            raise config.wrong(key, value, "the number of a layer")
        bounds.append(value)
    first, last = bounds[0], count - 1 if bounds[1] == -1 else bounds[1]
    interval = config.size("moe_layer_interval", MAX_LAYERS)
    return [first <= n <= last and (n + 1) % interval == 0 for n in range(count)]


NO_EFFECT = (*TRAINING, "moe_(capacity|gate|group|multimodal_dispatch_use_allgather|aux_loss_lambda)|freq_allocation")
FIXED = {
    "moe_use_aux_free": True,
    "use_rmsnorm": True,
    "compression_ratio": 1.0,
    "is_quantized": False,
    "moe_use_hard_gate": False,
    "rope_3d": (False, True),
}
DRAFTS = (r"(model\.)?mtp_.*",)
IMAGES = (*DRAFTS, r".*\.mlp\.(experts\.\d+\..*|gate\.weight_1|vision_moe\..*)")

FAMILIES: Mapping[str, Family] = {
    "ernie4_5_moe": Family(read_ernie_moe, ERNIE_MOE, NAMINGS, ignorable=DRAFTS, no_effect=NO_EFFECT, fixed=FIXED),
    "ernie4_5_vl_moe_text": Family(
        read_ernie_moe, ERNIE_VL_MOE, VL_NAMINGS, ignorable=IMAGES, no_effect=NO_EFFECT, fixed=FIXED
    ),
}
TEXT_HALVES: Mapping[str, TextHalf] = {
    kind: TextHalf(
        "ernie4_5_vl_moe_text",
        AT_TOP,
        (r"(model\.)?(vision_model|vision_tower|resampler_model)\..*",),
        ties_by_default=True,
    )
    for kind in ("ernie4_5_vl_moe", "ernie4_5_moe_vl")
}
