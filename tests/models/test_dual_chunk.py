"""Dual chunk attention (Qwen2.5-1M) against the definition: a query and a key turned to the places at which they meet,
pair by pair, in transformers' own model."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from cpu_models import at_random, on_cpu, stepped
from tiny_models import cached_logits, load, packed_logits, random_ids, reference, reference_logits, save, worst
from torch import Tensor

from landrace.errors import CheckpointError, UnsupportedError
from landrace.kernels.layer_cache import INT4
from landrace.models.families import read_config
from landrace.models.mixer_spec import DualChunk

CHUNK, LOCAL = 24, 8
SIZE = CHUNK - LOCAL
ORIGINAL, LONGEST = 48, 96
DUAL = {"chunk_size": CHUNK, "local_size": LOCAL, "original_max_position_embeddings": ORIGINAL}
TYPES = {
    "qwen2": {},
    "qwen3": {"head_dim": 16},
    "qwen3_moe": {"head_dim": 16, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24},
}
SIZES = {
    "vocab_size": 110, "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": LONGEST, "tie_word_embeddings": False,
}  # fmt: skip
LENGTHS = (90, 16, 41, 1)


def turned(x: Tensor, places: Tensor, theta: float) -> Tensor:
    """x [..., d] at places of the leading dimensions."""
    half = x.shape[-1] // 2
    angles = places[..., None].double() * theta ** -(torch.arange(half).double() / half)
    a, b = x[..., :half].double(), x[..., half:].double()
    return torch.cat((a * angles.cos() - b * angles.sin(), b * angles.cos() + a * angles.sin()), -1)


def meeting_places(i: int, j: int) -> tuple[int, int]:
    """Of query i and key j <= i."""
    apart = i // SIZE - j // SIZE
    if apart == 0:
        return i % SIZE, j % SIZE
    return min(i % SIZE + SIZE, CHUNK) if apart == 1 else min(2 * SIZE - 1, CHUNK), j % SIZE


def attend(sharpness: float, theta: float) -> Any:
    def by_pairs(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, scaling: float, **_: Any) -> Any:
        groups = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
        n = query.shape[2]
        scores = torch.full((query.shape[1], n, n), -torch.inf, dtype=torch.float64)
        for i in range(n):
            places = torch.tensor([meeting_places(i, j) for j in range(i + 1)])
            q = turned(query[0, :, i, None].expand(-1, i + 1, -1), places[:, 0], theta)
            k = turned(key[0, :, : i + 1], places[:, 1], theta)
            scores[:, i, : i + 1] = (q * k).sum(-1) * scaling * sharpness
        mixed = scores.softmax(-1) @ value[0].double()
        return mixed.float().transpose(0, 1)[None], None

    return by_pairs


@pytest.fixture(params=TYPES)
def published(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """A type's tiny model, which transformers computes by the definition, and its files."""
    kind = request.param
    model = reference(kind, {**SIZES, **TYPES[kind]})
    code = __import__(f"transformers.models.{kind}.modeling_{kind}", fromlist=["x"])
    monkeypatch.setattr(code, "apply_rotary_pos_emb", lambda q, k, *_, **__: (q, k))
    theta = float(model.config.rope_parameters["rope_theta"])

    def logits(sharpness: float) -> list[Tensor]:
        monkeypatch.setattr(code, "eager_attention_forward", attend(sharpness, theta))
        return reference_logits(model, random_ids(LENGTHS))

    config, tensors = save(model, tmp_path)
    yield {**config, "dual_chunk_attention_config": DUAL}, tensors, logits


def test_both_backends(published: Any, extension: ModuleType, isa: str) -> None:
    """At once, from a cache one by one, and cut anywhere; up to the length it was trained at, and beyond."""
    config, tensors, logits = published
    sequences = random_ids(LENGTHS)
    _, decoder = load(config, tensors)
    assert (decoder.spec.max_length, decoder.spec.length_limit) == (ORIGINAL, LONGEST)
    for length, sharpness in ((ORIGINAL, 1.0), (LONGEST, (1 + 0.1 * math.log(LONGEST / ORIGINAL)) ** 2)):
        opened = type(decoder)(decoder.spec.for_length(length)).load(decoder.named_tensors())
        theirs = logits(sharpness)
        assert worst(packed_logits(opened, sequences), theirs) < 1e-4
        assert worst(cached_logits(opened, sequences, 37), theirs) < 1e-4
        ours = on_cpu(extension, opened, isa=isa)
        assert worst(packed_logits(ours, sequences), theirs) < 1e-4  # type: ignore[arg-type]
        assert worst(stepped(ours, sequences, at_random(sequences, 1)), theirs) < 1e-4


