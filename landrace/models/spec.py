"""`ModelSpec`: everything the decoder needs to know about a model, as frozen facts.

A family file (`models/families/`) turns a `config.json` into a spec; the decoder is built from the
spec alone and never asks for a model's name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

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

    @property
    def depends_on_length(self) -> bool:
        """Whether the table changes with the length of the sequence, so that keys cannot be shared across lengths."""
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
    """Longest sequence, in tokens, the configuration claims."""
    norm_placement: Literal["pre", "sandwich"] = "pre"
    """sandwich: each branch is normalised before it and again after it, then added (GLM-4-0414)."""
    embed_scale: float = 1.0
    residual_scale: float = 1.0
    """Factor on each branch before it is added to the residual stream."""
    logit_divisor: float = 1.0
    lm_head_bias: bool = False
