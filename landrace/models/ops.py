"""`Ops`: every operation that a decoder is made of. A backend of the one forward pass is an `Ops`, and nothing else.

Blocks are written once against it. `X` is a backend's rows of one step: a tensor [T, width], or the number of a buffer
that a recorded program will fill. So a block takes no number out of rows, asks for no count of them and branches on its
spec alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol, TypeVar

from landrace.kernels.activation import Activation, Gate, Pointwise
from landrace.kernels.ngrams import NGrams
from landrace.kernels.router import Router
from landrace.kernels.streams import HyperConnections
from landrace.models.compressed_spec import Compressed
from landrace.models.ffn_spec import Moe
from landrace.models.mixer_spec import Gdn, Gqa, Kda, Lightning, Mla
from landrace.models.params import (
    AbsorbedLinear,
    Experts,
    HeadLinear,
    Kernel,
    LayerNorm,
    Linear,
    Norm,
    PlaceBias,
    RouterWeights,
    StreamWeights,
    Table,
    Vector,
)

X = TypeVar("X")


class Ops(Protocol[X]):
    """The residual stream and what is added to it are float32. An operation that takes `norm` normalises its input
    first; one that takes `into` adds to it (None: to nothing) and returns the sum, which may be the same rows. Adapters
    of the step's rows are part of every product."""

    def embed(self, table: Table, factor: float) -> X:
        """factor * the rows of the step's tokens."""
        ...

    def add_embedding(self, into: X, table: Table, of: Literal["positions", "types"]) -> X:
        """into + the rows of the tokens' positions, or of their types (`ForwardBatch.token_types`)."""
        ...

    def hidden(self, width: int) -> X:
        """The rows that the step brings: `ForwardBatch.hidden`."""
        ...

    def keep_hidden(self, x: X, norm: Norm | None) -> None:
        """Keeps norm(x), which the head reads, of every row for whoever asks; residual streams as they are."""
        ...

    def join(self, parts: Sequence[tuple[X, Norm]]) -> X:
        """norm(x) of each, side by side."""
        ...

    def norm(self, x: X, norm: Norm) -> X:
        """norm(x), or LayerNorm, in float32."""
        ...

    def scaled_norm(self, x: X, norm: Norm, factor: float) -> X:
        """factor * norm(x), as a residual stream of its own."""
        ...

    def linears(self, x: X, weights: Sequence[Linear], *, norm: Norm | None = None) -> list[X]:
        """x W^T + b of each."""
        ...

    def gated(self, x: X, gate: Linear, up: Linear, activation: Activation, *, norm: Norm | None = None) -> X:
        """activation(x gate^T, x up^T)."""
        ...

    def add_linear(
        self,
        into: X | None,
        x: X,
        weight: Linear,
        factor: float = 1.0,
        *,
        gate: X | None = None,
        norm: Norm | None = None,
    ) -> X:
        """into + factor * (x W^T + b), times sigmoid(gate [T, 1]) if there is one."""
        ...

    def add_norm(self, into: X, x: X, norm: Norm, factor: float) -> X:
        """into + factor * norm(x)."""
        ...

    def keep(
        self, spec: Gqa, cache: int, q: X, k: X, v: X, norms: tuple[Norm, Norm] | None, eps: float
    ) -> tuple[X, Any]:
        """Normalises and rotates the heads of q and k as `spec` says and writes k and v to the layer's cache. `norms`:
        the weights, where the norm has any.

        Returns the queries, and what `attend` needs to find the sequence's keys and values.
        """
        ...

    def select_blocks(self, spec: Gqa, cache: int, q: X, k: X, norms: tuple[Norm, Norm]) -> None:
        """Chooses the positions that `attend` goes over in this layer (`BlockSelection`): q [T, n_kv_heads * head_dim],
        k [T, head_dim]. Normalises and turns both, and writes k to the layer's cache. No gradient comes back."""
        ...

    def select_by_means(self, spec: Gqa, cache: int, q: X, past: Any) -> None:
        """Chooses the positions that `attend` goes over in this layer (`MeanSelection`), by what `keep` returned.
        Writes the means of keys to the layer's cache. No gradient comes back."""
        ...

    def select_pools(self, spec: Gqa, cache: int, q: X, k: X, norms: tuple[Norm, Norm]) -> None:
        """As `select_blocks`, for all heads together (`PoolSelection`): q [T, n_heads * head_dim] of the selection's
        heads, k [T, head_dim]. Normalises and turns q and the keys of pools; k is kept as it is."""
        ...

    def turn_on(self, spec: Gqa, q: X) -> tuple[X, X]:
        """The queries as they meet keys of the chunk of positions before their own, and those of earlier ones."""
        ...

    def attend(self, spec: Gqa, q: X, past: Any, sinks: Vector | None, further: tuple[X, X] | None) -> X:
        """softmax(scale * q.k) v over the positions that the mask shows, or that are chosen, head by head:
        [T, n_heads * head_dim]. `further`: what `turn_on` made, where positions are in chunks."""
        ...

    def keep_latents(self, spec: Mla, cache: int, q: X, latents: X, norm: Norm) -> tuple[X, Any]:
        """Normalises the latents [T, kv_rank + rope_dim] up to kv_rank, turns the channels behind it and the last ones
        of q's heads, and writes latents and turned channels to the layer's cache.

        Returns the queries, and what `attend_latents` needs to find the sequence's past.
        """
        ...

    def select(self, spec: Mla, cache: int, q: X, k: X, weights: X, norm: LayerNorm) -> None:
        """Chooses the positions that `attend_latents` goes over in this layer, and in those behind it that have a
        selection but not their own (`Selection`): q [T, n_heads * head_dim], k [T, head_dim], weights [T, n_heads].
        Normalises k, turns q and k, and writes k to the layer's cache. No gradient comes back through the choice."""
        ...

    def select_gated_pools(
        self, spec: Mla, cache: int, q: X, k: X, weights: X, gates: X, norm: LayerNorm, bias: PlaceBias
    ) -> None:
        """The same where the selection has pools: gates [T, head_dim] are kept beside k."""
        ...

    def attend_latents(
        self, spec: Mla, q: X, past: Any, keys: AbsorbedLinear, values: HeadLinear, sinks: Vector | None
    ) -> X:
        """softmax(scale * q.k) v over the positions that the mask shows, or that are chosen, head by head:
        [T, n_heads * v_dim]. `keys` and `values` make k's first channels and v of a position's latent."""
        ...

    def keep_row(self, spec: Compressed, cache: int, q: X, row: X, norm: Norm) -> tuple[X, Any]:
        """Normalises the heads of q without a weight and `row` [T, head_dim] with one, turns the last channels of both,
        pairs of neighbours, and writes the row to the layer's cache.

        Returns the queries, and what `attend_compressed` needs to find the sequence's past.
        """
        ...

    def compress(self, spec: Compressed, cache: int, values: X, gates: X, bias: PlaceBias, norm: Norm) -> Any:
        """The rows that are compressed (`Compression`) from what the layer keeps of `values` and of `gates` [T, parts *
        width], those of a position's own row last. bias [ratio, parts * width].

        Returns what `attend_compressed` needs to find them.
        """
        ...

    def select_compressed(
        self, spec: Compressed, cache: int, q: X, weights: X, values: X, gates: X, bias: PlaceBias, norm: Norm
    ) -> None:
        """Chooses the compressed rows that `attend_compressed` goes over in this layer (`CompressedSelection`): q [T,
        n_heads * head_dim], weights [T, n_heads]; the indexer's keys are compressed as in `compress`. Turns q. No
        gradient comes back. May overwrite q and weights."""
        ...

    def attend_compressed(self, spec: Compressed, q: X, past: Any, compressed: Any, sinks: Vector) -> X:
        """softmax(scale * q.k) k over the positions of the window and the compressed rows that are there, or chosen,
        head by head, with the last channels of the results turned back: [T, n_heads * head_dim]. `compressed` None:
        there are none."""
        ...

    def by_head(self, x: X, weight: HeadLinear) -> X:
        """x[h] W[h]^T of each head of x."""
        ...

    def gate_heads(self, spec: Gqa | Mla, x: X, gate: X) -> X:
        """Each head of x times sigmoid of its own gate [T, n_heads], or each value of x of its own, as many as x has
        (see `Gqa.gate`)."""
        ...

    def conv(self, cache: int, xs: Sequence[X], kernels: Sequence[Kernel], *, first: int, dilation: int = 1) -> list[X]:
        """silu of the causal convolution of each channel of each of `xs`; the rows before a step's lie in the parts of
        the layer's state from `first` on, which are counted as Python does. `dilation`: how far the rows of two taps
        are from one another. May overwrite `xs`."""
        ...

    def ngrams(self, form: NGrams, cache: int, table: Table) -> X:
        """The rows of the hashed tables that belong to the n-grams ending at each token, side by side. The tokens
        before a step's are the first part of the layer's state."""
        ...

    def gated_values(self, keys: X, queries: X, values: X, count: int) -> X:
        """The values for each stream, gated by how its key meets its query (`kernels.reference.ngrams`)."""
        ...

    def add(self, into: X, x: X) -> X:
        """into + x. May overwrite `into`."""
        ...

    def delta(self, spec: Gdn | Kda, cache: int, q: X, k: X, v: X, a: X, b: X, a_log: Vector, dt_bias: Vector) -> X:
        """What each value head's state says to q, [T, n_value_heads * value_dim], once the row itself is in it: the
        gated delta rule (`kernels.reference.recurrence`) with q and k of length 1, q divided by sqrt(key_dim),
        decay -e^a_log * softplus(a + dt_bias), or one with a floor (`Kda.decay_floor`), and beta sigmoid(b), in float32
        and order of position. A head has one a and dt_bias (`Gdn`), or one for each channel (`Kda`). The states are the
        last part but one of the layer's."""
        ...

    def lightning(self, spec: Lightning, cache: int, q: X, k: X, v: X) -> X:
        """What each head's state says to silu(q), [T, n_heads * head_dim], once silu(k) and silu(v) are in it, in
        float32 and order of position (see `Lightning`); they are the last part but one of the layer's. May overwrite q,
        k and v."""
        ...

    def gated_norm(self, x: X, gate: X, norm: Norm, by: Gate = "silu") -> X:
        """norm of each head of x, as wide as the norm, times silu or the sigmoid of its gate."""
        ...

    def route(self, x: X, weights: RouterWeights, router: Router) -> Any:
        """Which experts each row goes to, and what they are worth, for `experts`. In float32."""
        ...

    def experts(
        self, into: X | None, x: X, routing: Any, gate: Experts, up: Experts, down: Experts, spec: Moe, factor: float
    ) -> X:
        """into + factor * the sum of what a row's experts make of it, each times its worth, in order of expert."""
        ...

    def widen(self, x: X, count: int) -> X:
        """x, so many times side by side: residual streams, [T, count * d_model]."""
        ...

    def by_stream(self, x: X, weight: Linear, count: int) -> X:
        """x[s] W^T of each of `count` streams."""
        ...

    def stream_weights(self, streams: X, weights: StreamWeights, form: HyperConnections) -> X:
        """What the streams are weighted by, one part behind another: for each what it gives to a branch, what it takes
        of its result, and how much of it goes to each stream. In float32."""
        ...

    def collapse(self, streams: X, count: int, weights: X | None) -> X:
        """The sum of the streams, each times its weight, which are the first of `weights`; None: their mean."""
        ...

    def collapse_gated(self, streams: X, gates: X, count: int) -> X:
        """The mean of the streams, each value times sigmoid of its gate."""
        ...

    def spread(self, streams: X, branch: X, weights: X, count: int, *, first: int, mixes: bool) -> X:
        """What of the streams goes to each, plus its weight times `branch`. `weights`: from `first` on those, and then
        how much of each stream goes to each; without `mixes` each goes to itself. May overwrite the streams."""
        ...

    def start_block(self, x: X, branch: X) -> X:
        """Keeps the sum x for `attend_blocks` of all that follows. Returns `branch` as the sum of a new block."""
        ...

    def attend_blocks(self, x: X, scores: Vector, norm: Norm | None, eps: float) -> X:
        """The sums that were kept and x, each times its softmax of norm(sum) . scores; without `norm` the norm has no
        weight. In float32."""
        ...

    def activate(self, x: X, kind: Pointwise, *, inner: float, outer: float = 1.0) -> X:
        """outer * kind(inner * x). May overwrite x."""
        ...

    def head(self, x: X, weight: Linear | Table, norm: Norm | None, divisor: float) -> X:
        """Logits of the rows that are wanted, divided by `divisor`."""
        ...
