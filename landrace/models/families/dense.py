"""Reads what families with grouped-query attention have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from landrace.errors import CheckpointError, UnsupportedError
from landrace.kernels.head_form import QkNorm
from landrace.kernels.mask import FULL, Sliding
from landrace.models.families.config import MAX_LAYERS, MAX_POSITIONS, Config, shown
from landrace.models.families.rope import lengths, read_rope
from landrace.models.ffn_spec import Dense, Ffn
from landrace.models.mixer_spec import Gqa, Mixer
from landrace.models.spec import PLAIN, LayerSpec, ModelSpec, Residual


def read_attention(
    config: Config,
    *,
    bias: bool = False,
    qkv_bias: bool = False,
    o_bias: bool = False,
    qk_norm: QkNorm | None = None,
    scale: float | None = None,
    partial_rotary: bool = False,
    ntk_alpha: bool = False,
) -> Gqa:
    """Full grouped-query attention with rotary embedding. `bias`: of all four projections, or `qkv_bias` and `o_bias`
    of some. `scale` None: head_dim ** -0.5."""
    n_heads, n_kv_heads, head_dim = read_heads(config)
    return Gqa(
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        head_dim=head_dim,
        scale=head_dim**-0.5 if scale is None else scale,
        rope=read_rope(config, head_dim, partial=partial_rotary, ntk_alpha=ntk_alpha),
        qkv_bias=bias or qkv_bias,
        o_bias=bias or o_bias,
        qk_norm=qk_norm,
    )


def read_heads(config: Config) -> tuple[int, int, int]:
    """Heads of queries, heads of keys and values, and their width."""
    n_heads = config.size("num_attention_heads")
    n_kv_heads = config.optional_size("num_key_value_heads") or n_heads
    if n_heads % n_kv_heads:
        raise CheckpointError(f"{n_heads} attention heads cannot share {n_kv_heads} key-value heads.")
    d_model = config.size("hidden_size")
    head_dim = config.optional_size("head_dim")
    if head_dim is None:
        if d_model % n_heads:
            raise CheckpointError(f"The hidden size {d_model} is not a multiple of the {n_heads} attention heads.")
        head_dim = d_model // n_heads
    return n_heads, n_kv_heads, head_dim


def n_layers(config: Config) -> int:
    return config.size("num_hidden_layers", MAX_LAYERS)


def read_mlp(config: Config, bias: bool = False) -> Dense:
    """The gated MLP of layers without experts."""
    return Dense(config.size("intermediate_size"), bias)


def read_decoder(
    config: Config,
    attention: Mixer | Sequence[Mixer],
    ffn: Ffn | Sequence[Ffn],
    *,
    lm_head_bias: bool = False,
    embed_scale: float = 1.0,
    residual: Residual | Sequence[Residual] = PLAIN,
    logit_divisor: float = 1.0,
) -> ModelSpec:
    """A decoder with these attentions, feed-forward layers and residual forms: one for every layer, or one for all."""
    count = n_layers(config)
    mixers = attention if isinstance(attention, Sequence) else [attention] * count
    ffns = ffn if isinstance(ffn, Sequence) else [ffn] * count
    residuals = residual if isinstance(residual, Sequence) else [residual] * count
    max_length, length_limit = lengths(config, next((one.rope for one in mixers if one.rope is not None), None))
    return ModelSpec(
        vocab_size=config.size("vocab_size"),
        d_model=config.size("hidden_size"),
        layers=tuple(map(LayerSpec, mixers, ffns, residuals)),
        norm_eps=config.number("rms_norm_eps"),
        tie_embeddings=config.flag("tie_word_embeddings"),
        max_length=max_length,
        length_limit=length_limit,
        embed_scale=embed_scale,
        logit_divisor=logit_divisor,
        lm_head_bias=lm_head_bias,
    )


def up_to(spec: ModelSpec, length: int) -> ModelSpec:
    """The model for sequences of at most `length` tokens, where longer ones would be computed otherwise."""
    limit = min(spec.length_limit or spec.max_length, length)
    return replace(spec, max_length=min(spec.max_length, length), length_limit=limit)


def with_windows(config: Config, attention: Gqa, usual: Sequence[bool], *, optional: bool = True) -> list[Gqa]:
    """`attention` for every layer, with the sliding window in those that `layer_types` names.

    `usual` says which layers slide when there is no `layer_types`, should the configuration use a window at all;
    `optional`: `use_sliding_window` says whether it does.
    """
    window = config.optional_size("sliding_window", MAX_POSITIONS) if config.get("sliding_window") != 0 else None
    if optional and not config.flag("use_sliding_window"):
        window = None
    slides = layer_kinds(config, "layer_types", len(usual), {"full_attention": False, "sliding_attention": True})
    if slides is None:
        slides = [window is not None and one for one in usual]
    if window is None and any(slides):
        raise CheckpointError("The configuration names sliding layers but uses no sliding window.")
    return [replace(attention, mask=Sliding(window) if one and window is not None else FULL) for one in slides]


def layer_kinds(config: Config, key: str, count: int, meanings: Mapping[str, bool]) -> list[bool] | None:
    """What the names under `key`, one a layer, mean; None when the configuration does not have the key."""
    kinds = config.per_layer(key, count)
    if kinds is None:
        return None
    unknown = [kind for kind in kinds if not isinstance(kind, str) or kind not in meanings]
    if unknown:
        raise UnsupportedError(f"Layers of the type {shown(unknown[0])} are not implemented.")
    return [meanings[kind] for kind in kinds]
