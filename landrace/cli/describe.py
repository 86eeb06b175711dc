"""What `show` tells about a model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, assert_never

from landrace.checkpoints import open_checkpoint
from landrace.checkpoints.encoder_checkpoint import is_encoder
from landrace.checkpoints.store import ModelStore, default_home
from landrace.cli.console import human_bytes
from landrace.cli.describe_encoder import describe_encoder
from landrace.kernels.mask import Chunked, Full, Sliding, Whole
from landrace.model import CacheNeeds, cache_needs, open_tokenizer
from landrace.models.compressed_spec import Compressed
from landrace.models.declared import Counts, count
from landrace.models.ffn_spec import Dense, Ffn, Moe
from landrace.models.mixer_spec import Gdn, Gqa, Kda, Lightning, Mixer, Mla
from landrace.models.selection_spec import PoolSelection
from landrace.text import ChatTemplate


def describe_model(name: str) -> dict[str, Any]:
    """Facts from the files alone; no weights are loaded."""
    stored = ModelStore(default_home()).show(name).model
    if is_encoder(stored.path):
        return describe_encoder(stored)
    checkpoint = open_checkpoint(stored.path)
    tokenizer = open_tokenizer(checkpoint)
    spec = checkpoint.spec
    counts = count(spec)
    kinds = sorted({info.dtype for info in checkpoint.tensor_infos.values()})
    template = tokenizer.chat_template
    return {
        "name": stored.name,
        "path": str(stored.path),
        "source": stored.source,
        "licence": stored.licence,
        "size": human_bytes(stored.size),
        "format": stored.format,
        "weights": ", ".join(kinds),
        "model type": checkpoint.config.get("model_type"),
        "parameters": _parameters(counts),
        "layers": len(spec.layers),
        "width": spec.d_model,
        "attention": _kinds(_mixer(layer.mixer) for layer in spec.layers),
        "feed-forward": _kinds(_feed_forward(layer.ffn) for layer in spec.layers),
        "vocabulary": spec.vocab_size,
        "longest sequence": spec.max_length,
        "cache": _cache(cache_needs(checkpoint)),
        "end of sequence": ", ".join(
            tokenizer.token_bytes(i).decode("utf-8", "replace") for i in sorted(tokenizer.eos_ids)
        ),
        "chat template": "none" if template is None else _template(template),
    }


def _template(template: ChatTemplate) -> str:
    own = f", built in: {template.built_in}" if template.built_in else ""
    return f"sha256 {template.sha256[:16]}{own}"


def _cache(by_type: Mapping[str, CacheNeeds]) -> str:
    """In the usual type, and beside it what the smaller ones would take."""
    (usual, needs), *smaller = by_type.items()
    others = ", ".join(f"{human_bytes(own.a_token or own.at_most)} in {name}" for name, own in smaller)
    kept_in = f"in {usual} on this machine" + (f" ({others})" if others else "")
    a_token = f"{human_bytes(needs.a_token)} a token {kept_in}"
    if not needs.at_most:
        return a_token
    at_most = f"at most {human_bytes(needs.at_most)} a sequence"
    return f"{a_token}, and {at_most} for windows and states" if needs.a_token else f"{at_most} {kept_in}"


def _parameters(counts: Counts) -> str:
    active = "" if counts.active == counts.total else f", {_millions(counts.active)} for each token"
    return _millions(counts.total) + active


def _millions(count: int) -> str:
    return f"{count / 1e6:,.1f} million"


def _kinds(of_layers: Iterable[str]) -> str:
    """What the layers are, and how many of each where they differ."""
    kinds = Counter(of_layers)
    return next(iter(kinds)) if len(kinds) == 1 else "; ".join(f"{n} layers: {kind}" for kind, n in kinds.items())


def _mixer(mixer: Mixer) -> str:
    match mixer:
        case Gdn():
            sizes = f"{mixer.key_dim} by {mixer.value_dim}"
            return f"gated delta net, {mixer.n_value_heads} states of {sizes}, {mixer.n_heads} heads of keys"
        case Kda():
            return f"Kimi delta attention, {mixer.n_heads} states of {mixer.head_dim} by {mixer.head_dim}"
        case Lightning():
            return f"lightning attention, {mixer.n_heads} states of {mixer.head_dim} by {mixer.head_dim}"
        case Compressed():
            return _compressed(mixer)
        case _:
            return _attention(mixer)


def _compressed(mixer: Compressed) -> str:
    window = f"{mixer.n_heads} heads of {mixer.head_dim}, 1 for keys that are values, over {mixer.window} tokens"
    if (compression := mixer.compression) is None:
        return window
    rows = f"{window} and a row for every {compression.ratio} tokens"
    chosen = compression.selection
    if chosen is None:
        return rows
    return f"{rows}, of {chosen.top_k} rows chosen by {chosen.n_heads} heads of {chosen.head_dim}"


def _attention(mixer: Gqa | Mla) -> str:
    heads = _heads(mixer)
    match mixer.mask:
        case Sliding(window):
            return f"{heads}, over {window} tokens"
        case Chunked(chunk):
            return f"{heads}, in chunks of {chunk} tokens"
        case Full() | Whole():
            return heads
        case _:
            assert_never(mixer.mask)


def _heads(mixer: Gqa | Mla) -> str:
    match mixer:
        case Gqa():
            heads = f"{mixer.n_heads} heads of {mixer.head_dim}, {mixer.n_kv_heads} for keys and values"
            match mixer.selection:
                case None:
                    return heads
                case PoolSelection(pool=size, top_k=count):
                    return f"{heads}, over {count} chosen blocks of {size} tokens"
                case blocks:
                    late = f", from token {blocks.onset + 1} on" if blocks.onset > blocks.most else ""
                    return f"{heads}, over {blocks.top_k} chosen blocks of {blocks.block} tokens{late}"
        case Mla():
            width = mixer.nope_dim + mixer.rope_dim
            latents = f"{mixer.n_heads} heads of {width} over latents of {mixer.kv_rank} and {mixer.rope_dim}"
            chosen = mixer.selection
            if chosen is None:
                return latents
            by = f"{chosen.n_heads} heads of {chosen.head_dim}" if chosen.own else "the layer before"
            pools = "" if chosen.pool == 1 else f" in pools of {chosen.pool}"
            return f"{latents}, of {chosen.top_k} tokens{pools} chosen by {by}"
        case _:
            assert_never(mixer)


def _feed_forward(ffn: Ffn) -> str:
    match ffn:
        case Dense():
            return str(ffn.d_hidden)
        case Moe():
            shared = "" if ffn.shared is None else f" and one of {ffn.shared.d_hidden} for all"
            return f"{ffn.router.top_k} of {ffn.n_experts} experts of {ffn.d_hidden}{shared}"
        case _:
            assert_never(ffn)
