"""Latent attention: its two forms are one, gradients are those of transformers, and a head's rows go there and back."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from cpu_models import on_cpu
from published_configs import PUBLISHED, Published
from test_lora import merged, random_adapter
from tiny_models import (
    cached_logits,
    latent_spec,
    load,
    packed_logits,
    random_decoder,
    random_ids,
    reference,
    save,
    worst,
)

from landrace.errors import CheckpointError, OptionError, UnsupportedError
from landrace.kernels.mask import Sliding
from landrace.models.adapters import fresh_tensors
from landrace.models.batch import AdapterRows, CacheView, ForwardBatch
from landrace.models.cpu_decoder import new_cpu_cache
from landrace.models.declared import count
from landrace.models.decoder import Decoder
from landrace.models.families import read_config
from landrace.models.families.weights import Rotary, Source
from landrace.models.lora_spec import LATENT_PROJECTIONS, LoraSpec
from landrace.models.mixer_spec import Mla
from landrace.models.selection_spec import Selection
from landrace.models.spec import ModelSpec
from landrace.training.options import TuneOptions
from landrace.training.trainee import trainee

TYPES = ("deepseek_v2", "deepseek_v3", "minicpm3", "deepseek_v32", "glm_moe_dsa")


def language_model_of(published: Published) -> dict[str, object]:
    return {**published.config, **published.config.get("text_config", {})}


def config_of(model_type: str, shared: Path) -> dict[str, object]:
    entry = json.loads((shared / "families" / "tiny_configs.json").read_text())[model_type]
    return {"model_type": model_type, **entry["kwargs"]}


@pytest.mark.parametrize("targets", [("k_b_proj",), ("v_b_proj",), LATENT_PROJECTIONS])
def test_both_forms_are_one_with_adapters_too(targets: tuple[str, ...]) -> None:
    """Without a cache keys and values are made of the latents; with one the latents are attended to."""
    decoder = random_decoder(latent_spec(q_rank=20))
    spec = LoraSpec(4, 8.0, targets)
    tensors = random_adapter(decoder, spec, 1)
    place = decoder.add_adapter(spec, tensors)
    expected = packed_logits(merged(decoder, spec, tensors), random_ids((30,)))[0]
    tolerance = 1e-5 * expected.abs().max().item()
    n = torch.arange(30)
    layers = decoder.new_cache([30])
    assert all(layer.keys.shape == (30, 1, 26) and layer.values is None for layer in layers)
    batch = ForwardBatch.packed(random_ids((30,)), adapters=(AdapterRows(place, None),))
    view = CacheView.whole(layers, decoder.spec.cache_groups, n, (n,))
    with torch.no_grad():
        expanded, absorbed = decoder(batch), decoder(replace(batch, cache=view))
        some = decoder(replace(batch, cache=view, adapters=(AdapterRows(place, torch.arange(30)),)))
    assert worst([expanded, absorbed, some], [expected] * 3) < tolerance
    assert worst([expected], packed_logits(decoder, random_ids((30,)))) > 100 * tolerance


@pytest.mark.parametrize("model_type", TYPES)
def test_gradients_are_those_of_transformers(model_type: str, shared: Path, tmp_path: Path) -> None:
    entry = json.loads((shared / "families" / "tiny_configs.json").read_text())[model_type]
    model = reference(model_type, entry["kwargs"])
    config, tensors = save(model, tmp_path)
    ours, decoder = load(config, tensors)
    ids = random_ids((40,))[0]
    weights = torch.randn(40, decoder.spec.vocab_size, generator=torch.Generator().manual_seed(2))
    (model(input_ids=torch.tensor([ids]), use_cache=False).logits[0] * weights).sum().backward()
    decoder.requires_grad_(True)
    (decoder(ForwardBatch.packed([ids])) * weights).sum().backward()
    stored = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    seen = 0
    for name, parameter in decoder.named_parameters():
        source = ours.sources[name]
        if ".indexer." in name:
            assert parameter.grad is None and source.tensor not in stored
        elif "self_attn" in name or name.startswith("embed"):
            theirs = source.take(stored)
            assert parameter.grad is not None and theirs.abs().max() > 1e-4
            assert (parameter.grad - theirs).abs().max() < 1e-4 * theirs.abs().max(), name
            seen += 1
    assert seen == 1 + 8 * len(decoder.spec.layers)


@pytest.mark.parametrize("targets", [LATENT_PROJECTIONS, ("o_proj", "kv_a_proj")])
def test_a_fresh_adapter_learns_on_every_projection(targets: tuple[str, ...]) -> None:
    decoder = random_decoder(latent_spec(q_rank=20))
    spec = LoraSpec(4, 8.0, targets)
    place = decoder.add_adapter(spec, fresh_tensors(decoder.adaptable(targets), spec))
    parameters = decoder.adapters[place].parameters()
    assert len(parameters) == 2 * 2 * len(targets)
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    batch = ForwardBatch.packed(random_ids(), adapters=(AdapterRows(place, None),))
    decoder(batch).logsumexp(-1).sum().backward()
    for name, parameter in parameters.items():
        assert parameter.grad is not None
        assert (parameter.grad.abs().sum() > 0) == name.endswith("lora_B"), name


def test_rows_of_heads_there_and_back() -> None:
    """Keys' and values' rows of two heads, out of one tensor and into it."""
    stored = {"kv": torch.arange(2 * 5 * 3.0).view(10, 3)}
    keys, values = Source("kv", rows=(0, 3), heads=2), Source("kv", rows=(3, 5), heads=2)
    assert torch.equal(keys.take(stored), stored["kv"][[0, 1, 2, 5, 6, 7]])
    assert torch.equal(values.take(stored), stored["kv"][[3, 4, 8, 9]])
    assert keys.shape({"kv": (10, 3)}) == (6, 3) and values.shape({"kv": (10, 3)}) == (4, 3)
    made = {"kv": torch.full((10, 3), -1.0)}
    for source in (keys, values):
        assert source.total_rows is not None
        source.put(made, source.take(stored))
    assert torch.equal(made["kv"], stored["kv"])
    for shape in ((9, 3), (8, 3)):
        with pytest.raises(CheckpointError):
            values.shape({"kv": shape})
    apart = Source("k", by_head=2, transposed=True)
    assert torch.equal(apart.take({"k": stored["kv"].view(2, 5, 3)}), stored["kv"].view(2, 5, 3).mT.reshape(6, 5))


def test_only_the_turning_channels_are_interleaved() -> None:
    turned = Rotary(n_heads=2, head_dim=7, rotary_dim=4, first=2)
    rows = torch.arange(14)
    half = turned.to_half(rows)
    assert half.tolist() == [0, 1, 2, 4, 3, 5, 6, 7, 8, 9, 11, 10, 12, 13]
    assert torch.equal(turned.to_interleaved(half), rows)
    with pytest.raises(CheckpointError):
        Rotary(2, 7, 4, first=4)


def attention_of(spec: ModelSpec) -> Mla:
    mixer = spec.layers[0].mixer
    assert isinstance(mixer, Mla)
    return mixer


def test_what_a_configuration_says(shared: Path) -> None:
    plain = attention_of(read_config(config_of("deepseek_v3", shared)).spec)
    assert (plain.q_rank, plain.rank_eps, plain.bias) == (24, 1e-6, False)
    yarn = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 40.0, "original_max_position_embeddings": 64}
    scaled = {**yarn, "mscale": 1.0, "mscale_all_dim": 0.707}
    of = {
        name: attention_of(read_config({**config_of("deepseek_v3", shared), "rope_parameters": rope}).spec)
        for name, rope in (("yarn", yarn), ("scaled", scaled))
    }
    assert of["yarn"].scale == plain.scale
    # DeepSeek-V2's published code: each factor is 0.1 * mscale * ln(40) + 1.
    assert of["scaled"].scale == pytest.approx(plain.scale * (0.0707 * 3.6888795 + 1) ** 2)
    assert of["scaled"].rope is not None
    assert of["scaled"].rope.attention_factor == pytest.approx(1.36888795 / (0.0707 * 3.6888795 + 1))
    kimi = {**config_of("deepseek_v3", shared), "model_type": "kimi_k2", "topk_method": "noaux_tc"}
    assert read_config(kimi).spec == read_config(config_of("deepseek_v3", shared)).spec


@pytest.mark.parametrize(
    ("model_type", "changes"),
    [
        ("deepseek_v2", {"norm_topk_prob": True}),
        ("deepseek_v2", {"topk_method": "noaux_tc"}),
        ("deepseek_v2", {"scoring_func": "sigmoid"}),
        ("deepseek_v3", {"rope_interleave": False}),
        ("deepseek_v3", {"scoring_func": "softmax"}),
        ("deepseek_v3", {"moe_layer_freq": 2}),
        ("minicpm3", {"index_topk": 64}),
    ],
)
def test_what_is_not_computed_is_refused(model_type: str, changes: dict[str, object], shared: Path) -> None:
    with pytest.raises(UnsupportedError):
        read_config({**config_of(model_type, shared), **changes})


def test_layers_that_guess_are_left_out_by_name(shared: Path) -> None:
    """A published checkpoint keeps them behind the last layer."""
    model = read_config({**config_of("deepseek_v3", shared), "num_mtp_layers": 1})
    assert any(pattern.startswith("model\\.layers\\.4") for pattern in model.ignorable)


def test_the_cpu_decoder_takes_no_wider_latents(extension: ModuleType) -> None:
    with pytest.raises(OptionError, match="512"):
        on_cpu(extension, random_decoder(latent_spec(kv_rank=600)))


def test_cached_logits_of_a_window() -> None:
    decoder: Decoder = random_decoder(latent_spec(mask=Sliding(6), rope=None))
    sequences = random_ids()
    assert worst(cached_logits(decoder, sequences, 17), packed_logits(decoder, sequences)) < 1e-4


def test_the_cache_holds_a_latent_once(extension: ModuleType, shared: Path) -> None:
    """DeepSeek's 512 + 64 values a token and layer, whatever the number of heads."""
    config = {**config_of("deepseek_v3", shared), "kv_lora_rank": 512, "qk_rope_head_dim": 64}
    spec = read_config(config).spec
    for dtype, n_bytes in ((torch.float32, 576 * 4), (torch.float16, 576 * 2), (torch.int8, 576 + 8)):
        layers = new_cpu_cache(extension, spec, [32], dtype)
        assert [sum(layer.group_bytes) for layer in layers] == [32 * n_bytes] * 4
    assert attention_of(spec).kept_values == 576


