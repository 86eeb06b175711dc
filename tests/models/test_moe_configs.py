"""Families with experts, and others with unusual files: config.json and tensors, there and back, against transformers'
own loaded modules."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from published_configs import PUBLISHED
from torch import Tensor

pytest.importorskip("transformers")

from test_parity import SHARED
from tiny_models import WITH_EXPERTS, reference, save

from landrace.errors import CheckpointError, UnsupportedError
from landrace.kernels.activation import SWIGLU, Activation
from landrace.kernels.head_form import QkNorm, Temperature
from landrace.kernels.mask import FULL, Chunked, Sliding
from landrace.kernels.router import Router
from landrace.models.declared import declared
from landrace.models.families import FamilyModel, read_config
from landrace.models.ffn_spec import Dense, Moe
from landrace.models.spec import ModelSpec

CASES = [(kind, variant) for kind in WITH_EXPERTS for variant in ("base", *SHARED[kind])]


@pytest.fixture(scope="module")
def configs(shared: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((shared / "families" / "tiny_configs.json").read_text())
    return found


def tiny(configs: Mapping[str, Any], kind: str, variant: str = "base") -> Any:
    entry = configs[kind]
    overrides = {one["name"]: one["override"] for one in entry.get("variants", [])}
    kwargs = entry["kwargs"] if variant == "base" else {**entry["kwargs"], **overrides[variant]}
    return reference(kind, kwargs, None if entry["auto_class"] == "AutoModelForCausalLM" else entry["model_class"])


def read(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> FamilyModel:
    return read_config(config, {name: tuple(tensor.shape) for name, tensor in tensors.items()})


def decoder_of(model: Any) -> Any:
    """The text decoder among transformers' modules."""
    inner = model.language_model if hasattr(model, "language_model") else model.model
    while not hasattr(inner, "layers"):
        inner = inner.language_model if hasattr(inner, "language_model") else inner.model
    return inner


ATTENTION = {
    "self_attn.q_norm": ("q_norm", "query_layernorm"),
    "self_attn.k_norm": ("k_norm", "key_layernorm"),
}
BIASES = ("gate.e_score_correction_bias", "e_score_correction_bias", "gate.moe_statics.e_score_correction_bias")


def find(module: Any, *paths: str) -> Any:
    for path in paths:
        at = module
        for step in path.split("."):
            at = getattr(at, step, None)
        if at is not None:
            return at
    raise AssertionError(f"{type(module).__name__} has none of {paths}")


def experts_of(mlp: Any, name: str, leaf: str, kind: str) -> Tensor:
    """A projection of all experts out of the tensors in which transformers' module holds them."""
    experts = mlp.experts
    suffix = "_bias" if leaf == "bias" else ""
    turned = kind in ("gpt_oss", "llama4", "llama4_text") and leaf == "weight"
    joint = getattr(experts, ("down_proj" if name == "down_proj" else "gate_up_proj") + suffix)
    joint = joint.transpose(1, 2) if turned else joint
    if name == "down_proj":
        return joint
    if kind == "gpt_oss":
        return joint[:, 0::2] if name == "gate_proj" else joint[:, 1::2]
    return joint.chunk(2, dim=1)[name == "up_proj"]


def halves(tensor: Tensor, heads: int, turned: int) -> Tensor:
    """Rows of interleaved pairs as rows of halves."""
    rows = tensor.view(heads, -1, *tensor.shape[1:])
    order = [*range(0, turned, 2), *range(1, turned, 2), *range(turned, rows.shape[1])]
    return rows[:, order].reshape(tensor.shape)


