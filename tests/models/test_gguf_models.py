"""GGUF metadata and names: SmolLM2 against transformers, every architecture against llama.cpp itself."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import packed_logits, random_decoder, random_ids, worst

from landrace.checkpoints.checkpoint import open_checkpoint
from landrace.checkpoints.gguf_model import write_gguf_model
from landrace.errors import CheckpointError, UnsupportedError
from landrace.models.declared import shapes_of
from landrace.models.decoder import Decoder
from landrace.models.families import FAMILIES, read_config
from landrace.models.families.gguf import config_from_gguf, gguf_sources
from landrace.models.families.gguf_architectures import ARCHITECTURES
from landrace.models.families.gguf_delta import delta_facts
from landrace.models.families.weights import Source
from landrace.models.spec import ModelSpec, Plain

gguf = pytest.importorskip("gguf")

HEADS, KV_HEADS, HEAD_DIM, WIDTH, HIDDEN, LAYERS, VOCAB, CONTEXT = 4, 2, 32, 96, 160, 4, 112, 256

DENSE = [
    name
    for name, one in ARCHITECTURES.items()
    if not one.experts and not one.latent and one.more is not delta_facts and one.model_type != "baichuan"
]
"""The others are in test_gguf_moe_models.py, test_gguf_latent_models.py and test_gguf_delta_models.py."""
SQUARE = ("qwen2", "qwen2vl", "chatglm")
"""Architectures in which llama.cpp wants the heads to be as wide, together, as the model."""
WITH_BIASES = ("qwen2", "qwen2vl", "glm4", "chatglm", "seed_oss")
"""Architectures that have biases on q, k and v."""


def metadata(architecture: str, **changes: Any) -> dict[str, Any]:
    """What the converter writes for a tiny model; `changes` are keys below the architecture's, None to leave out."""
    own: dict[str, Any] = {
        "context_length": CONTEXT,
        "embedding_length": WIDTH,
        "feed_forward_length": HIDDEN,
        "block_count": LAYERS,
        "attention.head_count": HEADS,
        "attention.head_count_kv": KV_HEADS,
        "attention.key_length": HEAD_DIM,
        "attention.value_length": HEAD_DIM,
        "attention.layer_norm_rms_epsilon": 3e-3,
        "rope.dimension_count": 16 if architecture in ("glm4", "chatglm") else HEAD_DIM,
        "rope.freq_base": 5e4,
        "vocab_size": VOCAB,
    }
    if architecture == "granite":
        own |= {"attention.scale": 0.3, "embedding_scale": 3.0, "residual_scale": 0.6, "logit_scale": 2.0}
    if architecture == "minicpm":
        own |= {"embedding_scale": 6.0, "residual_scale": 0.7, "logit_scale": 3.0}
    if architecture in SQUARE:
        own |= {"embedding_length": HEADS * HEAD_DIM, "attention.key_length": None, "attention.value_length": None}
    if architecture in ("qwen2vl", "qwen3vl", "hunyuan_vl"):
        own["rope.dimension_sections"] = [6, 5, 5, 0]
    if architecture in ("qwen2vl", "qwen3vl"):
        own["attention.layer_norm_rms_epsilon"] = 1e-6  # Some releases of llama.cpp take it for 0.
    if architecture == "hunyuan_vl":
        own |= {"rope.scaling.type": "none", "rope.scaling.factor": 1.0, "rope.scaling.alpha": 50.0}
    if architecture == "hunyuan-dense":
        own |= {"rope.scaling.type": "none", "rope.scaling.factor": 1.0, "rope.scaling.original_context_length": 4096}
    own |= changes
    found = {"general.architecture": architecture, "tokenizer.ggml.model": "no_vocab"}
    return found | {f"{architecture}.{key}": value for key, value in own.items() if value is not None}


