"""`Config`: strict reading of a config.json. Every key is used, known not to touch the logits, or refused by name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from landrace.errors import CheckpointError, UnsupportedError

MAX_SIZE = 1 << 24
"""Larger than any vocabulary, width or layer count; a bigger number is damage or malice, not a model."""
MAX_LAYERS = 1 << 12
MOST_STREAMS = 8
"""That the C++ kernels keep beside one another."""
MAX_POSITIONS = 1 << 31
MAX_NUMBER = 1e15

NO_EFFECT = (
    # Provenance, and settings of the program that wrote or ran the model.
    r"model_type|architectures|auto_map|dtype|torch_dtype|torchscript|tokenizer_class|task_specific_params|prefix",
    r"_.*|(transformers|unsloth).*|finetuning_task|problem_type|use_bfloat16|tf_legacy_loss|is_llama_config",
    r"use_cache|use_flash_attn|use_flash_attention|output_(attentions|hidden_states|scores)|return_dict.*|is_decoder",
    # How the tensors are stored: the checkpoint's business.
    r"quantization_config|compression_config",
    # Training only.
    r".*initializer_range|initializer_factor|init_std|.*dropout(_.*)?|.*_pdrop|gradient_checkpointing",
    r"pretraining_tp",  # How a product was split during training; the sum is the same.
    # Which ids mean what, and how to sample: the tokenizer's and the engine's business.
    r".*token_ids?|.*token_index|(max|min)_length|do_sample|early_stopping|num_beams|num_beam_groups|num_return_sequences",
    r"temperature|top_[kp]|typical_p|.*_penalty|.*no_repeat_ngram_size|bad_words_ids|suppress_tokens|begin_suppress_tokens",
    r"remove_invalid_values",
    # How vectors and scores are made of hidden rows: the embedder's business.
    r"is_matryoshka|matryoshka_dimensions|sentence_transformers|sbert_ce_default_activation_function",
    # A classifier's head, which a language model has not.
    r"id2label|label2id|num_labels|pruned_heads|chunk_size_feed_forward",
)
"""Regexes (whole key) of the keys that cannot change a logit, for every family."""

FIXED: Mapping[str, Any] = {
    "is_encoder_decoder": False,
    "add_cross_attention": False,
    "tie_encoder_decoder": False,
    "cross_attention_hidden_size": None,
    "rope_interleaved": False,
    "use_mrope": False,
    "hidden_act": ("silu", "swish"),
    "mlp_bias": False,
}
"""Keys that may be there with this value (one of these values) and no other, unless the family reads them."""


class Config:
    """One JSON object of a config.json and the values that its family gives to the keys it may leave out.

    Reading a key marks it as used; `finish` refuses what nobody read. CheckpointError for a value of the wrong kind,
    UnsupportedError for a key or a value that asks for other arithmetic.
    """

    def __init__(
        self, values: Mapping[str, Any], defaults: Mapping[str, Any] | None = None, *, where: str = "config.json"
    ) -> None:
        self._values = values
        self._defaults = defaults or {}
        self._where = where
        self._used: set[str] = set()

    def replaced(self, values: Mapping[str, Any]) -> Config:
        """The same object with other values for some keys; what is read of it counts for this one."""
        other = Config({**self._values, **values}, self._defaults, where=self._where)
        other._used = self._used
        return other

    def was_read(self, key: str) -> bool:
        return key in self._used

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def get(self, key: str) -> Any:
        """The key's value, the family's default when the key is absent, None when there is neither."""
        self._used.add(key)
        return self._values[key] if key in self._values else self._defaults.get(key)

    def size(self, key: str, limit: int = MAX_SIZE) -> int:
        """A positive integer up to `limit`."""
        value = self.optional_size(key, limit)
        if value is None:
            raise CheckpointError(f"{self._where} does not say {key}.")
        return value

    def count(self, key: str, limit: int = MAX_LAYERS) -> int:
        """A number that may be 0; absent, it is 0."""
        return 0 if self.get(key) == 0 else self.optional_size(key, limit) or 0

    def optional_size(self, key: str, limit: int = MAX_SIZE) -> int | None:
        value = self.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= limit:
            raise self.wrong(key, value, f"an integer from 1 to {limit}")
        return value

    def number(self, key: str) -> float:
        """A positive number up to MAX_NUMBER."""
        value = self.optional_number(key)
        if value is None:
            raise CheckpointError(f"{self._where} does not say {key}.")
        return value

    def optional_number(self, key: str) -> float | None:
        value = self.get(key)
        if value is None:
            return None
        if not _is_positive(value):
            raise self.wrong(key, value, "a positive number")
        return float(value)

    def numbers(self, key: str) -> tuple[float, ...]:
        """A list of positive numbers up to MAX_NUMBER."""
        value = self.get(key)
        if not isinstance(value, (list, tuple)) or not value or not all(map(_is_positive, value)):
            raise self.wrong(key, value, "a list of positive numbers")
        return tuple(float(item) for item in value)

    def flag(self, key: str) -> bool:
        value = self.get(key)
        if not isinstance(value, bool):
            raise self.wrong(key, value, "true or false")
        return value

    def for_all(self, key: str, n_layers: int) -> int | None:
        """A positive integer that the file may give once or, the same, for every layer."""
        value = self.get(key)
        if not isinstance(value, (list, tuple)):
            return self.optional_size(key)
        if len(set(map(str, self.per_layer(key, n_layers) or ()))) != 1:
            raise UnsupportedError(f"{self._where} gives each layer a {key} of its own, which is not implemented.")
        return Config({key: value[0]}, where=self._where).size(key)

    def per_layer(self, key: str, n_layers: int) -> list[Any] | None:
        """A list with an entry for every layer, or None."""
        value = self.get(key)
        if value is None:
            return None
        if not isinstance(value, (list, tuple)) or len(value) != n_layers:
            raise self.wrong(key, value, f"a list of {n_layers} entries")
        return list(value)

    def section(self, key: str) -> Config | None:
        """The object under `key` as a `Config` of its own; None when it is absent or empty."""
        value = self.get(key)
        if value is None:
            return None
        if not isinstance(value, Mapping):
            raise self.wrong(key, value, "an object")
        return Config(value, where=f"{self._where}'s {key}") if value else None

    def require(self, key: str, *allowed: Any) -> None:
        """Refuses every value of `key` but `allowed`; absent and null are fine."""
        value = self.get(key)
        if value is not None and not any(
            value == one and isinstance(value, bool) == isinstance(one, bool) for one in allowed
        ):
            raise UnsupportedError(f"{self._where} sets {key} to {shown(value)}, which is not implemented.")

    def finish(self, no_effect: Iterable[str] = (), fixed: Mapping[str, Any] | None = None) -> None:
        """Refuses every key that was not read and is not known to be without effect."""
        own = fixed or {}
        for key, allowed in {**FIXED, **own}.items():
            if key in own or key not in self._used:
                self.require(key, *(allowed if isinstance(allowed, tuple) else (allowed,)))
        patterns = [re.compile(pattern) for pattern in (*NO_EFFECT, *no_effect)]
        for key, value in self._values.items():
            # Null means the same as leaving the key out.
            if key in self._used or value is None or any(pattern.fullmatch(str(key)) for pattern in patterns):
                continue
            raise UnsupportedError(
                f"{self._where} sets {shown(key)} to {shown(value)}, and this version does not know what that changes.",
                hint="If it changes nothing, take the key out of the file; otherwise please report the model.",
            )

    def wrong(self, key: str, value: Any, wanted: str) -> CheckpointError:
        return CheckpointError(f"{self._where} sets {key} to {shown(value)}, but it must be {wanted}.")


def with_aliases(values: Mapping[str, Any], aliases: Mapping[str, str]) -> dict[str, Any]:
    """The same keys under the names that a family reads. CheckpointError if two names of one key disagree."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        name = aliases.get(key, key)
        if found.get(name) is not None and value is not None and found[name] != value:
            raise CheckpointError(f"config.json says that {key} is {shown(value)} and {name} is {shown(found[name])}.")
        found[name] = found.get(name) if value is None else value
    return found


def shown(value: Any) -> str:
    """A value from a file, short enough for an error message."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _is_positive(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value <= MAX_NUMBER
