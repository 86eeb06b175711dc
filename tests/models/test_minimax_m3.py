"""MiniMax-M3: the hub's configuration and transformers', and what neither may ask for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_models import load, packed_logits, random_ids, reference, save, worst

from landrace.errors import CheckpointError, UnsupportedError
from landrace.models.families import read_config
from landrace.models.mixer_spec import Gqa
from landrace.models.selection_spec import BlockSelection

SECTION = {
    "use_sparse_attention": True, "sparse_num_index_heads": 2, "sparse_index_dim": 16, "sparse_block_size": 4,
    "sparse_topk_blocks": 2, "sparse_local_block": 1, "sparse_init_block": 0, "sparse_score_type": "max",
    "sparse_attention_freq": [0, 1, 1, 1], "sparse_disable_index_value": [0, 1, 1, 1],
}  # fmt: skip


def config_of(shared: Path) -> dict[str, Any]:
    entry = json.loads((shared / "families" / "tiny_configs.json").read_text())["minimax_m3_vl_text"]
    return {"model_type": "minimax_m3_vl_text", **entry["kwargs"]}


def as_published(shared: Path, **section: Any) -> dict[str, Any]:
    """The keys of the hub's files."""
    config = {key: value for key, value in config_of(shared).items() if not key.startswith("index_")}
    theirs = {
        key: value for key, value in config.items() if key not in ("layer_types", "mlp_layer_types", "rope_parameters")
    }
    more = {
        "sparse_attention_config": {**SECTION, **section}, "moe_layer_freq": [0, 1, 1, 1], "rope_theta": 5e6,
        "n_shared_experts": 1, "hidden_act": "swigluoai", "scoring_func": "sigmoid", "use_qk_norm": True,
        "qk_norm_type": "per_head", "use_gemma_norm": True, "use_routing_bias": True, "num_mtp_modules": 1,
    }  # fmt: skip
    return {**theirs, **more}


def test_both_forms_are_one(shared: Path) -> None:
    spec = read_config(config_of(shared)).spec
    assert read_config(as_published(shared)).spec == spec
    mixers = [layer.mixer for layer in spec.layers]
    assert [isinstance(one, Gqa) and one.selection for one in mixers] == [None, *[BlockSelection(16, 4, 2)] * 3]
    assert [one.kept_values for one in mixers if isinstance(one, Gqa)] == [64, 80, 80, 80]


@pytest.mark.parametrize(
    ("section", "error"),
    [
        ({"sparse_init_block": 1}, UnsupportedError),
        ({"sparse_score_type": "mean"}, UnsupportedError),
        ({"use_sparse_attention": False}, UnsupportedError),
        ({"sparse_disable_index_value": [0, 0, 1, 1]}, UnsupportedError),
        ({"sparse_num_index_heads": 1}, UnsupportedError),
        ({"sparse_something": 1}, UnsupportedError),
        ({"sparse_block_size": 0}, CheckpointError),
        ({"sparse_local_block": 3}, CheckpointError),
        ({"sparse_index_dim": 4}, CheckpointError),
        ({"sparse_attention_freq": [1]}, CheckpointError),
    ],
)
def test_what_is_impossible_or_unknown_is_refused(
    section: dict[str, Any], error: type[Exception], shared: Path
) -> None:
    with pytest.raises(error):
        read_config(as_published(shared, **section))


def test_the_blocks_matter(shared: Path, tmp_path: Path) -> None:
    """The other direction: the tiny model feels how many blocks are chosen."""
    config, tensors = save(
        reference("minimax_m3_vl_text", {k: v for k, v in config_of(shared).items() if k != "model_type"}), tmp_path
    )
    _, right = load(config, tensors)
    _, wrong = load({**config, "index_topk_blocks": 3}, tensors)
    assert worst(packed_logits(wrong, random_ids()), packed_logits(right, random_ids())) > 1e-3