def names(architecture: str, *, tied: bool = False, fused: bool = False) -> list[str]:
    """The tensors of such a file, from gguf's own table. `fused`: q, k and v are one."""
    known = gguf.get_tensor_name_map(_arch(architecture), LAYERS)
    wanted = ["model.embed_tokens", "model.norm"] + ([] if tied else ["lm_head"])
    modules = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.down_proj",
               "input_layernorm", "post_attention_layernorm"]  # fmt: skip
    modules += ["mlp.gate_up_proj"] if architecture in ("glm4", "chatglm") else ["mlp.gate_proj", "mlp.up_proj"]
    if architecture == "glm4":
        modules += ["post_self_attn_layernorm", "post_mlp_layernorm"]
    if architecture in ("qwen3", "qwen3vl", "hunyuan-dense", "hunyuan_vl"):
        modules += ["self_attn.q_norm", "self_attn.k_norm"]
    found = []
    for name in [*wanted, *(f"model.layers.{n}.{module}" for n in range(LAYERS) for module in modules)]:
        theirs = known.get_name(name)
        assert theirs is not None, name
        found.append(f"{theirs}.weight")
        if name.endswith(("q_proj", "k_proj", "v_proj")) and architecture in WITH_BIASES:
            found.append(f"{theirs}.bias")
    if fused:
        found = list(dict.fromkeys(re.sub(r"\.attn_[qkv]\.", ".attn_qkv.", name) for name in found))
    return found


def _arch(architecture: str) -> Any:
    return next(arch for arch, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)


def weights_for(spec: ModelSpec, sources: dict[str, Source], decoder: Decoder) -> dict[str, np.ndarray]:
    """The decoder's weights laid out as the file keeps them."""
    rows: dict[str, int] = {}
    for name, source in sources.items():
        end = source.rows[1] if source.rows else shapes_of(decoder.spec)[name][0]
        rows[source.tensor] = max(end, rows.get(source.tensor, 0))
    stored: dict[str, torch.Tensor] = {}
    for name, tensor in decoder.named_tensors():
        source = sources[name]
        if source.tensor not in stored:
            stored[source.tensor] = torch.zeros(rows[source.tensor], *tensor.shape[1:])
        source.put(stored, tensor)
    return {name: tensor.numpy() for name, tensor in stored.items()}


def write(
    path: Path, data: dict[str, Any], tensors: dict[str, np.ndarray], kinds: Mapping[str, Any] | None = None
) -> None:
    """`kinds`: the types of tensors that are packed already."""
    writer = gguf.GGUFWriter(path, data["general.architecture"])
    for key, value in data.items():
        if key == "general.architecture":
            continue
        if isinstance(value, str):
            writer.add_string(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        elif isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, list):
            writer.add_array(key, value)
        elif isinstance(value, np.ndarray):
            writer.add_key_value(key, value.tolist(), gguf.GGUFValueType.ARRAY, sub_type=gguf.GGUFValueType.UINT64)
        else:
            writer.add_uint32(key, value)
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor, raw_dtype=(kinds or {}).get(name))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def llama_cpp_logits(path: Path, ids: list[int], n_ctx: int = 64, **options: Any) -> torch.Tensor:
    llama_cpp = pytest.importorskip("llama_cpp")
    model = llama_cpp.Llama(
        str(path),
        n_ctx=n_ctx,
        n_threads=1,
        n_threads_batch=1,
        logits_all=True,
        verbose=False,
        type_k=0,
        type_v=0,
        **options,
    )
    model.eval(ids)
    return torch.from_numpy(np.array(model.scores[: len(ids)], dtype=np.float32))


def assert_as_llama_cpp(
    path: Path, decoder: Decoder, near: float = 1e-4, rows: Sequence[int] = range(40), **options: Any
) -> torch.Tensor:
    """Logits of some text, of these rows, relative to the greatest; returns llama.cpp's."""
    ids = random_ids((40,))
    theirs = llama_cpp_logits(path, ids[0], **options)
    (ours,) = packed_logits(decoder, ids)
    assert worst([ours[list(rows)]], [theirs[list(rows)]]) < near * theirs.abs().max().item()
    return theirs


def assert_goes_back(path: Path, folder: Path) -> None:
    """A model that has changed is written as its file was."""
    checkpoint = open_checkpoint(path)
    changed = {name: tensor.float() * 0.5 for name, tensor in checkpoint.tensors()}
    again = open_checkpoint(write_gguf_model(folder, checkpoint, changed))
    assert again.spec == checkpoint.spec
    for name, tensor in again.tensors():
        torch.testing.assert_close(tensor.float(), changed[name], rtol=1e-6, atol=1e-6)


