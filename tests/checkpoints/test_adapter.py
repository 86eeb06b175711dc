"""Adapters against peft: ours loaded there, theirs loaded here, on models with fused and interleaved modules."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from landrace.checkpoints.adapter import read_adapter, write_adapter
from landrace.checkpoints.adapter_config import parse_config
from landrace.errors import CheckpointError, LandraceError, UnsupportedError
from landrace.models.families.weights import Rotary, Source
from landrace.models.lora_spec import LoraSpec

HIDDEN, HEADS, KV_HEADS, HEAD_DIM, FFN, LAYERS = 32, 4, 2, 8, 48, 2
COMMON: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": HIDDEN,
    "intermediate_size": FFN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "head_dim": HEAD_DIM,
    "pad_token_id": None,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def tiny(kind: str) -> transformers.PreTrainedModel:
    torch.manual_seed(0)
    if kind == "glm":
        return transformers.GlmForCausalLM(transformers.GlmConfig(**COMMON, attention_bias=True)).eval()
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**COMMON)).eval()


def sources_of(kind: str) -> dict[str, Source]:
    """The projections of the tiny models; glm fuses gate and up, and rotates half of each head in pairs."""
    sources = {}
    for n in range(LAYERS):
        layer, hub = f"layers.{n}", f"model.layers.{n}"
        for name, heads in (("q_proj", HEADS), ("k_proj", KV_HEADS), ("v_proj", 0), ("o_proj", 0)):
            rotary = Rotary(heads, HEAD_DIM, HEAD_DIM // 2) if kind == "glm" and heads else None
            sources[f"{layer}.self_attn.{name}.weight"] = Source(f"{hub}.self_attn.{name}.weight", None, rotary)
        fused = f"{hub}.mlp.gate_up_proj.weight"
        for i, name in enumerate(("gate_proj", "up_proj")):
            sources[f"{layer}.mlp.{name}.weight"] = (
                Source(fused, (i * FFN, (i + 1) * FFN)) if kind == "glm" else Source(f"{hub}.mlp.{name}.weight")
            )
        sources[f"{layer}.mlp.down_proj.weight"] = Source(f"{hub}.mlp.down_proj.weight")
    return sources


SHAPES = {
    "q_proj": (HEADS * HEAD_DIM, HIDDEN),
    "k_proj": (KV_HEADS * HEAD_DIM, HIDDEN),
    "v_proj": (KV_HEADS * HEAD_DIM, HIDDEN),
    "o_proj": (HIDDEN, HEADS * HEAD_DIM),
    "gate_proj": (FFN, HIDDEN),
    "up_proj": (FFN, HIDDEN),
    "down_proj": (HIDDEN, FFN),
}


def random_tensors(spec: LoraSpec, sources: dict[str, Source]) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    tensors = {}
    for name in sources:
        module = name.removesuffix(".weight")
        if (leaf := module.rpartition(".")[2]) in spec.targets:
            out, inner = SHAPES[leaf]
            tensors[f"{module}.lora_A"] = torch.randn(spec.rank, inner)
            tensors[f"{module}.lora_B"] = torch.randn(out, spec.rank)
    return tensors


def deltas(spec: LoraSpec, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Canonical weight name to scale * B A."""
    modules = {name.rpartition(".")[0] for name in tensors}
    return {f"{m}.weight": spec.scale * tensors[f"{m}.lora_B"] @ tensors[f"{m}.lora_A"] for m in modules}


def peft_deltas(model: peft.PeftModel, sources: dict[str, Source]) -> dict[str, torch.Tensor]:
    """The same, out of peft's own layers, in canonical rows."""
    found = {}
    for name, source in sources.items():
        module = model.base_model.model.get_submodule(source.tensor.removesuffix(".weight"))
        if hasattr(module, "get_delta_weight"):
            found[name] = source.take_rows(module.get_delta_weight("default").detach())
    return found


def assert_same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-5, atol=1e-5)


CHOICES = [tuple(SHAPES), ("q_proj", "v_proj"), ("gate_proj",), ("up_proj", "k_proj")]


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("targets", CHOICES)
@pytest.mark.parametrize("kind", ["llama", "glm"])
def test_peft_loads_ours(kind: str, targets: tuple[str, ...], rslora: bool, tmp_path: Path) -> None:
    sources, spec = sources_of(kind), LoraSpec(4, 10.0, targets, rslora)
    tensors = random_tensors(spec, sources)
    write_adapter(tmp_path / "a", spec, tensors, sources, "base/name", {"weights": "abc"})
    model = peft.PeftModel.from_pretrained(tiny(kind), tmp_path / "a")
    assert model.peft_config["default"].base_model_name_or_path == "base/name"
    theirs = peft_deltas(model, sources)
    ours = deltas(spec, tensors)
    for name in theirs.keys() - ours.keys():
        assert not theirs.pop(name).any(), "the half of a fused module that is not adapted must not change"
    assert_same(ours, theirs)


