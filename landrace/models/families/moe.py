"""Reads what mixtures of experts have in common."""

from __future__ import annotations

from collections.abc import Sequence

from landrace.errors import CheckpointError
from landrace.kernels.router import Router
from landrace.models.families.config import MAX_LAYERS, Config
from landrace.models.families.dense import layer_kinds, n_layers
from landrace.models.ffn_spec import Dense, Ffn, Moe

TRAINING = (r"output_router_logits|router_(aux|z)_loss_coef|router_jitter_noise|aux_loss_alpha|seq_aux",)
"""Regexes (whole key) of what only training reads of a mixture of experts."""


def mixed(sparse: Sequence[bool], dense: Dense, moe: Moe) -> list[Ffn]:
    """`moe` in the layers that are `sparse`, `dense` in the others."""
    return [moe if one else dense for one in sparse]


def sparse_by_step(config: Config) -> list[bool]:
    """Every `decoder_sparse_step`-th layer has experts, but none of `mlp_only_layers` (Qwen)."""
    step, dense = config.size("decoder_sparse_step", MAX_LAYERS), config.get("mlp_only_layers") or []
    if not isinstance(dense, list):
        raise config.wrong("mlp_only_layers", dense, "a list of layers")
    return [n not in dense and (n + 1) % step == 0 for n in range(n_layers(config))]


def sparse_after(config: Config, key: str) -> list[bool]:
    """All layers but the first few, whose number is under `key`, have experts."""
    count = n_layers(config)
    dense = config.get(key)
    if isinstance(dense, bool) or not isinstance(dense, int) or not 0 <= dense <= count:
        raise config.wrong(key, dense, f"a number of layers up to {count}")
    return [n >= dense for n in range(count)]


def sparse_by_name(config: Config) -> list[bool] | None:
    """What `mlp_layer_types` says; None when it says nothing."""
    return layer_kinds(config, "mlp_layer_types", n_layers(config), {"dense": False, "sparse": True})


def sparse_from_list(config: Config, key: str) -> list[bool] | None:
    """The layers listed under `key`, as numbers or in a string with commas between them; None without a list."""
    count, listed = n_layers(config), config.get(key)
    if listed is None:
        return None
    numbers = [one.strip() for one in listed.split(",")] if isinstance(listed, str) else listed
    if not isinstance(numbers, list) or any(str(one) not in map(str, range(count)) for one in numbers):
        raise config.wrong(key, listed, f"a list of layers below {count}")
    return [n in {int(one) for one in numbers} for n in range(count)]


def read_experts(config: Config, key: str, top_k: str) -> tuple[int, int]:
    """How many experts there are, and how many of them a token goes to."""
    experts, chosen = config.size(key), config.size(top_k)
    if chosen > experts:
        raise CheckpointError(f"A token cannot go to {chosen} of {experts} experts.")
    return experts, chosen


def read_deepseek_mixture(config: Config) -> Moe:
    """DeepSeek-V3's: experts are worth their sigmoid and chosen with a bias, groups by their best two experts."""
    experts, chosen = read_experts(config, "n_routed_experts", "num_experts_per_tok")
    hidden = config.size("moe_intermediate_size")
    router = Router(
        chosen,
        "sigmoid",
        choice_bias=True,
        renorm=config.flag("norm_topk_prob"),
        scale=config.number("routed_scaling_factor"),
        n_groups=config.size("n_group"),
        top_groups=config.size("topk_group"),
        group_score="top2_sum",
    )
    return Moe(experts, hidden, router, shared=Dense(hidden * config.size("n_shared_experts")))
