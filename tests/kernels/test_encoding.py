"""Encoders of ggml's block types: their bytes as the `gguf` package reads them, their errors against ggml's own."""

from __future__ import annotations

import ctypes
from pathlib import Path
from types import ModuleType

import pytest
import torch
from gguf import GGMLQuantizationType, quants
from torch import Tensor

from landrace.kernels.reference.blocks import BLOCKS, dequantize, quantize
from landrace.kernels.reference.encoding import ENCODED, encode
from landrace.kernels.reference.small_blocks import IQ4_VALUES

COLUMNS = 512
FLOATS = ("F32", "F16", "BF16")
ROUNDED = (*FLOATS, "Q8_0")
SEARCHED = [kind for kind in ENCODED if kind not in ROUNDED]
BITS = {"Q2_K": 2, "Q3_K": 3, "Q5_0": 5, "Q5_1": 5, "Q5_K": 5, "Q6_K": 6}
"""Four for the others."""
SHARES = {"Q2_K": (0.78, 0.91), "Q4_K": (0.98, 0.965), "Q5_K": (0.93, 0.905)}
"""Of ggml's error, where scales and minima are searched together: without importance, and with."""


def weights(n_rows: int = 64) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    scales = torch.exp(torch.randn(n_rows, COLUMNS, generator=generator) * 0.5)
    return torch.randn(n_rows, COLUMNS, generator=generator) * 0.02 * scales


def counts() -> Tensor:
    return torch.exp(torch.randn(COLUMNS, generator=torch.Generator().manual_seed(2)))


def error(values: Tensor, stored: Tensor, kind: str, importance: Tensor | None = None) -> float:
    missed = (values - dequantize(stored, kind, COLUMNS)).double().square()
    return float((missed * (1 if importance is None else importance)).sum())


@pytest.mark.parametrize("kind", SEARCHED)
def test_bytes_are_read_alike(kind: str) -> None:
    """And where nothing is known of the inputs, every value is near what it was."""
    values = weights(8)
    for importance in (None, counts()):
        stored = encode(values, kind, importance)
        theirs = torch.from_numpy(quants.dequantize(stored.numpy(), GGMLQuantizationType[kind]))
        assert torch.equal(dequantize(stored, kind, COLUMNS), theirs)
        if importance is None:
            step = values.abs().view(8, -1, 32).amax(2) * 2 / 2 ** BITS.get(kind, 4)
            assert ((theirs - values).abs().view(8, -1, 32).amax(2) <= 2 * step).all()


@pytest.mark.parametrize("kind", ROUNDED)
def test_what_is_rounded_alone(kind: str) -> None:
    values = weights(4)
    assert torch.equal(encode(values, kind, counts()), quantize(values, kind))


@pytest.mark.parametrize("kind", [kind for kind in SEARCHED if kind in ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "MXFP4")])
def test_less_is_lost_than_by_plain_rounding(kind: str) -> None:
    values = weights()
    theirs = torch.from_numpy(quants.quantize(values.numpy(), GGMLQuantizationType[kind]))
    assert error(values, encode(values, kind), kind) < 0.99 * error(values, theirs, kind)


@pytest.fixture(scope="session")
def ggml() -> ctypes.CDLL:
    """ggml's own encoders, as llama-cpp-python brings them."""
    llama_cpp: ModuleType = pytest.importorskip("llama_cpp")
    assert llama_cpp.__file__ is not None
    found = sorted((Path(llama_cpp.__file__).parent / "lib").glob("libggml-base.*"))
    if not found:
        pytest.skip("llama-cpp-python came without libggml-base")
    library = ctypes.CDLL(str(found[0]))
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    library.ggml_quantize_chunk.argtypes = [
        *(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64),
        ctypes.c_void_p,
    ]
    return library


