"""What `show` tells about an encoder."""

from __future__ import annotations

from math import prod
from typing import Any

from landrace.checkpoints.encoder_checkpoint import open_encoder_checkpoint
from landrace.checkpoints.store import StoredModel
from landrace.cli.console import human_bytes
from landrace.model import open_tokenizer
from landrace.models.families.encoders import encoder_shapes


def describe_encoder(stored: StoredModel) -> dict[str, Any]:
    """Facts from the files alone; no weights are loaded."""
    checkpoint = open_encoder_checkpoint(stored.path)
    tokenizer = open_tokenizer(checkpoint)
    spec = checkpoint.spec
    n_parameters = sum(map(prod, encoder_shapes(spec).values()))
    own = tokenizer.conventions
    around = [tokenizer.decode(ids, skip_special=False) for ids in (own.prefix_ids, own.suffix_ids)]
    labels = "none" if spec.classifier is None else f"scores for {spec.classifier.n_labels} labels"
    return {
        "name": stored.name,
        "path": str(stored.path),
        "source": stored.source,
        "licence": stored.licence,
        "size": human_bytes(stored.size),
        "format": stored.format,
        "weights": ", ".join(sorted({info.dtype for info in checkpoint.tensor_infos.values()})),
        "model type": f"{checkpoint.config.get('model_type')}, an encoder: for vectors and scores of texts",
        "parameters": f"{n_parameters / 1e6:,.1f} million",
        "layers": spec.n_layers,
        "width": spec.d_model,
        "attention": f"{spec.attention.n_heads} heads of {spec.attention.head_dim}, over the whole text",
        "feed-forward": f"{spec.d_hidden} values, {spec.activation.replace('_', ' by ')}",
        "vocabulary": spec.vocab_size,
        "longest sequence": spec.max_length,
        "around a text": f"{around[0]} text {around[1]}",
        "classifier": labels,
    }
