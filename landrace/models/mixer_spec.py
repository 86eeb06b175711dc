"""What mixes the positions of a sequence in a layer, as frozen facts."""

from __future__ import annotations

from dataclasses import dataclass
from math import log, prod
from typing import ClassVar, Literal

from landrace.kernels.activation import Gate
from landrace.kernels.head_form import QkNorm, Temperature
from landrace.kernels.key_means import MEAN_OF
from landrace.kernels.mask import FULL, Mask
from landrace.models.cache_spec import Paged, State
from landrace.models.compressed_spec import Compressed
from landrace.models.selection_spec import BlockSelection, MeanSelection, PoolSelection, Selection, pool_caches


@dataclass(frozen=True)
class DualChunk:
    """Dual chunk attention (An et al., 2024): positions are counted anew in every chunk, for keys and for the queries
    that meet keys of their own chunk."""

    size: int
    """Positions in a chunk."""
    reach: int
    """A query meets the keys of the chunk before its own as if it stood `size` further on than it does, but no further
    than this; and all earlier ones as the last of its chunk does."""


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
    """The length of sequence that the one table is made for (dynamic, longrope, chunks); 0: the original length."""
    chunks: DualChunk | None = None
    onwards: Literal["next", "older"] | None = None
    """With chunks: how a query is turned on from its own place to meet the keys of the chunk before, or of earlier
    ones; None: to its own place."""

    @property
    def depends_on_length(self) -> bool:
        """Whether the model computes otherwise where it is opened for longer sequences."""
        return self.kind in ("dynamic", "longrope") or self.chunks is not None

    @property
    def sharpness(self) -> float:
        """Factor on q.k for the length that a model with chunks is opened for: yarn's, for q and for k."""
        if self.chunks is None or self.length <= self.original_length:
            return 1.0
        return (0.1 * log(self.length / self.original_length) + 1.0) ** 2


@dataclass(frozen=True)
class Gqa:
    """Grouped-query attention."""

    n_heads: int
    n_kv_heads: int
    head_dim: int
    scale: float
    """Factor on q.k before the softmax."""
    rope: RopeSpec | None
    """None: queries and keys are not rotated in this layer."""
    mask: Mask = FULL
    qkv_bias: bool = False
    o_bias: bool = False
    qk_norm: QkNorm | None = None
    alibi: bool = False
    """A score of position i with j gets slope_h * (j - i) added (Press et al., 2022)."""
    sinks: bool = False
    """A learned logit for each head takes part in the softmax and is dropped after it (gpt-oss)."""
    gate: Literal["head", "channel"] | None = None
    """Results are multiplied by sigmoid of a projection of the layer's input, which has a number for each head
    (Step-3.5) or for each of its channels (Qwen3-Next)."""
    temperature: Temperature | None = None
    q_rank: int | None = None
    """Queries come out of a normalised projection of this width (Step-3); None: out of the layer's input."""
    selection: BlockSelection | MeanSelection | PoolSelection | None = None
    """Of the positions that the mask shows; None: all of them."""

    state_bytes: ClassVar[int] = 0
    """What a sequence takes however long it is."""

    @property
    def chunks(self) -> DualChunk | None:
        return None if self.rope is None else self.rope.chunks

    @property
    def score_factor(self) -> float:
        """`scale` for the length that the model is opened for."""
        return self.scale * (1.0 if self.rope is None else self.rope.sharpness)

    @property
    def cache(self) -> Paged:
        """What the layer keeps between steps: keys and values, and keys of its indexer unless pools have them."""
        return Paged(self.mask)

    @property
    def caches(self) -> tuple[Paged, ...]:
        return (self.cache,) if self.pool == 1 else (self.cache, *pool_caches(self.pool))

    @property
    def pool(self) -> int:
        """Positions that have a key of the indexer together."""
        return self.selection.pool if isinstance(self.selection, PoolSelection) else 1

    @property
    def index_dim(self) -> int:
        """Channels of what positions are chosen by, beside keys and values: an indexer's keys, or a position's share of
        the mean of sixteen keys; 0: there are none."""
        match self.selection:
            case None:
                return 0
            case BlockSelection() | PoolSelection():
                return self.selection.head_dim
            case MeanSelection():
                return self.n_kv_heads * self.head_dim // MEAN_OF

    index_gates: ClassVar[int] = 0
    """Gates beside the indexer's keys."""

    @property
    def index_heads(self) -> int:
        """Times that a row meets each value of `index_dim`: heads of the indexer, or those that share keys."""
        match self.selection:
            case None:
                return 0
            case BlockSelection():
                return self.n_kv_heads
            case MeanSelection():
                return self.n_heads // self.n_kv_heads
            case PoolSelection():
                return self.selection.n_heads

    @property
    def index_values(self) -> float:
        """Values of a position by which positions are chosen."""
        return _index_values(self)

    @property
    def kept_values(self) -> float:
        """Values that the cache holds of a position."""
        return 2 * self.n_kv_heads * self.head_dim + self.index_values


