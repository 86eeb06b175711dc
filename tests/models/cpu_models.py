"""Models for the decoder on the C++ kernels, and ways to call it step by step."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import ModuleType
from typing import Any

import torch
from tiny_models import DELTA, STREAMS, latent_spec, tensors_of, tiny_spec, with_delta, with_ngrams, with_streams
from torch import Tensor

from landrace.kernels.activation import Activation
from landrace.kernels.head_form import QkNorm, Temperature
from landrace.kernels.mask import Chunked, Sliding
from landrace.kernels.router import Router
from landrace.models.batch import AdapterRows, CacheView, ForwardBatch
from landrace.models.cpu_decoder import CpuDecoder
from landrace.models.decoder import Decoder
from landrace.models.families import read_config
from landrace.models.ffn_spec import Dense, Ffn, Moe
from landrace.models.mixer_spec import Gdn, Kda, Lightning, RopeSpec
from landrace.models.selection_spec import Selection
from landrace.models.spec import AfterNorm, ModelSpec, Plain, Sandwich
from landrace.models.stored import StoredTensor, Weights, held_as

TILE = 16


def stored(decoder: Decoder, weights: Weights = "stored") -> dict[str, StoredTensor]:
    return {name: held_as(name, StoredTensor.of(tensor), weights) for name, tensor in decoder.named_tensors()}


def on_cpu(
    extension: ModuleType, decoder: Decoder, weights: Weights = "stored", *, isa: str | None = None, threads: int = 2
) -> CpuDecoder:
    return CpuDecoder(decoder.spec, extension, threads=threads, isa=isa).load(stored(decoder, weights))


def dequantised(decoder: Decoder, weights: Weights) -> Decoder:
    """The reference decoder with the values that the quantised weights stand for."""
    return Decoder(decoder.spec).load((name, tensor.values()) for name, tensor in stored(decoder, weights).items())


Step = list[tuple[int, int, int]]


def stepped(
    decoder: CpuDecoder,
    sequences: Sequence[Sequence[int]],
    steps: Sequence[Step],
    dtype: torch.dtype | None = None,
    slots_of_adapters: Mapping[int, int] | None = None,
) -> list[Tensor]:
    """Logits of every position, computed in steps of (sequence, first, end) through a cache of shuffled blocks that
    holds NaN where nobody has written. `slots_of_adapters`: the adapter of each sequence that has one."""
    n_tiles = [-(-len(ids) // TILE) for ids in sequences]
    tiles = torch.randperm(sum(n_tiles), generator=torch.Generator().manual_seed(5)).split(n_tiles)
    slots = [(own[:, None] * TILE + torch.arange(TILE)).flatten() for own in tiles]
    layers = decoder.new_cache([sum(n_tiles) * TILE] * len(decoder.spec.cache_groups), dtype)
    for layer in layers:
        for tensor in tensors_of(layer):
            tensor.fill_(float("nan") if tensor.is_floating_point() else 77)
    out = [torch.full((len(ids), decoder.spec.vocab_size), float("nan")) for ids in sequences]
    for step in steps:
        starts = [0]
        for _, first, end in step:
            starts.append(starts[-1] + end - first)
        rows: dict[int, list[int]] = {}
        for (s, _, _), start, stop in zip(step, starts, starts[1:], strict=False):
            if slots_of_adapters and s in slots_of_adapters:
                rows.setdefault(slots_of_adapters[s], []).extend(range(start, stop))
        batch = ForwardBatch(
            token_ids=torch.tensor([t for s, first, end in step for t in sequences[s][first:end]]),
            positions=torch.tensor([p for _, first, end in step for p in range(first, end)]),
            starts=tuple(starts),
            cache=CacheView.whole(
                layers,
                decoder.spec.cache_groups,
                torch.cat([slots[s][first:end] for s, first, end in step]),
                tuple(slots[s][:end] for s, _, end in step),
                [s for s, _, _ in step],
            ),
            adapters=tuple(AdapterRows(slot, torch.tensor(own)) for slot, own in rows.items()),
        )
        logits = decoder(batch)
        for (s, first, end), start in zip(step, starts, strict=False):
            out[s][first:end] = logits[start : start + end - first]
    return out


def at_once(sequences: Sequence[Sequence[int]]) -> list[Step]:
    return [[(s, 0, len(ids)) for s, ids in enumerate(sequences)]]


def at_random(sequences: Sequence[Sequence[int]], seed: int) -> list[Step]:
    draw = random.Random(seed)
    done = [0] * len(sequences)
    steps = []
    while unfinished := [s for s, ids in enumerate(sequences) if done[s] < len(ids)]:
        step = []
        for s in draw.sample(unfinished, draw.randint(1, len(unfinished))):
            end = min(len(sequences[s]), done[s] + draw.choice((1, 1, 2, 7, 19)))
            step.append((s, done[s], end))
            done[s] = end
        steps.append(step)
    return steps


SIZES: dict[str, Any] = {
    "vocab_size": 112, "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 96, "max_position_embeddings": 128, "rms_norm_eps": 3e-3,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 500_000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
MODELS: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama", "head_dim": 20, "rope_parameters": LLAMA3},
    "llama, biases everywhere": {
        "model_type": "llama", "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True,
    },
    "smollm3": {"model_type": "smollm3", "no_rope_layer_interval": 2, "use_sliding_window": True, "sliding_window": 9},
    "qwen2": {"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 7, "max_window_layers": 1},
    "qwen3": {"model_type": "qwen3", "head_dim": 16},
    "glm": {"model_type": "glm", "head_dim": 16},
    "glm4": {"model_type": "glm4", "head_dim": 16, "attention_bias": True},
    "ernie4_5": {"model_type": "ernie4_5", "head_dim": 20, "use_bias": True},
    "hunyuan": {
        "model_type": "hunyuan_v1_dense", "head_dim": 20,
        "rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "alpha": 50.0, "factor": 1.0},
    },
    "seed_oss": {"model_type": "seed_oss", "head_dim": 20, "attention_out_bias": True},
    "granite": {
        "model_type": "granite", "attention_multiplier": 0.3, "embedding_multiplier": 3.0, "residual_multiplier": 0.6,
        "logits_scaling": 2.0,
    },
    "minicpm3": {
        "model_type": "minicpm3", "q_lora_rank": 64, "kv_lora_rank": 32, "qk_nope_head_dim": 16, "qk_rope_head_dim": 16,
        "v_head_dim": 16, "scale_emb": 3, "dim_model_base": 32, "tie_word_embeddings": False,
    },
}  # fmt: skip


def spec_of(name: str) -> ModelSpec:
    return read_config({**SIZES, **MODELS[name]}).spec if name in MODELS else SPECS[name]


def with_ffn(ffn: Ffn) -> ModelSpec:
    spec = tiny_spec()
    return replace(spec, layers=tuple(replace(layer, ffn=ffn) for layer in spec.layers))


def with_activation(activation: Activation) -> ModelSpec:
    return with_ffn(Dense(40, activation=activation))


DYNAMIC = RopeSpec(1e4, 12, "dynamic", factor=4.0, original_length=16, length=64)
LONGROPE = RopeSpec(
    1e4, 12, "longrope", original_length=30, attention_factor=1.2, length=64,
    short_factor=(1.0, 1.1, 1.2, 1.3, 1.4, 1.5), long_factor=(1.0, 2.0, 3.0, 4.0, 5.0, 6.0),
)  # fmt: skip
SPECS: dict[str, ModelSpec] = {
    "one head": tiny_spec(n_heads=1, n_kv_heads=1),
    "dynamic rope": tiny_spec(rope=DYNAMIC),
    "longrope": tiny_spec(rope=LONGROPE),
    "yarn": tiny_spec(rope=RopeSpec(1e4, 12, "yarn", factor=4.0, original_length=32, attention_factor=1.1)),
    "no rope, a window": tiny_spec(rope=None, mask=Sliding(5)),
    "norms after rope": tiny_spec(qk_norm=QkNorm("after_rope")),
    "sandwich, scales": replace(tiny_spec(residual=Sandwich(0.3)), embed_scale=2.5, logit_divisor=3.0),
    "joint norms, a temperature": tiny_spec(
        rope=None, qk_norm=QkNorm("before_rope", over="all_heads"), temperature=Temperature(0.3, 4)
    ),
    "norms without weights, chunks": tiny_spec(qk_norm=QkNorm("after_rope", kind="l2"), mask=Chunked(8)),
    "sinks, a window": tiny_spec(sinks=True, mask=Sliding(7)),
    "ALiBi": tiny_spec(rope=None, alibi=True),
    "gated heads": tiny_spec(gate="head"),
    "gated channels": tiny_spec(gate="channel"),
    "delta net": with_delta(tiny_spec()),
    "delta net, heads in rounds, wide": with_delta(
        tiny_spec(), Gdn(n_heads=2, n_value_heads=6, key_dim=20, value_dim=70, conv_width=2, rounds=True)
    ),
    "delta nets alone": replace(tiny_spec(), layers=(with_delta(tiny_spec()).layers[0],) * 2),
    "Kimi delta attention": with_delta(tiny_spec(), Kda(n_heads=3, head_dim=20, conv_width=4)),
    "Kimi delta attention, latents": with_delta(latent_spec(rope=None), Kda(n_heads=2, head_dim=70, conv_width=2)),
    "lightning attention": with_delta(tiny_spec(), Lightning(n_heads=3, head_dim=20, fading=0.7)),
    "lightning attention, residuals of what is normalised": with_delta(
        tiny_spec(residual=AfterNorm(3.5, 0.8, 2.5, 1.2)), Lightning(n_heads=2, head_dim=70, fading=0.3)
    ),
    "queries of low rank": tiny_spec(q_rank=20),
    "residual scale": tiny_spec(residual=Plain(0.3)),
    "embed scale": replace(tiny_spec(), embed_scale=2.5),
    "logit divisor": replace(tiny_spec(), logit_divisor=3.0),
    **{
        activation.kind: with_activation(activation)
        for activation in (Activation("clamp_before", 0.5), Activation("clamp_after", 0.4), Activation("oai", 0.5, 1.7))
    },
    "experts": with_ffn(Moe(8, 24, Router(2, renorm=True))),
    "experts with everything": with_ffn(
        Moe(
            8,
            24,
            Router(3, "sigmoid", bias=True, choice_bias=True, n_groups=4, top_groups=2, group_score="top2_sum"),
            bias=True,
            activation=Activation("oai", 1.0, 1.7),
            shared=Dense(16),
            shared_gate=True,
        )
    ),
    "experts by input": with_ffn(Moe(5, 24, Router(1, "sigmoid_of_chosen"), shared=Dense(24), weight_on_input=True)),
    "latents": latent_spec(),
    "latents, queries of low rank, biases": latent_spec(q_rank=24, bias=True, rank_eps=1e-3),
    "latents, no rope, a window": latent_spec(rope=None, mask=Sliding(5), n_heads=3),
    "latents, many heads": latent_spec(n_heads=16, kv_rank=32, rope_dim=16, rope=RopeSpec(10_000.0, 16)),
    "latents, sinks, gated channels": latent_spec(sinks=True, gate="channel", q_rank=24),
    "chosen latents, sinks, gated channels": latent_spec(
        sinks=True, gate="channel", q_rank=24, selection=Selection(16, 8, 9)
    ),
    **{f"streams, {name}": tiny_spec(residual=streams) for name, streams in STREAMS.items()},
    "n-grams": with_ngrams(),
    "gated streams, experts, a delta net": with_streams(
        with_delta(with_ffn(Moe(8, 24, Router(2), shared=Dense(16), shared_gate=True)), DELTA), STREAMS["gated"]
    ),
    "biased head": replace(tiny_spec(o_bias=True, qkv_bias=True), lm_head_bias=True, logit_divisor=0.5),
}
