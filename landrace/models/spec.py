"""`ModelSpec`: everything the decoder needs to know about a model, as frozen facts.

A family file (`models/families/`) turns a `config.json` into a spec; the decoder is built from the
spec alone and never asks for a model's name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING

from landrace.errors import OptionError
from landrace.kernels.ngrams import NGrams
from landrace.kernels.streams import HyperConnections
from landrace.models.cache_spec import CacheGroup, Kept, State, group_layers
from landrace.models.ffn_spec import Ffn
from landrace.models.mixer_spec import Attention, Gdn, Mixer

if TYPE_CHECKING:
    from landrace.kernels.layer_cache import LayerMemory


@dataclass(frozen=True)
class Plain:
    """x + scale * branch(norm(x))."""

    scale: float = 1.0


@dataclass(frozen=True)
class Sandwich:
    """x + scale * norm(branch(norm(x))) (GLM-4-0414)."""

    scale: float = 1.0


@dataclass(frozen=True)
class AfterNorm:
    """kept * norm(x) + added * branch(norm(x)) (MiniMax-Text-01)."""

    mixer_kept: float
    mixer_added: float
    ffn_kept: float
    ffn_added: float


@dataclass(frozen=True)
class Hyper:
    """Hyper-connections: see `kernels.streams`."""

    form: HyperConnections
    weighted_head: bool = True
    """At the end streams have weights of their own; otherwise their mean is taken (GLM-5.3)."""

    @property
    def count(self) -> int:
        return self.form.count


@dataclass(frozen=True)
class GatedStreams:
    """So many streams, each normalised by itself and gated value by value through a projection of low rank (Qwen4-Exp).
    Branches and the output head take what comes out as it is: they have no norms of their own."""

    count: int
    rank: int


@dataclass(frozen=True)
class AttentionResiduals:
    """Layers come in blocks, each with a sum of its own branches. A branch takes a mean of the sums so far, weighted by
    a softmax of what their norms are worth (Kimi Team, 2026); so does the head."""

    starts: bool
    """A block begins with the layer: what was summed before it is kept, and its mixer's result is the new sum."""
    weighted_norm: bool = True
    """The norm has a weight beside the scores' (llama.cpp's files hold the product of both)."""


Streams = Hyper | GatedStreams
Residual = Plain | Sandwich | AfterNorm | AttentionResiduals | Streams
PLAIN = Plain()


@dataclass(frozen=True)
class NGramEmbedding:
    """Embeddings of the n-grams that end at a token, added to the residual streams before a recurrent layer."""

    form: NGrams
    rows: int
    """Of the matrix that the tables lie in."""
    width: int
    """Of all tables' rows side by side."""
    conv_width: int
    """Rows that a convolution of what is added sees, each as far from the next as the longest n-gram is long."""
    channels: int
    """Values of all streams."""

    def state_shapes(self, n_guesses: int = 0) -> tuple[tuple[int, ...], ...]:
        """What is kept of a sequence, in float32: the last tokens, and the rows that the convolution still sees; of
        `n_guesses` guesses those too."""
        n_rows = (self.conv_width - 1) * self.form.longest
        return (self.form.n_before + n_guesses,), (n_rows + n_guesses, self.channels)


@dataclass(frozen=True)
class LayerSpec:
    mixer: Mixer
    ffn: Ffn
    residual: Residual = PLAIN
    ngrams: NGramEmbedding | None = None

    @property
    def caches(self) -> tuple[Kept, ...]:
        """What it keeps of a sequence, group by group."""
        return self.mixer.caches if isinstance(self.mixer, Attention) else (self.mixer.cache,)

    def first_states(self, n_guesses: int = 0) -> tuple[tuple[int, ...], ...]:
        """What a recurrent layer keeps of a sequence, and of guesses, before its mixer's states."""
        return () if self.ngrams is None else self.ngrams.state_shapes(n_guesses)

    @property
    def state_bytes(self) -> int:
        """What a sequence takes however long it is."""
        return 4 * sum(map(prod, self.first_states())) + self.mixer.state_bytes


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
    embed_scale: float = 1.0
    logit_divisor: float = 1.0
    lm_head_bias: bool = False
    mtp: LayerSpec | None = None
    """A layer of its own that guesses the token after the next one, where drafts are to come from it."""

    @property
    def caching_layers(self) -> tuple[LayerSpec, ...]:
        """Those that have a cache, in order."""
        return self.layers if self.mtp is None else (*self.layers, self.mtp)

    @property
    def cache_groups(self) -> tuple[CacheGroup, ...]:
        """Layers that keep the same positions, and which those are."""
        return group_layers(layer.caches for layer in self.caching_layers)

    def slots_by_layer(self, n_slots: Sequence[int]) -> list[tuple[int, ...]]:
        """Of so many slots of each cache group, those of each caching layer's `caches`."""
        found = {group.spec: n for group, n in zip(self.cache_groups, n_slots, strict=True)}
        return [tuple(found[kept] for kept in layer.caches) for layer in self.caching_layers]

    def bytes_by_group(self, layers: Sequence[LayerMemory]) -> list[int]:
        """Of what the caching layers keep, by cache group."""
        found = dict.fromkeys((group.spec for group in self.cache_groups), 0)
        for layer, memory in zip(self.caching_layers, layers, strict=True):
            for kept, n_bytes in zip(layer.caches, memory.group_bytes, strict=True):
                found[kept] += n_bytes
        return list(found.values())

    @property
    def streams(self) -> Streams | None:
        """The residual streams that all of its layers share, where there are several."""
        residual = self.layers[0].residual
        return residual if isinstance(residual, Streams) else None

    @property
    def recurrent(self) -> bool:
        """Whether layers keep a state of a sequence, which goes forward only."""
        return any(isinstance(group.spec, State) for group in self.cache_groups)

    @property
    def heads_in_rounds(self) -> bool:
        """Whether value heads lie in llama.cpp's order: see `Gdn.rounds`."""
        return any(isinstance(layer.mixer, Gdn) and layer.mixer.rounds for layer in self.layers)

    def in_rounds(self) -> ModelSpec:
        """The same model with its value heads in that order, where they share heads of keys."""
        return replace(self, layers=tuple(_layer_in_rounds(layer) for layer in self.layers))

    @property
    def trained_length(self) -> int | None:
        """The length beyond which opening the model takes other rotary tables, and so computes otherwise; None: its
        tables are the same for every length."""
        ropes = (layer.mixer.rope for layer in self.layers)
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
            mtp=self.mtp and _layer_for(self.mtp, length),
        )


def _layer_in_rounds(layer: LayerSpec) -> LayerSpec:
    mixer = layer.mixer
    if not isinstance(mixer, Gdn) or mixer.n_value_heads == mixer.n_heads:
        return layer
    return replace(layer, mixer=replace(mixer, rounds=True))


def _layer_for(layer: LayerSpec, length: int) -> LayerSpec:
    mixer = layer.mixer
    if mixer.rope is None or not mixer.rope.depends_on_length:
        return layer
    return replace(layer, mixer=replace(mixer, rope=replace(mixer.rope, length=length)))
