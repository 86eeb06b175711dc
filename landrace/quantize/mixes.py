"""GGUF's mixes of types: which type each tensor of a file gets, by the names that llama.cpp gives mixes and tensors.

The mixes are llama.cpp's: a few tensors that a model suffers from most, by its authors' experience, get more bits than
the others. Facts of its `llama_tensor_get_type`, for the files that are read here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from landrace.kernels.reference.blocks import BLOCKS

WIDE_GROUPS = 4
"""Heads that share keys and values from which on a mix spends more on the values: they are few."""


@dataclass(frozen=True)
class Model:
    """What a mix asks about the model."""

    n_layers: int
    heads_per_kv_head: int
    tied: bool
    """Whether the embedding is the output head too."""


Rule = Callable[[int, Model], str | None]
"""From the number of a layer to the type of its tensor; None: the mix's usual one."""


@dataclass(frozen=True)
class Mix:
    file_type: int
    """llama.cpp's number for it, `general.file_type`."""
    usual: str
    head: str
    rules: Mapping[str, Rule] = field(default_factory=dict)
    """By the end of a tensor's name in its layer."""

    def type_of(self, name: str, shape: tuple[int, ...], model: Model) -> str:
        """The block type of a matrix, [.., rows, columns]."""
        if name == "output.weight" or (name == "token_embd.weight" and model.tied):
            return _fitting(self.head, shape[-1])
        found = re.fullmatch(r"blk\.(\d+)\.(.+?)(_exps|_shexp)?\.weight", name)
        rule = self.rules.get(found[2] + (found[3] or "")) or self.rules.get(found[2]) if found else None
        special = rule(int(found[1]), model) if rule and found else None
        return _fitting(special or self.usual, shape[-1])


def _fitting(block_type: str, columns: int) -> str:
    """The type, or the nearest whose blocks fit into rows of this width."""
    if columns % BLOCKS[block_type].elements == 0:
        return block_type
    narrow = _NARROW.get(block_type, "F16")
    return narrow if columns % BLOCKS[narrow].elements == 0 else "F16"


_NARROW = {"Q2_K": "IQ4_NL", "Q3_K": "IQ4_NL", "IQ4_XS": "IQ4_NL", "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}
"""Types with blocks of 32 in place of those of 256."""
_KEPT = (
    r".*\.bias|.*norm.*|.*ffn_gate_inp(_shexp)?\.weight|.*ssm_conv1d.*|.*ssm_(a|d|dt)(\..*)?|rope_.*|.*exp_probs_b.*"
    r"|.*_compressor_ape.*|.*ple_conv1d.*|.*hc_(attn_|ffn_)?(fn|base|scale)\.weight"
)


def is_quantised(name: str, shape: tuple[int, ...]) -> bool:
    """Whether mixes speak of the tensor at all: norms, biases, routers, taps and states stay as they are."""
    return len(shape) > 1 and re.fullmatch(_KEPT, name) is None


def _always(block_type: str) -> Rule:
    return lambda layer, model: block_type


def _first(share: int, block_type: str) -> Rule:
    """In the first 1 / share of the layers."""
    return lambda layer, model: block_type if layer < model.n_layers // share else None


def _most_needed(block_type: str) -> Rule:
    """In the first and the last eighth of the layers, and every third between them."""

    def rule(layer: int, model: Model) -> str | None:
        eighth = model.n_layers // 8
        outer = layer < eighth or layer >= 7 * model.n_layers // 8
        return block_type if outer or (layer - eighth) % 3 == 2 else None

    return rule


def _shared_values(block_type: str, otherwise: str | None = None) -> Rule:
    """Where so many heads share values that there are few of them."""
    return lambda layer, model: block_type if model.heads_per_kv_head >= WIDE_GROUPS else otherwise


MIXES: Mapping[str, Mix] = {
    "F32": Mix(0, "F32", "F32"),
    "F16": Mix(1, "F16", "F16"),
    "BF16": Mix(32, "BF16", "BF16"),
    "Q8_0": Mix(7, "Q8_0", "Q8_0"),
    "Q6_K": Mix(18, "Q6_K", "Q6_K"),
    "Q5_K_M": Mix(
        17,
        "Q5_K",
        "Q6_K",
        {"attn_v": _most_needed("Q6_K"), "ffn_down": _most_needed("Q6_K"), "attn_qkv": _always("Q6_K")},
    ),
    "Q5_K_S": Mix(16, "Q5_K", "Q6_K"),
    "Q4_K_M": Mix(
        15,
        "Q4_K",
        "Q6_K",
        {"attn_v": _most_needed("Q6_K"), "ffn_down": _most_needed("Q6_K"), "attn_qkv": _always("Q5_K")},
    ),
    "Q4_K_S": Mix(
        14,
        "Q4_K",
        "Q6_K",
        {"attn_v": lambda layer, model: "Q5_K" if layer < 4 else None, "ffn_down": _first(8, "Q5_K")},
    ),
    "Q3_K_M": Mix(
        12,
        "Q3_K",
        "Q6_K",
        {
            "attn_v": lambda layer, model: "Q5_K" if layer < 2 else "Q4_K",
            "ffn_down": lambda layer, model: "Q5_K" if layer < model.n_layers // 16 else "Q4_K",
            "attn_output": _always("Q4_K"),
            "attn_qkv": _always("Q4_K"),
        },
    ),
    "Q2_K": Mix(
        10,
        "Q2_K",
        "Q6_K",
        {"attn_v": _shared_values("Q4_K", "Q3_K"), "ffn_down": _always("Q3_K"), "attn_output": _always("Q3_K")},
    ),
    "IQ4_XS": Mix(30, "IQ4_XS", "Q6_K", {"attn_v": _shared_values("Q5_K"), "ffn_down": _first(8, "Q5_K")}),
    "IQ4_NL": Mix(25, "IQ4_NL", "Q6_K", {"attn_v": _shared_values("Q5_K"), "ffn_down": _first(8, "Q5_K")}),
    "Q5_1": Mix(9, "Q5_1", "Q6_K"),
    "Q5_0": Mix(8, "Q5_0", "Q6_K"),
    "Q4_1": Mix(3, "Q4_1", "Q6_K"),
    "Q4_0": Mix(2, "Q4_0", "Q6_K"),
    "MXFP4_MOE": Mix(
        38,
        "Q8_0",
        "Q8_0",
        {name: _always("MXFP4") for name in ("ffn_gate_exps", "ffn_up_exps", "ffn_down_exps", "ffn_gate_up_exps")},
    ),
}
"""By llama.cpp's names."""