def module_weight(model: Any, kind: str, name: str, spec: ModelSpec) -> Tensor:
    """What transformers' module has for our parameter, in our layout."""
    decoder = decoder_of(model)
    around_zero = kind == "step3p7" and name.endswith("norm.weight")
    if not name.startswith("layers."):
        owner = model if name.startswith("lm_head") else decoder
        value: Tensor = find(owner, name, f"language_model.{name}")
        return value + 1 if around_zero else value
    _, number, inner = name.split(".", 2)
    layer, facts = decoder.layers[int(number)], spec.layers[int(number)].mixer
    module, _, leaf = inner.rpartition(".")
    if module == "self_attn.sinks":
        return find(layer, module)
    if not inner.startswith("mlp."):
        for ours, theirs in ATTENTION.items():
            if module == ours:
                options = (theirs,) if isinstance(theirs, str) else theirs
                value = find(layer.self_attn, *(f"{one}.{leaf}" for one in options))
                return value + 1 if around_zero else value
        value = find(layer, inner)
        if kind.startswith(("ernie", "llama4")) and module in ("self_attn.q_proj", "self_attn.k_proj"):
            heads = facts.n_heads if module.endswith("q_proj") else facts.n_kv_heads
            return halves(value, heads, facts.head_dim)
        return value + 1 if around_zero else value
    mlp = find(layer, "mlp", "feed_forward")
    routed = getattr(mlp, "text_moe", mlp)
    if inner.startswith("mlp.router."):
        if leaf == "choice_bias":
            return find(routed, *BIASES).flatten()
        return find(routed, f"gate.{leaf}", f"gate.wg.{leaf}", f"router.{leaf}")
    if inner.startswith("mlp.experts."):
        return experts_of(routed, module.rpartition(".")[2], leaf, kind)
    if inner.startswith("mlp.shared_gate."):
        return find(mlp, f"shared_expert_gate.{leaf}")
    if inner.startswith("mlp.shared_expert."):
        shared = find(mlp, "shared_expert", "shared_experts", "shared_mlp")
        return find(shared, inner.removeprefix("mlp.shared_expert."))
    return find(mlp, inner.removeprefix("mlp."))


