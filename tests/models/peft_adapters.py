"""Adapters of peft's on tiny models, against peft's own logits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from cpu_models import on_cpu
from safetensors.torch import load_file
from tiny_models import packed_logits, worst
from torch import Tensor

from landrace.checkpoints.adapter import read_adapter, write_adapter
from landrace.checkpoints.checkpoint import Checkpoint
from landrace.models.batch import AdapterRows, ForwardBatch
from landrace.models.decoder import Decoder


def logits_with(decoder: Any, place: int, sequences: list[list[int]]) -> list[Tensor]:
    """Of sequences that all use one adapter."""
    batch = replace(ForwardBatch.packed(sequences), adapters=(AdapterRows(place, None),))
    with torch.no_grad():
        return list(decoder(batch).split([len(ids) for ids in sequences]))


def assert_pefts_are_ours(
    model: Any,
    checkpoint: Checkpoint,
    targets: list[str] | str,
    sequences: list[list[int]],
    extension: ModuleType,
    folder: Path,
    *,
    same_file: bool = True,
) -> None:
    """On both backends; and what we write of them is peft's again, to the bit where it is the `same_file`."""
    import peft

    config = peft.LoraConfig(r=4, lora_alpha=12, target_modules=targets, init_lora_weights=False)
    tuned = peft.get_peft_model(model, config)
    tuned.save_pretrained(folder / "adapter")
    theirs = [tuned(input_ids=torch.tensor([ids]), use_cache=False).logits[0].detach() for ids in sequences]
    near = 1e-3 * theirs[0].abs().max()
    spec, tensors, _ = read_adapter(folder / "adapter", *checkpoint.adapter_sources)
    decoder = Decoder(checkpoint.spec).load(checkpoint.tensors())
    for one in (decoder, on_cpu(extension, decoder, "float32")):
        assert worst(logits_with(one, one.add_adapter(spec, tensors), sequences), theirs) < near
    assert worst(packed_logits(decoder, sequences), theirs) > 1e-2
    write_adapter(folder / "again", spec, tensors, checkpoint.adapter_sources[0], "base", {})
    if same_file:
        before, after = (load_file(folder / one / "adapter_model.safetensors") for one in ("adapter", "again"))
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before)
    else:
        _, again, _ = read_adapter(folder / "again", *checkpoint.adapter_sources)
        assert worst(logits_with(decoder, decoder.add_adapter(spec, again), sequences), theirs) < near
