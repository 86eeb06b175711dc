"""What tests of drafts share: engines, requests of every kind, and that drafts change no answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import pytest
import torch

from landrace.engine import Completion, Engine, EngineOptions, Request, SamplingParams
from landrace.models.batch import ForwardBatch
from landrace.models.compressed_spec import CompressedSelection, Compression
from landrace.models.declared import shapes_of
from landrace.models.lora_spec import LoraSpec
from landrace.models.mixer_spec import Kda, Lightning
from landrace.models.selection_spec import PoolSelection
from landrace.models.spec import ModelSpec

OPTIONS = {
    "usual": EngineOptions(),
    "large blocks": EngineOptions(block_size=64),
    "chunked": EngineOptions(max_step_tokens=9, prefix_cache=False),
    "pre-empted": EngineOptions(cache_tokens=112, max_step_tokens=40),
    "one at a time": EngineOptions(max_running=1),
    "snapshots": EngineOptions(snapshot_tokens=16, cache_tokens=512, max_step_tokens=40),
}
KERNELS = ("reference", "float32", "int4")
"""The reference, and the C++ kernels by how weights are held."""
MODELS: dict[str, dict[str, Any]] = {
    "plain": {},
    "window": {"window": 7},
    "delta nets": {"deltas": (0, 1), "gate": "channel"},
    "delta nets alone": {"deltas": (0, 1, 2)},
    "Kimi delta attention": {"deltas": (0, 1), "delta": Kda(n_heads=2, head_dim=12, conv_width=4)},
    "compressed rows": {
        "window": 5,
        "compressed": (None, Compression(2, True, CompressedSelection(8, 16, 6)), Compression(3, False)),
    },
    "lightning attention": {"deltas": (0, 2), "delta": Lightning(n_heads=3, head_dim=12, fading=0.6)},
    "chosen pools": {"selection": PoolSelection(8, 8, 2, 4)},
}
CASES = [
    (kernels, options, model)
    for n, model in enumerate(MODELS)
    for k, kernels in enumerate(KERNELS)
    for o, options in enumerate(OPTIONS)
    if n < 2 or ((3 * n + 2 * k + o) % 6 == 0 and options != "large blocks")
]
"""Models with states on every kernel and with all options, but not all of these together."""


def an_adapter(spec: ModelSpec) -> tuple[LoraSpec, dict[str, torch.Tensor]]:
    """One that changes a tiny model's answers."""
    lora = LoraSpec(rank=2, alpha=4.0, targets=("q_proj", "down_proj"))
    generator = torch.Generator().manual_seed(1)
    tensors = {}
    for name, shape in shapes_of(spec).items():
        path = name.removesuffix(".weight")
        if path.endswith(lora.targets):
            tensors[f"{path}.lora_A"] = torch.randn(2, shape[1], generator=generator) * 0.3
            tensors[f"{path}.lora_B"] = torch.randn(shape[0], 2, generator=generator) * 0.3
    return lora, tensors


def requests_of(random: Random, **params: object) -> list[Request]:
    """Prompts that repeat parts of themselves and of each other, with parameters of every kind."""
    phrases = [[random.randrange(60) for _ in range(random.randrange(1, 7))] for _ in range(4)]
    kinds: list[dict[str, Any]] = [
        {"temperature": 0.0},
        {"temperature": 0.0, "ignore_eos": False, "stop": ("a", "ab b", ".")},
        {"temperature": 0.0, "stop_token_ids": (3, 17, 40)},
        {"temperature": 0.3, "seed": 1, "logprobs": None},
        {"temperature": 1.0, "seed": 2, "top_p": 0.9, "top_k": 30},
        {"temperature": 0.0, "repetition_penalty": 1.2, "presence_penalty": 0.4, "frequency_penalty": 0.3},
        {"temperature": 0.7, "seed": 3, "repetition_penalty": 1.1, "frequency_penalty": 0.2, "logit_bias": {5: 1.5}},
        {"temperature": 0.0, "prompt_logprobs_from": 1, "max_tokens": 9},
        {"temperature": 0.0, "max_tokens": 1},
        {"temperature": 0.0, "max_tokens": 2},
    ]
    result = []
    for index, kind in enumerate(kinds):
        prompt = [token for _ in range(random.randrange(2, 7)) for token in random.choice(phrases)]
        usual = {"max_tokens": random.randrange(20, 60), "ignore_eos": True, "logprobs": 2}
        result.append(Request(f"r{index}", tuple(prompt), SamplingParams(**{**usual, **kind, **params})))
    return result


def generate(decoder: Any, tokenizer: Any, options: EngineOptions, requests: Sequence[Request]) -> list[Completion]:
    return Engine(decoder, tokenizer, options).generate(requests)


def check(drafted: Sequence[Completion], plain: Sequence[Completion], *, exactly: bool) -> None:
    for one, other in zip(drafted, plain, strict=True):
        assert one.error is None and other.error is None
        assert one.token_ids == other.token_ids, one.request_id
        assert (one.text, one.finish_reason) == (other.text, other.finish_reason)
        for ours, theirs in ((one.logprobs, other.logprobs), (one.prompt_logprobs, other.prompt_logprobs)):
            if exactly:
                assert ours == theirs, one.request_id
            else:  # sums of the reference kernels depend on how many rows there are
                assert [entry.token_id for entry in ours] == [entry.token_id for entry in theirs]
                numbers = [entry.logprob for entry in theirs]
                assert [entry.logprob for entry in ours] == pytest.approx(numbers, abs=1e-4)
        assert 0 <= one.accepted_tokens <= min(one.drafted_tokens, max(0, len(one.token_ids) - 1))
        assert other.drafted_tokens == 0


class Watched:
    """A decoder that hands on what it is asked, after a look at it."""

    def __init__(self, decoder: Any, look: Callable[[ForwardBatch], None]) -> None:
        self._decoder, self._look = decoder, look

    def __getattr__(self, name: str) -> Any:
        return getattr(self._decoder, name)

    def __call__(self, batch: ForwardBatch) -> torch.Tensor:
        self._look(batch)
        logits: torch.Tensor = self._decoder(batch)
        return logits
