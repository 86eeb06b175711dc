"""AutoRound, which packs as GPTQ, as AWQ or as compressed-tensors, and says which in `packing_format`."""

from __future__ import annotations

from landrace.checkpoints.quantised.awq import put_by_outputs
from landrace.checkpoints.quantised.gptq import NO_EFFECT, put_by_inputs
from landrace.checkpoints.quantised.parts import Parts
from landrace.models.families.config import Config

_LESS = {"auto_round": 0, "auto_round:gptqmodel": 0, "auto_round:auto_gptq": 1, "auto_round:gptq": 1}
"""By how much zero points are stored less than they are."""
_BY_OUTPUTS = ("auto_round:auto_awq", "auto_round:awq")


def read_auto_round(settings: Config, parts: Parts) -> None:
    """Reads every module with a `qweight`."""
    settings.require("packing_format", *_LESS, *_BY_OUTPUTS)
    settings.require("data_type", "int")
    settings.require("act_bits", 16, 32)
    packing, size = settings.get("packing_format") or "auto_round:auto_gptq", settings.get("group_size")
    settings.finish(NO_EFFECT)
    if packing in _BY_OUTPUTS:
        put_by_outputs(parts)
    else:
        put_by_inputs(parts, size if type(size) is int else None, _LESS[packing])
