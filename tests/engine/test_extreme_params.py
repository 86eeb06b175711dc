"""Numbers at the ends of what `SamplingParams` takes: refused by name, or honoured alike on both kernels."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from landrace.engine import Completion, Engine, EngineOptions, Request, SamplingParams
from landrace.errors import RequestError

FIELDS = ("temperature", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty")
EXTREME = [5e-324, 1e-310, 1e-46, 1e-38, 1e-7, 1 - 2**-53, 1 - 2**-30, 1e30, 1e38, 1e300, 1.7e308, 10**400, 10**5000]
EXTREME += [-number for number in EXTREME] + [0.0, -0.0, 1.0, 2.0, -2.0, 100.0, math.nan, math.inf, -math.inf]
numbers = st.one_of(st.sampled_from(EXTREME), st.floats(), st.floats(0, 1), st.floats(0, 2))
params = st.fixed_dictionaries(
    {"seed": st.integers(-(2**63), 2**64 - 1)},
    optional={
        **dict.fromkeys(FIELDS, numbers),
        "top_k": st.sampled_from([0, 1, 5, 63, 64, 65, 2**31, 2**31 + 1, 10**5000]),
        "logit_bias": st.dictionaries(st.sampled_from([0, 5, 63, 64, 2**40]), numbers, max_size=3),
        "logprobs": st.sampled_from([0, 3, 64, 65, 2**31]),
    },
)


@pytest.fixture(scope="module")
def engines(tiny_decoder: Callable, tokenizer: Any) -> list[Engine]:
    """On the reference kernels, and on the C++ kernels where they are built."""
    from landrace.kernels.cpu import native
    from landrace.models.cpu_decoder import CpuDecoder
    from landrace.models.stored import StoredTensor

    reference = tiny_decoder()
    decoders = [reference]
    if (extension := native()) is not None:
        tensors = {name: StoredTensor.of(tensor) for name, tensor in reference.named_tensors()}
        decoders.append(CpuDecoder(reference.spec, extension, threads=1).load(tensors))
    return [Engine(decoder, tokenizer, EngineOptions(cache_tokens=128)) for decoder in decoders]


def served(engine: Engine, **fields: object) -> Completion | str:
    """What came of a request, or the field that is refused."""
    try:
        asked = SamplingParams(max_tokens=3, ignore_eos=True, **fields)  # type: ignore[arg-type]
    except RequestError as error:
        assert error.field in fields and len(error.message) < 300
        return str(error.field)
    completion, plain = engine.generate(
        [Request("odd", (1, 2, 3), asked), Request("plain", (4, 5), SamplingParams(max_tokens=3, temperature=0.0))]
    )
    assert plain.error is None, "whoever is beside it is served"
    if completion.error is not None:
        assert completion.error.field in fields, "the request is at fault, and told which number it is"
        return str(completion.error.field)
    assert completion.finish_reason in ("stop", "length")
    return completion


@settings(max_examples=150)
@example({"seed": 1, "top_p": 1e-46})
@example({"seed": 1, "top_p": 5e-324, "top_k": 3, "temperature": 100.0})
@example({"seed": 1, "repetition_penalty": 1e-46})
@example({"seed": 1, "repetition_penalty": 1e-5, "temperature": 1e-5})
@example({"seed": 1, "temperature": 1e-46})
@example({"seed": 1, "min_p": 1e-46})
@example({"seed": 1, "presence_penalty": 1e308})
@example({"seed": 1, "logit_bias": {5: 1.7e308}})
@given(params)
def test_every_number_is_refused_or_honoured(engines: list[Engine], fields: dict[str, object]) -> None:
    told = [served(engine, **fields) for engine in engines]
    if isinstance(told[0], str):
        assert set(told) == {told[0]}
        return
    for one in told:
        assert isinstance(one, Completion)
        assert one.token_ids == told[0].token_ids, "the kernels agree"


def test_the_least_share_keeps_the_likeliest_token(engines: list[Engine]) -> None:
    """p -> 0 is greedy, whatever the seed."""
    for engine in engines:
        greedy = served(engine, temperature=0.0)
        for seed in range(5):
            for fields in ({"top_p": 1e-46}, {"top_p": 5e-324, "top_k": 9}, {"min_p": 1.0}, {"temperature": 1e-5}):
                drawn = served(engine, seed=seed, **{"temperature": 3.0, **fields})
                assert isinstance(drawn, Completion) and isinstance(greedy, Completion)
                assert drawn.token_ids == greedy.token_ids, fields
