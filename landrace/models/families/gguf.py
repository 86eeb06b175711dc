"""GGUF files of llama.cpp's architectures: their metadata as a config.json, and the names of their tensors.

Facts from llama.cpp's converter: it stores q and k of Llama's relatives (and their biases) for the interleaved rotary
layout, leaves out a tied head, bakes Hunyuan's alpha into the rotary base, and stores the factors of Llama 3's and
longrope's rotary scaling as tensors.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from landrace.errors import UnsupportedError
from landrace.models.declared import shapes_of
from landrace.models.families import gguf_delta, gguf_encoders
from landrace.models.families.config import MAX_LAYERS, MAX_POSITIONS, Config, shown
from landrace.models.families.encoders import encoder_error
from landrace.models.families.gguf_architecture import QKV, Architecture
from landrace.models.families.gguf_architectures import ARCHITECTURES
from landrace.models.families.gguf_latent import latent_widths, with_latents, without_latents
from landrace.models.families.gguf_rope import ReadTensor
from landrace.models.families.names import MtpNaming, Naming
from landrace.models.families.weights import Source
from landrace.models.spec import ModelSpec

IGNORABLE = (
    *(r"rope_freqs\.weight", r"rope_factors_(long|short)\.weight", r"blk\.\d+\.attn_rot_embd(\.weight)?"),
    r"blk\.\d+\.attn_kv_b\.weight",  # Where its two halves are there too.
)
"""Regexes (whole name) of tensors that hold no weights of their own; `config_from_gguf` reads those that matter."""
NO_EFFECT = (r"tensor_data_layout|rope\.scaling\.finetuned|pooling_type",)
FIXED: Mapping[str, Any] = {"attention.causal": True, "use_parallel_residual": False}
UNLESS_READ = ("nextn_predict_layers", "attention.sliding_window", "leading_dense_block_count")
"""Keys that must be 0 or absent where the architecture does not read them."""

LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "self_attn.q_a_proj": "attn_q_a",
    "self_attn.q_a_norm": "attn_q_a_norm",
    "self_attn.q_b_proj": "attn_q_b",
    "self_attn.kv_a_proj": "attn_kv_a_mqa",
    "self_attn.kv_a_norm": "attn_kv_a_norm",
    "self_attn.k_b_proj": "attn_k_b",
    "self_attn.v_b_proj": "attn_v_b",
    "self_attn.indexer.wq_b": "indexer.attn_q_b",
    "self_attn.indexer.wk": "indexer.attn_k",
    "self_attn.indexer.k_norm": "indexer.k_norm",
    "self_attn.indexer.weights_proj": "indexer.proj",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "self_attn.sinks": "attn_sinks",
    "mlp.router": "ffn_gate_inp",
    "mlp.router.choice_bias": "exp_probs_b.bias",
    "mlp.experts.gate_proj": "ffn_gate_exps",
    "mlp.experts.up_proj": "ffn_up_exps",
    "mlp.experts.down_proj": "ffn_down_exps",
    "mlp.shared_expert.gate_proj": "ffn_gate_shexp",
    "mlp.shared_expert.up_proj": "ffn_up_shexp",
    "mlp.shared_expert.down_proj": "ffn_down_shexp",
    "mlp.shared_gate": "ffn_gate_inp_shexp",
}
MTP = MtpNaming(
    layer="blk.{}.",
    embedding_norm="blk.{}.nextn.enorm",
    hidden_norm="blk.{}.nextn.hnorm",
    proj="blk.{}.nextn.eh_proj",
    norm="blk.{}.nextn.shared_head_norm",
)

FUSED_QKV = {"attn_qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")}
"""Of files of models that have the three in one tensor, as ChatGLM's."""
FUSED_EXPERTS = {"ffn_gate_up_exps": ("mlp.experts.gate_proj", "mlp.experts.up_proj")}
"""Of newer files, if they were converted so."""


