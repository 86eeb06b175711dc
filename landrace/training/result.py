"""A finished run as files: an adapter in peft's format, or a model folder; a record of the run; its loss curve."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from landrace.checkpoints.adapter import write_adapter
from landrace.checkpoints.checkpoint import Checkpoint
from landrace.checkpoints.folder import writing
from landrace.checkpoints.gguf_model import write_gguf_model
from landrace.checkpoints.write import tokenizer_files, write_checkpoint
from landrace.training.log import draw_loss
from landrace.training.trainer import TuneResult

_NOTHING = 1e-4
"""A relative change of the loss that is no more than rounding."""


def write_result(
    result: TuneResult,
    out: Path,
    *,
    checkpoint: Checkpoint,
    base_name: str,
    provenance: Mapping[str, Any] | None = None,
) -> Path:
    """Writes `out`/adapter (LoRA) or `out`/model (full), `out`/tune.json and `out`/loss.png.

    Returns where the weights are: a folder, or the `.gguf` file that full tuning makes of one. `base_name` is the hub
    name that an adapter says it belongs to; `provenance` (commit, machine) is added to the record.
    """
    record = {
        **describe(result),
        "row_hashes": result.row_hashes,
        "base": base_name,
        "base_file_sha256": checkpoint.sha256(),
        **(provenance or {}),
    }
    weights = out / ("adapter" if result.lora is not None else "model")
    if result.lora is not None:
        write_adapter(weights, result.lora, result.tensors, checkpoint.adapter_sources[0], base_name, record)
    elif checkpoint.format == "gguf":
        weights = write_gguf_model(weights, checkpoint, result.tensors)
    else:
        extras = tokenizer_files(checkpoint.path)
        write_checkpoint(weights, checkpoint.config, checkpoint.hub_sources, result.tensors.items(), extras)
    draw_loss(list(result.steps), out / "loss.png")
    partial = out / ".tune.json.partial"
    with writing(out / "tune.json"):
        text = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")
        os.replace(partial, out / "tune.json")
    return weights


def describe(result: TuneResult) -> dict[str, Any]:
    """What the run was and came to, in plain values."""
    last = result.steps[-1]
    return {
        "options": result.options.as_dict(),
        "data": asdict(result.data),
        "validation_data": None if result.validation_data is None else asdict(result.validation_data),
        "steps": last.step,
        "first_loss": result.steps[0].loss,
        "last_loss": last.loss,
        "loss_after": result.loss_after,
        "validation_loss": last.validation_loss,
        "tokens": sum(step.tokens for step in result.steps),
        "trained_tokens": sum(step.trained_tokens for step in result.steps),
        "seconds": sum(step.seconds for step in result.steps),
        "tokens_per_second": result.tokens_per_second,
        "remarks": remarks(result),
        "rows_sha256": result.rows_sha256,
        "examples_sha256": result.examples_sha256,
        "base_sha256": result.base_sha256,
        "template_sha256": result.template_sha256,
        "torch": torch.__version__,
        "threads": sorted({step.threads for step in result.steps if step.threads is not None}),
    }


def remarks(result: TuneResult) -> list[str]:
    """What a person should know before using the weights, a sentence each."""
    if result.diverged is not None:
        return [f"{result.diverged} These are the weights after step {result.steps[-1].step}."]
    before, after = result.steps[0].loss, result.loss_after
    assert after is not None
    said = f"the loss of the first step's examples was {before:.4g} and is {after:.4g}"
    if abs(after - before) < _NOTHING * before:
        return [f"Nothing was learnt: {said}. Raise learning_rate, or train for longer."]
    if after > before:
        return [f"The model became worse on its own training rows: {said}. Lower learning_rate."]
    return []
