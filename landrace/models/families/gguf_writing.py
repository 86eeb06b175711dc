"""The metadata of a GGUF file of a model that came as a config.json: `config_from_gguf` the other way round.

Not every model can be written. What was written is read again, and must amount to the same `ModelSpec`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from landrace.errors import LandraceError, UnsupportedError
from landrace.models.families import read_config, stated_config
from landrace.models.families.gguf import config_from_gguf, gguf_sources
from landrace.models.families.gguf_architectures import ARCHITECTURES, Architecture
from landrace.models.families.gguf_rope import llama3_factors
from landrace.models.families.weights import Source
from landrace.models.ffn_spec import Dense, Moe
from landrace.models.mixer_spec import Gqa, RopeSpec
from landrace.models.spec import ModelSpec

Factors = dict[str, Sequence[float]]
"""Small tensors that belong to the metadata, by name."""


def gguf_of(config: Mapping[str, Any]) -> tuple[dict[str, Any], Factors, dict[str, Source]]:
    """Metadata (without a tokenizer), the tensors with rotary factors, and where the file keeps each parameter.

    UnsupportedError where llama.cpp has no such model, or its metadata are not written here.
    """
    spec, stated = read_config(config).spec, stated_config(config)
    name = next((name for name, one in ARCHITECTURES.items() if one.model_type == stated["model_type"]), None)
    if name is None or not all(isinstance(layer.mixer, Gqa) for layer in spec.layers):
        raise _unsupported(stated["model_type"])
    own, factors = _metadata(spec, stated, ARCHITECTURES[name])
    metadata = {"general.architecture": name} | {f"{name}.{key}": value for key, value in own.items()}
    sources = gguf_sources(spec, name)
    tensors = {*factors, *(tensor for source in sources.values() for tensor in source.tensors)}
    try:
        again = read_config(config_from_gguf(metadata, tensors, lambda tensor: factors[tensor])).spec
    except LandraceError as error:
        raise _unsupported(stated["model_type"]) from error
    if again != spec:
        raise _unsupported(stated["model_type"])
    return metadata, factors, sources


def _unsupported(model_type: str) -> UnsupportedError:
    return UnsupportedError(
        f"No GGUF file can be written of this model of the type {model_type}.",
        hint="Start from a GGUF of it, or choose a form of safetensors.",
    )


def _metadata(spec: ModelSpec, stated: Mapping[str, Any], known: Architecture) -> tuple[dict[str, Any], Factors]:
    mixer = spec.layers[0].mixer
    assert isinstance(mixer, Gqa)
    ffns = [layer.ffn for layer in spec.layers]
    hidden = [ffn.d_hidden for ffn in ffns if isinstance(ffn, Dense)]
    experts = next((ffn for ffn in ffns if isinstance(ffn, Moe)), None)
    own: dict[str, Any] = {
        "block_count": len(spec.layers),
        "context_length": spec.length_limit or spec.max_length,
        "embedding_length": spec.d_model,
        "feed_forward_length": hidden[0] if hidden else stated["intermediate_size"],
        "vocab_size": spec.vocab_size,
        "attention.head_count": mixer.n_heads,
        "attention.head_count_kv": mixer.n_kv_heads,
        "attention.key_length": mixer.head_dim,
        "attention.value_length": mixer.head_dim,
        "attention.layer_norm_rms_epsilon": spec.norm_eps,
    }
    if experts is not None:
        own |= {
            "expert_count": experts.n_experts,
            "expert_used_count": experts.router.top_k,
            "expert_feed_forward_length": experts.d_hidden,
        }
        if known.score is not None:
            own["expert_gating_func"] = known.score
    own |= {key: stated[name] for name, (_, key) in known.reads.items() if stated.get(name) is not None}
    rope = next((layer.mixer.rope for layer in spec.layers if layer.mixer.rope is not None), None)
    factors: Factors = {}
    if rope is not None:
        scaling, factors = _scaling(rope)
        own |= {"rope.freq_base": rope.theta, "rope.dimension_count": rope.rotary_dim, **scaling}
    return own, factors


def _scaling(rope: RopeSpec) -> tuple[dict[str, Any], Factors]:
    original = {"rope.scaling.original_context_length": rope.original_length}
    match rope.kind:
        case "linear":
            return {"rope.scaling.type": "linear", "rope.scaling.factor": rope.factor}, {}
        case "yarn":
            betas = {"rope.scaling.yarn_beta_fast": rope.beta_fast, "rope.scaling.yarn_beta_slow": rope.beta_slow}
            return {"rope.scaling.type": "yarn", "rope.scaling.factor": rope.factor, **original, **betas}, {}
        case "llama3":
            bounds = (rope.low_freq_factor, rope.high_freq_factor, rope.original_length)
            return {}, {"rope_freqs.weight": llama3_factors(rope.theta, rope.rotary_dim, rope.factor, bounds)}
        case "longrope":
            magnitude = {"rope.scaling.attn_factor": rope.attention_factor}
            parts = {"long": rope.long_factor, "short": rope.short_factor}
            return original | magnitude, {f"rope_factors_{which}.weight": part for which, part in parts.items()}
        case _:
            return {}, {}
