"""Every field is honoured or refused by name."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest

from landrace.engine.options import EngineOptions
from landrace.engine.sampling_params import SamplingParams
from landrace.errors import OptionError, RequestError

BAD_VALUES = {
    "max_tokens": [0, -1, 1.5, "5", None, True],
    "temperature": [-0.1, math.nan, math.inf, "hot", None, 1e-9, 1e-46, 10**400, 10**5000],
    "top_k": [-1, 2.0, None],
    "top_p": [0, -0.5, 1.01, math.nan],
    "min_p": [-0.1, 1.1, math.nan],
    "repetition_penalty": [0, -1, math.inf, 1e-46, 1e300, -(10**5000)],
    "presence_penalty": [-2.1, 2.1, math.nan],
    "frequency_penalty": [-2.1, 2.1, "x"],
    "logit_bias": [[1], {"a": 1}, {-1: 1}, {1: math.nan}, {1: 101}, {1: None}],
    "seed": [1.5, 2**64, 10**5000, -(2**63) - 1, "a"],
    "stop": ["END", [""], [1], None, ["x"] * 33, ["x" * 257]],
    "stop_token_ids": [5, [-1], [1.0]],
    "thinking_budget": [-1, 1.5, True, "3", 2**32],
    "ignore_eos": [1, None],
    "logprobs": [-1, 1.0, True],
    "prompt_logprobs_from": [0, -1, 0.5],
}


@pytest.mark.parametrize(
    ("field", "value"),
    [pytest.param(f, v, id=f"{f} {n}") for f, values in BAD_VALUES.items() for n, v in enumerate(values)],
)
def test_refuses(field: str, value: object) -> None:
    with pytest.raises(RequestError) as caught:
        SamplingParams(**{field: value})
    assert caught.value.field == field
    assert field in caught.value.message or "stop string" in caught.value.message
    assert len(caught.value.message) < 300, "one readable sentence, whatever was sent"


def test_every_field_is_covered() -> None:
    assert set(BAD_VALUES) == set(SamplingParams.__dataclass_fields__)


def test_accepts_the_limits() -> None:
    SamplingParams(temperature=0, top_p=1, min_p=1, seed=-(2**63), logit_bias={0: -100, 5: 100.0}, stop=["a"])
    SamplingParams(max_tokens=0, prompt_logprobs_from=1)


@pytest.mark.parametrize("bad", [{"block_size": 0}, {"max_running": 1.5}, {"cache_tokens": 8}, {"max_length": 0}])
def test_engine_options(bad: dict[str, object]) -> None:
    with pytest.raises(OptionError):
        EngineOptions(**bad)


CONTRADICTIONS = [
    {"max_running": 8, "max_step_tokens": 4},
    {"max_running": 513},
    {"cache_tokens": 15},
    {"cache_tokens": 31, "block_size": 16, "max_length": 17},
    {"max_length": 16385},
]


@pytest.mark.parametrize("pair", CONTRADICTIONS, ids=str)
def test_options_that_contradict_one_another_are_refused(pair: dict[str, int]) -> None:
    with pytest.raises(OptionError) as caught:
        EngineOptions(**pair)
    assert any(name in caught.value.message for name in pair)
    assert caught.value.hint is not None


def test_how_many_run_follows_from_the_step() -> None:
    assert EngineOptions().most_running == 64
    assert EngineOptions(max_step_tokens=4).most_running == 4
    assert EngineOptions(max_running=4, max_step_tokens=4).most_running == 4


def test_describing_a_request_does_not_import_torch() -> None:
    code = "import landrace.engine, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