def config_from_gguf(
    metadata: Mapping[str, Any], tensor_names: Collection[str], read_tensor: ReadTensor | None = None
) -> dict[str, Any]:
    """The config.json (hub keys) that a GGUF file's key-values amount to, for `read_config`.

    `read_tensor` gives the values of a named tensor; it is called for the few small ones that hold rotary factors.
    Raises UnsupportedError for an architecture or a setting that is not implemented, CheckpointError for bad values.
    """
    name = metadata.get("general.architecture")
    architecture = _architecture(name)
    own = {key.removeprefix(f"{name}."): value for key, value in metadata.items() if key.startswith(f"{name}.")}
    own = dict(architecture.prepared(own))
    latents = latent_widths(own) if architecture.latent else {}
    own = without_latents(own) if architecture.latent else own
    keys = Config(own, where="The GGUF metadata")
    layers = keys.size("block_count", MAX_LAYERS)
    head_dim = keys.optional_size("attention.key_length")
    d_model, heads = keys.size("embedding_length"), _same_in_all(keys, "attention.head_count", layers)
    config: dict[str, Any] = {
        "model_type": architecture.model_type,
        "vocab_size": _vocab_size(keys, metadata),
        "hidden_size": d_model,
        "intermediate_size": _same_in_all(keys, "feed_forward_length", layers, default=_of_experts(keys)),
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": _same_in_all(keys, "attention.head_count_kv", layers, default=heads),
        "head_dim": head_dim if head_dim is not None else max(1, d_model // heads),
        "max_position_embeddings": keys.size("context_length", MAX_POSITIONS),
        "rms_norm_eps": keys.number("attention.layer_norm_rms_epsilon"),
        "tie_word_embeddings": "output.weight" not in tensor_names,
        "bos_token_id": metadata.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": metadata.get("tokenizer.ggml.eos_token_id"),
        "pad_token_id": metadata.get("tokenizer.ggml.padding_token_id"),
    }
    keys.require("attention.value_length", config["head_dim"])
    for key, modules in architecture.flags.items():
        config[key] = _has_bias(key, modules, tensor_names)
    read = {key: how(keys, own_key) for key, (how, own_key) in architecture.reads.items()}
    said = {key: value for key, value in read.items() if value is not None}
    more = architecture.more(keys, tensor_names, config)
    config |= {**latents, **architecture.adds, **more, **said, **_experts(keys, architecture)}
    config |= architecture.rope(keys, config, tensor_names, read_tensor)
    fixed = {key: 0 for key in UNLESS_READ if not keys.was_read(key)}
    keys.finish((*NO_EFFECT, *architecture.no_effect), fixed={**fixed, **FIXED, **architecture.fixed})
    return config


def gguf_heads_in_rounds(metadata: Mapping[str, Any]) -> bool:
    """Whether the file's value heads are in llama.cpp's order: see `ModelSpec.in_rounds`."""
    return _architecture(metadata.get("general.architecture")).heads_in_rounds


def gguf_ignorable(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Regexes (whole name) of the tensors that carry nothing for the logits."""
    return (*IGNORABLE, *gguf_drafts(config))


def gguf_drafts(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Those that guess tokens after the next one."""
    first, drafts = config["num_hidden_layers"], config.get("num_nextn_predict_layers") or 0
    return tuple(rf"blk\.{n}\..*" for n in range(first, first + drafts))


def gguf_sources(spec: ModelSpec, architecture: str, tensor_names: Collection[str] = ()) -> dict[str, Source]:
    """Where a GGUF file of `architecture` keeps the parameters of `Decoder(spec)`; `tensor_names`: what it holds, where
    files of that architecture come in several forms."""
    known = _architecture(architecture)
    naming = Naming(
        prefixes=(("", ""),),
        embedding="token_embd",
        layer="blk.{}.",
        norm="output_norm",
        head="output",
        renamed={**LAYER, **known.renamed},
        fused=known.fused,
        by_head=known.by_head,
        once=known.once,
        with_ones=known.with_ones,
        forms=gguf_delta.FORMS,
        heads_in_rounds=known.heads_in_rounds,
        mtp=MTP,
        interleaved=known.interleaved,
        index_interleaved=known.index_interleaved,
        index_last=known.index_last,
        unit_head=known.unit_head,
    )
    for fused in (FUSED_EXPERTS, FUSED_QKV):
        if any(name.endswith(f".{theirs}.weight") for theirs in fused for name in tensor_names):
            naming = replace(naming, fused={**fused, **naming.fused})
    naming = gguf_delta.with_delta(naming, tensor_names)
    return (with_latents(naming, tensor_names) if known.latent else naming).sources(spec, shapes_of(spec))


def _architecture(name: Any) -> Architecture:
    if name == gguf_encoders.ARCHITECTURE:
        raise encoder_error(name)
    if not isinstance(name, str) or name not in ARCHITECTURES:
        raise UnsupportedError(
            f"GGUF files of the architecture {shown(name)} are not supported.",
            hint=f"Known architectures: {', '.join(sorted(ARCHITECTURES))}.",
        )
    return ARCHITECTURES[name]


def _vocab_size(keys: Config, metadata: Mapping[str, Any]) -> int:
    """The embedding has a row for each token of the list, padding included; `vocab_size` counts without a list."""
    stated = keys.optional_size("vocab_size")
    tokens = metadata.get("tokenizer.ggml.tokens")
    return len(tokens) if tokens else stated or keys.size("vocab_size")


def _of_experts(keys: Config) -> int | None:
    """What a file whose layers all have experts need not say: it has no other width."""
    return keys.optional_size("expert_feed_forward_length")


def _same_in_all(keys: Config, key: str, layers: int, default: int | None = None) -> int:
    """A size that llama.cpp may store once or once a layer."""
    value = keys.get(key)
    if isinstance(value, Sequence) and not isinstance(value, str):
        if len(value) != layers:
            raise keys.wrong(key, value, f"one number or {layers}")
        if any(one != value[0] for one in value):
            raise UnsupportedError(f"The GGUF file's layers differ in {key}, which is not implemented.")
        return Config({key: value[0]}, where="The GGUF metadata").size(key)
    return keys.size(key) if default is None else keys.optional_size(key) or default


def _has_bias(key: str, modules: Sequence[str], tensor_names: Collection[str]) -> bool:
    fused = "blk.0.attn_qkv.weight" in tensor_names
    own = dict.fromkeys("attn_qkv" if fused and module in QKV else module for module in modules)
    there = [f"blk.0.{module}.bias" in tensor_names for module in own]
    if any(there) and not all(there):
        raise UnsupportedError(f"The GGUF file has a part of the biases that {key} stands for, but not all.")
    return all(there)


def _experts(keys: Config, architecture: Architecture) -> dict[str, int]:
    """The numbers that every mixture has, under the family's names for them."""
    if architecture.experts is None:
        if keys.get("expert_count"):
            raise UnsupportedError(f"This GGUF file is a mixture of {shown(keys.get('expert_count'))} experts.")
        keys.get("expert_used_count")
        return {}
    if architecture.score is not None:
        keys.require("expert_gating_func", architecture.score)
        for key in ("expert_group_count", "expert_group_used_count"):
            keys.require(key, 0, 1)
    sizes = (keys.size(key) for key in ("expert_count", "expert_used_count", "expert_feed_forward_length"))
    return dict(zip(architecture.experts, sizes, strict=True))
