"""MiniCPM4's sparse attention (InfLLM-v2) past its dense length. transformers has no class of it: the reference is
formulas written down here from the published modelling code and kernels, row by row in float64."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from byte_vocabulary import byte_vocabulary
from cpu_models import at_random, on_cpu, stepped
from safetensors.torch import save_file
from tiny_models import cached_logits, load, packed_logits, random_ids, worst
from torch import Tensor

from landrace.checkpoints import open_checkpoint
from landrace.cli.describe import describe_model
from landrace.errors import CheckpointError, UnsupportedError
from landrace.model import cache_needs
from landrace.models.batch import ForwardBatch
from landrace.models.families import read_config
from landrace.models.mixer_spec import Gqa
from landrace.models.selection_spec import MeanSelection

BLOCK, WINDOW, TOPK, DENSE = 32, 32, 4, 200
HEADS, KV_HEADS, HEAD, WIDTH, LAYERS, EPS = 4, 2, 16, 48, 2, 1e-3
SPARSE = {
    "kernel_size": 32, "kernel_stride": 16, "init_blocks": 1, "block_size": BLOCK, "window_size": WINDOW, "topk": TOPK,
    "use_nope": False, "dense_len": DENSE,
}  # fmt: skip
CONFIG: dict[str, Any] = {
    "model_type": "minicpm", "vocab_size": 110, "hidden_size": WIDTH, "intermediate_size": 56,
    "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "head_dim": HEAD,
    "max_position_embeddings": 512, "rms_norm_eps": EPS, "rope_theta": 5000.0, "scale_emb": 6, "scale_depth": 1.4,
    "dim_model_base": 24, "tie_word_embeddings": False, "sparse_config": SPARSE,
}  # fmt: skip
LENGTHS = (370, 199, 1, 240)


def tensors() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"model.embed_tokens": (110, WIDTH), "model.norm": (WIDTH,), "lm_head": (110, WIDTH)}
    for n in range(LAYERS):
        at = f"model.layers.{n}"
        shapes |= {f"{at}.{norm}": (WIDTH,) for norm in ("input_layernorm", "post_attention_layernorm")}
        shapes |= {f"{at}.self_attn.{x}_proj": (k * HEAD, WIDTH) for x, k in (("q", HEADS), ("k", KV_HEADS))}
        shapes |= {f"{at}.self_attn.v_proj": (KV_HEADS * HEAD, WIDTH), f"{at}.self_attn.o_proj": (WIDTH, HEADS * HEAD)}
        shapes |= {f"{at}.mlp.{x}_proj": (56, WIDTH) for x in ("gate", "up")} | {f"{at}.mlp.down_proj": (WIDTH, 56)}
    return {
        f"{name}.weight": torch.randn(shape, generator=generator) * 0.25 + (len(shape) == 1)
        for name, shape in shapes.items()
    }


def norm(x: Tensor, weight: Tensor) -> Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + EPS) * weight


def turned(x: Tensor) -> Tensor:
    """x [T, heads, d] at positions 0 to T - 1."""
    half = HEAD // 2
    angles = torch.arange(len(x))[:, None, None].double() * 5000.0 ** -(torch.arange(half).double() / half)
    a, b = x[..., :half], x[..., half:]
    return torch.cat((a * angles.cos() - b * angles.sin(), b * angles.cos() + a * angles.sin()), -1)


def seen_by(i: int, queries: Tensor, keys: Tensor, sparse: dict[str, Any]) -> list[int]:
    """Positions that row i attends to: queries [group, d] of the heads that share keys [T, d]."""
    n = i + 1
    everything = list(range(n))
    if n < sparse["dense_len"]:
        return everything
    size, stride, block = sparse["kernel_size"], sparse["kernel_stride"], sparse["block_size"]
    scale = 1 / math.sqrt(HEAD)
    fine = torch.stack([keys[w : w + size].mean(0) for w in range(0, n - size + 1, stride)])
    coarse = torch.stack([keys[w : w + 4 * size].mean(0) for w in range(0, n - 4 * size + 1, 4 * stride)])
    weights = torch.zeros(len(fine)).double()
    for q in queries:
        weights += (scale * (fine @ q) - (scale * (coarse @ q)).logsumexp(0)).exp()
    own, local, ratio = i // block, sparse["window_size"] // block, block // stride
    scores = []
    for b in range(own + 1):
        pooled = weights[max(0, b * ratio - 1) : b * ratio + ratio]
        forced = b < sparse["init_blocks"] or own <= b + local
        scores.append(math.inf if forced else float(pooled.detach().max()))
    best = sorted(range(own + 1), key=lambda b: (-scores[b], b))[: sparse["topk"] + local]
    return [j for j in everything if j // block in best]


def attention(h: Tensor, at: Any, sparse: dict[str, Any]) -> Tensor:
    q, k, v = ((h @ at(f"self_attn.{x}_proj").T).view(len(h), -1, HEAD) for x in "qkv")
    q, k = turned(q), turned(k)
    group = HEADS // KV_HEADS
    mixed = torch.zeros_like(q)
    for i in range(len(h)):
        for kv in range(KV_HEADS):
            heads = slice(kv * group, (kv + 1) * group)
            seen = seen_by(i, q[i, heads], k[:, kv], sparse)
            scores = (q[i, heads] @ k[seen, kv].T / math.sqrt(HEAD)).softmax(-1)
            mixed[i, heads] = scores @ v[seen, kv]
    return mixed.flatten(1) @ at("self_attn.o_proj").T


def formulas(weights: dict[str, Tensor], ids: list[int], sparse: dict[str, Any] = SPARSE) -> Tensor:
    w = {name.removesuffix(".weight"): tensor.double() for name, tensor in weights.items()}
    factor = 1.4 / math.sqrt(LAYERS)
    x = 6 * w["model.embed_tokens"][ids]
    for n in range(LAYERS):

        def at(name: str, n: int = n) -> Tensor:
            return w[f"model.layers.{n}.{name}"]

        x = x + factor * attention(norm(x, at("input_layernorm")), at, sparse)
        h = norm(x, at("post_attention_layernorm"))
        x = x + factor * (F.silu(h @ at("mlp.gate_proj").T) * (h @ at("mlp.up_proj").T)) @ at("mlp.down_proj").T
    return (norm(x, w["model.norm"]) / (WIDTH / 24)) @ w["lm_head"].T


@pytest.fixture(scope="module")
def expected() -> list[Tensor]:
    return [formulas(tensors(), ids).float() for ids in random_ids(LENGTHS)]


def test_both_backends(expected: list[Tensor], extension: ModuleType, isa: str) -> None:
    """At once, from a cache one by one, and cut anywhere."""
    sequences = random_ids(LENGTHS)
    _, decoder = load(CONFIG, tensors())
    assert worst(packed_logits(decoder, sequences), expected) < 1e-4
    assert worst(cached_logits(decoder, sequences, 301), expected) < 1e-4
    ours = on_cpu(extension, decoder, isa=isa)
    assert worst(packed_logits(ours, sequences), expected) < 1e-4  # type: ignore[arg-type]
    assert worst(stepped(ours, sequences, at_random(sequences, 1)), expected) < 1e-4


def test_the_same_bits_however_it_is_called(extension: ModuleType) -> None:
    _, decoder = load(CONFIG, tensors())
    sequences = random_ids(LENGTHS)
    for dtype in (torch.float32, torch.float16, torch.int8):
        first: list[Tensor] = []
        for isa in extension.instruction_sets():
            for seed, threads in ((0, 1), (1, 3)):
                ours = on_cpu(extension, decoder, isa=isa, threads=threads)
                found = stepped(ours, sequences, at_random(sequences, seed), dtype)
                first = first or found
                assert all(torch.equal(a, b) for a, b in zip(found, first, strict=True)), (dtype, isa, threads)


def test_the_choice_matters_past_the_dense_length_alone(expected: list[Tensor]) -> None:
    """The other direction: up to `dense_len` it is the dense model, and from there on every field shows."""
    sequences = random_ids(LENGTHS)
    _, dense = load({**CONFIG, "sparse_config": None}, tensors())
    for found, right in zip(packed_logits(dense, sequences), expected, strict=True):
        assert torch.allclose(found[: DENSE - 1], right[: DENSE - 1], atol=1e-4, rtol=0)
    assert worst(packed_logits(dense, sequences), expected) > 1e-2
    for change in ({"topk": 3}, {"init_blocks": 2}, {"window_size": 64}, {"block_size": 16}, {"dense_len": 320}):
        _, wrong = load({**CONFIG, "sparse_config": {**SPARSE, **change}}, tensors())
        assert worst(packed_logits(wrong, sequences), expected) > 1e-3, change


def test_the_published_keys() -> None:
    """MiniCPM4-8B's and MiniCPM4.1-8B's; what is left out is what the modelling code takes."""
    sizes = {"max_position_embeddings": 65536, "head_dim": 128, "num_attention_heads": 32, "num_key_value_heads": 2}
    published = {**SPARSE, "block_size": 64, "window_size": 2048, "topk": 64, "dense_len": 8192}
    spec = read_config({**CONFIG, **sizes, "sparse_config": published}).spec
    mixer = spec.layers[0].mixer
    assert isinstance(mixer, Gqa) and mixer.selection == MeanSelection(64, 96, 1, 33, 8192)
    assert (mixer.selection.most, mixer.selection.onset, mixer.kept_values) == (6144, 8191, 512 + 16)
    assert (spec.max_length, spec.length_limit) == (65536, 65536)
    assert read_config({**CONFIG, **sizes, "sparse_config": {"dense_len": 8192}}).spec == spec
    always = read_config({**CONFIG, **sizes, "sparse_config": {**published, "dense_len": -1}}).spec.layers[0].mixer
    assert isinstance(always, Gqa) and always.selection is not None and always.selection.onset == 6144


def test_a_folder_says_what_is_chosen(tmp_path: Path, extension: ModuleType) -> None:
    """And from which token on; and counts the means in the cache."""
    save_file(tensors(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    byte_vocabulary().save(str(tmp_path / "tokenizer.json"))
    told = json.dumps(describe_model(str(tmp_path)))
    assert f"over 5 chosen blocks of 32 tokens, from token {DENSE} on" in told
    needs = cache_needs(open_checkpoint(tmp_path))
    assert list(needs) == ["float32", "float16", "int8"]
    assert needs["float32"].a_token == 4 * LAYERS * (2 * KV_HEADS * HEAD + KV_HEADS * HEAD // 16)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"use_nope": True}, UnsupportedError),
        ({"kernel_size": 64}, UnsupportedError),
        ({"kernel_stride": 8}, UnsupportedError),
        ({"block_size": 24}, UnsupportedError),
        ({"something_new": 1}, UnsupportedError),
        ({"topk": 1}, CheckpointError),
        ({"dense_len": 100}, CheckpointError),
        ({"window_size": 0}, CheckpointError),
    ],
)
def test_what_is_impossible_or_unknown_is_refused(changes: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        read_config({**CONFIG, "sparse_config": {**SPARSE, **changes}})


def test_gradients_are_those_of_the_formulas() -> None:
    """Through what is attended to, and not through the choice."""
    ids, own = random_ids((230,))[0], tensors()
    chosen = [name for name in own if "self_attn" in name or "embed" in name]
    leaves = {name: tensor.double().requires_grad_(name in chosen) for name, tensor in own.items()}
    formulas(leaves, ids)[-20:].pow(2).sum().backward()
    model, decoder = load(CONFIG, own)
    decoder.requires_grad_(True)
    packed = decoder(ForwardBatch.packed([ids]))
    found = torch.autograd.grad(packed[-20:].pow(2).sum(), list(decoder.parameters()))
    ours = dict(zip([name for name, _ in decoder.named_parameters()], found, strict=True))
    for name, source in model.sources.items():
        theirs = leaves[source.tensor].grad
        if theirs is not None:
            assert torch.allclose(ours[name].double(), theirs, atol=2e-4 * float(theirs.abs().max()), rtol=0), name
