"""Encoders: BERT and what has its layers (RoBERTa, XLM-RoBERTa, DistilBERT).

MiniLM, bge, e5 and gte models are BERT's or XLM-RoBERTa's with other weights. A checkpoint made for classification of
whole texts (a cross-encoder, a reranker) has a classifier on its first row.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from landrace.errors import CheckpointError, UnsupportedError
from landrace.kernels.activation import Pointwise
from landrace.kernels.mask import WHOLE
from landrace.models.declared import params_of
from landrace.models.encoder_spec import Classifier, EncoderSpec
from landrace.models.encoder_tree import EncoderTree
from landrace.models.families.config import MAX_LAYERS, Config, shown, with_aliases
from landrace.models.families.weights import Source
from landrace.models.mixer_spec import Gqa

ACTIVATIONS: Mapping[str, Pointwise] = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
"""What transformers calls them."""


@dataclass(frozen=True)
class EncoderNames:
    """What a family's checkpoints call the modules of `EncoderTree`."""

    tables: Mapping[str, str]
    layer: str
    """With {} for its number."""
    in_layer: Mapping[str, str]
    classifier: Mapping[str, str] = field(default_factory=dict)

    def of(self, module: str) -> str:
        if module.startswith("layers."):
            _, number, rest = module.split(".", 2)
            return self.layer.format(number) + self.in_layer[rest]
        return {**self.tables, **self.classifier}[module]


BERT_NAMES = EncoderNames(
    tables={
        "embed_tokens": "embeddings.word_embeddings",
        "embed_types": "embeddings.token_type_embeddings",
        "embed_positions": "embeddings.position_embeddings",
        "embedding_norm": "embeddings.LayerNorm",
    },
    layer="encoder.layer.{}.",
    in_layer={
        "self_attn.q_proj": "attention.self.query",
        "self_attn.k_proj": "attention.self.key",
        "self_attn.v_proj": "attention.self.value",
        "self_attn.o_proj": "attention.output.dense",
        "attention_norm": "attention.output.LayerNorm",
        "up_proj": "intermediate.dense",
        "down_proj": "output.dense",
        "output_norm": "output.LayerNorm",
    },
)
DISTILBERT_NAMES = EncoderNames(
    tables=BERT_NAMES.tables,
    layer="transformer.layer.{}.",
    in_layer={
        "self_attn.q_proj": "attention.q_lin",
        "self_attn.k_proj": "attention.k_lin",
        "self_attn.v_proj": "attention.v_lin",
        "self_attn.o_proj": "attention.out_lin",
        "attention_norm": "sa_layer_norm",
        "up_proj": "ffn.lin1",
        "down_proj": "ffn.lin2",
        "output_norm": "output_layer_norm",
    },
)


@dataclass(frozen=True)
class EncoderFamily:
    """Facts of one `model_type`."""

    prefix: str
    """Of the encoder's tensors where there is something on top of it."""
    defaults: Mapping[str, Any]
    classifier: Mapping[str, str]
    """Where `dense` and `out_proj` of the classifier lie: {} is that prefix."""
    names: EncoderNames = BERT_NAMES
    positions_after_padding: bool = False
    """Positions have the rows behind that of the padding token's number."""
    classifier_activation: Pointwise = "tanh"
    aliases: Mapping[str, str] = field(default_factory=dict)


_BERT = {
    "vocab_size": 30522,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
    "pad_token_id": 0,
}
_ROBERTA = EncoderFamily(
    prefix="roberta.",
    defaults={**_BERT, "vocab_size": 50265, "pad_token_id": 1},
    classifier={"dense": "classifier.dense", "out_proj": "classifier.out_proj"},
    positions_after_padding=True,
)
ENCODER_FAMILIES: Mapping[str, EncoderFamily] = {
    "bert": EncoderFamily(
        prefix="bert.", defaults=_BERT, classifier={"dense": "{}pooler.dense", "out_proj": "classifier"}
    ),
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "distilbert": EncoderFamily(
        prefix="distilbert.",
        defaults={**_BERT, "num_hidden_layers": 6, "type_vocab_size": 0},
        classifier={"dense": "pre_classifier", "out_proj": "classifier"},
        names=DISTILBERT_NAMES,
        classifier_activation="relu",
        aliases={
            "dim": "hidden_size",
            "n_layers": "num_hidden_layers",
            "n_heads": "num_attention_heads",
            "hidden_dim": "intermediate_size",
            "activation": "hidden_act",
        },
    ),
}
NO_EFFECT = (
    r"(sbert|sentence_transformers|pooler|seq_classif).*|output_past|directionality|layer_norm_type",
    r"sinusoidal_pos_embds|tie_weights_|tie_word_embeddings|emb_size|architectures",
)
IGNORABLE = (
    r".*position_ids|(.*\.)?pooler\.dense\.(weight|bias)|cls\..*|lm_head\..*|vocab_.*",
    r"qa_outputs\..*",
)
"""Regexes (whole name) of tensors that carry nothing for the rows and the scores: heads for training."""
OF_TEXTS = "ForSequenceClassification"