FREQUENCIES = [1 / (5e4 ** (2 * i / HEAD_DIM)) for i in range(HEAD_DIM // 2)]


def llama3_factors(factor: float = 8.0) -> list[float]:
    """As the converter writes them."""
    found = []
    for frequency in FREQUENCIES:
        wave = 2 * math.pi / frequency
        blend = (8192 / wave - 1) / 3
        found.append(1.0 if wave < 2048 else factor if wave > 8192 else 1 / ((1 - blend) / factor + blend))
    return found


def with_biases(architecture: str) -> list[str]:
    """The same, with every bias the family can have."""
    modules = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    biases = [f"blk.{n}.{module}.bias" for n in range(LAYERS) for module in modules]
    return [*(name for name in names(architecture) if not name.endswith(".bias")), *biases]


YARN = {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0, "rope.scaling.original_context_length": 64}
CASES: dict[str, tuple[str, dict[str, Any], bool]] = {
    **{name: (name, {}, False) for name in DENSE},
    "llama, tied": ("llama", {}, True),
    "llama, llama3 factors": ("llama", {"rope_freqs": True}, False),
    "llama, linear": ("llama", {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0}, False),
    "qwen2, yarn": ("qwen2", YARN, False),
    "hunyuan_vl, base with alpha": ("hunyuan_vl", {"rope.scaling.alpha": None, "rope.dimension_sections": None}, False),
    "qwen3, one number a layer": ("qwen3", {"attention.head_count_kv": [KV_HEADS] * LAYERS}, False),
}


@pytest.mark.parametrize("case", CASES)
def test_architectures_against_llama_cpp(case: str, tmp_path: Path) -> None:
    """A random model of ours, written as GGUF, answers the same in llama.cpp (with its cache in float32)."""
    architecture, changes, tied = CASES[case]
    changes = dict(changes)
    factors = llama3_factors() if changes.pop("rope_freqs", False) else None
    data = metadata(architecture, **changes)
    tensor_names = [*names(architecture, tied=tied), *(["rope_freqs.weight"] if factors else [])]
    config = config_from_gguf(data, tensor_names, lambda name: factors or [])
    spec = read_config(config).spec
    sources = gguf_sources(spec, architecture)
    assert {source.tensor for source in sources.values()} == set(tensor_names) - {"rope_freqs.weight"}
    assert spec.tie_embeddings == tied
    decoder = random_decoder(spec)
    tensors = weights_for(spec, sources, decoder)
    if factors:
        tensors["rope_freqs.weight"] = np.array(factors, dtype=np.float32)
    write(tmp_path / "tiny.gguf", data, tensors)
    assert assert_as_llama_cpp(tmp_path / "tiny.gguf", decoder).std() > 0.3


@pytest.mark.parametrize("architecture", ["chatglm", "llama", "qwen3", "qwen2"])
def test_fused_queries_keys_and_values(architecture: str, tmp_path: Path) -> None:
    """As files of ChatGLM have them, and llama.cpp takes them for others too."""
    data, separate, fused = metadata(architecture), names(architecture), names(architecture, fused=True)
    spec = read_config(config_from_gguf(data, fused)).spec
    assert spec == read_config(config_from_gguf(data, separate)).spec
    decoder = random_decoder(spec)
    sources = gguf_sources(spec, architecture, fused)
    assert {source.tensor for source in sources.values()} == set(fused)
    write(tmp_path / "tiny.gguf", data, weights_for(spec, sources, decoder))
    ours = dict(open_checkpoint(tmp_path / "tiny.gguf").tensors())
    assert all(torch.equal(ours[name], tensor) for name, tensor in decoder.named_tensors())
    assert_as_llama_cpp(tmp_path / "tiny.gguf", decoder)
    assert_goes_back(tmp_path / "tiny.gguf", tmp_path / "again")


@pytest.mark.parametrize("architecture", DENSE)
def test_the_config_is_one_that_transformers_reads(architecture: str) -> None:
    """So that a GGUF model tuned in full can be written as a hub folder."""
    transformers = pytest.importorskip("transformers")
    config = config_from_gguf(metadata(architecture), names(architecture))
    assert config["model_type"] in FAMILIES
    if config["model_type"] != "minicpm":
        model = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(**config))
        hub = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        read = read_config(config)
        assert {source.tensor for source in read.sources.values()} == set(hub) - (
            {"lm_head.weight"} if read.spec.tie_embeddings else set()
        )


@pytest.mark.parametrize("architecture", ["llama", "smollm3", "granite", "ernie4_5", "seed_oss"])
def test_biases_follow_the_tensors(architecture: str) -> None:
    spec = read_config(config_from_gguf(metadata(architecture), with_biases(architecture))).spec
    assert {source.tensor for source in gguf_sources(spec, architecture).values()} == set(with_biases(architecture))


def test_llama3_factors_become_its_parameters() -> None:
    tensor_names = [*names("llama"), "rope_freqs.weight"]
    config = config_from_gguf(metadata("llama"), tensor_names, lambda name: llama3_factors(32.0))
    assert config["rope_scaling"]["rope_type"] == "llama3"
    assert config["rope_scaling"]["factor"] == 32.0
    with pytest.raises(UnsupportedError, match="not Llama 3's"):
        config_from_gguf(metadata("llama"), tensor_names, lambda name: [1.0, 2.0] * (HEAD_DIM // 4))
    for bad in ([], [0.0] * 16, [float("nan")] * 16, [8.0] * 15):
        with pytest.raises(UnsupportedError):
            config_from_gguf(metadata("llama"), tensor_names, lambda name, bad=bad: bad)
    with pytest.raises(UnsupportedError, match="rope_freqs"):
        config_from_gguf(metadata("llama"), tensor_names)


def test_minicpm_longrope() -> None:
    tensor_names = [*names("minicpm"), "rope_factors_long.weight", "rope_factors_short.weight"]
    values = {"rope_factors_long.weight": [2.0] * 16, "rope_factors_short.weight": [1.0] * 16}
    data = metadata("minicpm", **{"rope.scaling.type": "longrope", "rope.scaling.original_context_length": CONTEXT})
    spec = read_config(config_from_gguf(data, tensor_names, values.__getitem__)).spec
    rope = spec.layers[0].mixer.rope
    assert rope is not None
    assert (rope.kind, rope.long_factor, rope.attention_factor) == ("longrope", (2.0,) * 16, 1.0)
    assert (spec.embed_scale, spec.layers[0].residual, spec.logit_divisor) == (
        6.0,
        Plain(pytest.approx(0.7)),
        pytest.approx(3.0),
    )


def test_refusals() -> None:
    def read(architecture: str = "llama", **changes: Any) -> None:
        read_config(config_from_gguf(metadata(architecture, **changes), names("llama")))

    for changes in (
        {"expert_count": 8},
        {"attention.sliding_window": 4096},
        {"attn_logit_softcapping": 50.0},
        {"something_new": 1},
        {"attention.value_length": 64},
        {"rope.scaling.type": "dynamic"},
        {"rope.scaling.factor": 4.0},
        {"feed_forward_length": [160, 160, 160, 80]},
    ):
        with pytest.raises(UnsupportedError):
            read(**changes)
    for changes in (
        {"block_count": 0},
        {"block_count": 10**9},
        {"vocab_size": 10**12},
        {"attention.head_count": 0},
        {"attention.head_count": [4, 4]},
        {"attention.layer_norm_rms_epsilon": float("nan")},
        {"context_length": None},
    ):
        with pytest.raises(CheckpointError):
            read(**changes)
    for name in (None, 3, "gpt2"):
        with pytest.raises(UnsupportedError, match="architecture"):
            config_from_gguf({"general.architecture": name}, [])
    with pytest.raises(UnsupportedError, match="GLM-4V"):
        config_from_gguf(metadata("glm4", **{"rope.dimension_sections": [2, 3, 3, 0]}), names("glm4"))
    partial = [*names("llama"), "blk.0.attn_q.bias"]
    with pytest.raises(UnsupportedError, match="attention_bias"):
        config_from_gguf(metadata("llama"), partial)


@pytest.mark.long
def test_smollm2_equals_transformers(smollm2_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    reader = gguf.GGUFReader(smollm2_path)
    data = {key: field.contents() for key, field in reader.fields.items()}
    stored = {tensor.name: tensor for tensor in reader.tensors}
    spec = read_config(config_from_gguf(data, stored)).spec
    assert (len(spec.layers), spec.d_model, spec.vocab_size, spec.tie_embeddings) == (30, 576, 49152, True)
    sources = gguf_sources(spec, "llama")

    def values(tensor: str) -> torch.Tensor:
        return torch.from_numpy(gguf.dequantize(stored[tensor].data, stored[tensor].tensor_type))

    decoder = Decoder(spec).load(
        (name, source.take({source.tensor: values(source.tensor)})) for name, source in sources.items()
    )
    model = transformers.AutoModelForCausalLM.from_pretrained(
        smollm2_path.parent, gguf_file=smollm2_path.name, dtype=torch.float32
    )
    prompts = [[1, 4093, 198, 1780, 314, 26421, 47, 2, 198], [504, 3575, 282, 4649, 314], list(range(500, 540))]
    ours = packed_logits(decoder, prompts)
    with torch.no_grad():
        theirs = [model(input_ids=torch.tensor([ids])).logits[0] for ids in prompts]
    assert worst(ours, theirs) < 1e-3
