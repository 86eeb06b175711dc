"""The metadata of a GGUF file of a model that came as a config.json: `config_from_gguf` the other way round.

Not every model can be written. What was written is read again, and must amount to the same `ModelSpec`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from landrace.errors import LandraceError, UnsupportedError
from landrace.kernels.router import Router
from landrace.models.families import read_config, stated_config
from landrace.models.families.config import Config
from landrace.models.families.gguf import config_from_gguf, gguf_sources
from landrace.models.families.gguf_architecture import NUMBER, SIGMOID, SOFTMAX, Architecture
from landrace.models.families.gguf_architectures import ARCHITECTURES
from landrace.models.families.gguf_delta import written_delta
from landrace.models.families.gguf_kimi_k3 import as_in_files
from landrace.models.families.gguf_latent import written_latents
from landrace.models.families.gguf_rope import llama3_factors
from landrace.models.families.kimi_k3 import is_extended
from landrace.models.families.weights import Source
from landrace.models.ffn_spec import Dense, Moe
from landrace.models.mixer_spec import Gdn, Gqa, Mla, RopeSpec
from landrace.models.spec import ModelSpec

_NAMES = {
    **{one.model_type: name for name, one in reversed([*ARCHITECTURES.items()])},
    **dict.fromkeys(("deepseek_v2", "kimi_k2", "glm4_moe_lite"), "deepseek2"),
    **dict.fromkeys(("qwen2_vl_text", "qwen2_5_vl_text"), "qwen2vl"),
    "chatglm": "chatglm",
    "hunyuan_vl_text": "hunyuan_vl",
    "qwen3_vl_text": "qwen3vl",
    "qwen3_vl_moe_text": "qwen3vlmoe",
}
"""Model types to architectures, the first of several."""
SAID_BY_SHAPES = ("make_ngram_vocab_size_divisible_by",)
"""Keys of a config.json that a file leaves to the shapes of its tensors."""
Factors = dict[str, Sequence[float]]
"""Small tensors that belong to the metadata, by name."""


def keeps_drafts(config: Mapping[str, Any]) -> bool:
    """Whether a GGUF file of the model may hold its layer that guesses further tokens."""
    name = _NAMES.get(stated_config(config)["model_type"])
    return name is not None and ARCHITECTURES[name].drafts


def gguf_of(config: Mapping[str, Any], *, mtp: bool = False) -> tuple[dict[str, Any], Factors, dict[str, Source]]:
    """Metadata (without a tokenizer), the tensors with rotary factors, and where the file keeps each parameter.

    `mtp`: with the layer that guesses the token after the next one. UnsupportedError where llama.cpp has no such model,
    or its metadata are not written here.
    """
    spec, stated = as_in_files(read_config(config, mtp=mtp).spec), stated_config(config)
    name = _NAMES.get(stated["model_type"])
    name = "kimi-k3" if name == "kimi-linear" and is_extended(spec) else name
    if name is None:
        raise _unsupported(stated["model_type"])
    own, factors = _metadata(spec, stated, ARCHITECTURES[name])
    metadata = {"general.architecture": name} | {f"{name}.{key}": value for key, value in own.items()}
    sources = gguf_sources(spec, name)
    tensors = {*factors, *(tensor for source in sources.values() for tensor in source.tensors)}
    by_shapes = {key: stated[key] for key in SAID_BY_SHAPES if key in stated}
    try:
        told = config_from_gguf(metadata, tensors, lambda tensor: factors[tensor])
        again = read_config(told | by_shapes, mtp=mtp).spec
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
    ffns = [layer.ffn for layer in spec.layers]
    hidden = [ffn.d_hidden for ffn in ffns if isinstance(ffn, Dense)]
    experts = next((ffn for ffn in ffns if isinstance(ffn, Moe)), None)
    own: dict[str, Any] = {
        "block_count": len(spec.layers) + (spec.mtp is not None),
        "nextn_predict_layers": None if spec.mtp is None else 1,
        "context_length": spec.length_limit or spec.max_length,
        "embedding_length": spec.d_model,
        "feed_forward_length": hidden[0] if hidden else stated.get("intermediate_size"),
        "vocab_size": spec.vocab_size,
        "attention.layer_norm_rms_epsilon": spec.norm_eps,
        **_attention(spec),
    }
    if experts is not None:
        own |= {
            "expert_count": experts.n_experts,
            "expert_used_count": experts.router.top_k,
            "expert_feed_forward_length": experts.d_hidden,
            **_routing(experts.router, known),
        }
    own |= {key: _as_read(how, stated.get(name)) for name, (how, key) in known.reads.items()}
    if "leading_dense_block_count" in own:
        own["leading_dense_block_count"] = next((n for n, ffn in enumerate(ffns) if isinstance(ffn, Moe)), 0)
    ropes = [layer.mixer.rope for layer in spec.layers if layer.mixer.rope is not None]
    rope = next((one for one in ropes if one.kind != "default"), next(iter(ropes), None))
    factors: Factors = {}
    if rope is not None:
        scaling, factors = _scaling(rope, stated.get("rope_parameters") or stated.get("rope_scaling") or {})
        own |= {"rope.freq_base": rope.theta, "rope.dimension_count": rope.rotary_dim, **scaling}
    own |= {**known.fixed, **known.writes(spec, dict(stated))}
    return {key: value for key, value in own.items() if value is not None}, factors


def _as_read(how: Callable[[Config, str], Any], value: Any) -> Any:
    """A whole number in a config.json may be meant as a fraction."""
    return float(value) if how is NUMBER and value is not None else value


def _attention(spec: ModelSpec) -> dict[str, Any]:
    """What the first layer of each kind says for all of them."""
    own: dict[str, Any] = {}
    for mixer in reversed([layer.mixer for layer in spec.layers]):
        if isinstance(mixer, Mla):
            own |= written_latents(mixer)
        elif isinstance(mixer, Gdn):
            own |= written_delta(mixer)
        elif isinstance(mixer, Gqa):
            own |= {
                "attention.head_count": mixer.n_heads,
                "attention.head_count_kv": mixer.n_kv_heads,
                "attention.key_length": mixer.head_dim,
                "attention.value_length": mixer.head_dim,
            }
    attending = [number for number, layer in enumerate(spec.layers) if not isinstance(layer.mixer, Gdn)]
    if len(attending) < len(spec.layers):
        own["full_attention_interval"] = attending[0] + 1 if attending else None
    return own


def _routing(router: Router, known: Architecture) -> dict[str, Any]:
    """Files of architectures whose code fixes how experts are scored need not say it."""
    if known.score is not None:
        return {"expert_gating_func": known.score}
    return {
        "expert_gating_func": SOFTMAX if router.score == "softmax" else SIGMOID,
        "expert_weights_norm": router.renorm,
        "expert_group_count": router.n_groups,
        "expert_group_used_count": router.top_groups,
    }


def _scaling(rope: RopeSpec, stated: Mapping[str, Any]) -> tuple[dict[str, Any], Factors]:
    original = {"rope.scaling.original_context_length": rope.original_length}
    match rope.kind:
        case "linear":
            return {"rope.scaling.type": "linear", "rope.scaling.factor": rope.factor}, {}
        case "yarn":
            betas = {"rope.scaling.yarn_beta_fast": rope.beta_fast, "rope.scaling.yarn_beta_slow": rope.beta_slow}
            if (magnitude := stated.get("mscale_all_dim")) is not None:
                betas["rope.scaling.yarn_log_multiplier"] = 0.1 * magnitude
            return {"rope.scaling.type": "yarn", "rope.scaling.factor": rope.factor, **original, **betas}, {}
        case "llama3":
            bounds = (rope.low_freq_factor, rope.high_freq_factor, rope.original_length)
            return {}, {"rope_freqs.weight": llama3_factors(rope.theta, rope.rotary_dim, rope.factor, bounds)}
        case "longrope":
            magnitude = {"rope.scaling.attn_factor": rope.attention_factor}
            parts = {"long": rope.long_factor, "short": rope.short_factor}
            return original | magnitude, {f"rope_factors_{which}.weight": part for which, part in parts.items()}
        case _:
            sections = stated.get("mrope_section")
            return {"rope.dimension_sections": [*sections, 0] if sections else None}, {}
