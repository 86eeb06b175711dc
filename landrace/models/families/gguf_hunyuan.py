"""GGUF files of Tencent's Hunyuan models: dense, with images, with experts, and Hy3.

Facts from llama.cpp: files of models that see images say alpha beside a rotary base that it is not yet part of. Those
of Hy3 do not say which layers have experts.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from landrace.errors import UnsupportedError
from landrace.models.families.config import Config
from landrace.models.families.gguf_architecture import (
    BIASED,
    NUMBER,
    PER_TOKEN,
    SIGMOID,
    Architecture,
    Facts,
    without_drafts,
    written_shared,
)
from landrace.models.families.gguf_rope import ReadTensor, gguf_rope
from landrace.models.spec import ModelSpec

SHARED_WIDTH = "expert_shared_feed_forward_length"


def _with_alpha(
    keys: Config, config: Mapping[str, Any], tensor_names: Collection[str], read_tensor: ReadTensor | None
) -> Facts:
    found, alpha = gguf_rope(keys, config, tensor_names, read_tensor), keys.optional_number("rope.scaling.alpha")
    return found | {"rope_scaling": {"rope_type": "dynamic", "alpha": alpha, "factor": 1.0}} if alpha else found


def _moe(keys: Config, names: Collection[str], config: Facts) -> Facts:
    shared = keys.optional_size("expert_shared_count") or 1
    keys.require(SHARED_WIDTH, shared * config["intermediate_size"])
    return {"num_shared_expert": shared}


def _written_moe(spec: ModelSpec, stated: Facts) -> Facts:
    return written_shared(spec, stated) | {"expert_shared_count": stated["num_shared_expert"]}


def _hy3(keys: Config, names: Collection[str], config: Facts) -> Facts:
    layers, width = without_drafts(keys, config), keys.size("expert_feed_forward_length")
    shared = keys.optional_size(SHARED_WIDTH) or width
    if shared % width:
        raise UnsupportedError(
            f"The GGUF file's shared expert has the width {shared}, which is not {width} a number of times."
        )
    sparse = [f"blk.{n}.ffn_gate_inp.weight" in names for n in range(layers["num_hidden_layers"])]
    return {
        **layers,
        "num_shared_experts": shared // width,
        "mlp_layer_types": ["sparse" if one else "dense" for one in sparse],
    }


ARCHITECTURES: Mapping[str, Architecture] = {
    "hunyuan-dense": Architecture("hunyuan_v1_dense", flags=BIASED),
    # Text alone turns every section of its rotary embedding by the same position.
    "hunyuan_vl": Architecture("hunyuan_v1_dense", flags=BIASED, rope=_with_alpha),
    "hunyuan-moe": Architecture(
        "hunyuan_v1_moe", flags=BIASED, experts=("num_experts", "moe_topk", "moe_intermediate_size"), more=_moe,
        writes=_written_moe,
    ),
    "hy_v3": Architecture(
        "hy_v3", drafts=True, renamed={"mlp.router.choice_bias": "exp_probs_b"},
        experts=("num_experts", PER_TOKEN, "moe_intermediate_size"), score=SIGMOID,
        fixed={"expert_weights_norm": True}, reads={"router_scaling_factor": (NUMBER, "expert_weights_scale")},
        adds={"router_scaling_factor": 1.0}, more=_hy3, writes=written_shared,
    ),
}  # fmt: skip
