"""The rotary embedding that a GGUF file's key-values and small tensors amount to, under the hub's keys."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from landrace.errors import UnsupportedError
from landrace.models.families.config import MAX_POSITIONS, Config, shown

ReadTensor = Callable[[str], Sequence[float]]

Bounds = tuple[float, float, int]
LLAMA_BOUNDS: tuple[Bounds, ...] = ((1.0, 4.0, 8192), (1.0, 1.0, 8192))
"""`low_freq_factor`, `high_freq_factor` and original length of Llama 3.1 to 4, and of Llama 4 Scout."""
ALWAYS_PARTIAL = ("glm4", "glm4_moe", "qwen3_next", "qwen3_5_text", "qwen3_5_moe_text")
"""Types whose configuration says how much of a head rotates even where it is all of it."""


def gguf_rope(
    keys: Config,
    config: Mapping[str, Any],
    model_type: str,
    tensor_names: Collection[str],
    read_tensor: ReadTensor | None,
) -> dict[str, Any]:
    """`rope_theta`, `rope_scaling` and, where a part of each head rotates, `partial_rotary_factor`."""
    theta = keys.optional_number("rope.freq_base") or 10_000.0
    found: dict[str, Any] = {"rope_theta": theta}
    rotary_dim = keys.optional_size("rope.dimension_count") or config["head_dim"]
    if model_type in ALWAYS_PARTIAL or rotary_dim != config["head_dim"]:
        found["partial_rotary_factor"] = rotary_dim / config["head_dim"]
    sections = keys.get("rope.dimension_sections")
    if model_type == "glm4" and sections and any(sections):
        raise UnsupportedError(
            "GGUF files of GLM-4V are not supported: their q and k rows are stored in an order of their own.",
            hint="Use the model's safetensors.",
        )
    scaling = _scaling(keys, tensor_names, read_tensor)
    if "rope_freqs.weight" in tensor_names:
        if scaling is not None:
            raise UnsupportedError("The GGUF file has both a rotary scaling and rotary factors.")
        scaling = llama3_scaling(tensor_values("rope_freqs.weight", read_tensor), theta, rotary_dim)
    if scaling is not None:
        found["rope_scaling"] = scaling
    return found


def _scaling(keys: Config, tensor_names: Collection[str], read_tensor: ReadTensor | None) -> dict[str, Any] | None:
    kind = keys.get("rope.scaling.type") or "none"
    factor = keys.optional_number("rope.scaling.factor")
    old_factor = keys.optional_number("rope.scale_linear")
    original = keys.optional_size("rope.scaling.original_context_length", MAX_POSITIONS)
    magnitude = keys.optional_number("rope.scaling.attn_factor")
    if "rope_factors_long.weight" in tensor_names:
        kind = "longrope"
    if kind == "none":
        if (factor or 1) != 1 or (magnitude or 1) != 1:
            raise UnsupportedError("The GGUF file has a rotary scaling factor but names no kind of scaling.")
        return None if (old_factor or 1) == 1 else {"rope_type": "linear", "factor": old_factor}
    if kind == "linear" and (magnitude or 1) == 1:
        return {"rope_type": "linear", "factor": factor or old_factor or 1.0}
    if kind == "yarn" and factor is not None and (magnitude or 1) == 1:
        keys.require("rope.scaling.yarn_attn_factor", 1.0)
        keys.require("rope.scaling.yarn_ext_factor", 1.0, -1.0)
        return {
            "rope_type": "yarn",
            "factor": factor,
            **_mscale(keys),
            "original_max_position_embeddings": original or keys.size("context_length", MAX_POSITIONS),
            "beta_fast": keys.optional_number("rope.scaling.yarn_beta_fast"),
            "beta_slow": keys.optional_number("rope.scaling.yarn_beta_slow"),
        }
    if kind == "longrope":
        return {
            "rope_type": "longrope",
            "short_factor": list(tensor_values("rope_factors_short.weight", read_tensor)),
            "long_factor": list(tensor_values("rope_factors_long.weight", read_tensor)),
            "original_max_position_embeddings": original or keys.size("context_length", MAX_POSITIONS),
            "attention_factor": magnitude,
        }
    raise UnsupportedError(f"Rotary scaling of the kind {shown(kind)} with these settings is not implemented for GGUF.")


def _mscale(keys: Config) -> dict[str, float]:
    """DeepSeek's two magnitudes, of which files say a tenth of the second; llama.cpp takes the first for the same."""
    tenth = keys.optional_number("rope.scaling.yarn_log_multiplier")
    return {} if tenth is None else {"mscale": round(10 * tenth, 6), "mscale_all_dim": round(10 * tenth, 6)}


def tensor_values(tensor: str, read_tensor: ReadTensor | None) -> tuple[float, ...]:
    if read_tensor is None:
        raise UnsupportedError(f"The GGUF file keeps its rotary scaling in {tensor!r}, which was not read.")
    return tuple(float(value) for value in read_tensor(tensor))


def llama3_scaling(
    factors: Sequence[float], theta: float, rotary_dim: int, known: Sequence[Bounds] = LLAMA_BOUNDS
) -> dict[str, Any]:
    """The `rope_scaling` whose factors these are: the longest waves are slowed by all of `factor`, and the bounds are
    among those of published models."""
    factor = max(factors, default=1.0)
    wavelengths = [theta ** (2 * i / rotary_dim) for i in range(rotary_dim // 2)]
    for low, high, original in known if factor >= 1 else ():
        expected = [_llama3_factor(original / (2 * math.pi * wave), factor, low, high) for wave in wavelengths]
        if len(factors) == len(expected) and _close(factors, expected):
            return {
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": low,
                "high_freq_factor": high,
                "original_max_position_embeddings": original,
            }
    raise UnsupportedError("The GGUF file has rotary factors that are not Llama 3's.")


def _close(some: Sequence[float], others: Sequence[float]) -> bool:
    return all(math.isclose(one, other, rel_tol=1e-3) for one, other in zip(some, others, strict=True))


def _llama3_factor(turns: float, factor: float, low: float, high: float) -> float:
    """What a wave that turns so many times over the original length is slowed by."""
    if turns >= high:
        return 1.0
    if turns <= low:
        return factor
    blend = (turns - low) / (high - low)
    return 1 / ((1 - blend) / factor + blend)
