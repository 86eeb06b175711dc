"""Checkpoints in a published quantised form: what they store of a matrix becomes one tensor, decoded while it is read.

A form is a row of a table, looked up by `quant_method`. Its reader takes the parts of each matrix off the file's
tensors and puts the matrix there under the name that an unquantised checkpoint gives it, so that no family knows of
forms.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from landrace.checkpoints.quantised import auto_round, awq, bitsandbytes, compressed, fp4, fp8, gptq, hqq
from landrace.checkpoints.quantised.parts import Parts
from landrace.checkpoints.quantised.settings import settings_of, without_settings
from landrace.checkpoints.tensor_info import Readable, TensorInfo
from landrace.errors import UnsupportedError
from landrace.models.families.config import Config, shown

__all__ = ["unpacked", "without_settings"]

CACHE_SCALES = (r".*\.[qkv]_scale",)
"""For a cache in 8 bits; `refuse_cache_scales` has seen that nothing asks for it."""


@dataclass(frozen=True)
class Form:
    read: Callable[[Config, Parts], None]
    ignorable: tuple[str, ...] = ()
    """Regexes (whole name) of further tensors that change no weight."""


FORMS: Mapping[str, Form] = {
    "fp8": Form(fp8.read_fp8, fp8.IGNORABLE),
    "fbgemm_fp8": Form(fp8.read_fp8, fp8.IGNORABLE),
    "compressed-tensors": Form(compressed.read_compressed, compressed.IGNORABLE),
    "mxfp4": Form(fp4.read_mxfp4),
    "modelopt": Form(fp4.read_modelopt, fp4.IGNORABLE),
    "gptq": Form(gptq.read_gptq),
    "awq": Form(awq.read_awq),
    "auto-round": Form(auto_round.read_auto_round),
    "intel/auto-round": Form(auto_round.read_auto_round),
    "hqq": Form(hqq.read_hqq),
    "bitsandbytes": Form(bitsandbytes.read_bitsandbytes),
}


def unpacked(config: Mapping[str, Any], infos: Mapping[str, TensorInfo]) -> Mapping[str, Readable]:
    """The file's tensors with each quantised matrix as one. CheckpointError: parts are missing or do not fit;
    UnsupportedError: a method or a field that is not implemented."""
    settings = settings_of(config)
    if settings is None:
        return infos
    method = settings.get("quant_method")
    if not isinstance(method, str) or method not in FORMS:
        raise UnsupportedError(
            f"The checkpoint is quantised with the method {shown(method)}, which is not supported.",
            hint=f"Supported are {', '.join(FORMS)}. Otherwise use the unquantised model, or a GGUF of it.",
        )
    form, parts = FORMS[method], Parts(infos)
    form.read(settings, parts)
    patterns = [re.compile(pattern) for pattern in (*form.ignorable, *CACHE_SCALES)]
    return {
        name: tensor
        for name, tensor in parts.tensors().items()
        if not any(pattern.fullmatch(name) for pattern in patterns)
    }
