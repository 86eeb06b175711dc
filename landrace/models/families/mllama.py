"""The text of Llama 3.2 Vision: Llama's decoder. Layers between look at a picture, and without one are passed by."""

from __future__ import annotations

from collections.abc import Mapping

from landrace.errors import CheckpointError
from landrace.models.families.config import Config
from landrace.models.families.dense import n_layers, read_attention, read_decoder, read_mlp
from landrace.models.families.family import WRAPPED, Family, TextHalf
from landrace.models.families.names import Naming
from landrace.models.spec import ModelSpec

MLLAMA = {
    "vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 40,
    "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 131072, "rms_norm_eps": 1e-5,
    "rope_theta": 500_000.0, "tie_word_embeddings": False, "cross_attention_layers": [3, 8, 13, 18, 23, 28, 33, 38],
}  # fmt: skip
OF_PICTURES = "cross_attention_layers"


def picture_layers(config: Config) -> tuple[int, ...]:
    """The layers that look at a picture, by their numbers in the files."""
    count, listed = n_layers(config), config.get(OF_PICTURES)
    known = isinstance(listed, list) and all(type(one) is int and 0 <= one < count for one in listed)
    if not known or len(set(listed)) != len(listed):
        raise config.wrong(OF_PICTURES, listed, f"a list of different layers below {count}")
    return tuple(sorted(listed))


def read_mllama(config: Config) -> ModelSpec:
    left = n_layers(config) - len(picture_layers(config))
    if left < 1:
        raise CheckpointError("Every layer looks at a picture, so nothing is left for text.")
    return read_decoder(config.replaced({"num_hidden_layers": left}), read_attention(config), read_mlp(config))


FAMILIES: Mapping[str, Family] = {
    # The embedding has rows past the vocabulary, for the picture's token.
    "mllama_text_model": Family(
        read_mllama, MLLAMA, (Naming(spare_rows=8),), passed_by=picture_layers, fixed={"attention_bias": False}
    ),
}
TEXT_HALVES: Mapping[str, TextHalf] = {
    "mllama": TextHalf(
        "mllama_text_model",
        WRAPPED,
        (r"(model\.)?(vision_model|multi_modal_projector)\..*",),
        tied=("text",),
    ),
}
