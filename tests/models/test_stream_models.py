"""Models with several residual streams from their own files: adapters, gradients, what a wrong field does."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from cpu_models import on_cpu
from peft_adapters import assert_pefts_are_ours, logits_with
from safetensors.torch import load_file, save_file
from tiny_models import packed_logits, random_ids, reference, reference_logits, worst

from landrace.checkpoints.adapter import read_adapter, write_adapter
from landrace.checkpoints.checkpoint import Checkpoint, open_checkpoint
from landrace.errors import CheckpointError, UnsupportedError
from landrace.kernels.mask import FULL, Chunked
from landrace.models.adapters import fresh_tensors
from landrace.models.batch import ForwardBatch
from landrace.models.cache_spec import Paged
from landrace.models.decoder import Decoder
from landrace.models.families import read_config
from landrace.models.lora_spec import LoraSpec
from landrace.models.mixer_spec import Gdn, Kda, Mla
from landrace.models.selection_spec import PoolSelection, Selection
from landrace.models.spec import GatedStreams, Hyper, ModelSpec, Streams
from landrace.models.stored import held_as

peft = pytest.importorskip("peft")
pytest.importorskip("transformers")

TARGETS = {
    "hy_v4": ["q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj", "gate_proj"],
    "deepseek_v4": ["q_a_proj", "q_b_proj", "kv_proj", "gate_proj", "o_b_proj", "weights_proj"],
    "qwen4_exp_text": [
        *("in_proj_qkv", "out_proj", "input_mix_weight_down", "input_mix_weight_up", "block_inject_weight"),
        *("q_proj", "index_qk_proj"),
    ],
    "glm5_next": [
        *("q_proj", "b_proj", "f_a_proj", "f_b_proj", "g_b_proj", "o_proj", "q_a_proj", "kv_a_proj_with_mqa"),
        *("kv_b_proj", "wq_b", "wk", "weights_proj"),
    ],
}
SEQUENCES = random_ids()


def tiny(kind: str, shared: Path) -> dict[str, Any]:
    kwargs: dict[str, Any] = json.loads((shared / "families" / "tiny_configs.json").read_text())[kind]["kwargs"]
    return kwargs


def made(kind: str, shared: Path, **changes: Any) -> Any:
    wrapper = "Glm5NextForConditionalGeneration" if kind == "glm5_next" else None
    return reference(kind, with_changes(tiny(kind, shared), changes), wrapper)


def with_changes(kwargs: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Of the text decoder."""
    if "text_config" in kwargs:
        return {**kwargs, "text_config": {**kwargs["text_config"], **changes}}
    return {**kwargs, **changes}


def saved(kind: str, shared: Path, folder: Path) -> tuple[Any, Checkpoint]:
    model = made(kind, shared)
    # Where the hub's names are not those of transformers' modules, adapters take the latter.
    model.save_pretrained(folder, save_original_format=kind != "deepseek_v4")
    return model, open_checkpoint(folder)


def opened(checkpoint: Checkpoint) -> Decoder:
    return Decoder(checkpoint.spec).load(checkpoint.tensors())


@pytest.mark.parametrize("kind", TARGETS)
def test_adapters_on_every_projection(kind: str, shared: Path, extension: ModuleType, tmp_path: Path) -> None:
    """peft's are ours on both backends, and what we write of them is peft's again."""
    model, checkpoint = saved(kind, shared, tmp_path / "model")
    # Not on the tower's.
    targets = rf".*language_model.*\.({'|'.join(TARGETS[kind])})" if kind == "glm5_next" else TARGETS[kind]
    assert_pefts_are_ours(model, checkpoint, targets, SEQUENCES, extension, tmp_path)


@pytest.mark.parametrize("kind", TARGETS)
def test_gradients_are_those_of_transformers(kind: str, shared: Path, tmp_path: Path) -> None:
    """Of every weight that the logits depend on smoothly."""
    model = made(kind, shared)
    model.save_pretrained(tmp_path, save_original_format=False)
    checkpoint = open_checkpoint(tmp_path)
    decoder = opened(checkpoint)
    for parameter in decoder.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    weight = torch.randn(sum(map(len, SEQUENCES)), 128, generator=torch.Generator().manual_seed(0))
    (decoder(ForwardBatch.packed(SEQUENCES)) * weight).sum().backward()
    model.requires_grad_(True)
    found = torch.cat([model(input_ids=torch.tensor([ids]), use_cache=False).logits[0] for ids in SEQUENCES])
    (found * weight).sum().backward()
    theirs = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    seen = set()
    for name, parameter in decoder.named_parameters():
        source = checkpoint.sources[name]
        if source.tensor not in theirs:
            continue
        expected = source.part(theirs[source.tensor])
        seen.add(name.removeprefix("layers.1."))
        if any(one in name for one in (".indexer.", ".index_")):
            assert parameter.grad is None
            continue
        assert parameter.grad is not None, name
        torch.testing.assert_close(
            parameter.grad, expected, rtol=1e-3, atol=1e-4 * expected.abs().max().item(), msg=lambda m, n=name: n + m
        )
    streams = {name for name in seen if "_hc." in name or "hc_head" in name}
    assert len(streams) >= {"hy_v4": 9, "qwen4_exp_text": 11, "glm5_next": 6, "deepseek_v4": 9}[kind], streams