@pytest.mark.parametrize("kind", ["llama", "glm"])
def test_logits_with_our_adapter_in_peft_are_those_of_changed_weights(kind: str, tmp_path: Path) -> None:
    sources, spec = sources_of(kind), LoraSpec(4, 2.0)
    tensors = random_tensors(spec, sources)
    changed = tiny(kind)
    state = changed.state_dict()
    with torch.no_grad():
        for name, delta in deltas(spec, tensors).items():
            sources[name].put(state, sources[name].take(state) + delta)
    write_adapter(tmp_path / "a", spec, tensors, sources, "base", {})
    model = peft.PeftModel.from_pretrained(tiny(kind), tmp_path / "a").eval()
    ids = torch.arange(3, 23)[None]
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, changed(ids).logits, rtol=1e-4, atol=1e-4)


def peft_adapter(kind: str, folder: Path, **options: Any) -> peft.PeftModel:
    options = {"r": 4, "lora_alpha": 6, "lora_dropout": 0.1, "task_type": "CAUSAL_LM"} | options
    model = peft.get_peft_model(tiny(kind), peft.LoraConfig(**options))
    torch.manual_seed(2)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter)
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize(
    "options",
    [
        {"target_modules": ["q_proj", "k_proj", "o_proj"]},
        {"target_modules": "all-linear"},
        {"target_modules": ["q_proj", "down_proj"], "use_rslora": True},
        {"target_modules": r"model\.layers\.1\..*_proj"},
        {"target_modules": ["1.self_attn.q_proj", "down_proj"]},
        {"target_modules": ["v_proj"], "layers_to_transform": [1]},
        {"target_modules": ["q_proj", "v_proj"], "exclude_modules": ["0.self_attn.v_proj"]},
        {"target_modules": ["q_proj", "down_proj"], "rank_pattern": {"down_proj": 2}},
        {
            "target_modules": ["q_proj", "down_proj"],
            "rank_pattern": {"^model.layers.0.self_attn.q_proj": 7, "q_proj": 5},
            "alpha_pattern": {"layers.1.mlp.down_proj": 3},
        },
        {"target_modules": ["q_proj", "v_proj"], "rank_pattern": {"v_proj": 8}, "use_rslora": True},
        {"target_modules": ["q_proj"], "rank_pattern": {"q_proj": 8}, "alpha_pattern": {"q_proj": 5}},
    ],
)
@pytest.mark.parametrize("kind", ["llama", "glm"])
def test_we_load_pefts(kind: str, options: dict[str, Any], tmp_path: Path) -> None:
    sources = sources_of(kind)
    model = peft_adapter(kind, tmp_path, **options)
    spec, tensors, metadata = read_adapter(tmp_path, sources)
    assert metadata == {}
    ours = deltas(spec, tensors)
    for name in ours.keys() - peft_deltas(model, sources).keys():
        assert not ours.pop(name).any(), "a module that peft leaves alone must not change"
    assert_same(ours, peft_deltas(model, sources))
    assert {name.split(".")[-2] for name in tensors} == set(spec.targets)
    assert {tensor.shape[0] for name, tensor in tensors.items() if name.endswith("lora_A")} == {spec.rank}


