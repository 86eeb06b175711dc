"""DeepSeek-V4: one head of keys that are their own values, over a window and over rows compressed from the whole past;
residual streams that mix; and experts that the first layers choose by token."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from landrace.errors import CheckpointError, UnsupportedError
from landrace.kernels.activation import Activation
from landrace.kernels.router import Router
from landrace.kernels.streams import HyperConnections
from landrace.models.compressed_spec import Compressed, CompressedSelection, Compression
from landrace.models.families.config import MAX_LAYERS, MAX_POSITIONS, MOST_STREAMS, Config, shown
from landrace.models.families.dense import n_layers, read_decoder
from landrace.models.families.family import Family
from landrace.models.families.hy_v4 import stream_names
from landrace.models.families.moe import TRAINING, read_experts
from landrace.models.families.names import JOINT, MtpNaming, Naming
from landrace.models.families.rope import read_rope
from landrace.models.ffn_spec import Dense, Moe
from landrace.models.mixer_spec import RopeSpec
from landrace.models.spec import Hyper, LayerSpec, ModelSpec

SLIDING, SPARSE, HEAVY = "sliding_attention", "compressed_sparse_attention", "heavily_compressed_attention"
OF_RATIO = {0: SLIDING, 4: SPARSE, 128: HEAVY}
RATES = {SPARSE: 4, HEAVY: 128}

V4 = {
    "vocab_size": 129280, "hidden_size": 4096, "moe_intermediate_size": 2048, "num_hidden_layers": 43,
    "num_attention_heads": 64, "head_dim": 512, "q_lora_rank": 1024, "num_experts_per_tok": 6,
    "n_routed_experts": 256, "scoring_func": "sqrtsoftplus", "norm_topk_prob": True, "routed_scaling_factor": 1.5,
    "max_position_embeddings": 1048576, "rope_theta": 10_000.0, "compress_rope_theta": 160_000.0, "hc_mult": 4,
    "hc_sinkhorn_iters": 20, "hc_eps": 1e-6, "num_hash_layers": 3, "swiglu_limit": 10.0, "sliding_window": 128,
    "o_groups": 8, "o_lora_rank": 1024, "index_n_heads": 64, "index_head_dim": 128, "index_topk": 512,
    "rms_norm_eps": 1e-6, "tie_word_embeddings": False,
}  # fmt: skip

COMPRESSORS = {
    "compress_proj": "compressor.kv_proj", "compress_gate_proj": "compressor.gate_proj",
    "compress_bias.weight": "compressor.position_bias", "compress_norm": "compressor.kv_norm",
    "index_proj": "compressor.indexer.kv_proj", "index_gate_proj": "compressor.indexer.gate_proj",
    "index_bias.weight": "compressor.indexer.position_bias", "index_norm": "compressor.indexer.kv_norm",
    "index_q_proj": "compressor.indexer.q_b_proj", "index_weights_proj": "compressor.indexer.scorer.weights_proj",
    "sinks.weight": "sinks",
}  # fmt: skip
PUBLISHED = {
    "q_a_proj": "wq_a", "q_a_norm": "q_norm", "q_b_proj": "wq_b", "kv_proj": "wkv", "kv_norm": "kv_norm",
    "o_a_proj": "wo_a", "o_b_proj": "wo_b", "sinks.weight": "attn_sink",
    "compress_proj": "compressor.wkv", "compress_gate_proj": "compressor.wgate",
    "compress_bias.weight": "compressor.ape", "compress_norm": "compressor.norm",
    "index_proj": "indexer.compressor.wkv",
    "index_gate_proj": "indexer.compressor.wgate", "index_bias.weight": "indexer.compressor.ape",
    "index_norm": "indexer.compressor.norm", "index_q_proj": "indexer.wq_b",
    "index_weights_proj": "indexer.weights_proj",
}  # fmt: skip
EXPERTS = {"gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"}
MTP = MtpNaming(
    layer="mtp.0.",
    embedding_norm="mtp.0.enorm",
    hidden_norm="mtp.0.hnorm",
    embedding_proj="mtp.0.e_proj",
    hidden_proj="mtp.0.h_proj",
    norm="mtp.0.norm",
    in_body=False,
)
HUB = Naming(
    (("", ""),),
    embedding="embed",
    head="head",
    renamed={
        **{f"self_attn.{ours}": f"attn.{theirs}" for ours, theirs in PUBLISHED.items()},
        **stream_names("hc_attn_{}", "hc_ffn_{}", "hc_head_{}"),
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
        "mlp.router": "ffn.gate",
        "mlp.router.choice_bias": "ffn.gate.bias",
        "mlp.router.table": "ffn.gate.tid2eid",
        **{f"mlp.experts.{ours}": f"ffn.experts.{{}}.{theirs}" for ours, theirs in EXPERTS.items()},
        **{f"mlp.shared_expert.{ours}": f"ffn.shared_experts.{theirs}" for ours, theirs in EXPERTS.items()},
    },
    mtp=MTP,
)
# What transformers makes of the hub's names when it writes.
WRITTEN = replace(
    HUB,
    prefixes=(("model.", ""),),
    embedding="embed_tokens",
    renamed={
        **HUB.renamed,
        **stream_names("hc_attn_{}", "hc_ffn_{}", "hc_head.hc_{}"),
        "self_attn.kv_norm": "attn.norm",
    },
)
OWN = Naming(
    renamed={
        **{f"self_attn.{ours}": f"self_attn.{theirs}" for ours, theirs in COMPRESSORS.items()},
        **stream_names("attn_hc.{}", "ffn_hc.{}", "hc_head.hc_{}"),
        "mlp.router": "mlp.gate",
        "mlp.router.choice_bias": "mlp.gate.e_score_correction_bias",
        "mlp.router.table": "mlp.gate.tid2eid",
        "mlp.shared_expert": "mlp.shared_experts",
    },
    fused=JOINT,
)
SCORES = {"sqrtsoftplus": "sqrt_softplus", "softmax": "softmax", "sigmoid": "sigmoid"}


def read_deepseek_v4(config: Config) -> ModelSpec:
    forms, count = _read_attentions(config), n_layers(config)
    attentions = [forms[kind] for kind in _kinds(config)[:count]]
    return read_decoder(config, attentions, _read_mixtures(config), residual=_read_streams(config))


def read_guessing_layer(config: Config) -> LayerSpec:
    """Sees its window alone, and chooses experts by score."""
    kinds, (by_score, _) = _kinds(config)[n_layers(config) :], _read_experts(config)
    if any(kind != SLIDING for kind in kinds[:1]):
        raise UnsupportedError("Layers that guess further tokens from compressed rows are not implemented.")
    attention = replace(_read_attentions(config)[SLIDING], keeps_all=True)
    return LayerSpec(attention, by_score, _read_streams(config))


def _read_streams(config: Config) -> Hyper:
    form = HyperConnections(
        config.size("hc_mult", MOST_STREAMS),
        config.number("hc_eps"),
        iterations=config.size("hc_sinkhorn_iters", MAX_LAYERS),
    )
    return Hyper(form)


def _read_attentions(config: Config) -> dict[str, Compressed]:
    """By kind of layer."""
    rates = _rates(config)
    n_heads, n_groups, head_dim = (config.size(key) for key in ("num_attention_heads", "o_groups", "head_dim"))
    if n_heads % n_groups:
        raise CheckpointError(f"{n_heads} attention heads cannot be {n_groups} equal groups.")
    main, compressing = _read_ropes(config, head_dim)
    selection = CompressedSelection(
        config.size("index_n_heads"), config.size("index_head_dim"), config.size("index_topk", MAX_POSITIONS)
    )
    if selection.head_dim < compressing.rotary_dim:
        raise CheckpointError(
            f"An indexer's {selection.head_dim} channels cannot hold {compressing.rotary_dim} that turn."
        )
    plain = Compressed(
        n_heads=n_heads,
        head_dim=head_dim,
        scale=head_dim**-0.5,
        rope=main,
        q_rank=config.size("q_lora_rank"),
        window=config.size("sliding_window", MAX_POSITIONS),
        n_groups=n_groups,
        group_rank=config.size("o_lora_rank"),
        norm_eps=config.number("rms_norm_eps"),
    )
    return {
        SLIDING: plain,
        SPARSE: replace(plain, rope=compressing, compression=Compression(rates[SPARSE], True, selection)),
        HEAVY: replace(plain, rope=compressing, compression=Compression(rates[HEAVY], False)),
    }


def _kinds(config: Config) -> list[str]:
    """By layer, as `layer_types` says, or `compress_ratios`, which goes on for the layers that guess tokens."""
    count, kinds, ratios = n_layers(config), config.get("layer_types"), config.get("compress_ratios")
    if kinds is None and ratios is not None:
        if not isinstance(ratios, list) or any(ratio not in OF_RATIO for ratio in ratios):
            raise config.wrong("compress_ratios", ratios, "a list of 0, 4 and 128")
        kinds = [OF_RATIO[ratio] for ratio in ratios]
    if kinds is None:
        kinds = [HEAVY if n < 2 or n % 2 == 0 else SPARSE for n in range(count)]
    if not isinstance(kinds, list) or len(kinds) < count:
        raise config.wrong("layer_types", kinds, f"a list of {count} entries")
    unknown = [kind for kind in kinds if kind not in (SLIDING, SPARSE, HEAVY)]
    if unknown:
        raise UnsupportedError(f"Layers of the type {shown(unknown[0])} are not implemented.")
    return kinds


def _rates(config: Config) -> dict[str, int]:
    """Positions of a compressed row."""
    section = config.section("compress_rates") or Config({})
    older = {SPARSE: config.optional_size("compress_rate_csa"), HEAVY: config.optional_size("compress_rate_hca")}
    found = {kind: older[kind] or section.optional_size(kind) or usual for kind, usual in RATES.items()}
    section.finish()
    return found


def _read_ropes(config: Config, head_dim: int) -> tuple[RopeSpec, RopeSpec]:
    """Of layers that see a window only, and of those with compressed rows."""
    share, turned = config.optional_number("partial_rotary_factor"), config.optional_size("qk_rope_head_dim")
    if share is None:
        share = 1 / 8 if turned is None else turned / head_dim
    key = "rope_scaling" if config.get("rope_scaling") else "rope_parameters"
    given = config.get(key) or {}
    config.get("rope_parameters")
    if not isinstance(given, Mapping):
        raise config.wrong(key, given, "an object")
    sections = {name: given[name] for name in ("main", "compress") if isinstance(given.get(name), Mapping)}
    if len(sections) < 2:
        # One record stretches the turning of compressed layers alone, and multiplies nothing.
        stretched = {name: value for name, value in given.items() if name not in ("main", "compress", "rope_theta")}
        kind = stretched.get("rope_type") or stretched.get("type")
        even = {"attention_factor": 1.0} if kind == "yarn" else {}
        sections = {
            "main": {"rope_theta": config.number("rope_theta")},
            "compress": {**even, **stretched, "rope_theta": config.number("compress_rope_theta")},
        }
    config.get("rope_theta"), config.get("compress_rope_theta")
    length = config.size("max_position_embeddings", MAX_POSITIONS)
    found = (
        read_rope(
            Config({"partial_rotary_factor": share, "max_position_embeddings": length, "rope_parameters": section}),
            head_dim,
            partial=True,
        )
        for section in (sections["main"], sections["compress"])
    )
    main, compressing = found
    if main.rotary_dim != compressing.rotary_dim:
        raise UnsupportedError("Layers with and without compressed rows turn different numbers of channels.")
    return main, compressing


def _read_mixtures(config: Config) -> list[Moe]:
    count, kinds = n_layers(config), config.per_layer("mlp_layer_types", n_layers(config))
    if kinds is None:
        first = min(count, config.count("num_hash_layers"))
        kinds = ["hash_moe"] * first + ["moe"] * (count - first)
    unknown = [kind for kind in kinds if kind not in ("hash_moe", "moe")]
    if unknown:
        raise UnsupportedError(f"Layers of the type {shown(unknown[0])} are not implemented.")
    by_score, by_token = _read_experts(config)
    return [by_token if kind == "hash_moe" else by_score for kind in kinds]


def _read_experts(config: Config) -> tuple[Moe, Moe]:
    """Chosen by score, and by token."""
    experts, chosen = read_experts(config, "n_routed_experts", "num_experts_per_tok")
    score = config.get("scoring_func")
    if score not in SCORES:
        raise UnsupportedError(f"config.json sets scoring_func to {shown(score)}, which is not implemented.")
    width, clamp = config.size("moe_intermediate_size"), Activation("clamp_before", config.number("swiglu_limit"))
    router = Router(
        chosen,
        SCORES[score],  # type: ignore[arg-type]
        choice_bias=True,
        renorm=True,
        scale=config.number("routed_scaling_factor"),
    )
    by_score = Moe(experts, width, router, activation=clamp, shared=Dense(width, activation=clamp))
    return by_score, replace(by_score, router=replace(router, choice_bias=False, by_token=True))


FAMILIES: Mapping[str, Family] = {
    "deepseek_v4": Family(
        read_deepseek_v4,
        V4,
        (HUB, WRITTEN, OWN),
        {"num_local_experts": "n_routed_experts", "intermediate_size": "moe_intermediate_size"},
        no_effect=(*TRAINING, "num_nextn_predict_layers", "num_hash_layers", "expert_dtype", "ep_size"),
        drafts=(r"(model\.)?mtp\..*",),
        mtp=read_guessing_layer,
        fixed={
            "num_key_value_heads": 1,
            "n_shared_experts": 1,
            "norm_topk_prob": True,
            "attention_bias": False,
            "topk_method": "noaux_tc",
        },
    ),
}
