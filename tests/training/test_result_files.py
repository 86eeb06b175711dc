"""What a run writes is what it trained: peft and transformers load it and agree with our decoder."""

from __future__ import annotations

import json

import pytest
import torch

from landrace.checkpoints.adapter import read_adapter
from landrace.checkpoints.checkpoint import open_checkpoint
from landrace.models.batch import AdapterRows, ForwardBatch
from landrace.models.decoder import Decoder
from landrace.training.data import CompletionRow
from landrace.training.options import TuneOptions
from landrace.training.result import write_result
from landrace.training.trainer import tune

transformers = pytest.importorskip("transformers")
ROWS = [CompletionRow(f"f, line {n}", f"say {n}", f"{n * n}") for n in range(8)]
IDS = [5, 80, 33, 200, 7]


SIZES = {
    "vocab_size": 260,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,
}


def saved(config, folder):
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config)
    model.set_attn_implementation("eager")
    model.save_pretrained(folder)
    (folder / "tokenizer_config.json").write_text("{}")
    return folder


@pytest.fixture
def base(tmp_path):
    return saved(transformers.LlamaConfig(**SIZES), tmp_path / "base")


@pytest.fixture(params=["dense", "experts in one tensor"])
def any_base(request, tmp_path):
    if request.param == "dense":
        return saved(transformers.LlamaConfig(**SIZES), tmp_path / "base")
    experts = {"head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 64}
    return saved(transformers.GptOssConfig(**SIZES, **experts), tmp_path / "base")


def run(base, tokenizer, out, method):
    checkpoint = open_checkpoint(base)
    decoder = Decoder(checkpoint.spec).load(checkpoint.tensors())
    options = TuneOptions(method=method, batch_examples=4, epochs=3, rank=4, learning_rate=1e-2)
    result = tune(decoder, tokenizer, ROWS, options, out=out)
    folder = write_result(result, out, checkpoint=checkpoint, base_name=str(base), provenance={"commit": "abc"})
    return checkpoint, decoder, result, folder


def test_peft_loads_the_adapter(any_base, byte_tokenizer, tmp_path):
    peft = pytest.importorskip("peft")
    checkpoint, decoder, result, folder = run(any_base, byte_tokenizer(), tmp_path / "run", "lora")
    spec, tensors, record = read_adapter(folder, *checkpoint.adapter_sources)
    assert spec == result.lora and all(torch.equal(tensors[name], result.tensors[name]) for name in result.tensors)
    slot = decoder.add_adapter(spec, tensors)
    plain = decoder(ForwardBatch.packed([IDS]))
    ours = decoder(ForwardBatch.packed([IDS], adapters=(AdapterRows(slot, None),)))
    model = peft.PeftModel.from_pretrained(transformers.AutoModelForCausalLM.from_pretrained(any_base), folder)
    torch.testing.assert_close(ours, model(torch.tensor([IDS])).logits[0], atol=1e-5, rtol=0)
    assert (ours - plain).abs().max() > 0.1
    assert record["commit"] == "abc" and record["data"]["rows"] == 8 and record["options"]["rank"] == 4
    assert json.loads((tmp_path / "run/tune.json").read_text()) == record
    assert (tmp_path / "run/loss.png").stat().st_size > 1000


def test_transformers_loads_the_tuned_model(base, byte_tokenizer, tmp_path):
    _, decoder, _, folder = run(base, byte_tokenizer(), tmp_path / "run", "full")
    ours = decoder(ForwardBatch.packed([IDS]))
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    torch.testing.assert_close(ours, model(torch.tensor([IDS])).logits[0], atol=1e-5, rtol=0)
    again = open_checkpoint(folder)
    torch.testing.assert_close(
        Decoder(again.spec).load(again.tensors())(ForwardBatch.packed([IDS])), ours, atol=0, rtol=0
    )
    assert (folder / "tokenizer_config.json").read_text() == "{}"


@pytest.mark.long
def test_full_tuning_of_a_gguf_is_a_gguf(smollm2_path, tmp_path):
    from landrace.checkpoints.gguf_file import read_gguf
    from landrace.text import tokenizer_from_gguf

    origin = read_gguf(smollm2_path)
    checkpoint = open_checkpoint(smollm2_path)
    decoder = Decoder(checkpoint.spec).load(checkpoint.tensors())
    before = decoder(ForwardBatch.packed([IDS]))
    options = TuneOptions(method="full", learning_rate=1e-3, warmup_ratio=0.0)
    result = tune(decoder, tokenizer_from_gguf(origin.metadata), ROWS, options, out=tmp_path / "run")
    path = write_result(result, tmp_path / "run", checkpoint=checkpoint, base_name="smollm2")
    ours = decoder(ForwardBatch.packed([IDS]))
    assert (ours - before).abs().max() > 0.1
    again = open_checkpoint(path)
    reread = Decoder(again.spec).load(again.tensors())
    torch.testing.assert_close(reread(ForwardBatch.packed([IDS])), ours, atol=0, rtol=0)
    assert again.metadata == {**origin.metadata, "general.file_type": 0}
    model = transformers.AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    torch.testing.assert_close(ours, model(torch.tensor([IDS])).logits[0], atol=1e-3, rtol=0)