def test_the_same_bits_however_it_is_called(extension: ModuleType, tmp_path: Path) -> None:
    config, tensors = save(reference("qwen2", {**SIZES}), tmp_path)
    _, decoder = load({**config, "dual_chunk_attention_config": DUAL}, tensors)
    sequences = random_ids(LENGTHS)
    for dtype in (torch.float32, torch.float16, torch.int8, INT4):
        first: list[Tensor] = []
        for isa in extension.instruction_sets():
            for threads in (1, 3):
                ours = on_cpu(extension, decoder, isa=isa, threads=threads)
                for seed in range(3):
                    found = stepped(ours, sequences, at_random(sequences, seed), dtype)
                    first = first or found
                    assert all(torch.equal(a, b) for a, b in zip(found, first, strict=True)), (dtype, isa, threads)


def test_longer_than_a_pass_over_the_keys(extension: ModuleType) -> None:
    """Chunks that begin and end anywhere among the 256 keys that are attended to at a time."""
    from dataclasses import replace

    from tiny_models import random_decoder, tiny_spec

    from landrace.models.mixer_spec import RopeSpec

    rope = RopeSpec(10_000.0, 12, chunks=DualChunk(150, 180), original_length=1000)
    decoder = random_decoder(replace(tiny_spec(rope=rope), max_length=1000))
    sequences = random_ids((700,))
    theirs = packed_logits(decoder, sequences)
    ours = on_cpu(extension, decoder)
    tolerance = 2e-5 * max(logits.abs().max().item() for logits in theirs)
    assert worst(packed_logits(ours, sequences), theirs) < tolerance  # type: ignore[arg-type]
    plain = random_decoder(replace(tiny_spec(), max_length=1000))
    assert worst(packed_logits(plain, sequences), theirs) > 100 * tolerance


def test_within_a_chunk_it_is_plain(published: Any) -> None:
    config, tensors, _ = published
    sequences = random_ids((SIZE, 5))
    _, dual = load(config, tensors)
    _, plain = load({key: value for key, value in config.items() if key != "dual_chunk_attention_config"}, tensors)
    assert worst(packed_logits(dual, sequences), packed_logits(plain, sequences)) < 1e-6


QWEN_1M = {
    "model_type": "qwen2", "hidden_size": 3584, "num_attention_heads": 28, "num_key_value_heads": 4,
    "num_hidden_layers": 28, "rope_theta": 1e7, "max_position_embeddings": 1010000,
    "dual_chunk_attention_config": {
        "chunk_size": 262144, "local_size": 8192, "original_max_position_embeddings": 262144,
    },
}  # fmt: skip


def test_the_published_key() -> None:
    """Qwen2.5-7B-Instruct-1M's, and the sparse attention that some files ask for beside it."""
    spec = read_config(QWEN_1M).spec
    rope = spec.layers[0].mixer.rope
    assert rope is not None and rope.chunks == DualChunk(253952, 262144)
    assert (spec.max_length, spec.length_limit, spec.trained_length) == (262144, 1010000, 262144)
    dual = {**QWEN_1M["dual_chunk_attention_config"], "sparse_attention_enabled": True}  # type: ignore[dict-item]
    assert read_config({**QWEN_1M, "dual_chunk_attention_config": dual}).spec == spec


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"dual_chunk_attention_config": {"chunk_size": 8, "local_size": 8}}, CheckpointError),
        ({"dual_chunk_attention_config": {"chunk_size": 8}}, CheckpointError),
        ({"dual_chunk_attention_config": {**DUAL, "something_new": 1}}, UnsupportedError),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, UnsupportedError),
        ({"use_sliding_window": True, "sliding_window": 64, "max_window_layers": 3}, UnsupportedError),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else value.__name__,
)
def test_what_does_not_go_together_is_refused(changes: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        read_config({**QWEN_1M, **changes})
