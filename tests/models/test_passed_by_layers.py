"""The text of Llama 3.2 Vision from its own files: layers that look at a picture are passed by."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from cpu_models import on_cpu
from safetensors.torch import load_file, save_file
from tiny_models import packed_logits, random_ids, reference, reference_logits, worst

from landrace.checkpoints.adapter import read_adapter, write_adapter
from landrace.checkpoints.checkpoint import Checkpoint, open_checkpoint
from landrace.errors import CheckpointError
from landrace.models.batch import AdapterRows, ForwardBatch
from landrace.models.decoder import Decoder

peft = pytest.importorskip("peft")
pytest.importorskip("transformers")

SEQUENCES = random_ids()


@pytest.fixture
def tiny(shared: Path, tmp_path: Path) -> tuple[Any, Checkpoint]:
    """Four layers, of which the second looks at a picture."""
    entry = json.loads((shared / "families" / "tiny_configs.json").read_text())["mllama"]
    model = reference("mllama", entry["kwargs"], entry["model_class"])
    model.save_pretrained(tmp_path / "model")
    return model, open_checkpoint(tmp_path / "model")


def test_it_is_opened_from_a_folder(tiny: tuple[Any, Checkpoint], extension: ModuleType) -> None:
    model, checkpoint = tiny
    assert len(checkpoint.spec.layers) == 3
    decoder = Decoder(checkpoint.spec).load(checkpoint.tensors())
    theirs = reference_logits(model, SEQUENCES)
    for one in (decoder, on_cpu(extension, decoder, "float32")):
        assert worst(packed_logits(one, SEQUENCES), theirs) < 1e-4  # type: ignore[arg-type]


def test_adapters_carry_the_file_s_numbers(tiny: tuple[Any, Checkpoint], extension: ModuleType, tmp_path: Path) -> None:
    """peft's are ours on both backends, and what we write of them is peft's again."""
    model, checkpoint = tiny
    targets = r".*language_model.*\.layers\.[023]\..*(q_proj|o_proj|up_proj|down_proj)"
    config = peft.LoraConfig(r=4, lora_alpha=12, target_modules=targets, init_lora_weights=False)
    tuned = peft.get_peft_model(model, config)
    tuned.save_pretrained(tmp_path / "adapter")
    theirs = [tuned(input_ids=torch.tensor([ids]), use_cache=False).logits[0].detach() for ids in SEQUENCES]
    spec, tensors, _ = read_adapter(tmp_path / "adapter", *checkpoint.adapter_sources)
    decoder = Decoder(checkpoint.spec).load(checkpoint.tensors())
    for one in (decoder, on_cpu(extension, decoder, "float32")):
        batch = replace(ForwardBatch.packed(SEQUENCES), adapters=(AdapterRows(one.add_adapter(spec, tensors), None),))
        with torch.no_grad():
            found = one(batch).split([len(ids) for ids in SEQUENCES])
        assert worst(list(found), theirs) < 1e-3 * theirs[0].abs().max()
    assert worst(packed_logits(decoder, SEQUENCES), theirs) > 1e-2
    before = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    written = []
    for number, sources in enumerate(checkpoint.adapter_sources):
        write_adapter(tmp_path / str(number), spec, tensors, sources, "base", {})
        written.append(load_file(tmp_path / str(number) / "adapter_model.safetensors"))
    assert any(before.keys() == one.keys() and all(torch.equal(before[k], one[k]) for k in before) for one in written)


def test_a_tensor_of_the_others_is_missed(tiny: tuple[Any, Checkpoint]) -> None:
    _, checkpoint = tiny
    path = checkpoint.path / "model.safetensors"
    tensors = load_file(path)
    passed_by = {name for name in tensors if "language_model.model.layers.1." in name}
    assert passed_by and not any(name in one.tensors for name in passed_by for one in checkpoint.sources.values())
    save_file({name: tensor for name, tensor in tensors.items() if name not in passed_by}, path)
    assert open_checkpoint(checkpoint.path).spec == checkpoint.spec
    save_file({name: tensor for name, tensor in tensors.items() if "layers.2.self_attn.q_proj" not in name}, path)
    with pytest.raises(CheckpointError, match=r"layers\.2\.self_attn\.q_proj"):
        open_checkpoint(checkpoint.path)
