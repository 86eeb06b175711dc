"""Block formats against the `gguf` package, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, quants
from gguf.constants import GGML_QUANT_SIZES

from landrace.kernels.reference import blocks
from landrace.kernels.reference.blocks import BLOCKS, dequantize, quantize

OF_GGML = [name for name, block in BLOCKS.items() if block.ggml_id is not None]


def bits_equal(ours: torch.Tensor, theirs: np.ndarray) -> bool:
    """Equal bit patterns, the sign of zero included; NaN equals NaN (its payload carries no meaning)."""
    mine = ours.numpy()
    nan = np.isnan(theirs)
    same_bits = mine.view(np.uint32) == theirs.view(np.uint32)
    return bool(np.array_equal(nan, np.isnan(mine)) and (same_bits | nan).all())


@pytest.mark.parametrize("block_type", OF_GGML)
def test_the_table_is_ggmls(block_type: str) -> None:
    reference = GGMLQuantizationType[block_type]
    assert (BLOCKS[block_type].ggml_id, BLOCKS[block_type].elements, BLOCKS[block_type].bytes) == (
        int(reference),
        *GGML_QUANT_SIZES[reference],
    )


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("block_type", OF_GGML)
def test_random_bytes_dequantize_like_gguf(block_type: str) -> None:
    """Uniform bytes reach every scale float16 has: subnormal, infinite and NaN among them."""
    block, columns = BLOCKS[block_type], 768
    raw = np.random.default_rng(7).integers(0, 256, (1500, columns // block.elements * block.bytes), dtype=np.uint8)
    theirs = quants.dequantize(raw.copy(), GGMLQuantizationType[block_type])
    bounded = block_type in ("MXFP4", "NVFP4")
    assert bounded or not np.isfinite(theirs).all(), "the data must include the extreme scales"
    assert bits_equal(dequantize(torch.from_numpy(raw), block_type, columns), theirs)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("scale", [0x7C00, 0xFC00, 0x7E00, 0x0001, 0x8000, 0x7BFF])
@pytest.mark.parametrize("block_type", ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K"])
def test_extreme_scales_are_kept(block_type: str, scale: int) -> None:
    block = BLOCKS[block_type]
    raw = np.random.default_rng(scale).integers(0, 256, (64, block.bytes), dtype=np.uint8)
    at = block.bytes - 2 if block_type == "Q6_K" else 0
    raw[:, at : at + 2] = np.frombuffer(np.uint16(scale).tobytes(), dtype=np.uint8)
    theirs = quants.dequantize(raw.copy(), GGMLQuantizationType[block_type])
    assert bits_equal(dequantize(torch.from_numpy(raw), block_type, block.elements), theirs)


@pytest.mark.parametrize("block_type", ["Q4_1", "Q6_K", "F16"])
def test_chunks_change_nothing(block_type: str, monkeypatch: pytest.MonkeyPatch) -> None:
    block = BLOCKS[block_type]
    raw = torch.randint(0, 256, (5, 512 // block.elements * block.bytes), dtype=torch.uint8)
    whole = dequantize(raw, block_type, 512)
    monkeypatch.setattr(blocks, "CHUNK_ELEMENTS", 3 * block.elements)
    assert bits_equal(dequantize(raw, block_type, 512), whole.numpy())


def sample_rows(kind: str) -> np.ndarray:
    rng = np.random.default_rng(3)
    rows = rng.standard_normal((200, 256)).astype(np.float32)
    if kind == "ties":
        rows = np.round(rows * 4) / 4
    elif kind == "zeros":
        rows[:, ::2] = 0
        rows[:100] = 0
    elif kind == "constant":
        rows[:] = rows[:, :1]
    elif kind == "wide":
        rows *= np.exp(rng.uniform(-12, 9, (200, 1))).astype(np.float32)
    return rows


@pytest.mark.parametrize("kind", ["normal", "ties", "zeros", "constant", "wide"])
@pytest.mark.parametrize("block_type", ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1"])
def test_quantize_like_gguf(block_type: str, kind: str) -> None:
    rows = sample_rows(kind)
    theirs = quants.quantize(rows, GGMLQuantizationType[block_type]).view(np.uint8)
    ours = quantize(torch.from_numpy(rows), block_type).numpy()
    assert np.array_equal(ours, theirs)


def test_bytes_that_do_not_fit_are_refused() -> None:
    raw = torch.zeros(2, 18, dtype=torch.uint8)
    for wrong in (
        lambda: dequantize(raw, "Q4_0", 64),
        lambda: dequantize(raw, "Q4_0", 31),
        lambda: dequantize(raw.float(), "Q4_0", 32),
        lambda: quantize(torch.zeros(1, 33), "Q8_0"),
        lambda: quantize(torch.zeros(1, 256), "Q6_K"),
    ):
        with pytest.raises(ValueError):
            wrong()