def with_residual(spec: ModelSpec, change: Callable[[Any], Streams]) -> ModelSpec:
    return replace(spec, layers=tuple(replace(layer, residual=change(layer.residual)) for layer in spec.layers))


def with_mixers(spec: ModelSpec, change: Callable[[Any], Any]) -> ModelSpec:
    return replace(spec, layers=tuple(replace(layer, mixer=change(layer.mixer)) for layer in spec.layers))


def chosen(**changes: Any) -> Callable[[Any], Any]:
    """The same mixer with another selection."""

    def change(mixer: Any) -> Any:
        own = getattr(mixer, "selection", None)
        return mixer if own is None else replace(mixer, selection=replace(own, **changes))

    return change


MIXER_FLIPS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "pools": ("qwen4_exp_text", chosen(top_k=3)),
    "positions of a pool": ("qwen4_exp_text", chosen(pool=2, top_k=4)),
    "positions of pools": ("glm5_next", chosen(top_k=12)),
    "floor of decays": ("glm5_next", lambda m: replace(m, decay_floor=-4.0) if isinstance(m, Kda) else m),
    "no floor of decays": ("glm5_next", lambda m: replace(m, decay_floor=None) if isinstance(m, Kda) else m),
    "gate of what is read": ("qwen4_exp_text", lambda m: replace(m, gate="sigmoid") if isinstance(m, Gdn) else m),
}


@pytest.mark.parametrize("flip", MIXER_FLIPS)
def test_one_wrong_field_of_a_mixer_shows(flip: str, shared: Path, tmp_path: Path) -> None:
    kind, change = MIXER_FLIPS[flip]
    model, checkpoint = saved(kind, shared, tmp_path)
    theirs, right = reference_logits(model, SEQUENCES), opened(checkpoint)
    assert worst(packed_logits(right, SEQUENCES), theirs) < 1e-4
    wrong = Decoder(with_mixers(checkpoint.spec, change)).load(right.named_tensors())
    assert worst(packed_logits(wrong, SEQUENCES), theirs) > 1e-3


FLIPS: dict[str, tuple[str, Callable[[Hyper], Streams]]] = {
    "what is added to weights": ("hy_v4", lambda s: replace(s, form=replace(s.form, eps=0.1))),
    "what is added to a result's weights": ("hy_v4", lambda s: replace(s, form=replace(s.form, post_eps=0.1))),
    "factor on a result": ("hy_v4", lambda s: replace(s, form=replace(s.form, post_factor=1.9))),
}


@pytest.mark.parametrize("flip", FLIPS)
def test_one_wrong_field_shows(flip: str, shared: Path, tmp_path: Path) -> None:
    kind, change = FLIPS[flip]
    model, checkpoint = saved(kind, shared, tmp_path)
    theirs, right = reference_logits(model, SEQUENCES), opened(checkpoint)
    assert worst(packed_logits(right, SEQUENCES), theirs) < 1e-4
    wrong = Decoder(with_residual(checkpoint.spec, change)).load(right.named_tensors())
    assert worst(packed_logits(wrong, SEQUENCES), theirs) > 1e-3


WEIGHTS = {
    "hy_v4": (
        *("attn_hc.weights.weight", "mlp_hc.weights.base", "attn_hc.weights.scale", "hc_head.weights.weight", "sinks"),
        "g_proj",
    ),
    "qwen4_exp_text": (
        *("attn_hc.norm", "mlp_hc.mix_down", "attn_hc.mix_up", "mlp_hc.inject", "hc_head.mix_up"),
        *("index_q_norm", "index_k_norm", "index_k_proj"),
    ),
    "glm5_next": (
        *("attn_hc.weights.weight", "mlp_hc.weights.base", "attn_hc.weights.scale", "a_log", "dt_bias"),
        *("indexer.pool_gate", "indexer.place_bias", "indexer.k_norm.bias", "indexer.wk", "indexer.weights_proj"),
    ),
}


