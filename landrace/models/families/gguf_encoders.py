"""Encoders in llama.cpp's GGUF files: its architecture `bert`, which RoBERTa's and DistilBERT's models become as well.

Facts from llama.cpp's converter: rows of positions begin with the first one, the pooler is left out, a classifier's
layers are `cls` and `cls.output`, and nothing says which GELU the model has (llama.cpp takes that by tanh for all; the
models of this architecture were trained with the exact one).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from landrace.models.encoder_spec import Classifier
from landrace.models.families.config import MAX_POSITIONS, Config
from landrace.models.families.encoders import EncoderModel, EncoderNames, encoder_sources, encoder_spec
from landrace.models.families.weights import Source

ARCHITECTURE = "bert"
NAMES = EncoderNames(
    tables={
        "embed_tokens": "token_embd",
        "embed_types": "token_types",
        "embed_positions": "position_embd",
        "embedding_norm": "token_embd_norm",
    },
    layer="blk.{}.",
    in_layer={
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "attention_norm": "attn_output_norm",
        "up_proj": "ffn_up",
        "down_proj": "ffn_down",
        "output_norm": "layer_output_norm",
    },
    classifier={"classifier.dense": "cls", "classifier.out_proj": "cls.output"},
)
KEYS = {
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "attention.head_count": "num_attention_heads",
    "feed_forward_length": "intermediate_size",
    "attention.layer_norm_epsilon": "layer_norm_eps",
    "context_length": "max_position_embeddings",
}
"""Of the metadata, and what a BERT's config.json calls them."""
NO_EFFECT = (r"vocab_size|pooling_type|tensor_data_layout|classifier\.output_labels",)
WHOLE_CLASSIFIER = ("cls.weight", "cls.output.weight")


def encoder_config_from_gguf(metadata: Mapping[str, Any], n_tokens: int) -> dict[str, Any]:
    """The config.json that a file's key-values amount to."""
    own = {key.removeprefix("bert."): value for key, value in metadata.items() if key.startswith("bert.")}
    keys = Config(own, where="The GGUF metadata")
    config = {name: keys.get(key) for key, name in KEYS.items()}
    keys.require("attention.head_count_kv", config["num_attention_heads"])
    keys.finish(NO_EFFECT, {"attention.causal": False})
    types = metadata.get("tokenizer.ggml.token_type_count")
    return {"model_type": "bert", "vocab_size": n_tokens, "hidden_act": "gelu", "type_vocab_size": types or 0, **config}


def read_gguf_encoder(config: Mapping[str, Any], stored: Mapping[str, tuple[int, ...]]) -> EncoderModel:
    """`config`: of `encoder_config_from_gguf`; `stored`: names and shapes of the file's tensors."""
    reader = Config(config, where="The GGUF metadata")
    n_types = reader.count("type_vocab_size") if "token_types.weight" in stored else 0
    whole = all(name in stored for name in WHOLE_CLASSIFIER)
    classifier = Classifier(stored["cls.output.weight"][0]) if whole else None
    max_length = reader.size("max_position_embeddings", MAX_POSITIONS)
    spec = encoder_spec(reader, max_length=max_length, n_types=n_types, classifier=classifier)
    sources = _in_one(encoder_sources(spec, NAMES, stored), spec.d_model, stored)
    # A pooler left out, and the rest of the classifier cannot score.
    return EncoderModel(spec, sources, () if whole else (r"cls(\.output)?\.(weight|bias)",))


def _in_one(sources: dict[str, Source], width: int, stored: Collection[str]) -> dict[str, Source]:
    """Queries, keys and values may lie in one tensor, one under another."""
    found = dict(sources)
    for name, source in sources.items():
        for place, part in enumerate(("attn_q.", "attn_k.", "attn_v.")):
            fused = source.tensor.replace(part, "attn_qkv.")
            if part in source.tensor and fused in stored:
                found[name] = replace(source, tensor=fused, rows=(place * width, (place + 1) * width))
    return found
