"""What `show` tells about a model."""

from __future__ import annotations

from typing import Any

from landrace.checkpoints import open_checkpoint
from landrace.checkpoints.store import ModelStore, default_home
from landrace.cli.console import human_bytes
from landrace.model import cache_of_a_token, open_tokenizer


def describe_model(name: str) -> dict[str, Any]:
    """Facts from the files alone; no weights are loaded."""
    stored = ModelStore(default_home()).show(name).model
    checkpoint = open_checkpoint(stored.path)
    tokenizer = open_tokenizer(checkpoint)
    spec = checkpoint.spec
    attention, ffn = spec.layers[0].mixer, spec.layers[0].ffn
    kinds = sorted({info.dtype for info in checkpoint.tensor_infos.values()})
    parameters = sum(_count(info.shape) for info in checkpoint.tensor_infos.values())
    template = tokenizer.chat_template
    cache_bytes, cache_dtype = cache_of_a_token(checkpoint)
    return {
        "name": stored.name,
        "path": str(stored.path),
        "source": stored.source,
        "licence": stored.licence,
        "size": human_bytes(stored.size),
        "format": stored.format,
        "weights": ", ".join(kinds),
        "model type": checkpoint.config.get("model_type"),
        "parameters": f"{parameters / 1e6:.1f} million",
        "layers": len(spec.layers),
        "width": spec.d_model,
        "heads": f"{attention.n_heads} of {attention.head_dim}, {attention.n_kv_heads} for keys and values",
        "feed-forward": ffn.d_hidden,
        "vocabulary": spec.vocab_size,
        "longest sequence": spec.max_length,
        "cache": f"{human_bytes(cache_bytes)} a token in {str(cache_dtype).removeprefix('torch.')} on this machine",
        "end of sequence": ", ".join(
            tokenizer.token_bytes(i).decode("utf-8", "replace") for i in sorted(tokenizer.eos_ids)
        ),
        "chat template": f"sha256 {template.sha256[:16]}" if template is not None else "none",
    }


def _count(shape: tuple[int, ...]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total
