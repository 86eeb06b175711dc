"""Great tensors go from a model into a GGUF file in pieces: few values are in memory, and the bytes are the same."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from quantise_models import DEEPSEEK_V3, DELTA, DELTA_EXPERTS, QWEN4, SECTIONS, WriteModel

from landrace.checkpoints import open_checkpoint
from landrace.quantize import gguf as writing
from landrace.quantize.gguf import gguf_model
from landrace.quantize.quantize import quantize

MODELS: dict[str, tuple[dict[str, Any], str]] = {
    "a table of n-grams": (DELTA | DELTA_EXPERTS | SECTIONS | QWEN4, "per_layer_token_embd.weight"),
    "experts": (DELTA | DELTA_EXPERTS | {"model_type": "qwen3_next"}, "blk.1.ffn_up_exps.weight"),
    "an output head": (DEEPSEEK_V3, "output.weight"),
}
"""And a tensor of its file that is a parameter as it is."""


@pytest.mark.parametrize("case", MODELS)
def test_great_tensors_go_by_in_pieces(
    case: str, write_model: WriteModel, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, name = MODELS[case]
    folder = write_model(config)
    quantize(str(folder), "q4_k_m", tmp_path / "whole.gguf", importance=text)
    quantize(str(folder), "q8_0", tmp_path / "q8.gguf")
    again = quantize(str(tmp_path / "q8.gguf"), "q8_0", tmp_path / "q8 whole.gguf")
    assert again.weights.keys() >= {"Q8_0", "F32"}
    monkeypatch.setattr(writing, "PIECE", 4096)
    for model in (folder, tmp_path / "q8.gguf"):
        tensor = gguf_model(open_checkpoint(model)).tensors[name]
        sizes = [piece.numel() for piece in tensor.pieces()]
        entry = math.prod(tensor.shape[1:])
        assert len(sizes) > 3 and sum(sizes) == math.prod(tensor.shape) and max(sizes) <= max(4096, entry)
    quantize(str(folder), "q4_k_m", tmp_path / "pieces.gguf", importance=text)
    quantize(str(tmp_path / "q8.gguf"), "q8_0", tmp_path / "q8 pieces.gguf")
    for one, other in (("whole.gguf", "pieces.gguf"), ("q8 whole.gguf", "q8 pieces.gguf")):
        assert (tmp_path / one).read_bytes() == (tmp_path / other).read_bytes()