def test_the_cache_holds_an_indexers_keys_beside(extension: ModuleType, shared: Path) -> None:
    """DeepSeek-V3.2's 128 values more, and none in a layer that takes what another has chosen."""
    config = {**config_of("glm_moe_dsa", shared), "kv_lora_rank": 512, "qk_rope_head_dim": 64, "index_head_dim": 128}
    spec = read_config({**config, "indexer_types": ["full", "shared"] * 2}).spec
    assert [layer.mixer.kept_values for layer in spec.layers] == [704, 576] * 2  # type: ignore[union-attr]
    for dtype, own, shares in ((torch.float16, 704 * 2, 576 * 2), (torch.int8, 704 + 12, 576 + 8)):
        assert [sum(layer.group_bytes) for layer in new_cpu_cache(extension, spec, [32], dtype)] == [
            32 * own,
            32 * shares,
        ] * 2
    assert [sum(layer.group_bytes) for layer in Decoder(spec).new_cache([32])[:2]] == [32 * 704 * 4, 32 * 576 * 4]


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"indexer_types": ["shared", "full", "full", "full"]}, CheckpointError),
        ({"indexer_types": ["full"]}, CheckpointError),
        ({"indexer_types": ["full", "full", "full", "half"]}, UnsupportedError),
        ({"index_topk_pattern": "FSX"}, UnsupportedError),
        ({"index_topk_freq": 0}, CheckpointError),
        ({"q_lora_rank": None}, CheckpointError),
        ({"index_head_dim": 4}, CheckpointError),
        ({"index_topk": 0}, CheckpointError),
        ({"indexer_rope_interleave": False}, UnsupportedError),
        ({"layer_types": ["full_attention"] * 4}, UnsupportedError),
    ],
)
def test_indexers_that_are_impossible_or_unknown(
    changes: dict[str, object], error: type[Exception], shared: Path
) -> None:
    with pytest.raises(error):
        read_config({**config_of("glm_moe_dsa", shared), **changes})


