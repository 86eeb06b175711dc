"""Beginnings that requests share, where an entry of the cache stands for many positions: found to the block of
positions, and what is computed from there on is the same to the bit."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Any

import pytest
from byte_vocabulary import byte_vocabulary

pytest.importorskip("transformers")
sys.path += [str(Path(__file__).parents[1] / folder) for folder in ("checkpoints", "models")]

from deepseek_v4_files import publish
from recital import check_all_free

from landrace.engine import Engine, EngineOptions, Request, SamplingParams
from landrace.model import open_engine
from landrace.models.compressed_spec import CompressedSelection, Compression

COMPRESSIONS = (None, Compression(3, True, CompressedSelection(8, 16, 6)), Compression(7, False))
GREEDY = {"temperature": 0.0, "ignore_eos": True, "logprobs": 3}


def branching(draw: Random, n: int, vocabulary: int, room: int) -> list[Request]:
    """Each prompt begins as an earlier one does, up to anywhere."""
    prompts: list[list[int]] = []
    for _ in range(n):
        known = draw.choice(prompts)[: draw.randrange(room)] if prompts else []
        prompts.append([*known, *(draw.randrange(vocabulary) for _ in range(draw.randrange(1, room)))][:room])
    params = [SamplingParams(**GREEDY, max_tokens=draw.randrange(1, 40)) for _ in prompts]
    return [Request(f"r{k}", tuple(ids), own) for k, (ids, own) in enumerate(zip(prompts, params, strict=True))]


@pytest.mark.usefixtures("free_rows")
@pytest.mark.parametrize(("kernels", "cache"), [("reference", "float32"), ("float32", "float16"), ("int4", "int8")])
@pytest.mark.parametrize("options", [{}, {"cache_tokens": 160, "max_step_tokens": 40}, {"draft": "ngram"}])
def test_branching_prompts(
    kernels: str, cache: str, options: dict[str, Any], make_model: Callable, tokenizer: object
) -> None:
    decoder, draw = make_model(kernels, window=5, compressed=COMPRESSIONS), Random(kernels)
    requests = branching(draw, 14, 60, 90)
    engine = Engine(decoder, tokenizer, EngineOptions(max_running=4, cache_dtype=cache, **options))
    alone = Engine(decoder, tokenizer, EngineOptions(max_running=1, cache_dtype=cache, prefix_cache=False))
    done, expected = engine.generate(requests), alone.generate(requests)
    for one, other in zip(done, expected, strict=True):
        assert one.error is None and one.token_ids == other.token_ids, one.request_id
        for ours, theirs in zip(one.logprobs, other.logprobs, strict=True):
            if kernels == "reference":
                assert ours.logprob == pytest.approx(theirs.logprob, abs=1e-4)
            else:
                assert ours == theirs, one.request_id
    hits = [one.cached_prompt_tokens for one in done]
    assert any(hit % (16 * 7) and hit % (16 * 3) for hit in hits), "found where a block of entries is not full"
    assert sum(hits) > 60
    check_all_free(engine)


@pytest.mark.usefixtures("free_rows")
@pytest.mark.parametrize("draft", [None, "mtp"])
def test_a_published_folder(draft: str | None, extension: ModuleType, tmp_path: Path) -> None:
    """A row for 128 positions, of which a block of the cache has 16: 2,048 tokens."""
    publish(tmp_path)
    byte_vocabulary(control=()).save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text("{}")
    draw, params = Random(3), SamplingParams(**GREEDY, max_tokens=24)
    known = [draw.randrange(250) for _ in range(330)]
    prompts = [known, known, [*known[:300], 7, 8, 9], known[:100] + known[:60], known[:13]]
    requests = [Request(f"r{n}", tuple(ids), params) for n, ids in enumerate(prompts)]
    served = open_engine(str(tmp_path), kernels="cpu", threads=2, options=EngineOptions(draft=draft))
    plain = open_engine(str(tmp_path), kernels="cpu", threads=2, options=EngineOptions(prefix_cache=False))
    done = [served.engine.generate([request])[0] for request in requests]
    for one, other in zip(done, plain.engine.generate(requests), strict=True):
        assert (one.error, one.token_ids, one.logprobs) == (None, other.token_ids, other.logprobs)
    assert [one.cached_prompt_tokens for one in done] == [0, 320, 288, 96, 0]
    assert len({token for one in done for token in one.token_ids}) > 10, "the model repeats itself: a weak test"
