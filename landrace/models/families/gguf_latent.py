"""Latent attention in a GGUF file: its widths under the hub's keys, and the forms its two halves come in.

Facts from llama.cpp: newer files say key_length and value_length of the latents, as one head of keys and values, and
the heads' own as key_length_mla and value_length_mla; older ones say the heads' own as key_length and value_length.
Newer files keep the keys' half transposed and both with an axis of heads, older ones both in attn_kv_b as the hub does.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from landrace.errors import CheckpointError
from landrace.models.families.config import Config
from landrace.models.families.names import Naming
from landrace.models.mixer_spec import Mla

WIDTHS = ("key_length", "value_length", "key_length_mla", "value_length_mla", "q_lora_rank", "kv_lora_rank")


def latent_widths(own: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of latent attention, under the hub's keys."""
    keys = Config(own, where="The GGUF metadata")
    found = {name: keys.optional_size(f"attention.{name}") if own.get(f"attention.{name}") else None for name in WIDTHS}
    turned = 0 if own.get("rope.dimension_count") == 0 else keys.size("rope.dimension_count")
    key = found["key_length_mla"] or found["key_length"] or 0
    if key <= turned:
        raise CheckpointError(f"The GGUF metadata give each head {key} channels, of which {turned} turn.")
    return {
        "q_lora_rank": found["q_lora_rank"],
        "kv_lora_rank": keys.size("attention.kv_lora_rank"),
        "qk_nope_head_dim": key - turned,
        "qk_rope_head_dim": turned,
        "v_head_dim": found["value_length_mla"] or found["value_length"],
    }


def written_latents(mixer: Mla) -> dict[str, Any]:
    """The same of newer files, the other way round."""
    return {
        "attention.head_count": mixer.n_heads,
        "attention.head_count_kv": 1,
        "attention.key_length": mixer.kv_rank + mixer.rope_dim,
        "attention.value_length": mixer.kv_rank,
        "attention.key_length_mla": mixer.nope_dim + mixer.rope_dim,
        "attention.value_length_mla": mixer.v_dim,
        "attention.q_lora_rank": mixer.q_rank,
        "attention.kv_lora_rank": mixer.kv_rank,
        "rope.dimension_count": mixer.rope_dim,
    }


def without_latents(own: Mapping[str, Any]) -> dict[str, Any]:
    """The other keys, with what turns of each head as all of it."""
    left = {key: value for key, value in own.items() if key.removeprefix("attention.") not in WIDTHS}
    return left | {
        "attention.head_count_kv": own.get("attention.head_count"),
        "attention.key_length": own.get("rope.dimension_count") or None,
    }


def with_latents(naming: Naming, tensor_names: Collection[str]) -> Naming:
    """`naming` for the form in which a file with these tensors keeps the two halves."""
    kinds = {name.rpartition("blk.")[2].partition(".")[2] for name in tensor_names}
    if "attn_kv_b.weight" in kinds and "attn_k_b.weight" not in kinds:
        halves = ("self_attn.k_b_proj", "self_attn.v_b_proj")
        return replace(naming, fused={**naming.fused, "attn_kv_b": halves}, by_head=("attn_kv_b.weight",))
    return replace(naming, head_axis=("attn_k_b.weight", "attn_v_b.weight"), transposed=("attn_k_b.weight",))
