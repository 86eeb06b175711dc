"""8-bit floats with scales by block, row or tensor: DeepSeek, Qwen3-FP8, MiniMax, Kimi, FBGEMM, and ModelOpt's.

`X` in float8 beside `X_scale_inv` or `X_scale`; a value is the stored number times its scale (DeepSeek-V3, 2024).
DeepSeek-V4 calls the scales of `Y.weight` `Y.scale`, powers of two in a byte each, and has its experts in mxfp4: bytes
with two values, which it stores as int8.
"""

from __future__ import annotations

from landrace.checkpoints.quantised.fp4 import put_fp4
from landrace.checkpoints.quantised.parts import Parts
from landrace.checkpoints.quantised.scaled import FP8, SCALES, put_scaled
from landrace.checkpoints.quantised.settings import refuse_cache_scales
from landrace.checkpoints.tensor_info import TensorInfo
from landrace.models.families.config import Config

WEIGHT, BESIDE = ".weight", ".scale"
PAIRS = "I8"
"""Two 4-bit floats in a byte, which safetensors had no type for."""

IGNORABLE = (
    # What the activations of a layer were rounded with: here they are not.
    r".*\.(activation_scale|input_scale|activation_scale_ub)",
)


def read_fp8(settings: Config, parts: Parts) -> None:
    """Reads what is stored in float8 or as pairs of 4-bit floats; what is not is left as it is."""
    refuse_cache_scales(settings, "kv_cache_scheme", "kv_cache_quant_algo")
    settings.require("fmt", "e4m3", "e5m2")
    settings.require("scale_fmt", "ue8m0", "float")
    size = settings.get("weight_block_size")
    if size is not None and not (
        isinstance(size, list) and len(size) == 2 and all(type(one) is int and one > 0 for one in size)
    ):
        raise settings.wrong("weight_block_size", size, "a list of two sizes")
    settings.finish(
        (
            "quant_(method|algo|type)|activation_(scheme|scale_ub)|modules_to_not_convert|ignored_layers|ignore|"
            "exclude_modules|modules_to_convert|dequantize|producer|config_groups|group_size|is_checkpoint_fp8_serialized|"
            "expert_dtype",
        )
    )
    beside = any(name.endswith(BESIDE) for name in parts.left)
    for name, info in [*parts.left.items()]:
        if info.dtype in FP8:
            put_scaled(parts, name, _scale_of(parts, name, beside), size)
        elif info.dtype == PAIRS:
            scale = _scale_of(parts, name, beside)
            put_fp4(parts, name, parts.take(name, name), scale)


def _scale_of(parts: Parts, name: str, beside: bool) -> TensorInfo:
    """`beside`: files name scales as DeepSeek-V4's do."""
    if beside and name.endswith(WEIGHT):
        return parts.take(name.removesuffix(WEIGHT) + BESIDE, name)
    found = (parts.take_if(name + ending) for ending in SCALES)
    return next((one for one in found if one is not None), None) or parts.take(name + SCALES[0], name)
