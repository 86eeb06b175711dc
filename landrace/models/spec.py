"""`ModelSpec`: everything the decoder needs to know about a model, as frozen facts.

A family file (`models/families/`) turns a `config.json` into a spec; the decoder is built from the
spec alone and never asks for a model's name.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from landrace.errors import OptionError

RopeKind = Literal["default", "linear", "dynamic", "llama3", "yarn", "longrope"]


@dataclass(frozen=True)
class RopeSpec:
    """Rotary position embedding of one layer group, in the half ("neox") layout.

    Checkpoints that store the interleaved layout are permuted when they are loaded
    (`families.weights.Source`), so the arithmetic knows one layout only.
    """

    theta: float
    rotary_dim: int
    kind: RopeKind = "default"
    factor: float = 1.0
    original_length: int = 0
    """Length the model was trained at before extension, in tokens (dynamic, llama3, yarn, longrope)."""
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    attention_factor: float = 1.0
    """Multiplies cos and sin (yarn, longrope)."""
    short_factor: tuple[float, ...] = ()
    long_factor: tuple[float, ...] = ()
    length: int = 0
    """The length of sequence that the one table is made for (dynamic, longrope); 0: the original length."""

    @property
    def depends_on_length(self) -> bool:
        """Whether the table is another one where the model is opened for longer sequences."""
        return self.kind in ("dynamic", "longrope")


@dataclass(frozen=True)
class AttentionSpec:
    """Grouped-query attention of one layer."""

    n_heads: int
    n_kv_heads: int
    head_dim: int
    scale: float
    """Factor on q.k before the softmax."""
    rope: RopeSpec | None
    """None: no position embedding in this layer (NoPE)."""
    window: int | None = None
    """Sliding window: position i sees j when i - j < window. None: all of the past."""
    qkv_bias: bool = False
    o_bias: bool = False
    qk_norm: Literal["none", "before_rope", "after_rope"] = "none"
    """RMSNorm over head_dim with one weight [head_dim] for q and one for k."""


@dataclass(frozen=True)
class FeedForwardSpec:
    """SwiGLU: down(silu(gate(x)) * up(x))."""

    d_hidden: int
    bias: bool = False


@dataclass(frozen=True)
class LayerSpec:
    attention: AttentionSpec
    ffn: FeedForwardSpec


@dataclass(frozen=True)
class ModelSpec:
    vocab_size: int
    d_model: int
    layers: tuple[LayerSpec, ...]
    norm_eps: float
    tie_embeddings: bool
    max_length: int
    """Longest sequence, in tokens, that the model is opened for: what it was trained at, or `for_length`'s."""
    length_limit: int | None = None
    """How far `for_length` goes, where that is more than `max_length`."""
    norm_placement: Literal["pre", "sandwich"] = "pre"
    """sandwich: each branch is normalised before it and again after it, then added (GLM-4-0414)."""
    embed_scale: float = 1.0
    residual_scale: float = 1.0
    """Factor on each branch before it is added to the residual stream."""
    logit_divisor: float = 1.0
    lm_head_bias: bool = False

    @property
    def trained_length(self) -> int | None:
        """The length beyond which opening the model takes other rotary tables, and so computes otherwise; None: its
        tables are the same for every length."""
        ropes = (layer.attention.rope for layer in self.layers)
        return min((rope.original_length for rope in ropes if rope and rope.depends_on_length), default=None)

    @property
    def stretched(self) -> bool:
        """Whether it is opened for longer sequences than it was trained at, with other rotary tables."""
        return self.trained_length is not None and self.max_length > self.trained_length

    def for_length(self, length: int) -> ModelSpec:
        """The model opened for sequences of up to `length` tokens: every path then uses the one table of that length.

        Raises OptionError for a length beyond what the configuration claims.
        """
        limit = max(self.max_length, self.length_limit or 0)
        if not 1 <= length <= limit:
            raise OptionError(
                f"max_length is {length}, but the model takes 1 to {limit} tokens.", hint=f"Choose at most {limit}."
            )
        return replace(
            self,
            max_length=length,
            length_limit=limit,
            layers=tuple(_layer_for(layer, length) for layer in self.layers),
        )


def _layer_for(layer: LayerSpec, length: int) -> LayerSpec:
    rope = layer.attention.rope
    if rope is None or not rope.depends_on_length:
        return layer
    return replace(layer, attention=replace(layer.attention, rope=replace(rope, length=length)))
