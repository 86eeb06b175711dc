"""Rotary tables against transformers' own modules, at long positions."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from landrace.errors import OptionError
from landrace.models.families import read_config
from landrace.models.mixer_spec import RopeSpec
from landrace.models.rope import inverse_frequencies, rotary_tables

transformers = pytest.importorskip("transformers")

POSITIONS = (0, 1, 2, 3, 4, 5, 1000, 40_000, 131_071)
YARN = {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0, "original_max_position_embeddings": 32768}
FACTORS = {"short_factor": [1.0 + 0.01 * i for i in range(32)], "long_factor": [1.0 + i for i in range(32)]}

KINDS: dict[str, dict[str, Any]] = {
    "default": {"rope_type": "default", "rope_theta": 500_000.0},
    "linear": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0},
    "dynamic": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0},
    "llama3": {
        "rope_type": "llama3",
        "rope_theta": 500_000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
    "yarn": YARN,
    "yarn, mscale": {**YARN, "mscale": 0.707, "mscale_all_dim": 0.5},
    "yarn, attention_factor": {**YARN, "attention_factor": 1.25},
    "yarn, no truncation": {**YARN, "truncate": False, "beta_fast": 16, "beta_slow": 2},
    "yarn, factor from lengths": {**YARN, "factor": None, "original_max_position_embeddings": 8192},
    "longrope": {
        "rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 4096, **FACTORS,
    },
    "longrope, factor": {
        "rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 4096, "factor": 16.0, **FACTORS,
    },
    "longrope, attention_factor": {
        "rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 4096, "attention_factor": 1.1,
        **FACTORS,
    },
}  # fmt: skip
SIZES = {"hidden_size": 256, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 65536}


def tables(rope: RopeSpec, positions: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    return rotary_tables(rope, torch.tensor(positions))


def check(config: dict[str, Any], module: Any, positions: tuple[int, ...], absolute: float) -> None:
    spec = read_config(config).spec
    longest = min(max(positions) + 1, spec.length_limit or spec.max_length)
    spec = spec if spec.trained_length is None else spec.for_length(longest)
    rope = spec.layers[0].mixer.rope
    assert rope is not None
    cos, sin = module(torch.zeros(1), torch.tensor([positions]))
    half = rope.rotary_dim // 2
    ours = tables(rope, positions)
    torch.testing.assert_close(inverse_frequencies(rope), module.inv_freq, rtol=2e-6, atol=0.0)
    torch.testing.assert_close(ours[0], cos[0, :, :half], rtol=0, atol=absolute)
    torch.testing.assert_close(ours[1], sin[0, :, :half], rtol=0, atol=absolute)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("positions", [POSITIONS[:6], POSITIONS[:7], POSITIONS], ids=["5", "1000", "131071"])
def test_tables_of_every_kind(kind: str, positions: tuple[int, ...]) -> None:
    parameters = KINDS[kind]
    config = transformers.LlamaConfig(**SIZES, rope_parameters=dict(parameters))
    module = transformers.models.llama.modeling_llama.LlamaRotaryEmbedding(config)
    # transformers computes the stretched base of "dynamic" in float32, we in float64: one unit in the last place of a
    # frequency, times the position.
    absolute = 2e-6 * max(positions) if kind == "dynamic" else 1e-6
    check({"model_type": "llama", **SIZES, "rope_parameters": parameters}, module, positions, max(absolute, 1e-6))


def test_tables_of_hunyuans_alpha() -> None:
    parameters = {"rope_type": "dynamic", "rope_theta": 1e4, "alpha": 1000.0, "factor": 1.0, "mscale": 1.0}
    config = transformers.HunYuanDenseV1Config(**SIZES, head_dim=64, rope_parameters=dict(parameters))
    code = transformers.models.hunyuan_v1_dense.modeling_hunyuan_v1_dense
    module = code.HunYuanDenseV1RotaryEmbedding(config)
    read = {"model_type": "hunyuan_v1_dense", **SIZES, "head_dim": 64, "rope_parameters": parameters}
    check(read, module, POSITIONS, 1e-6)
    assert not read_config(read).spec.layers[0].mixer.rope.depends_on_length


def test_tables_of_a_part_of_the_head() -> None:
    parameters = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}
    config = transformers.Glm4Config(**SIZES, head_dim=64, rope_parameters=dict(parameters))
    module = transformers.models.glm4.modeling_glm4.Glm4RotaryEmbedding(config)
    check({"model_type": "glm4", **SIZES, "head_dim": 64, "rope_parameters": parameters}, module, POSITIONS, 1e-6)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "default"])
def test_old_keys_mean_the_same(kind: str) -> None:
    """`rope_theta` and `rope_scaling` with `type`, as hub files have them."""
    parameters = dict(KINDS[kind])
    new = {"model_type": "llama", **SIZES, "rope_parameters": parameters}
    scaling = {key: value for key, value in parameters.items() if key not in ("rope_theta", "rope_type")}
    old = {
        "model_type": "llama", **SIZES, "rope_theta": parameters["rope_theta"],
        "rope_scaling": {**scaling, "type": parameters["rope_type"]},
    }  # fmt: skip
    assert read_config(old).spec == read_config(new).spec


def test_an_outer_original_length_wins() -> None:
    parameters = {**KINDS["longrope"], "original_max_position_embeddings": 99}
    config = {"model_type": "llama", **SIZES, "rope_parameters": parameters, "original_max_position_embeddings": 4096}
    outer, inner = (
        read_config(config).spec,
        read_config({"model_type": "llama", **SIZES, "rope_parameters": KINDS["longrope"]}).spec,
    )
    assert outer == inner


LENGTHS = {"default": (65536,) * 2, "dynamic": (65536, 131072), "longrope": (4096, 65536), "yarn": (131072,) * 2}


@pytest.mark.parametrize("kind", LENGTHS)
def test_the_length_a_model_is_opened_for(kind: str) -> None:
    """What it was trained at, unless a longer one is asked for; no longer than it reaches."""
    spec = read_config({"model_type": "llama", **SIZES, "rope_parameters": KINDS[kind]}).spec
    usual, longest = LENGTHS[kind]
    assert (spec.max_length, spec.length_limit) == (usual, longest)
    assert spec.for_length(longest).max_length == longest
    for wrong in (0, -1, longest + 1):
        with pytest.raises(OptionError, match=str(longest)):
            spec.for_length(wrong)


@pytest.mark.parametrize("kind", KINDS)
def test_one_table_for_every_length_within_a_regime(kind: str) -> None:
    """Opened for less than it was trained at, a model computes the same; for more, the kinds that stretch differ."""
    spec = read_config({"model_type": "llama", **SIZES, "rope_parameters": KINDS[kind]}).spec

    def cos(length: int) -> torch.Tensor:
        rope = spec.for_length(length).layers[0].mixer.rope
        assert rope is not None
        return rotary_tables(rope, torch.arange(64))[0]

    usual = rotary_tables(spec.layers[0].mixer.rope, torch.arange(64))[0]  # type: ignore[arg-type]
    assert torch.equal(cos(10), usual) and torch.equal(cos(spec.max_length), usual)
    stretches = spec.length_limit is not None and spec.length_limit > spec.max_length
    assert stretches == (spec.trained_length is not None)
    if stretches:
        assert not torch.equal(cos(spec.length_limit or 0), usual)
        assert torch.equal(cos(spec.max_length), usual), "a spec is never changed in place"
