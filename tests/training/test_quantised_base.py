"""Tuning over a quantised base: the base stays as it is, de-quantised; what is written fits the unquantised model."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers")
sys.path.append(str(Path(__file__).parents[1] / "checkpoints"))

from quantised_files import write_model
from quantised_forms import FORMS
from test_quantised import write_gpt_oss

from landrace.checkpoints.adapter import read_adapter
from landrace.checkpoints.checkpoint import open_checkpoint
from landrace.models.batch import AdapterRows, ForwardBatch
from landrace.models.decoder import Decoder
from landrace.training.data import CompletionRow
from landrace.training.options import TuneOptions
from landrace.training.result import write_result
from landrace.training.trainer import tune

ROWS = [CompletionRow(f"f, line {n}", f"say {n}", f"{n * n}") for n in range(8)]
IDS = [5, 80, 33, 200, 7]


def opened(folder):
    checkpoint = open_checkpoint(folder)
    return checkpoint, Decoder(checkpoint.spec).load(checkpoint.tensors())


@pytest.mark.parametrize("form", ["nf4, nested", "gptq", "gpt-oss"])
@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_quantised_base_is_tuned(form, method, byte_tokenizer, tmp_path):
    base = tmp_path / "base"
    if form == "gpt-oss":
        write_gpt_oss(base)
    else:
        write_model(base, "dense", *FORMS[form])
    (base / "tokenizer_config.json").write_text("{}")
    checkpoint, decoder = opened(base)
    before = dict(decoder.named_tensors())
    options = TuneOptions(method=method, batch_examples=4, epochs=2, rank=4, learning_rate=1e-3)
    result = tune(decoder, byte_tokenizer(), ROWS, options, out=tmp_path / "run")
    folder = write_result(result, tmp_path / "run", checkpoint=checkpoint, base_name=str(base), provenance={})
    if method == "lora":
        _, fresh = opened(base)
        assert all(torch.equal(before[name], tensor) for name, tensor in fresh.named_tensors())
        spec, tensors, _ = read_adapter(folder, *checkpoint.adapter_sources)
        assert any(tensor.abs().max() > 0 for name, tensor in tensors.items() if name.endswith("B"))
        slot = fresh.add_adapter(spec, tensors)
        assert fresh(ForwardBatch.packed([IDS], adapters=(AdapterRows(slot, None),))).isfinite().all()
        return
    import transformers

    assert "quantization_config" not in json.loads((folder / "config.json").read_text())
    _, again = opened(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    ours = again(ForwardBatch.packed([IDS]))
    torch.testing.assert_close(ours, model(torch.tensor([IDS])).logits[0], atol=1e-4, rtol=1e-4)