def test_which_layers_have_an_indexer(shared: Path) -> None:
    """As a list, as letters, or as every so many-th behind the first ones."""
    base = {**config_of("glm_moe_dsa", shared), "num_hidden_layers": 8}
    of = {
        "list": {"indexer_types": ["full", "shared", "shared", "full", "full", "shared", "full", "full"]},
        "letters": {"index_topk_pattern": "FSSFFSFF"},
        "every": {"index_topk_freq": 3, "index_skip_topk_offset": 3},
        "all": {},
    }
    found = {
        name: [layer.mixer.indexer is not None for layer in read_config({**base, **changes}).spec.layers]  # type: ignore[union-attr]
        for name, changes in of.items()
    }
    assert found["list"] == found["letters"] == [True, False, False, True, True, False, True, True]
    assert found["every"] == [True, True, True, False, False, True, False, False]
    assert found["all"] == [True] * 8


def test_indexers_are_not_tuned() -> None:
    decoder = random_decoder(latent_spec(q_rank=20, selection=Selection(3, 8, 5)))
    with trainee(decoder, TuneOptions()) as made:
        assert made.parameters and not any(".indexer." in name for name in made.parameters)
    with pytest.raises(OptionError, match="wq_b"), trainee(decoder, TuneOptions(targets=("wq_b",))):
        pass


def all_layers_are_latent(published: Published) -> bool:
    config = language_model_of(published)
    return "kv_lora_rank" in config and "linear_attn_config" not in config


@pytest.mark.parametrize("name", [name for name, one in PUBLISHED.items() if all_layers_are_latent(one)])
def test_published_models(name: str) -> None:
    published = PUBLISHED[name]
    model = read_config(published.config)
    counts = count(model.spec)
    assert (counts.total, counts.active) == published.counted
    attention = attention_of(model.spec)
    assert attention.kept_values == (288 if name.endswith("MiniCPM3-4B") else 576)
    halves = [model.sources[f"layers.0.self_attn.{half}_b_proj.weight"] for half in "kv"]
    assert [source.heads for source in halves] == [attention.n_heads] * 2
    assert [source.rows for source in halves] == [
        (0, attention.nope_dim), (attention.nope_dim, attention.nope_dim + attention.v_dim)
    ]  # fmt: skip
