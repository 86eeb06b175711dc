"""What the reference kernels keep keys and values in: as the C++ kernels round them, or a clear refusal."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest
import torch

from landrace.engine import Engine, EngineOptions, Request, SamplingParams
from landrace.errors import OptionError
from landrace.kernels.layer_cache import kept_as
from landrace.models.cpu_decoder import CpuDecoder
from landrace.models.stored import StoredTensor


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("model", [{}, {"latents": {}}], ids=["heads", "latents"])
def test_both_kernels_keep_the_same(
    model: dict[str, object], dtype: str, extension: ModuleType, tiny_decoder: Callable, tokenizer: object
) -> None:
    """Log-probabilities in float16 differ from exact ones by far more than from one another."""
    ours = tiny_decoder(**model)
    theirs = CpuDecoder(ours.spec, extension, threads=2)
    theirs.load({name: StoredTensor.of(tensor) for name, tensor in ours.named_tensors()})
    params = SamplingParams(max_tokens=0, logprobs=1, prompt_logprobs_from=1)
    request = Request("r", tuple(n * 7 % 60 for n in range(50)), params)

    def told(decoder: object, kept: str) -> torch.Tensor:
        options = EngineOptions(cache_dtype=kept, max_step_tokens=11)
        (found,) = Engine(decoder, tokenizer, options).generate([request])
        return torch.tensor([each.logprob for each in found.prompt_logprobs])

    apart = (told(ours, dtype) - told(theirs, dtype)).abs().max().item()
    rounding = (told(ours, dtype) - told(ours, "float32")).abs().max().item()
    assert apart < (1e-4 if dtype == "float32" else 0.2 * rounding)
    assert (rounding > 0) == (dtype != "float32")


def test_float16_keeps_what_is_finite() -> None:
    kept = kept_as(torch.tensor([1e6, -1e6, 1.0001, torch.inf, torch.nan]), torch.float16)
    assert kept[:3].tolist() == [65504.0, -65504.0, 1.0] and kept[3:].isnan().all()


@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_fewer_bits_are_refused(dtype: str, tiny_decoder: Callable, tokenizer: object) -> None:
    with pytest.raises(OptionError, match="8 or 4 bits") as refused:
        Engine(tiny_decoder(), tokenizer, EngineOptions(cache_dtype=dtype))
    assert "float16" in str(refused.value.hint)