@pytest.mark.parametrize("weighed", [False, True])
@pytest.mark.parametrize("kind", SEARCHED)
def test_no_more_is_lost_than_by_ggml(kind: str, weighed: bool, ggml: ctypes.CDLL) -> None:
    values, importance = weights(), counts() if weighed else None
    block = BLOCKS[kind]
    theirs = torch.empty(len(values), COLUMNS // block.elements * block.bytes, dtype=torch.uint8)
    pointer = None if importance is None else importance.data_ptr()
    ggml.ggml_quantize_chunk(block.ggml_id, values.data_ptr(), theirs.data_ptr(), 0, len(values), COLUMNS, pointer)
    ours = error(values, encode(values, kind, importance), kind, importance)
    assert ours < SHARES.get(kind, (1.05, 1.05))[weighed] * error(values, theirs, kind, importance)


@pytest.mark.parametrize("kind", ["IQ4_NL", "IQ4_XS"])
@pytest.mark.parametrize("end", IQ4_VALUES[:: len(IQ4_VALUES) - 1])
def test_either_end_of_a_table_may_be_the_greatest_value(kind: str, end: int) -> None:
    """Groups of numbers of the table, up to `end` in magnitude, at scales that can be stored."""
    known = torch.tensor([value for value in IQ4_VALUES if abs(value) <= abs(end)], dtype=torch.float32)
    chosen = torch.randint(len(known), (4, COLUMNS // 32, 32), generator=torch.Generator().manual_seed(3))
    chosen[..., 0] = known.tolist().index(end)
    values = (known[chosen] * 2.0**-9).view(4, COLUMNS)
    assert torch.equal(dequantize(encode(values, kind), kind, COLUMNS), values)


@pytest.mark.parametrize("kind", SEARCHED)
def test_importance_moves_errors_to_where_they_count_less(kind: str) -> None:
    values, importance = weights(), counts()
    weighed, plain = (error(values, encode(values, kind, one), kind, importance) for one in (importance, None))
    assert weighed < 0.98 * plain
    # How great it is does not matter.
    assert torch.equal(encode(values, kind, importance * 4), encode(values, kind, importance))


@pytest.mark.parametrize("kind", SEARCHED)
def test_rows_of_every_kind(kind: str) -> None:
    """Zeros, one value alone, equal values, values that no scale of float16 reaches, large ones, outliers."""
    values = weights(8)
    values[0] = 0
    values[1] = 0
    values[1, 40] = 3.0
    values[2] = 0.5
    values[3] = -0.25
    values[4] *= 1e-9
    values[5] *= 1e5
    values[6, ::50] *= 100
    values[7] = values[7].abs()
    got = dequantize(encode(values, kind, counts()), kind, COLUMNS)
    assert got.isfinite().all() and not got[0].any()
    for row in (1, 2, 3):
        torch.testing.assert_close(got[row], values[row], atol=0.02 * float(values[row].abs().max()), rtol=0.1)
    assert got[4].abs().max() < 1e-6
    for row in (5, 6, 7):
        assert (got[row] - values[row]).square().sum() < 0.3 * values[row].square().sum()


def test_a_row_is_encoded_by_itself() -> None:
    values = weights(300)
    for kind in ("Q4_K", "Q6_K", "IQ4_XS", "Q5_0"):
        assert torch.equal(encode(values, kind)[7:9], encode(values[7:9], kind))
        assert torch.equal(encode(values.bfloat16(), kind), encode(values.bfloat16().float(), kind))


def test_what_is_refused() -> None:
    values = weights(2)
    with pytest.raises(ValueError, match="No encoder for IQ1_S"):
        encode(values, "IQ1_S")
    with pytest.raises(ValueError, match="whole 256-value blocks"):
        encode(values[:, :96], "Q4_K")
    for wrong in (float("nan"), float("inf"), -70000.0):
        values[1, 300] = wrong
        for kind in ENCODED:
            if kind not in ("F32", "BF16"):
                with pytest.raises(ValueError, match="NaN, infinity or a value"):
                    encode(values, kind)
