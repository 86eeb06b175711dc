"""Past the length that a model was trained at: its folder opened, and a text run through the engine, against
transformers' own positions."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from byte_vocabulary import byte_vocabulary
from test_dual_chunk import DUAL, attend
from tiny_models import reference

from landrace.engine import Engine, EngineOptions, Request, SamplingParams
from landrace.model import open_engine

ORIGINAL, LONGEST = 64, 256
SIZES = {
    "vocab_size": 262, "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "tie_word_embeddings": False, "bos_token_id": 256, "eos_token_id": 257,
    "initializer_range": 0.15,
}  # fmt: skip
FACTORS = {"short_factor": [1.0 + 0.1 * i for i in range(8)], "long_factor": [1.5 + i for i in range(8)]}
TRAINED = {"original_max_position_embeddings": ORIGINAL}
SCALINGS: dict[str, tuple[str, int, dict[str, Any]]] = {
    "yarn": ("qwen3", ORIGINAL, {"rope_type": "yarn", "factor": 4.0, **TRAINED}),
    "yarn, mscale": (
        "llama", LONGEST, {"rope_type": "yarn", "factor": 4.0, "mscale": 0.707, "mscale_all_dim": 0.5, **TRAINED},
    ),
    "longrope": ("llama", LONGEST, {"rope_type": "longrope", **TRAINED, **FACTORS}),
    "longrope, factor": ("llama", LONGEST, {"rope_type": "longrope", "factor": 9.0, **TRAINED, **FACTORS}),
    "llama3": (
        "llama",
        LONGEST,
        {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, **TRAINED},
    ),
    "dynamic": ("llama", ORIGINAL, {"rope_type": "dynamic", "factor": 4.0}),
}  # fmt: skip
"""By kind: the type of a model, its `max_position_embeddings`, and what is said of its positions."""
ANSWER = 6


def save(model: Any, folder: Path, **changes: Any) -> None:
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    byte_vocabulary().save(str(folder / "tokenizer.json"))


def told(engine: Engine, prompts: Sequence[list[int]]) -> list[tuple[list[int], torch.Tensor]]:
    """Prompts and answers as one text each, and the log-probability of each of their tokens but the first."""
    params = SamplingParams(max_tokens=ANSWER, temperature=0.0, ignore_eos=True, logprobs=1, prompt_logprobs_from=1)
    found = engine.generate([Request(str(n), tuple(ids), params) for n, ids in enumerate(prompts)])
    assert all(one.error is None for one in found)
    return [
        ([*ids, *one.token_ids], torch.tensor([each.logprob for each in (*one.prompt_logprobs, *one.logprobs)]))
        for ids, one in zip(prompts, found, strict=True)
    ]


@torch.no_grad()
def theirs(model: Any, ids: list[int]) -> torch.Tensor:
    """In a copy: a dynamic rotary embedding remembers the longest text it has seen."""
    logits = copy.deepcopy(model)(input_ids=torch.tensor([ids]), use_cache=False).logits[0, :-1]
    return logits.log_softmax(-1).gather(1, torch.tensor(ids[1:])[:, None])[:, 0]


def texts(*lengths: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(0, 255, (length,), generator=generator).tolist() for length in lengths]


def check(folder: Path, kernels: str, model: Any, prompts: list[list[int]], length: int | None) -> None:
    """Prompts in pieces, together with one another."""
    options = EngineOptions(max_length=length, max_step_tokens=50)
    for ids, ours in told(open_engine(str(folder), kernels=kernels, options=options).engine, prompts):
        assert torch.allclose(ours, theirs(model, ids), atol=1e-4, rtol=0), len(ids)


@pytest.mark.parametrize("kernels", ["reference", "auto"])
@pytest.mark.parametrize("kind", SCALINGS)
def test_beyond_the_original_length(kind: str, kernels: str, tmp_path: Path, extension: object) -> None:
    model_type, longest, scaling = SCALINGS[kind]
    rope = {"rope_theta": 5000.0, **scaling}
    model = reference(model_type, {**SIZES, "max_position_embeddings": longest, "rope_parameters": rope})
    save(model, tmp_path)
    one_table = kind in ("yarn", "yarn, mscale", "llama3")
    # transformers' dynamic table follows each text's length: ours is theirs for a text as long as it is opened for.
    lengths = (LONGEST - ANSWER,) if kind == "dynamic" else (LONGEST - ANSWER, ORIGINAL + 1)
    check(tmp_path, kernels, model, texts(*lengths, *((20,) if one_table else ())), None if one_table else LONGEST)
    if not one_table:
        check(tmp_path, kernels, model, texts(ORIGINAL - ANSWER, 20), None)


@pytest.mark.parametrize("kernels", ["reference", "auto"])
def test_dual_chunks(kernels: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, extension: object) -> None:
    """By the definition, pair by pair: transformers has no such attention."""
    longest = 96
    model = reference("qwen2", {**SIZES, "max_position_embeddings": longest})
    save(model, tmp_path, dual_chunk_attention_config=DUAL)
    code = __import__("transformers.models.qwen2.modeling_qwen2", fromlist=["x"])
    monkeypatch.setattr(code, "apply_rotary_pos_emb", lambda q, k, *_, **__: (q, k))
    sharpness = (1 + 0.1 * math.log(longest / DUAL["original_max_position_embeddings"])) ** 2
    theta = float(model.config.rope_parameters["rope_theta"])
    monkeypatch.setattr(code, "eager_attention_forward", attend(sharpness, theta))
    check(tmp_path, kernels, model, texts(longest - ANSWER, 20), longest)
