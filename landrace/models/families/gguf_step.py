"""What is Step-3.5's alone in a GGUF file: two numbers of heads, two rotary embeddings."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from landrace.errors import CheckpointError, UnsupportedError
from landrace.models.families.config import Config
from landrace.models.families.gguf_rope import ReadTensor, llama3_scaling, tensor_values

HEADS, PATTERN, SLIDING_HEADS = "attention.head_count", "attention.sliding_window_pattern", "sliding_heads"
BOUNDS = ((1.0, 32.0, 131072),)
"""Of the scaling of published models: see `gguf_rope.LLAMA_BOUNDS`."""


def flattened(own: Mapping[str, Any]) -> dict[str, Any]:
    """The keys with one number of heads for the layers that slide, under a name of its own, and one for the others."""
    heads, pattern = own.get(HEADS), own.get(PATTERN)
    if not isinstance(heads, list) or not isinstance(pattern, list) or not len(heads) == len(pattern) > 0:
        raise CheckpointError(f"The GGUF metadata do not say {HEADS} and {PATTERN} for every layer.")
    full = {count for count, slides in zip(heads, pattern, strict=True) if not slides}
    sliding = {count for count, slides in zip(heads, pattern, strict=True) if slides}
    if len(full) != 1 or len(sliding) != 1:
        raise UnsupportedError("The GGUF file's layers differ in attention.head_count otherwise than by their window.")
    return {**own, HEADS: full.pop(), SLIDING_HEADS: sliding.pop()}


def step_rope(
    keys: Config,
    config: Mapping[str, Any],
    model_type: str,
    tensor_names: Collection[str],
    read_tensor: ReadTensor | None,
) -> dict[str, Any]:
    """`rope_parameters`: layers without a window rotate half of each head, and they alone are scaled.

    The converter makes the factors as if all of a head rotated.
    """
    head_dim, theta = config["head_dim"], keys.optional_number("rope.freq_base") or 10_000.0
    keys.require("rope.dimension_count", head_dim, head_dim // 2)
    keys.require("rope.dimension_count_swa", head_dim)
    full: dict[str, Any] = {"rope_type": "default"}
    if "rope_freqs.weight" in tensor_names:
        full = llama3_scaling(tensor_values("rope_freqs.weight", read_tensor), theta, head_dim, BOUNDS)
    elif keys.get("rope.scaling.type") not in (None, "none"):
        raise UnsupportedError("The GGUF file scales Step's rotary embedding in a way that is not implemented.")
    sliding = {"rope_type": "default", "rope_theta": keys.optional_number("rope.freq_base_swa") or theta}
    return {
        "rope_parameters": {
            "full_attention": {**full, "rope_theta": theta, "partial_rotary_factor": 0.5},
            "sliding_attention": {**sliding, "partial_rotary_factor": 1.0},
        }
    }