@pytest.mark.parametrize("kind", WEIGHTS)
def test_every_weight_of_streams_counts(kind: str, shared: Path, tmp_path: Path) -> None:
    model, checkpoint = saved(kind, shared, tmp_path)
    theirs, right = reference_logits(model, SEQUENCES), opened(checkpoint)
    for changed in WEIGHTS[kind]:
        tensors = ((name, t.flip(0) * 1.5 + 0.1 if changed in name else t) for name, t in right.named_tensors())
        assert worst(packed_logits(Decoder(checkpoint.spec).load(tensors), SEQUENCES), theirs) > 1e-3, changed


def test_what_weights_streams_is_not_quantised(shared: Path, extension: ModuleType, tmp_path: Path) -> None:
    _, checkpoint = saved("hy_v4", shared, tmp_path)
    held = {name: held_as(name, tensor, "int8") for name, tensor in checkpoint.stored().items()}
    assert all(tensor.block_type == "F32" for name, tensor in held.items() if "hc" in name)
    decoder = opened(checkpoint)
    exact = packed_logits(decoder, SEQUENCES)
    near = packed_logits(on_cpu(extension, decoder, "int8"), SEQUENCES)  # type: ignore[arg-type]
    # A few rows choose other positions or experts for what 8 bits round.
    difference = torch.cat(near) - torch.cat(exact)
    assert 1e-4 < difference.abs().median() < 0.03 * torch.cat(exact).std()


