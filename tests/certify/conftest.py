"""Tiny random models with experts, as folders with a token a byte."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from byte_vocabulary import byte_vocabulary

sys.path.insert(0, str(Path(__file__).parent))
# The tiny models of another room.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "models"))

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SIZES = {"vocab_size": 270, "bos_token_id": 256, "eos_token_id": 257, "pad_token_id": 0, "max_position_embeddings": 512}

MakeModel = Callable[..., Path]


@pytest.fixture
def tiny_model(shared: Path, tmp_path: Path) -> MakeModel:
    """Saves the model of a type, in float32 or the given dtype."""
    configs = json.loads((shared / "families" / "tiny_configs.json").read_text())

    def make(kind: str, dtype: torch.dtype = torch.float32) -> Path:
        from tiny_models import reference

        entry = configs[kind]
        of_text = entry["auto_class"] == "AutoModelForCausalLM"
        model = reference(kind, _for_bytes(entry["kwargs"]), None if of_text else entry["model_class"])
        folder = tmp_path / kind
        model.to(dtype).save_pretrained(folder)
        byte_vocabulary().save(str(folder / "tokenizer.json"))
        settings = {"eos_token": "<|im_end|>", "chat_template": CHATML, "tokenizer_class": "PreTrainedTokenizerFast"}
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
        (folder / "generation_config.json").unlink(missing_ok=True)
        return folder

    return make


def _for_bytes(kwargs: dict[str, Any]) -> dict[str, Any]:
    """The same with a token for every byte, and those for pictures and sound behind them."""
    text = {**kwargs.get("text_config", kwargs), **SIZES}
    if "text_config" not in kwargs:
        return text
    marks = [name for name in kwargs if name.endswith(("_token_id", "_token_index"))]
    return {**kwargs, "text_config": text} | {name: 258 + number for number, name in enumerate(marks)}