def check_files(model: Any, kind: str, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> FamilyModel:
    """Every tensor is used or ignorable, every parameter is the module's, and what is put back is what was there."""
    ours = read(config, tensors)
    used = {tensor for source in ours.sources.values() for tensor in source.tensors}
    left_over = [name for name in tensors if name not in used]
    assert [name for name in left_over if not any(re.fullmatch(one, name) for one in ours.ignorable)] == []
    assert used <= tensors.keys()
    again = {name: torch.full_like(tensors[name], -7) for name in used}
    for param in declared(ours.spec):
        name, shape, source = param.name, param.shape, ours.sources[param.name]
        value = source.take(tensors)
        assert tuple(value.shape) == shape == source.shape({k: tuple(v.shape) for k, v in tensors.items()}), name
        assert torch.equal(value, module_weight(model, kind, name, ours.spec)), name
        source.put(again, value)
    for name in used:
        whole = again[name][:1] if name.endswith("moe_statics.e_score_correction_bias") else again[name]
        if kind == "step3p7" and name.endswith("norm.weight"):
            torch.testing.assert_close(whole, tensors[name], rtol=0, atol=1e-6)
        else:
            assert torch.equal(whole, tensors[name][: len(whole)]), name
    return ours


@pytest.mark.parametrize(("kind", "variant"), CASES)
def test_files_of_transformers(kind: str, variant: str, configs: dict[str, Any], tmp_path: Path) -> None:
    model = tiny(configs, kind, variant)
    hub = check_files(model, kind, *save(model, tmp_path / "hub"))
    native = check_files(model, kind, *save(model, tmp_path / "native", save_original_format=False))
    assert hub.spec == native.spec
    entry = next((v for v in configs[kind].get("variants", []) if v["name"] == variant), configs[kind])
    if configs[kind]["auto_class"] == "AutoModelForCausalLM":
        # transformers does not count these biases of the router, save ERNIE's.
        left_out = () if kind == "ernie4_5_moe" else ("choice_bias",)
        counted = [param.size for param in declared(hub.spec) if not param.name.endswith(tuple(left_out))]
        assert sum(counted) == entry["params"]


def hub_style(config: Mapping[str, Any]) -> dict[str, Any]:
    """The same facts under the keys of transformers 4, as published files have them."""
    text = dict(config.get("text_config", config))
    rope = dict(text.pop("rope_parameters"))
    if all(isinstance(one, dict) for one in rope.values()):
        kinds = text["layer_types"]
        text["rope_theta"] = [rope[kind]["rope_theta"] for kind in kinds]
        text["partial_rotary_factors"] = [rope[kind]["partial_rotary_factor"] for kind in kinds]
        scaling = rope["full_attention"]
    else:
        text["rope_theta"] = rope.pop("rope_theta")
        if "partial_rotary_factor" in rope:
            text["partial_rotary_factor"] = rope.pop("partial_rotary_factor")
        scaling = rope
    scaling = {key: value for key, value in scaling.items() if key not in ("rope_theta", "partial_rotary_factor")}
    if scaling.get("rope_type") == "default":
        scaling = {"type": "mrope", **{k: v for k, v in scaling.items() if k.startswith("mrope")}}
    text["rope_scaling"] = None if list(scaling) == ["type"] else scaling
    text["torch_dtype"] = text.pop("dtype", "bfloat16")
    return {**config, "text_config": text} if "text_config" in config else text


def renamed(config: dict[str, Any], names: Mapping[str, str | None], **more: Any) -> dict[str, Any]:
    """Keys under other names (None: without them), and some more."""
    text = config.get("text_config", config)
    changed = {names.get(key, key): value for key, value in text.items() if names.get(key, key) is not None} | more
    return {**config, "text_config": changed} if "text_config" in config else changed


PUBLISHED_KEYS: dict[str, tuple[dict[str, str | None], dict[str, Any]]] = {
    "qwen2_moe": ({"layer_types": None, "qkv_bias": None, "sliding_window": None}, {"sliding_window": 65536}),
    "qwen3_moe": ({"num_local_experts": "num_experts"}, {"max_window_layers": 4, "rope_scaling": None}),
    "qwen3_vl_moe": ({"num_local_experts": "num_experts"}, {"norm_topk_prob": True}),
    "qwen3_omni_moe_thinker": ({}, {"use_sliding_window": False, "shared_expert_intermediate_size": 0}),
    "glm4_moe": ({}, {"num_nextn_predict_layers": 1}),
    "glm4v_moe": ({}, {}),
    "ernie4_5_moe": ({"moe_layer_end_index": None}, {"moe_use_aux_free": True, "moe_capacity": [64, 64, 64]}),
    "ernie4_5_vl_moe": (
        {"mlp_layer_types": None},
        {"moe_layer_start_index": [1, 1], "moe_layer_end_index": [3, 3], "moe_num_experts": [6, 6],
         "freq_allocation": 20, "rope_3d": True},
    ),
    "hunyuan_v1_moe": (
        {},
        {"moe_topk": [2] * 4, "num_shared_expert": [1] * 4, "moe_intermediate_size": [96] * 4, "use_qk_norm": True,
         "use_mixed_mlp_moe": True, "moe_layer_num_skipped": 0, "norm_topk_prob": True},
    ),
    "hy_v3": ({"mlp_layer_types": None}, {"first_k_dense_replace": 1}),
    "minimax_m2": (
        {"partial_rotary_factor": None},
        {"rotary_dim": 12, "attn_type_list": [1] * 4, "scoring_func": "sigmoid", "use_routing_bias": True},
    ),
    "gpt_oss": ({"swiglu_alpha": None}, {"experts_per_token": 2, "initial_context_length": 64}),
    "step3p7": (
        {"num_sliding_attention_heads": None, "per_layer_config": None, "mlp_layer_types": None,
         "n_routed_experts": "moe_num_experts", "num_experts_per_tok": "moe_top_k", "query_pre_attn_scalar": None,
         "num_key_value_heads": "num_attention_groups"},
        {"attention_other_setting": {"attention_type": "sliding_attention", "num_attention_heads": 6,
                                     "num_attention_groups": 2, "head_dim": 16},
         "moe_layers_enum": "1,2,3", "use_head_wise_attn_gate": True, "yarn_only_types": ["full_attention"]},
    ),
    "llama4_text": ({"layer_types": None, "moe_layers": None}, {"no_rope_layers": [], "attn_temperature_tuning": 4}),
    "llama4": ({"layer_types": None, "moe_layers": None}, {"no_rope_layers": []}),
}  # fmt: skip


@pytest.mark.parametrize("kind", PUBLISHED_KEYS)
def test_the_keys_of_published_files(kind: str, configs: dict[str, Any], tmp_path: Path) -> None:
    config, tensors = save(tiny(configs, kind), tmp_path)
    names, more = PUBLISHED_KEYS[kind]
    ours = read(renamed(hub_style(config), names, **more), tensors)
    assert ours.spec == read(config, tensors).spec


def test_layers_for_further_tokens_are_cut_off() -> None:
    """Step's lists go on over the layers that guess further tokens, and so do its tensors."""
    config = {
        "model_type": "step3p5", "num_hidden_layers": 2, "num_nextn_predict_layers": 1, "sliding_window": 8,
        "layer_types": ["full_attention", "sliding_attention", "sliding_attention"], "rope_theta": [5e6, 1e4, 1e4],
        "partial_rotary_factors": [0.5, 1.0, 1.0], "swiglu_limits": [0, 7.0, 0], "moe_layers_enum": "1",
    }  # fmt: skip
    model = read_config(config)
    assert [layer.mixer.mask for layer in model.spec.layers] == [FULL, Sliding(8)]
    assert any(re.fullmatch(one, "model.layers.2.eh_proj.weight") for one in model.ignorable)


def specs(configs: dict[str, Any], kind: str, **changes: Any) -> ModelSpec:
    kwargs = configs[kind]["kwargs"]
    if "text_config" in kwargs:
        return read_config({"model_type": kind, **kwargs, "text_config": {**kwargs["text_config"], **changes}}).spec
    return read_config({"model_type": kind, **kwargs, **changes}).spec


def test_what_the_layers_are(configs: dict[str, Any]) -> None:
    qwen2 = specs(configs, "qwen2_moe")
    assert [type(layer.ffn) for layer in qwen2.layers] == [Moe, Dense, Moe, Moe]
    assert qwen2.layers[0].ffn == Moe(6, 32, Router(2), shared=Dense(48), shared_gate=True)
    assert specs(configs, "qwen3_vl_moe").layers[0].ffn == Moe(6, 32, Router(2, renorm=True))
    ernie = specs(configs, "ernie4_5_moe").layers[1].ffn
    assert ernie == Moe(8, 32, Router(2, choice_bias=True, renorm=True, renorm_floor=1e-12), shared=Dense(64))
    minimax = specs(configs, "minimax_m2").layers[0]
    assert minimax.mixer.qk_norm == QkNorm("before_rope", over="all_heads")
    assert minimax.mixer.rope is not None and minimax.mixer.rope.rotary_dim == 12
    glm = specs(configs, "glm4_moe", n_group=4, topk_group=2).layers[1].ffn
    assert isinstance(glm, Moe)
    assert glm.router == Router(2, "sigmoid", choice_bias=True, renorm=True, scale=2.5, n_groups=4, top_groups=2,
                                group_score="top2_sum")  # fmt: skip
    gpt = specs(configs, "gpt_oss").layers
    assert [layer.mixer.mask for layer in gpt] == [Sliding(8), FULL] * 2
    assert gpt[0].mixer.sinks and gpt[0].mixer.o_bias
    router = Router(2, "softmax_of_chosen", bias=True)
    assert gpt[0].ffn == Moe(4, 96, router, bias=True, activation=Activation("oai", 1.0, 1.702))
    llama = specs(configs, "llama4_text").layers
    assert [layer.mixer.mask for layer in llama] == [Chunked(8)] * 3 + [FULL]
    assert [layer.mixer.temperature for layer in llama] == [None] * 3 + [Temperature(0.1, 4)]
    assert [layer.mixer.qk_norm for layer in llama] == [QkNorm("after_rope", "l2")] * 3 + [None]
    assert llama[1].ffn == Moe(4, 32, Router(1, "sigmoid_of_chosen"), shared=Dense(32), weight_on_input=True)
    step = specs(configs, "step3p7").layers
    assert [layer.mixer.n_heads for layer in step] == [4, 6, 6, 6]
    assert [layer.mixer.rope.rotary_dim for layer in step if layer.mixer.rope] == [8, 16, 16, 16]
    assert isinstance(step[2].ffn, Moe) and isinstance(step[3].ffn, Moe) and step[3].ffn.shared is not None
    assert (step[2].ffn.activation, step[3].ffn.activation) == (SWIGLU, Activation("clamp_after", 1.0))
    assert step[3].ffn.shared.activation == Activation("clamp_after", 1.0)


REFUSED: dict[str, tuple[str, dict[str, Any]]] = {
    "scoring_func": ("minimax_m2", {"scoring_func": "softmax"}),
    "moe_layer_num_skipped": ("hunyuan_v1_moe", {"moe_layer_num_skipped": 2}),
    "moe_topk": ("hunyuan_v1_moe", {"moe_topk": [2, 2, 2, 1]}),
    "moe_use_aux_free": ("ernie4_5_moe", {"moe_use_aux_free": False}),
    "bias": ("ernie4_5_moe", {"use_bias": True}),
    "use_sliding_window": ("qwen3_vl_moe", {"use_sliding_window": True}),
    "norm_topk_prob": ("qwen3_vl_moe", {"norm_topk_prob": False}),
    "per_layer_config": ("step3p7", {"per_layer_config": {"1": {"num_key_value_heads": 4}}}),
    "use_head_wise_attn_gate": ("step3p7", {"use_head_wise_attn_gate": False}),
    "linear_attention": ("gpt_oss", {"layer_types": ["linear_attention"] * 4}),
    "something_new": ("glm4_moe", {"something_new": 1}),
}


@pytest.mark.parametrize("word", REFUSED)
def test_what_is_not_implemented_is_refused(word: str, configs: dict[str, Any]) -> None:
    kind, changes = REFUSED[word]
    with pytest.raises(UnsupportedError, match=word):
        specs(configs, kind, **changes)


IMPOSSIBLE: list[tuple[str, dict[str, Any]]] = [
    ("qwen3_moe", {"num_experts_per_tok": 7}),
    ("qwen3_moe", {"num_experts": 10**9}),
    ("qwen3_moe", {"num_experts": 6, "num_local_experts": 8}),
    ("qwen3_moe", {"mlp_only_layers": 3}),
    ("glm4_moe", {"first_k_dense_replace": 5}),
    ("hy_v3", {"mlp_layer_types": ["dense"]}),
    ("minimax_m2", {"attn_type_list": [1, 1, 0, 1]}),
    ("minimax_m2", {"rotary_dim": 48, "rope_parameters": None}),
    ("llama4_text", {"moe_layers": [4]}),
    ("llama4_text", {"no_rope_layers": [1, 2, 3, 4]}),
    ("step3p7", {"swiglu_limits": [1.0]}),
    ("step3p7", {"num_sliding_attention_heads": 5, "per_layer_config": None}),
    ("gpt_oss", {"swiglu_limit": -1}),
]


@pytest.mark.parametrize(("kind", "changes"), IMPOSSIBLE)
def test_impossible_numbers_are_refused(kind: str, changes: dict[str, Any], configs: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError):
        specs(configs, kind, **changes)


def test_details_of_published_models() -> None:
    scout = read_config(PUBLISHED["meta-llama/Llama-4-Scout-17B-16E-Instruct"].config).spec
    assert [n for n, layer in enumerate(scout.layers) if layer.mixer.rope is None] == list(range(3, 48, 4))
    assert scout.max_length == 10_485_760
    text = PUBLISHED["meta-llama/Llama-4-Scout-17B-16E-Instruct"].config["text_config"]
    again = {**text["rope_scaling"], "factor": 16.0, "high_freq_factor": 1.0}
    assert read_config({**text, "rope_scaling": again}).spec.layers[0].mixer.rope is not None
    gpt = read_config(PUBLISHED["openai/gpt-oss-20b"].config).spec
    rope = gpt.layers[0].mixer.rope
    assert rope is not None and (rope.kind, rope.original_length, rope.truncate) == ("yarn", 4096, False)
    assert gpt.max_length == 131_072
    step = read_config(PUBLISHED["stepfun-ai/step3"].config)
    assert [n for n, layer in enumerate(step.spec.layers) if isinstance(layer.ffn, Dense)] == [0, 1, 2, 3, 60]
    query = step.sources["layers.4.self_attn.q_proj.weight"]
    assert (query.tensor, step.spec.layers[4].mixer.q_rank) == ("model.layers.4.self_attn.wq.weight", 2048)


BAICHUAN = {
    "model_type": "baichuan", "architectures": ["BaichuanForCausalLM"], "bos_token_id": 1, "eos_token_id": 2,
    "hidden_act": "silu", "hidden_size": 32, "initializer_range": 0.02, "intermediate_size": 48,
    "num_attention_heads": 4, "num_hidden_layers": 2, "rms_norm_eps": 1e-06, "tie_word_embeddings": False,
    "torch_dtype": "bfloat16", "use_cache": True, "_from_model_config": True, "model_max_length": 4096,
    "pad_token_id": 0,
}  # fmt: skip


def test_baichuan() -> None:
    """7B rotates, 13B has slopes; the second generation's head has rows of length 1."""
    small = read_config({**BAICHUAN, "max_position_embeddings": 4096, "vocab_size": 64000})
    large = read_config({**BAICHUAN, "vocab_size": 64000, "z_loss_weight": 0, "gradient_checkpointing": False})
    assert small.spec.layers[0].mixer.rope is not None and not small.spec.layers[0].mixer.alibi
    assert large.spec.layers[0].mixer.rope is None and large.spec.layers[0].mixer.alibi
    assert small.spec.max_length == large.spec.max_length == 4096
    key = small.sources["layers.1.self_attn.k_proj.weight"]
    assert (key.tensor, key.rows) == ("model.layers.1.self_attn.W_pack.weight", (32, 64))
    assert small.sources["lm_head.weight"].form == "plain"
    second = read_config({**BAICHUAN, "vocab_size": 125_696}).sources["lm_head.weight"]
    assert second.form == "unit_rows"
    head = torch.randn(9, 4)
    taken = second.take({"lm_head.weight": head})
    torch.testing.assert_close(taken, head / head.norm(dim=1, keepdim=True))
    again = torch.empty_like(head)
    second.put({"lm_head.weight": again}, taken)
    assert torch.equal(again, taken)
    with pytest.raises(CheckpointError, match="length"):
        second.put({"lm_head.weight": again}, taken * 1.1)


def test_experts_of_qwen3_vl_as_the_hub_has_them(configs: dict[str, Any], tmp_path: Path) -> None:
    """The published files keep them the other way round; the shapes tell which way a file has them."""
    config, tensors = save(tiny(configs, "qwen3_vl_moe"), tmp_path)
    turned = {n: t.transpose(1, 2).contiguous() if ".mlp.experts." in n else t for n, t in tensors.items()}
    plain, hub = read(config, tensors), read(config, turned)
    assert hub.sources == read_config(config).sources
    for name in plain.sources:
        assert torch.equal(plain.sources[name].take(tensors), hub.sources[name].take(turned)), name
