"""Layers that see a window take memory for the window."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from recital import check_all_free, one

from landrace.engine import Engine, EngineOptions
from landrace.kernels.mask import FULL, Chunked, Sliding
from landrace.models.batch import ForwardBatch
from landrace.models.decoder import Decoder
from landrace.models.ffn_spec import Dense
from landrace.models.mixer_spec import Gqa
from landrace.models.spec import LayerSpec, ModelSpec


def test_a_window_takes_memory_for_the_window(tokenizer: object) -> None:
    """32 layers of 8 heads of 64 channels that all see 128 positions, at 16k tokens: 2.1 GB where all are kept."""
    heads = {"n_heads": 8, "n_kv_heads": 8, "head_dim": 64, "scale": 0.125, "rope": None}
    sizes = {
        "alone": EngineOptions(cache_tokens=16384, max_running=1, max_step_tokens=16),
        "default": EngineOptions(cache_tokens=16384),
        "long": EngineOptions(cache_tokens=131072),
    }
    kept = {}
    for mask in (FULL, Sliding(128), Chunked(128)):
        layer = LayerSpec(Gqa(mask=mask, **heads), Dense(8))  # type: ignore[arg-type]
        spec = ModelSpec(8, 8, (layer,) * 32, norm_eps=1e-5, tie_embeddings=True, max_length=131072)
        for name, options in sizes.items():
            kept[mask, name] = Engine(Decoder(spec), tokenizer, options).cache_bytes / 1e6
    assert kept[FULL, "alone"] == kept[FULL, "default"] == pytest.approx(2147, abs=1)
    for mask in (Sliding(128), Chunked(128)):
        assert kept[mask, "alone"] == pytest.approx(21, abs=1)
        assert kept[mask, "default"] == pytest.approx(1384, abs=1)
        assert kept[mask, "long"] == kept[mask, "default"] < kept[FULL, "long"] / 12


def test_a_window_serves_a_long_prompt_in_the_memory_of_the_window(tiny_decoder: Callable, tokenizer: object) -> None:
    decoder = tiny_decoder(masks=(Sliding(128),), max_length=16384)
    engine = Engine(decoder, tokenizer, EngineOptions(max_running=1))
    (group,) = engine._scheduler.cache.groups
    assert group.pool.n_blocks == (127 + 30 + 512) // 16
    tokens = [(7 * i + i // 50) % 60 for i in range(16000)]
    result = one(engine, tuple(tokens), ignore_eos=True, max_tokens=4, logprobs=1)
    for entry in result.logprobs:
        # Three layers: what lies further back than three windows decides nothing.
        packed = ForwardBatch.packed([tokens[-400:]], logit_rows=torch.tensor([399]))
        with torch.inference_mode():
            row = decoder(replace(packed, positions=torch.arange(400) + len(tokens) - 400)).log_softmax(-1)[0]
        assert row.argmax() == entry.token_id
        assert entry.logprob == pytest.approx(row.max().item(), abs=1e-4)
        tokens.append(entry.token_id)
    check_all_free(engine)