@dataclass(frozen=True)
class EncoderModel:
    """An encoder as its configuration describes it."""

    spec: EncoderSpec
    sources: dict[str, Source]
    """Where the checkpoint keeps each parameter of `EncoderTree(spec)`."""
    ignorable: tuple[str, ...]
    """Regexes (whole name) of tensors that carry nothing."""


def is_encoder_type(kind: object) -> bool:
    """Whether models of this `model_type` are encoders."""
    return isinstance(kind, str) and kind in ENCODER_FAMILIES


def encoder_error(kind: object) -> UnsupportedError:
    """Of whoever wants text from an encoder."""
    return UnsupportedError(
        f"A model of the type {kind} is an encoder: it makes vectors of texts, and no text.",
        hint="Use landrace embed.",
    )


def read_encoder_config(config: Mapping[str, Any], stored: Collection[str]) -> EncoderModel:
    """Reads a hub `config.json`. `stored`: the names of the file's tensors, which tell their prefix.

    Raises UnsupportedError for a model type, a key or a value that asks for other arithmetic; CheckpointError for
    numbers that fit no model.
    """
    kind = config.get("model_type")
    if not is_encoder_type(kind):
        known = ", ".join(sorted(ENCODER_FAMILIES))
        raise UnsupportedError(f"{shown(kind)} is no known type of encoder.", hint=f"Known types: {known}.")
    family = ENCODER_FAMILIES[str(kind)]
    reader = Config(with_aliases(config, family.aliases), family.defaults)
    positions = reader.size("max_position_embeddings")
    first = reader.count("pad_token_id") + 1 if family.positions_after_padding else 0
    if positions <= first:
        raise CheckpointError(f"config.json leaves no positions: {positions}, of which {first} are before the first.")
    spec = encoder_spec(
        reader,
        max_length=positions - first,
        n_types=reader.count("type_vocab_size"),
        classifier=_classifier(config, reader, family),
    )
    reader.finish(NO_EFFECT, {"position_embedding_type": "absolute", "is_decoder": False})
    prefix = family.prefix if any(name.startswith(family.prefix) for name in stored) else ""
    names = EncoderNames(
        {module: prefix + name for module, name in family.names.tables.items()},
        prefix + family.names.layer,
        family.names.in_layer,
        {f"classifier.{leaf}": name.format(prefix) for leaf, name in family.classifier.items()},
    )
    sources = encoder_sources(spec, names, stored)
    if first:
        table = sources["embed_positions.weight"].tensor
        sources["embed_positions.weight"] = Source(table, rows=(first, positions))
    return EncoderModel(spec, sources, IGNORABLE)


def encoder_spec(keys: Config, *, max_length: int, n_types: int, classifier: Classifier | None) -> EncoderSpec:
    """The sizes under the names of a BERT's config.json."""
    d_model, n_heads = keys.size("hidden_size"), keys.size("num_attention_heads")
    if d_model % n_heads:
        raise CheckpointError(f"A width of {d_model} is not {n_heads} whole heads.")
    activation = keys.get("hidden_act")
    if activation not in ACTIVATIONS:
        raise UnsupportedError(f"The activation {shown(activation)} is not implemented for encoders.")
    head_dim = d_model // n_heads
    return EncoderSpec(
        vocab_size=keys.size("vocab_size"),
        d_model=d_model,
        n_layers=keys.size("num_hidden_layers", MAX_LAYERS),
        attention=Gqa(n_heads, n_heads, head_dim, head_dim**-0.5, None, mask=WHOLE, qkv_bias=True, o_bias=True),
        d_hidden=keys.size("intermediate_size"),
        activation=ACTIVATIONS[activation],
        norm_eps=keys.number("layer_norm_eps"),
        max_length=max_length,
        n_types=n_types,
        classifier=classifier,
    )


def encoder_shapes(spec: EncoderSpec) -> dict[str, tuple[int, ...]]:
    """The shape of every parameter of `EncoderTree(spec)`, by name."""
    return {param.name: param.shape for param in params_of(EncoderTree(spec))}


def encoder_sources(spec: EncoderSpec, names: EncoderNames, stored: Collection[str]) -> dict[str, Source]:
    """Where each parameter lies. Norms of old files have a gamma and a beta."""
    found = {}
    for parameter in encoder_shapes(spec):
        module, _, leaf = parameter.rpartition(".")
        name = names.of(module)
        older = f"{name}.{'gamma' if leaf == 'weight' else 'beta'}"
        found[parameter] = Source(older if older in stored else f"{name}.{leaf}")
    return found


def _classifier(config: Mapping[str, Any], reader: Config, family: EncoderFamily) -> Classifier | None:
    architectures = reader.get("architectures")
    if not isinstance(architectures, list) or not str(architectures[:1]).rstrip("']").endswith(OF_TEXTS):
        return None
    labels = reader.get("id2label")
    n_labels = len(labels) if isinstance(labels, Mapping) and labels else reader.optional_size("num_labels") or 2
    return Classifier(n_labels, family.classifier_activation)