@dataclass(frozen=True)
class Mla:
    """Multi-head latent attention (DeepSeek-V2): keys and values of all heads come out of one latent of each position.

    A head's query and key are `nope_dim` channels that do not turn and `rope_dim` that do; the key's turning ones are
    the same for all heads.
    """

    n_heads: int
    kv_rank: int
    """Channels of the latent."""
    nope_dim: int
    rope_dim: int
    v_dim: int
    """Channels of a head's value."""
    scale: float
    """Factor on q.k before the softmax."""
    rope: RopeSpec | None
    """None: nothing turns in this layer."""
    q_rank: int | None = None
    """Queries come out of a normalised projection of this width; None: out of the layer's input."""
    rank_eps: float = 1e-6
    """Of the norms of the latent and of the queries' projection."""
    bias: bool = False
    """What takes the layer's input and what gives its result have biases."""
    mask: Mask = FULL
    sinks: bool = False
    """See `Gqa`."""
    gate: Literal["channel"] | None = None
    """See `Gqa`."""
    selection: Selection | None = None
    """Of the positions that the mask shows; None: all of them. Its queries come out of the projection of `q_rank`."""
    state_bytes: ClassVar[int] = 0
    """What a sequence takes however long it is."""

    @property
    def cache(self) -> Paged:
        """What the layer keeps between steps: latents, the turned channels of keys, and keys of its indexer unless
        pools have them."""
        return Paged(self.mask)

    @property
    def caches(self) -> tuple[Paged, ...]:
        return (self.cache,) if self.pool == 1 else (self.cache, *pool_caches(self.pool))

    @property
    def pool(self) -> int:
        """Positions that have a key of the indexer together."""
        return 1 if self.indexer is None else self.indexer.pool

    @property
    def indexer(self) -> Selection | None:
        """The selection that the layer makes itself."""
        return self.selection if self.selection is not None and self.selection.own else None

    @property
    def index_dim(self) -> int:
        """Channels of the indexer's keys; 0: there is none."""
        return 0 if self.indexer is None else self.indexer.head_dim

    @property
    def index_gates(self) -> int:
        """Gates beside the indexer's keys."""
        return 0 if self.pool == 1 else self.index_dim

    @property
    def index_heads(self) -> int:
        """Heads of the indexer; 0: there is none."""
        return 0 if self.indexer is None else self.indexer.n_heads

    @property
    def index_values(self) -> float:
        """Values of a position by which positions are chosen."""
        return _index_values(self)

    @property
    def kept_values(self) -> float:
        """Values that the cache holds of a position."""
        return self.kv_rank + self.rope_dim + self.index_values


def _index_values(mixer: Gqa | Mla) -> float:
    """A position's own and, where it has a key together with others, its share of that."""
    shared = 0.0 if mixer.pool == 1 else mixer.index_dim / mixer.pool
    return mixer.index_dim + mixer.index_gates + shared


