"""Reads the rotary embedding out of a config.json: `rope_parameters` (transformers 5) or `rope_theta`,
`rope_scaling` and `partial_rotary_factor` (before)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from landrace.errors import CheckpointError, UnsupportedError
from landrace.models.families.config import MAX_POSITIONS, Config, shown
from landrace.models.mixer_spec import DualChunk, RopeSpec

TEXT_ONLY = ("mrope_section", "mrope_interleaved", "xdrope_section")
"""How image positions share the channels; with text alone every section turns by the same position."""


def read_rope(config: Config, head_dim: int, *, partial: bool = False, ntk_alpha: bool = False) -> RopeSpec:
    """The `RopeSpec` of every layer that rotates.

    `partial`: the family can rotate a part of each head. `ntk_alpha`: its "dynamic" may come with a fixed `alpha`.
    """
    section = _rope_section(config)
    theta = config.optional_number("rope_theta")
    share = config.optional_number("partial_rotary_factor")
    outer_original = config.optional_size("original_max_position_embeddings", MAX_POSITIONS)
    length = config.size("max_position_embeddings", MAX_POSITIONS)

    inner_theta = section.optional_number("rope_theta")
    theta = inner_theta if inner_theta is not None else theta
    if theta is None or theta <= 1:
        raise CheckpointError(f"The rotary base {shown(theta)} is not a number above 1.")
    inner_share = section.optional_number("partial_rotary_factor")
    share = inner_share if inner_share is not None else share
    if share is not None and share != 1 and not partial:
        raise UnsupportedError("The configuration rotates a part of each head, which this family does not do.")
    rotary_dim = int(head_dim * (share or 1.0))
    if not 4 <= rotary_dim <= head_dim or rotary_dim % 2:
        raise CheckpointError(f"The configuration rotates {rotary_dim} of {head_dim} channels, which is impossible.")

    kind = section.get("rope_type") or section.get("type") or "default"
    section.get("type")
    for key in TEXT_ONLY:
        section.get(key)
    inner_original = section.optional_size("original_max_position_embeddings", MAX_POSITIONS)
    original = outer_original or inner_original or length
    if original < 2:
        raise CheckpointError("The model's original length must be at least 2 tokens.")
    rope = _read_kind(section, kind, theta, rotary_dim, length, original, ntk_alpha)
    section.finish()
    return _with_chunks(config, rope)


def _rope_section(config: Config) -> Config:
    """`rope_scaling`, else `rope_parameters`, else nothing. One record for each layer type is taken when all agree."""
    key = "rope_scaling" if config.get("rope_scaling") else "rope_parameters"
    config.get("rope_parameters")
    section = config.section(key)
    if section is None:
        return Config({})
    records = list(config.get(key).values())
    if not all(isinstance(record, Mapping) for record in records):
        return section
    if any(record != records[0] for record in records):
        raise UnsupportedError("The configuration gives each layer type a rotary embedding of its own.")
    return Config(records[0], where=f"config.json's {key}")


def _read_kind(
    section: Config, kind: object, theta: float, rotary_dim: int, length: int, original: int, ntk_alpha: bool
) -> RopeSpec:
    if kind in ("default", "mrope"):
        return RopeSpec(theta, rotary_dim)
    if kind == "linear":
        return RopeSpec(theta, rotary_dim, "linear", factor=section.number("factor"))
    if kind in ("dynamic", "xdrope") and ntk_alpha and section.get("alpha"):
        for key in ("factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim"):
            section.get(key)  # Stored beside alpha, and read by nobody.
        alpha = section.number("alpha")
        return RopeSpec(theta * alpha ** (rotary_dim / (rotary_dim - 2)), rotary_dim)
    if kind == "dynamic":
        return RopeSpec(theta, rotary_dim, "dynamic", factor=section.number("factor"), original_length=length)
    if kind == "llama3":
        return _llama3(section, theta, rotary_dim, original)
    if kind == "yarn":
        return _yarn(section, theta, rotary_dim, length, original)
    if kind == "longrope":
        return _longrope(section, theta, rotary_dim, length, original)
    raise UnsupportedError(f"Rotary scaling of the kind {shown(kind)} is not implemented.")


def _llama3(section: Config, theta: float, rotary_dim: int, original: int) -> RopeSpec:
    low, high = section.number("low_freq_factor"), section.number("high_freq_factor")
    if high < low:  # Llama 4 Scout sets both to 1: nothing is blended.
        raise CheckpointError(f"high_freq_factor {high} must not be below low_freq_factor {low}.")
    return RopeSpec(
        theta,
        rotary_dim,
        "llama3",
        factor=section.number("factor"),
        original_length=original,
        low_freq_factor=low,
        high_freq_factor=high,
    )


def _yarn(section: Config, theta: float, rotary_dim: int, length: int, original: int) -> RopeSpec:
    factor = section.optional_number("factor") or length / original
    attention_factor = section.optional_number("attention_factor")
    mscale, mscale_all_dim = section.optional_number("mscale"), section.optional_number("mscale_all_dim")
    if attention_factor is None and mscale and mscale_all_dim:
        attention_factor = _yarn_magnitude(factor, mscale) / _yarn_magnitude(factor, mscale_all_dim)
    truncate = section.get("truncate")
    if truncate not in (None, True, False):
        raise section.wrong("truncate", truncate, "true or false")
    return RopeSpec(
        theta,
        rotary_dim,
        "yarn",
        factor=factor,
        original_length=original,
        beta_fast=section.optional_number("beta_fast") or 32.0,
        beta_slow=section.optional_number("beta_slow") or 1.0,
        truncate=truncate is not False,
        attention_factor=attention_factor or _yarn_magnitude(factor, 1.0),
    )


def _yarn_magnitude(factor: float, mscale: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0


def yarn_scale(config: Config) -> float:
    """What latent attention's queries and keys are each multiplied by beside their rotation: yarn's magnitude for
    `mscale_all_dim` (DeepSeek-V2)."""
    section = _rope_section(config)
    mscale = section.optional_number("mscale_all_dim")
    kind = section.get("rope_type") or section.get("type")
    return 1.0 if kind != "yarn" or mscale is None else _yarn_magnitude(section.number("factor"), mscale)


def _longrope(section: Config, theta: float, rotary_dim: int, length: int, original: int) -> RopeSpec:
    factor = section.optional_number("factor") or length / original
    magnitude = 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(original))
    short, long = section.numbers("short_factor"), section.numbers("long_factor")
    if not len(short) == len(long) == rotary_dim // 2:
        raise CheckpointError(
            f"longrope needs {rotary_dim // 2} short and as many long factors, not {len(short)} and {len(long)}."
        )
    return RopeSpec(
        theta,
        rotary_dim,
        "longrope",
        factor=factor,
        original_length=original,
        attention_factor=section.optional_number("attention_factor") or magnitude,
        short_factor=short,
        long_factor=long,
    )


def lengths(config: Config, rope: RopeSpec | None) -> tuple[int, int]:
    """The longest sequence the model is opened for unless a longer one is asked for, and the longest that may be.

    They differ where a longer reach takes another table: longrope was trained at its original length and reaches
    `max_position_embeddings`, and so does a model with dual chunks; dynamic reaches `factor` times that. yarn has one
    table, which reaches `factor` times its original length.
    """
    length = config.size("max_position_embeddings", MAX_POSITIONS)
    if rope is None:
        return length, length
    if rope.kind == "longrope" or rope.chunks is not None:
        return min(rope.original_length, length), length
    stretched = min(max(length, int(rope.original_length * rope.factor)), MAX_POSITIONS)
    if rope.kind == "dynamic":
        return length, stretched
    return (stretched, stretched) if rope.kind == "yarn" else (length, length)


def _with_chunks(config: Config, rope: RopeSpec) -> RopeSpec:
    """Dual chunk attention, where the configuration asks for it (Qwen2.5-1M). That some engines leave out keys of very
    long prompts (`sparse_attention_enabled`) is a shortcut of theirs."""
    section = config.section("dual_chunk_attention_config")
    if section is None:
        return rope
    reach, local = section.size("chunk_size", MAX_POSITIONS), section.size("local_size", MAX_POSITIONS)
    length = config.size("max_position_embeddings", MAX_POSITIONS)
    original = section.optional_size("original_max_position_embeddings", MAX_POSITIONS) or length
    section.finish((r"sparse_attention_.*",))
    if local >= reach:
        raise CheckpointError(f"Chunks of {reach} positions cannot have {local} of them in common.")
    if rope.kind != "default":
        raise UnsupportedError("Dual chunk attention over stretched rotary positions is not implemented.")
    return replace(rope, chunks=DualChunk(reach - local, reach), original_length=original)
