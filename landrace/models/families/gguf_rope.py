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
STEP_BOUNDS: tuple[Bounds, ...] = ((1.0, 32.0, 131072),)
ReadRope = Callable[[Config, Mapping[str, Any], Collection[str], ReadTensor | None], dict[str, Any]]
"""Called with the file's keys, the config so far, the names of the file's tensors and what reads one."""


def gguf_rope(
    keys: Config, config: Mapping[str, Any], tensor_names: Collection[str], read_tensor: ReadTensor | None
) -> dict[str, Any]:
    """`rope_theta`, `rope_scaling` and, where a part of each head rotates, `partial_rotary_factor`."""
    theta = keys.optional_number("rope.freq_base") or 10_000.0
    found: dict[str, Any] = {"rope_theta": theta}
    rotary_dim = keys.optional_size("rope.dimension_count") or config["head_dim"]
    if rotary_dim != config["head_dim"]:
        found["partial_rotary_factor"] = rotary_dim / config["head_dim"]
    keys.get("rope.dimension_sections")
    scaling = _scaling(keys, tensor_names, read_tensor)
    if "rope_freqs.weight" in tensor_names:
        if scaling is not None:
            raise UnsupportedError("The GGUF file has both a rotary scaling and rotary factors.")
        scaling = _llama3_scaling(_tensor_values("rope_freqs.weight", read_tensor), theta, rotary_dim)
    if scaling is not None:
        found["rope_scaling"] = scaling
    return found


def gpt_oss_rope(
    keys: Config, config: Mapping[str, Any], tensor_names: Collection[str], read_tensor: ReadTensor | None
) -> dict[str, Any]:
    """The model does not round the bounds of its scaling, whatever llama.cpp does."""
    found = gguf_rope(keys, config, tensor_names, read_tensor)
    if "rope_scaling" in found:
        found["rope_scaling"] |= {"truncate": False}
    return found


def step_rope(
    keys: Config, config: Mapping[str, Any], tensor_names: Collection[str], read_tensor: ReadTensor | None
) -> dict[str, Any]:
    """`rope_parameters`: layers without a window rotate half of each head, and they alone are scaled.

    The converter makes the factors as if all of a head rotated.
    """
    head_dim, theta = config["head_dim"], keys.optional_number("rope.freq_base") or 10_000.0
    keys.require("rope.dimension_count", head_dim, head_dim // 2)
    keys.require("rope.dimension_count_swa", head_dim)
    full: dict[str, Any] = {"rope_type": "default"}
    if "rope_freqs.weight" in tensor_names:
        full = _llama3_scaling(_tensor_values("rope_freqs.weight", read_tensor), theta, head_dim, STEP_BOUNDS)
    elif keys.get("rope.scaling.type") not in (None, "none"):
        raise UnsupportedError("The GGUF file scales Step's rotary embedding in a way that is not implemented.")
    sliding = {"rope_type": "default", "rope_theta": keys.optional_number("rope.freq_base_swa") or theta}
    return {
        "rope_parameters": {
            "full_attention": {**full, "rope_theta": theta, "partial_rotary_factor": 0.5},
            "sliding_attention": {**sliding, "partial_rotary_factor": 1.0},
        }
    }


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
            "short_factor": list(_tensor_values("rope_factors_short.weight", read_tensor)),
            "long_factor": list(_tensor_values("rope_factors_long.weight", read_tensor)),
            "original_max_position_embeddings": original or keys.size("context_length", MAX_POSITIONS),
            "attention_factor": magnitude,
        }
    raise UnsupportedError(f"Rotary scaling of the kind {shown(kind)} with these settings is not implemented for GGUF.")


def _mscale(keys: Config) -> dict[str, float]:
    """DeepSeek's two magnitudes, of which files say a tenth of the second; llama.cpp takes the first for the same."""
    tenth = keys.optional_number("rope.scaling.yarn_log_multiplier")
    return {} if tenth is None else {"mscale": round(10 * tenth, 6), "mscale_all_dim": round(10 * tenth, 6)}


def _tensor_values(tensor: str, read_tensor: ReadTensor | None) -> tuple[float, ...]:
    if read_tensor is None:
        raise UnsupportedError(f"The GGUF file keeps its rotary scaling in {tensor!r}, which was not read.")
    return tuple(float(value) for value in read_tensor(tensor))


def _llama3_scaling(
    factors: Sequence[float], theta: float, rotary_dim: int, known: Sequence[Bounds] = LLAMA_BOUNDS
) -> dict[str, Any]:
    """The `rope_scaling` whose factors these are: the longest waves are slowed by all of `factor`, and the bounds are
    among those of published models."""
    factor = max(factors, default=1.0)
    for low, high, original in known if factor >= 1 else ():
        expected = llama3_factors(theta, rotary_dim, factor, (low, high, original))
        if len(factors) == len(expected) and _close(factors, expected):
            return {
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": low,
                "high_freq_factor": high,
                "original_max_position_embeddings": original,
            }
    raise UnsupportedError("The GGUF file has rotary factors that are not Llama 3's.")


def llama3_factors(theta: float, rotary_dim: int, factor: float, bounds: Bounds) -> list[float]:
    """What each pair of channels is slowed by."""
    low, high, original = bounds
    wavelengths = [theta ** (2 * i / rotary_dim) for i in range(rotary_dim // 2)]
    return [_llama3_factor(original / (2 * math.pi * wave), factor, low, high) for wave in wavelengths]


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