def test_hy4_as_its_vendor_publishes_it(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under other names than transformers writes, and with heads whose pairs turn and not their halves."""
    from transformers.models.deepseek_v3.modeling_deepseek_v3 import apply_rotary_pos_emb_interleave
    from transformers.models.hy_v4 import modeling_hy_v4

    model, checkpoint = saved("hy_v4", shared, tmp_path)
    changes = {".hc_pre.hc_head.": ".hc_head.", "mlp.linear_gate": "mlp.gate_proj"}
    changes |= {f".hc_pre.hc_{one}_layer.": f".hc_{one}_layer.hc_pre." for one in ("attn", "mlp")}
    changes |= {"shared_experts.linear_gate": "shared_experts.gate_proj"}
    renamed = {}
    for name, tensor in load_file(tmp_path / "model.safetensors").items():
        for written, published in changes.items():
            name = name.replace(written, published)
        renamed[name] = tensor
    assert "model.layers.0.hc_attn_layer.hc_pre.hc_fn" in renamed and "model.hc_head.hc_head_scale" in renamed
    (tmp_path / "published").mkdir()
    (tmp_path / "config.json").rename(tmp_path / "published" / "config.json")
    save_file(renamed, tmp_path / "published" / "model.safetensors")
    published = open_checkpoint(tmp_path / "published")
    decoder = opened(published)
    halves, ours = packed_logits(opened(checkpoint), SEQUENCES), packed_logits(decoder, SEQUENCES)
    monkeypatch.setattr(modeling_hy_v4, "apply_rotary_pos_emb", apply_rotary_pos_emb_interleave)
    theirs = reference_logits(model, SEQUENCES)
    assert worst(ours, theirs) < 1e-4 < 1e-2 < worst(halves, theirs)
    # An adapter's rows lie as those of the file, also under transformers' names.
    spec = LoraSpec(2, 4.0, ("q_b_proj", "kv_a_proj", "o_proj", "up_proj"))
    fresh = fresh_tensors(decoder.adaptable(spec.targets), spec)
    generator = torch.Generator().manual_seed(0)
    tensors = {name: torch.randn(t.shape, generator=generator) * 0.1 for name, t in fresh.items()}
    write_adapter(tmp_path / "adapter", spec, tensors, published.adapter_sources[0], "base", {})
    tuned = peft.PeftModel.from_pretrained(model, tmp_path / "adapter").eval()
    expected = [tuned(input_ids=torch.tensor([ids]), use_cache=False).logits[0].detach() for ids in SEQUENCES]
    read, found, _ = read_adapter(tmp_path / "adapter", *published.adapter_sources)
    assert worst(logits_with(decoder, decoder.add_adapter(read, found), SEQUENCES), expected) < 1e-4


REFUSED: dict[str, tuple[str, dict[str, Any]]] = {
    "more streams than there is room for": ("hy_v4", {"hc_mult": 9}),
    "no streams": ("qwen4_exp_text", {"hc_count": 0}),
    "another gate": ("qwen4_exp_text", {"output_gate_type": "tanh"}),
    "pools that do not share a budget evenly": ("qwen4_exp_text", {"indexer_compress_ratio": 3}),
    "two keys of a position": ("qwen4_exp_text", {"indexer_kv_heads": 2}),
    "an indexer narrower than what turns": ("qwen4_exp_text", {"indexer_head_dim": 4}),
    "pools that do not share positions evenly": ("glm5_next", {"index_kpool": 3}),
    "pools of one": ("glm5_next", {"index_kpool": 1}),
    "unchosen tails": ("glm5_next", {"index_kpool_always_select_tail": False}),
    "heads that turn": ("glm5_next", {"qk_rope_head_dim": 8}),
    "no rank of queries": ("glm5_next", {"q_lora_rank": None}),
    "a floor that is none": ("glm5_next", {"linear_lower_bound": 5.0}),
    "a layer that follows nobody": ("glm5_next", {"indexer_types": ["full", "full", "full", "shared"]}),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_it_is_not_is_refused(case: str, shared: Path) -> None:
    kind, changes = REFUSED[case]
    with pytest.raises((CheckpointError, UnsupportedError)):
        read_config({"model_type": kind, **with_changes(tiny(kind, shared), changes)})


def test_streams_are_facts_of_the_whole_model(shared: Path) -> None:
    assert isinstance(read_config({"model_type": "hy_v4", **tiny("hy_v4", shared)}).spec.streams, Hyper)
    found = read_config({"model_type": "qwen4_exp_text", **tiny("qwen4_exp_text", shared)}).spec.streams
    assert found == GatedStreams(2, 8)


def test_pools_are_facts_of_the_mixers(shared: Path) -> None:
    spec = read_config({"model_type": "qwen4_exp_text", **tiny("qwen4_exp_text", shared)}).spec
    assert [getattr(layer.mixer, "selection", None) for layer in spec.layers] == [
        *[None] * 3,
        PoolSelection(8, 16, 4, 2),
    ]
    assert spec.max_length == 256
    spec = read_config({"model_type": "glm5_next", **tiny("glm5_next", shared)}).spec
    *deltas, latent = (layer.mixer for layer in spec.layers)
    assert deltas == [Kda(2, 16, 4, decay_floor=-5.0)] * 3 and isinstance(latent, Mla)
    assert latent.selection == Selection(32, 16, 8, pool=4) and latent.rank_eps == spec.norm_eps == 3e-3
    # A latent, a key and gates of the indexer until their pool is whole, and a fourth of that one's key.
    assert latent.kept_values == 16 + 16 + 16 + 4 and latent.selection.most == 11
    assert latent.caches == (Paged(FULL), Paged(Chunked(4)), Paged(FULL, 4))


def test_a_gate_may_be_a_sigmoid(shared: Path, tmp_path: Path) -> None:
    """As in Qwen3.8-Flash-Next."""
    model = made("qwen4_exp_text", shared, output_gate_type="sigmoid")
    model.save_pretrained(tmp_path)
    decoder = opened(open_checkpoint(tmp_path))
    assert worst(packed_logits(decoder, SEQUENCES), reference_logits(model, SEQUENCES)) < 1e-4


PUBLISHED_FORM = {
    "linear_attn_config": {
        "num_heads": 2, "head_dim": 16, "short_conv_kernel_size": 4, "gate_lower_bound": -5.0, "kda_layers": [0, 1, 2],
        "full_attn_layers": [3],
    },
    "layer_types": [*["linear_attention"] * 3, "deepseek_sparse_attention"], "first_k_dense_replace": 1,
    "mla_use_nope": True, "mhc": True, "index_kpool_compress": True, "index_kpool_always_select_tail": True,
    "indexer_rope_interleave": True, "scoring_func": "sigmoid", "topk_method": "noaux_tc",
    "moe_router_dtype": "float32", "qk_head_dim": 16, "head_dim": 0, "num_nextn_predict_layers": 1,
}  # fmt: skip


def test_glm5_next_as_its_vendor_writes_it(shared: Path) -> None:
    config = tiny("glm5_next", shared)
    of_transformers = read_config({"model_type": "glm5_next", **config}).spec
    text = {key: value for key, value in config["text_config"].items() if not key.startswith("linear_")}
    del text["mlp_layer_types"], text["indexer_types"]
    published = {**config, "text_config": {**text, **PUBLISHED_FORM, "model_type": "glm5_next_text"}}
    found = read_config({"model_type": "glm5_next", **published})
    assert found.spec == of_transformers
    assert any("layers" in pattern and "4" in pattern for pattern in found.drafts)