def test_a_fused_module_of_peft_splits_by_rows(tmp_path: Path) -> None:
    sources = sources_of("glm")
    model = peft_adapter("glm", tmp_path, target_modules=["gate_up_proj", "q_proj"])
    spec, tensors, _ = read_adapter(tmp_path, sources)
    assert spec.targets == ("q_proj", "gate_proj", "up_proj") and spec.rank == 4
    assert torch.equal(tensors["layers.0.mlp.gate_proj.lora_A"], tensors["layers.0.mlp.up_proj.lora_A"])
    assert_same(deltas(spec, tensors), peft_deltas(model, sources))
    write_adapter(tmp_path / "again", spec, tensors, sources, "base", {})
    before, after = (load_file(folder / "adapter_model.safetensors") for folder in (tmp_path, tmp_path / "again"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before), "a shared A stays shared"


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize("kind", ["llama", "glm"])
def test_what_we_write_we_read_bit_for_bit(kind: str, fresh: bool, tmp_path: Path) -> None:
    sources, spec = sources_of(kind), LoraSpec(3, 7.5, tuple(SHAPES), rslora=True)
    tensors = random_tensors(spec, sources)
    if fresh:
        tensors = {name: t * 0 if name.endswith("lora_B") else t for name, t in tensors.items()}
    facts = {"template_sha256": "12", "note": "ü"}
    write_adapter(tmp_path / "a", spec, tensors, sources, "base", facts)
    again, read, metadata = read_adapter(tmp_path / "a", sources)
    assert again == spec and metadata == facts and read.keys() == tensors.keys()
    assert all(torch.equal(read[name], tensors[name]) for name in tensors)


def test_nothing_is_half_made(tmp_path: Path) -> None:
    sources, spec = sources_of("glm"), LoraSpec(2, 4.0, ("q_proj",))
    tensors = random_tensors(spec, sources)
    write_adapter(tmp_path / "a", spec, tensors, sources, "one", {})
    write_adapter(tmp_path / "a", spec, tensors, sources, "two", {})
    assert "two" in (tmp_path / "a" / "adapter_config.json").read_text()
    bad = tensors | {"layers.0.self_attn.q_proj.lora_B": torch.zeros(3, 2)}
    with pytest.raises(CheckpointError):
        write_adapter(tmp_path / "b", spec, bad, sources, "base", {})
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(CheckpointError, match=r"thesis\.txt"):
        write_adapter(tmp_path / "mine", spec, tensors, sources, "base", {})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "mine"]


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.pop("layers.0.self_attn.q_proj.lora_B"),
        lambda t: t.update(
            {
                "layers.9.self_attn.q_proj.lora_A": torch.zeros(2, 4),
                "layers.9.self_attn.q_proj.lora_B": torch.zeros(4, 2),
            }
        ),
        lambda t: t.update({"layers.0.self_attn.q_proj.lora_A": torch.zeros(3, HIDDEN)}),
    ],
)
def test_tensors_that_do_not_fit_are_not_written(change: Callable[[dict[str, Any]], Any], tmp_path: Path) -> None:
    sources, spec = sources_of("llama"), LoraSpec(2, 4.0, ("q_proj",))
    tensors = random_tensors(spec, sources)
    change(tensors)
    with pytest.raises(CheckpointError):
        write_adapter(tmp_path / "a", spec, tensors, sources, "base", {})


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    sources, spec = sources_of("llama"), LoraSpec(2, 4.0, ("q_proj", "v_proj"))
    write_adapter(tmp_path / "a", spec, random_tensors(spec, sources), sources, "base", {})
    return tmp_path / "a"


def with_config(folder: Path, **fields: Any) -> Path:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    return folder


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("peft_type", "LOHA"),
        ("peft_type", None),
        ("bias", "all"),
        ("bias", "lora_only"),
        ("use_dora", True),
        ("modules_to_save", ["lm_head"]),
        ("fan_in_fan_out", True),
        ("lora_bias", True),
        ("use_qalora", True),
        ("layer_replication", [[0, 2]]),
        ("trainable_token_indices", [3]),
        ("alora_invocation_tokens", [1]),
        ("init_lora_weights", "pissa"),
        ("init_lora_weights", "pissa_niter_4"),
        ("task_type", "SEQ_CLS"),
        ("loftq_config", {"loftq_bits": 4}),
        ("some_future_field", 1),
        ("alpha_pattern", {"(a+)+b": 3}),
        ("rank_pattern", {".*": 3}),
    ],
)
def test_fields_that_are_not_honoured_are_refused_by_name(field: str, value: Any, plain: Path) -> None:
    name = {"peft_type": "type", "task_type": "task"}.get(field, field)
    with pytest.raises(UnsupportedError, match=name):
        read_adapter(with_config(plain, **{field: value}), sources_of("llama"))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("r", 0),
        ("r", -1),
        ("r", "8"),
        ("r", True),
        ("r", 1 << 40),
        ("r", None),
        ("r", 3),
        ("lora_alpha", None),
        ("lora_alpha", "x"),
        ("lora_alpha", float("nan")),
        ("lora_alpha", float("inf")),
        ("lora_alpha", 0),
        ("target_modules", None),
        ("target_modules", []),
        ("target_modules", [3]),
        ("target_modules", ["q_proj"]),
        ("target_modules", ["q_proj", "v_proj", "k_proj"]),
        ("rank_pattern", [1]),
        ("rank_pattern", {"q_proj": "x"}),
        ("rank_pattern", {"q_proj": 3}),
        ("alpha_pattern", {"q_proj": None}),
        ("use_rslora", "yes"),
    ],
)
def test_impossible_fields_are_clear_errors(field: str, value: Any, plain: Path) -> None:
    with pytest.raises(CheckpointError):
        read_adapter(with_config(plain, **{field: value}), sources_of("llama"))


