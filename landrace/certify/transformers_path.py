"""The same weights and tokens through transformers (and peft), as an outside witness."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from landrace.certify.scores import Scores, scores_of
from landrace.checkpoints import write_checkpoint
from landrace.model import Model
from landrace.models.decoder import Decoder
from landrace.models.families import language_model, read_config
from landrace.models.families.kimi_k3 import is_extended

TURNS_HALVES = ("hy_v4",)
"""Types whose heads transformers turns otherwise than the weights were trained for."""


def why_no_witness(model: Model[Decoder], adapter: Path | None) -> str | None:
    """Why transformers cannot be asked; None if it can."""
    needed = ["transformers"] + (["peft"] if adapter is not None else [])
    absent = [package for package in needed if importlib.util.find_spec(package) is None]
    if absent:
        return f"{' and '.join(absent)} not installed"
    if model.decoder.spec.stretched:
        return "it chooses positions by the length of each text"
    config = language_model(model.checkpoint.config)
    if _auto_class(config["model_type"]) is None:
        return f"it has no language model of the type {config['model_type']}"
    if config["model_type"] in TURNS_HALVES and any(one.is_turned for one in model.checkpoint.hub_sources.values()):
        return "it turns the halves of this type's heads, and published weights turn in pairs"
    if config["model_type"] == "kimi_linear" and is_extended(model.decoder.spec):
        return "its class of this type has not what Kimi-K3 adds"
    if adapter is not None and config["model_type"] != model.checkpoint.config["model_type"]:
        return f"only the {config['model_type']} in it computes logits, and the adapter is for the whole"
    return None


@torch.no_grad()
def transformers_scores(
    model: Model[Decoder], sequences: Sequence[tuple[int, ...]], adapter: Path | None
) -> list[Scores]:
    """Writes the de-quantised weights under their hub names, and lets transformers load and run them in float32."""
    with tempfile.TemporaryDirectory(prefix="landrace-certify-") as folder:
        witness = _load(model, Path(folder) / "model", adapter)
    witness.eval()
    return [scores_of(witness(input_ids=torch.tensor([ids])).logits[0], ids) for ids in sequences]


def _load(model: Model[Decoder], folder: Path, adapter: Path | None) -> Any:
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    checkpoint = model.checkpoint
    config, sources, beside = language_model(checkpoint.config), checkpoint.hub_sources, checkpoint.beside_text
    if config["model_type"] != checkpoint.config["model_type"]:
        # The names of towers are those of the whole; without them transformers makes some up, and text does not care.
        sources, beside = read_config(config).sources, []
    write_checkpoint(folder, config, sources, model.decoder.named_tensors(), beside=beside)
    witness = _auto_class(config["model_type"]).from_pretrained(folder, dtype=torch.float32)
    if adapter is None:
        return witness
    from peft import PeftModel

    return PeftModel.from_pretrained(witness, str(adapter))


def _auto_class(model_type: str) -> Any:
    """What of transformers opens language models of a type: those of text alone, or with towers beside it."""
    import transformers

    if model_type not in transformers.CONFIG_MAPPING:
        return None
    config = transformers.CONFIG_MAPPING[model_type]
    if config in transformers.MODEL_FOR_CAUSAL_LM_MAPPING:
        return transformers.AutoModelForCausalLM
    if config in transformers.MODEL_FOR_MULTIMODAL_LM_MAPPING:
        return transformers.AutoModelForMultimodalLM
    return None
