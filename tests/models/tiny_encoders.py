"""Tiny random encoders as folders, as transformers writes them, with a tokenizer for each."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers

SIZES = {"vocab_size": 90, "hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 3, "intermediate_size": 80}
DISTIL_SIZES = {"vocab_size": 90, "dim": 48, "n_layers": 3, "n_heads": 3, "hidden_dim": 80}
PIECES = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    *"abcdefghij",
    *(f"##{c}" for c in "abcdefghij"),
    "the",
    "##ing",
]

KINDS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "bert": ("Bert", {**SIZES, "max_position_embeddings": 40, "hidden_act": "gelu"}),
    "bert-one-type": (
        "Bert",
        {**SIZES, "max_position_embeddings": 600, "type_vocab_size": 1, "hidden_act": "gelu_new"},
    ),
    "roberta": ("Roberta", {**SIZES, "max_position_embeddings": 42, "type_vocab_size": 1, "layer_norm_eps": 1e-5}),
    "xlm-roberta": ("XLMRoberta", {**SIZES, "max_position_embeddings": 42, "type_vocab_size": 1, "pad_token_id": 1}),
    "distilbert": ("DistilBert", {**DISTIL_SIZES, "max_position_embeddings": 40, "activation": "relu"}),
}


def tiny(kind: str, what: str = "Model", **changes: Any) -> Any:
    """A random model of transformers; `what`: the end of its class's name."""
    name, facts = KINDS[kind]
    config = getattr(transformers, f"{name}Config")(**{**facts, **changes})
    torch.manual_seed(7)
    model = getattr(transformers, f"{name}{what}")(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # so that biases, norms and rows of tables have values of their own
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model


def saved(model: Any, folder: Path) -> Path:
    """The model's folder, with a WordPiece vocabulary padded to the size of its embedding."""
    model.save_pretrained(folder)
    pieces = [*PIECES, *(f"[unused{n}]" for n in range(len(PIECES), model.config.vocab_size))]
    (folder / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}), encoding="utf-8")
    return folder
