"""Layers that guess the token after the next one, out of a folder and in a GGUF file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from quantise_models import (
    DEEPSEEK_V3,
    DELTA,
    DELTA_EXPERTS,
    GLM4_MOE,
    HY3,
    INDEXER,
    LLAMA,
    SECTIONS,
    WriteModel,
)
from safetensors.torch import load_file, save_file

from landrace.checkpoints import Checkpoint, open_checkpoint
from landrace.checkpoints.gguf_file import read_gguf
from landrace.engine import EngineOptions, Request, SamplingParams
from landrace.engine.depth import Depth
from landrace.errors import UnsupportedError
from landrace.model import open_engine
from landrace.models.batch import ForwardBatch
from landrace.models.decoder import Decoder
from landrace.quantize.quantize import quantize

IDS = list(range(20, 60))
DRAFTS = {"num_nextn_predict_layers": 1}
MODELS: dict[str, dict[str, Any]] = {
    "deepseek_v3": DEEPSEEK_V3 | DRAFTS,
    "glm_moe_dsa": DEEPSEEK_V3 | INDEXER | DRAFTS | {"model_type": "glm_moe_dsa", "indexer_types": ["full"] * 4},
    "glm4_moe": LLAMA | GLM4_MOE | DRAFTS,
    "hy_v3": LLAMA | HY3 | DRAFTS,
    "qwen3_next": DELTA | DELTA_EXPERTS | {"model_type": "qwen3_next"},
    "qwen3_5_text": DELTA | SECTIONS | {"model_type": "qwen3_5_text"},
    "qwen3_5_moe_text": DELTA | DELTA_EXPERTS | SECTIONS | {"model_type": "qwen3_5_moe_text"},
}
IN_ROUNDS = ("qwen3_5_text", "qwen3_5_moe_text")
"""Whose files have their heads of values in another order, in which sums are rounded otherwise."""


@torch.no_grad()
def guesses(checkpoint: Checkpoint) -> tuple[torch.Tensor, torch.Tensor]:
    """The model's logits, and the layer's of each token after the next one."""
    decoder = Decoder(checkpoint.spec).load((name, tensor.float()) for name, tensor in checkpoint.tensors())
    logits, hidden = decoder.with_hidden(ForwardBatch.packed([IDS]))
    batch = replace(ForwardBatch.packed([IDS[1:]]), hidden=hidden[:-1].contiguous())
    return logits, decoder.with_hidden(batch)[0]


@pytest.mark.parametrize("case", MODELS)
def test_the_layer_goes_into_the_file_and_out_of_it(case: str, write_model: WriteModel, tmp_path: Path) -> None:
    folder, out = write_model(MODELS[case], mtp=True), tmp_path / "tiny.gguf"
    done = quantize(str(folder), "f32", out)
    assert not any("left out" in told for told in done.notices)
    file = read_gguf(out)
    architecture, count = file.metadata["general.architecture"], MODELS[case]["num_hidden_layers"]
    told = [file.metadata[f"{architecture}.{key}"] for key in ("nextn_predict_layers", "block_count")]
    assert told == [1, count + 1]
    plain, theirs, ours = open_checkpoint(out), open_checkpoint(folder).with_mtp(), open_checkpoint(out).with_mtp()
    assert f"blk.{count}.nextn.eh_proj.weight" in plain.left_out and ours.left_out == ()
    near = 1e-5 if case in IN_ROUNDS else 0
    for one, other in zip(guesses(ours), guesses(theirs), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=near)
        assert torch.equal(one.argmax(-1), other.argmax(-1))


@pytest.mark.parametrize("case", MODELS)
def test_llama_cpp_passes_it_by(case: str, write_model: WriteModel, tmp_path: Path) -> None:
    llama_cpp = pytest.importorskip("llama_cpp")
    folder, out = write_model(MODELS[case], mtp=True), tmp_path / "tiny.gguf"
    quantize(str(folder), "f32", out)
    expected, _ = guesses(open_checkpoint(folder).with_mtp())
    model = llama_cpp.Llama(str(out), n_ctx=64, logits_all=True, n_threads=1, verbose=False, type_k=0, type_v=0)
    model.eval(IDS)
    theirs = torch.tensor(model.scores[: len(IDS)].copy())
    assert (theirs - expected).abs().max() < 1e-3 * expected.abs().max()


@pytest.mark.parametrize("case", ["deepseek_v3", "glm4_moe", "qwen3_next"])
def test_a_file_drafts_as_its_folder(
    case: str, write_model: WriteModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same tokens, the same guesses; and in fewer bits it drafts by itself, too."""
    monkeypatch.setattr(Depth, "choose", lambda depth, odds, rooms, times: min(2, max(rooms)))
    folder = write_model(MODELS[case], mtp=True)
    params = SamplingParams(max_tokens=24, temperature=0.0, ignore_eos=True, logprobs=1)
    found = []
    for form in (None, "bf16", "q4_k_m"):
        path = folder if form is None else tmp_path / f"{form}.gguf"
        if form is not None:
            quantize(str(folder), form, path)
        for draft in ("mtp", None):
            engine = open_engine(str(path), options=EngineOptions(draft=draft)).engine
            found += engine.generate([Request("a", tuple(IDS), params)])
    for drafted, plain in (found[:2], found[2:4], found[4:]):
        assert (drafted.token_ids, drafted.logprobs) == (
            plain.token_ids,
            plain.logprobs,
        ) and drafted.drafted_tokens > 20
    of_folder, of_file = found[0], found[2]
    assert of_file.token_ids == of_folder.token_ids
    for count in ("drafted_tokens", "accepted_tokens"):
        assert getattr(of_file, count) == getattr(of_folder, count)


def test_a_folder_with_a_part_of_one(write_model: WriteModel, tmp_path: Path) -> None:
    folder, out = write_model(MODELS["glm4_moe"], mtp=True), tmp_path / "tiny.gguf"
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.2.eh_proj.weight"]
    save_file(tensors, folder / "model.safetensors")
    done = quantize(str(folder), "f32", out)
    assert any("that text does not need are left out, such as model.layers.2." in told for told in done.notices)
    assert open_checkpoint(out).left_out == ()
    with pytest.raises(UnsupportedError, match="no layer that guesses further tokens"):
        open_checkpoint(out).with_mtp()
