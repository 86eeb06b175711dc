"""The same weights and tokens through transformers (and peft), as an outside witness."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from landrace.certify.certificate import Scores
from landrace.checkpoints import write_checkpoint
from landrace.model import Model
from landrace.models.decoder import Decoder


@torch.no_grad()
def transformers_scores(
    model: Model[Decoder], sequences: Sequence[tuple[int, ...]], adapter: Path | None
) -> list[Scores]:
    """Writes the de-quantised weights under their hub names, and lets transformers load and run them in float32."""
    with tempfile.TemporaryDirectory(prefix="landrace-certify-") as folder:
        witness = _load(model, Path(folder) / "model", adapter)
    witness.eval()
    results = []
    for ids in sequences:
        logits = witness(input_ids=torch.tensor([ids])).logits[0, :-1].float()
        targets = torch.tensor(ids[1:])[:, None]
        logprobs = logits.log_softmax(-1).gather(1, targets)[:, 0]
        results.append(Scores(logprobs.tolist(), logits.argmax(-1).tolist()))
    return results


def _load(model: Model[Decoder], folder: Path, adapter: Path | None) -> Any:
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    write_checkpoint(folder, model.checkpoint.config, model.checkpoint.hub_sources, model.decoder.named_tensors(), ())
    witness = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    if adapter is None:
        return witness
    from peft import PeftModel

    return PeftModel.from_pretrained(witness, str(adapter))
