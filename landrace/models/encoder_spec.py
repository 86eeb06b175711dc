"""`EncoderSpec`: everything an encoder needs to know about a model, as frozen facts.

Encoders (BERT; Devlin et al., 2018) read a text as a whole: every position sees every other one. They give a row for
each token, and a classifier on the first row where a checkpoint has one.
"""

from __future__ import annotations

from dataclasses import dataclass

from landrace.kernels.activation import Pointwise
from landrace.models.mixer_spec import Gqa


@dataclass(frozen=True)
class Classifier:
    """out(activation(dense(first row)))."""

    n_labels: int
    activation: Pointwise = "tanh"


@dataclass(frozen=True)
class EncoderSpec:
    """Layers are norm(x + attention(x)) and then norm(x + down(activation(up(x)))), with LayerNorms (Ba et al., 2016)
    and biases everywhere."""

    vocab_size: int
    d_model: int
    n_layers: int
    attention: Gqa
    d_hidden: int
    activation: Pointwise
    norm_eps: float
    max_length: int
    """Longest sequence, in tokens: so many positions have an embedding."""
    n_types: int
    """Texts of a sequence that have an embedding of their own, which is added to their tokens'; 0: none has."""
    classifier: Classifier | None = None