def test_every_default_of_peft_is_accepted(plain: Path) -> None:
    defaults = peft.LoraConfig(target_modules=["q_proj", "v_proj"]).to_dict()
    keep = {"r", "lora_alpha", "target_modules", "peft_type"}
    read_adapter(with_config(plain, **{k: v for k, v in defaults.items() if k not in keep}), sources_of("llama"))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["q_proj", "LORA"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("aq_.^*", max_size=6), inner, max_size=3),
    max_leaves=6,
)
FIELDS = st.dictionaries(st.sampled_from(sorted(peft.LoraConfig().to_dict())), JSON, min_size=1, max_size=4)


@settings(max_examples=300)
@given(FIELDS)
def test_any_field_with_any_value_is_taken_or_refused(fields: dict[str, Any]) -> None:
    usual = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]}
    with contextlib.suppress(LandraceError):
        config = parse_config(usual | fields)
        assert math.isfinite(config.scale_of("model.layers.0.self_attn.q_proj"))
        assert config.is_target("x.q_proj") in (True, False)


Q_A, Q_B = (f"base_model.model.model.layers.0.self_attn.q_proj.lora_{x}.weight" for x in "AB")


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        (lambda t: t.pop(Q_A), CheckpointError, "only one of"),
        (lambda t: (t.pop(Q_A), t.pop(Q_B)), CheckpointError, "no weights for it"),
        (lambda t: t.clear(), CheckpointError, "empty"),
        (lambda t: t.update({Q_A: torch.zeros(2)}), CheckpointError, "not a matrix"),
        (lambda t: t.update({Q_A: torch.zeros(3, HIDDEN)}), CheckpointError, "rank"),
        (lambda t: t.update({Q_A: torch.zeros(2, HIDDEN, dtype=torch.int8)}), UnsupportedError, "I8"),
        (lambda t: t.update({Q_A.replace("lora_A", "lora_magnitude"): torch.zeros(2)}), UnsupportedError, "magnitude"),
        (lambda t: t.update({Q_A.replace("s.0", "s.7"): torch.zeros(2, HIDDEN)}), CheckpointError, "does not have"),
        (
            lambda t: t.update({"base_model.model.lm_head.lora_A.weight": torch.zeros(2, 4)}),
            UnsupportedError,
            "lm_head",
        ),
    ],
)
def test_tensors_that_do_not_belong_are_clear_errors(
    change: Callable[[dict[str, Any]], Any], error: type[LandraceError], says: str, plain: Path
) -> None:
    tensors = load_file(plain / "adapter_model.safetensors")
    change(tensors)
    save_file(tensors, plain / "adapter_model.safetensors")
    with pytest.raises(error, match=says):
        read_adapter(plain, sources_of("llama"))


def test_damaged_files_are_clear_errors(plain: Path) -> None:
    weights = plain / "adapter_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="damaged"):
        read_adapter(plain, sources_of("llama"))
    weights.rename(plain / "adapter_model.bin")
    with pytest.raises(UnsupportedError, match="pickle"):
        read_adapter(plain, sources_of("llama"))
    (plain / "adapter_config.json").write_text("[" * 100_000)
    with pytest.raises(CheckpointError, match="nested too deeply"):
        read_adapter(plain, sources_of("llama"))
    with pytest.raises(CheckpointError, match="no file"):
        read_adapter(plain / "absent", sources_of("llama"))


def test_ranks_too_far_apart_are_refused(plain: Path) -> None:
    tensors = load_file(plain / "adapter_model.safetensors")
    tensors |= {Q_A: torch.zeros(60, HIDDEN), Q_B: torch.zeros(HIDDEN, 60)}
    save_file(tensors, plain / "adapter_model.safetensors")
    with pytest.raises(UnsupportedError, match="from 2 to 60"):
        read_adapter(with_config(plain, rank_pattern={"0.self_attn.q_proj": 60}), sources_of("llama"))
