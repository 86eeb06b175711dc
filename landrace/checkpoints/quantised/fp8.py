"""8-bit floats with scales by block, row or tensor: DeepSeek, Qwen3-FP8, MiniMax, Kimi, FBGEMM, and ModelOpt's.

`X` in float8 beside `X_scale_inv` or `X_scale`; a value is the stored number times its scale (DeepSeek-V3, 2024).
"""

from __future__ import annotations

from landrace.checkpoints.quantised.parts import Parts
from landrace.checkpoints.quantised.scaled import FP8, SCALES, put_scaled
from landrace.checkpoints.quantised.settings import refuse_cache_scales
from landrace.models.families.config import Config

IGNORABLE = (
    # What the activations of a layer were rounded with: here they are not.
    r".*\.(activation_scale|input_scale|activation_scale_ub)",
)


def read_fp8(settings: Config, parts: Parts) -> None:
    """Reads what is stored in float8; what is not is left as it is."""
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
            "exclude_modules|modules_to_convert|dequantize|producer|config_groups|group_size|is_checkpoint_fp8_serialized",
        )
    )
    for name in [name for name, info in parts.left.items() if info.dtype in FP8]:
        found = (parts.take_if(name + ending) for ending in SCALES)
        scale = next((one for one in found if one is not None), None) or parts.take(name + SCALES[0], name)
        put_scaled(parts, name, scale, size)
