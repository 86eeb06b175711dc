"""Baichuan 1 and 2. The 7B models rotate; the 13B models, whose configuration speaks of `model_max_length` alone, add
a slope to the scores instead. Baichuan 2 divides the rows of its output head by their lengths."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from landrace.models.families.config import MAX_POSITIONS, Config
from landrace.models.families.dense import read_attention, read_decoder, read_mlp
from landrace.models.families.family import Family
from landrace.models.families.llama import SHAPE
from landrace.models.families.names import Naming
from landrace.models.spec import ModelSpec

BAICHUAN = {key: value for key, value in SHAPE.items() if key != "max_position_embeddings"}
NAMING = Naming(
    fused={"self_attn.W_pack": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")}, unit_head=125_696
)


def read_baichuan(config: Config) -> ModelSpec:
    if config.get("max_position_embeddings") is not None:
        return read_decoder(config, read_attention(config), read_mlp(config))
    config = config.replaced({"max_position_embeddings": config.size("model_max_length", MAX_POSITIONS)})
    return read_decoder(config, replace(read_attention(config), rope=None, alibi=True), read_mlp(config))


FAMILIES: Mapping[str, Family] = {
    "baichuan": Family(read_baichuan, BAICHUAN, (NAMING,), no_effect=("z_loss_weight|model_max_length",)),
}