@dataclass(frozen=True)
class Gdn:
    """The gated delta net (Yang et al., 2024): a state of each value head, read and corrected by every token.

    Queries, keys and values go through short convolutions. Value heads share the heads of queries and keys evenly, in
    groups of neighbours.
    """

    n_heads: int
    """Of queries and of keys."""
    n_value_heads: int
    key_dim: int
    value_dim: int
    conv_width: int
    """Rows that a convolution sees, its own among them."""
    gate: Gate = "silu"
    """What makes a factor of the gate of what is read."""
    rounds: bool = False
    """Value head i reads key head i % n_heads instead (llama.cpp's order of the heads)."""
    decay_floor: ClassVar[None] = None
    rope: ClassVar[None] = None

    @property
    def cache(self) -> State:
        return State()

    def state_shapes(self, n_guesses: int = 0) -> tuple[tuple[int, ...], ...]:
        """What the layer keeps of a sequence, in float32: the last rows that the convolutions of q, k and v read, each
        value head's state, and of `n_guesses` guesses those rows and what they would change in the states."""
        keys, values = self.n_heads * self.key_dim, self.n_value_heads * self.value_dim
        tails = tuple((self.conv_width - 1 + n_guesses, width) for width in (keys, keys, values))
        states = (self.n_value_heads, self.key_dim, self.value_dim)
        return (*tails, states, (n_guesses, keys + values + 2 * self.n_value_heads))

    @property
    def state_bytes(self) -> int:
        """Of one sequence, without guesses."""
        return 4 * sum(map(prod, self.state_shapes()))


@dataclass(frozen=True)
class Kda:
    """Kimi delta attention (Moonshot AI, 2025): the gated delta rule with a decay for each channel of a key.

    Queries, keys and values go through short convolutions. Decays come out of a projection of a head's rank, and what
    is read is gated.
    """

    n_heads: int
    head_dim: int
    """Of queries, keys and values."""
    conv_width: int
    """Rows that a convolution sees, its own among them."""
    decay_floor: float | None = None
    """Where there is one, a decay is this times sigmoid(e^a_log * (a + dt_bias)) (GLM-5.3, Kimi-K3)."""
    low_rank_gate: bool = True
    """Gates come out of a projection of a head's rank too, not straight out of the layer's input (Kimi-K3)."""
    rounds: ClassVar[bool] = False
    rope: ClassVar[None] = None

    @property
    def n_value_heads(self) -> int:
        return self.n_heads

    @property
    def key_dim(self) -> int:
        return self.head_dim

    @property
    def value_dim(self) -> int:
        return self.head_dim

    @property
    def cache(self) -> State:
        return State()

    def state_shapes(self, n_guesses: int = 0) -> tuple[tuple[int, ...], ...]:
        """As of `Gdn`."""
        width = self.n_heads * self.head_dim
        tail = (self.conv_width - 1 + n_guesses, width)
        states = (self.n_heads, self.head_dim, self.head_dim)
        return (tail, tail, tail, states, (n_guesses, 3 * width + self.n_heads))

    @property
    def state_bytes(self) -> int:
        """Of one sequence, without guesses."""
        return 4 * sum(map(prod, self.state_shapes()))


@dataclass(frozen=True)
class Lightning:
    """Lightning attention (Qin et al., 2024): a state of each head, to which every token adds silu(key) silu(value)^T,
    and which fades by the same factor with each. What is read is normalised over all heads at once, and gated."""

    n_heads: int
    head_dim: int
    """Of queries, keys and values."""
    fading: float
    """Head h's state fades by e^-(fading * 2^(-8 (h + 1) / n_heads)) a token."""
    norm_eps: float = 1e-6
    """Of the norm of what is read."""
    rope: ClassVar[None] = None

    @property
    def cache(self) -> State:
        return State()

    def state_shapes(self, n_guesses: int = 0) -> tuple[tuple[int, ...], ...]:
        """What the layer keeps of a sequence, in float32: each head's state, and of `n_guesses` guesses their keys and
        values."""
        states = (self.n_heads, self.head_dim, self.head_dim)
        return states, (n_guesses, 2 * self.n_heads * self.head_dim)

    @property
    def state_bytes(self) -> int:
        """Of one sequence, without guesses."""
        return 4 * sum(map(prod, self.state_shapes()))


Recurrent = Gdn | Kda | Lightning
"""What keeps a state of a sequence and nothing for each position."""
Attention = Gqa | Mla | Compressed
"""What keeps something for each position."""
Mixer = Attention | Recurrent
