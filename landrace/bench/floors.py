"""The machine's limit for a step: the bytes it must read over the bandwidth, its operations over the peak.

A step of `streams` sequences, each with `past` tokens in the cache and `new` tokens to compute:

    bytes      = matrix bytes + experts' bytes * share read + streams * (cache bytes of the tokens before + state)
    operations = streams * (2 * active layer weights * new + 2 * head weights + attention)
    share read = 1 - (1 - top_k / experts) ** (streams * new), what is expected of tokens that choose independently
    attention  = sum over layers and new tokens of 2 * heads * (key's + value's width) * tokens seen
    a layer with states reads its state once and has 7 operations for each of its values and new tokens instead
    seconds    = max(bytes / read bandwidth, operations / peak)

Each matrix counts once, in the bytes that the chosen weights take, the embedding table only where it is the output head
as well. The head is applied to one token of each stream. A window limits the tokens seen. The peak is that of the
arithmetic the weights allow: int8 for quantised weights, bfloat16 or float32 for others; attention is counted at the
same peak. Writes, norms and activations are left out, so no program can be faster and the limit is never too strict.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal, assert_never

from landrace.kernels.reference.blocks import BLOCKS
from landrace.models.compressed_spec import Compressed
from landrace.models.declared import Param, declared
from landrace.models.mixer_spec import Attention, Gdn, Gqa, Kda, Lightning, Mixer, Mla, Recurrent
from landrace.models.spec import ModelSpec

if TYPE_CHECKING:
    from landrace.checkpoints import Checkpoint
    from landrace.kernels.machine_limits import MachineLimits

Arithmetic = Literal["int8", "bfloat16", "float32"]
LimitKind = Literal["bytes", "operations"]
EMBEDDING = "embed_tokens.weight"
STORED_FLOATS: Mapping[str, Arithmetic] = {
    "F32": "float32",
    "F16": "bfloat16",
    "BF16": "bfloat16",
    "F8_F32": "float32",
    "E5M2_F32": "float32",
    "NF4_F32": "float32",
    "FP4_F32": "float32",
}


@dataclass(frozen=True)
class Floor:
    """The least seconds a step can take on this machine, and what sets them."""

    seconds: float
    limit: LimitKind


@dataclass(frozen=True)
class StepWork:
    """One step: `new` tokens of each of `streams` sequences that hold `past` tokens already."""

    streams: int
    new: int
    past: float


@dataclass(frozen=True)
class MatrixBytes:
    """Bytes of the matrices a step reads."""

    always: int
    """Those of every step, each once, the output head included."""
    experts: int = 0
    """All experts together."""


@dataclass(frozen=True)
class ModelCost:
    """What a step of a model reads and computes."""

    spec: ModelSpec
    matrices: MatrixBytes
    cache_bytes_per_token: float
    """Bytes of keys and values of one token over all layers."""
    arithmetic: Arithmetic

    @cached_property
    def _layers(self) -> tuple[Param, ...]:
        return tuple(param for param in declared(self.spec) if param.in_layers and param.is_matrix)

    def operations(self, work: StepWork) -> float:
        """Additions and multiplications."""
        spec = self.spec
        layers = sum(param.share * param.size for param in self._layers)
        head = spec.vocab_size * spec.d_model
        mixing = sum(_mixing_operations(layer.mixer, work) for layer in spec.layers)
        return work.streams * (2.0 * layers * work.new + 2.0 * head + mixing)

    def bytes(self, work: StepWork) -> float:
        """Bytes read."""
        cache = work.streams * self.cache_bytes(work.past)
        return self.matrices.always + self.matrices.experts * self._experts_read(work) + cache

    def cache_bytes(self, past: float) -> float:
        """What the next token of a sequence reads of its cache: of windows no more than they show."""
        attentions = [layer.mixer for layer in self.spec.layers if not isinstance(layer.mixer, Recurrent)]
        share = sum(_read(one, past) for one in attentions) / max(1.0, sum(one.kept_values for one in attentions))
        return self.cache_bytes_per_token * share + sum(layer.state_bytes for layer in self.spec.layers)

    def _experts_read(self, work: StepWork) -> float:
        experts = [param for param in self._layers if param.role == "experts"]
        if not experts:
            return 0.0
        read = sum(param.size * (1 - (1 - param.share) ** (work.streams * work.new)) for param in experts)
        return read / sum(param.size for param in experts)

    def floor(self, work: StepWork, limits: MachineLimits) -> Floor:
        """The larger of bytes over bandwidth and operations over peak."""
        reading = self.bytes(work) / (limits.read_gb_s * 1e9)
        computing = self.operations(work) / (peak_gop_s(limits, self.arithmetic) * 1e9)
        return Floor(reading, "bytes") if reading >= computing else Floor(computing, "operations")


def peak_gop_s(limits: MachineLimits, arithmetic: Arithmetic) -> float:
    """The peak for products of this kind, 10^9 operations a second. Without an int8 peak, the best float one."""
    if arithmetic == "float32":
        return limits.fp32_gflop_s
    floats: float = max(limits.bf16_gflop_s, limits.fp32_gflop_s)
    return floats if arithmetic == "bfloat16" or limits.int8_gop_s is None else limits.int8_gop_s


def arithmetic_of(checkpoint: Checkpoint, weights: str) -> Arithmetic:
    """The arithmetic that weights held as `weights` allow; "stored": what most stored elements of matrices are."""
    if weights == "float32" or weights == "bfloat16":
        return "float32" if weights == "float32" else "bfloat16"
    if weights != "stored":
        return "int8"
    elements: dict[Arithmetic, int] = {}
    for param, block_type in _stored_matrices(checkpoint):
        kind = STORED_FLOATS.get(block_type, "int8")
        elements[kind] = elements.get(kind, 0) + param.size
    return max(elements, key=lambda kind: elements[kind])


def stored_matrix_bytes(checkpoint: Checkpoint, held: Mapping[str, int]) -> MatrixBytes:
    """Bytes of every matrix a step reads: those in the file, or those `held` in memory (by name) where they are fewer.
    An embedding that is not the head is left out."""

    def least(param: Param, block_type: str) -> int:
        block = BLOCKS[block_type]
        return min(held[param.name], param.size // block.elements * block.bytes)

    return _summed((param, least(param, block_type)) for param, block_type in _stored_matrices(checkpoint))


def held_matrix_bytes(spec: ModelSpec, held: Mapping[str, int]) -> MatrixBytes:
    """The same for weights that are held in another form than the file's."""
    return _summed((param, held[param.name]) for param in _matrices(spec))


def _summed(matrices: Iterable[tuple[Param, int]]) -> MatrixBytes:
    always = experts = 0
    for param, n_bytes in matrices:
        if param.role == "experts":
            experts += n_bytes
        else:
            always += n_bytes
    return MatrixBytes(always, experts)


def _matrices(spec: ModelSpec) -> list[Param]:
    """Those that a step reads."""
    return [param for param in declared(spec) if param.is_matrix or (param.name == EMBEDDING and spec.tie_embeddings)]


def _stored_matrices(checkpoint: Checkpoint) -> list[tuple[Param, str]]:
    stored = checkpoint.stored()
    return [(param, stored[param.name].block_type) for param in _matrices(checkpoint.spec)]


def _seen(attention: Gqa | Mla, past: float) -> float:
    """Positions before its own that a row attends to."""
    seen = past - max(0.0, attention.mask.first_seen(past))
    chosen = attention.selection
    return seen if chosen is None or past < chosen.onset else min(seen, chosen.most - 1)


def _scored(attention: Gqa | Mla, past: float) -> float:
    """Keys that an indexer meets: those of all positions, or of all whole pools, where it must choose."""
    must = attention.index_dim and attention.selection is not None and past >= attention.selection.onset
    return (past + 1) // attention.pool if must else 0.0


def _read(attention: Attention, past: float) -> float:
    """Values of the cache that a row reads."""
    if isinstance(attention, Compressed):
        own = min(past, attention.window - 1)
        return attention.head_dim * (own + _compressed_seen(attention, past)) + _compressed_scored(attention, past)
    own = attention.kept_values - attention.index_values
    return own * _seen(attention, past) + attention.index_dim * _scored(attention, past)


def _compressed_seen(attention: Compressed, past: float) -> float:
    """Compressed rows that a row attends to."""
    compression = attention.compression
    if compression is None:
        return 0.0
    there = (past + 1) // compression.ratio
    return there if compression.selection is None else min(there, compression.selection.top_k)


def _compressed_scored(attention: Compressed, past: float) -> float:
    """Values of compressed rows that an indexer meets: all, where it must choose."""
    compression = attention.compression
    if compression is None or compression.selection is None:
        return 0.0
    there = (past + 1) // compression.ratio
    return there * compression.selection.head_dim if there > compression.selection.top_k else 0.0


def _mixing_operations(mixer: Mixer, work: StepWork) -> float:
    """For one stream: q.k and p.v are a multiplication and an addition each for every channel of every head. Latents
    count as the keys and values that could be made of them, which are narrower. An indexer that must choose meets every
    key. The delta rule multiplies its state, asks it for k, adds to it and asks it for q; lightning attention does
    not ask for k."""
    match mixer:
        case Gqa():
            channels = 2 * mixer.head_dim
        case Mla():
            channels = mixer.nope_dim + mixer.rope_dim + mixer.v_dim
        case Compressed():
            pasts = [work.past + index for index in range(work.new)]
            pairs = sum(min(past + 1, mixer.window) + _compressed_seen(mixer, past) for past in pasts)
            chosen = None if mixer.compression is None else mixer.compression.selection
            met = 0.0 if chosen is None else chosen.n_heads * sum(_compressed_scored(mixer, past) for past in pasts)
            return 2.0 * (2 * mixer.n_heads * mixer.head_dim * pairs + met)
        case Gdn() | Kda():
            return 7.0 * mixer.n_value_heads * mixer.key_dim * mixer.value_dim * work.new
        case Lightning():
            return 5.0 * mixer.n_heads * mixer.head_dim**2 * work.new
        case _:
            assert_never(mixer)
    pairs = sum(_seen(mixer, work.past + index) + 1 for index in range(work.new))
    met = sum(_scored(mixer, work.past + index) for index in range(work.new))
    return 2.0 * (mixer.n_heads * channels * pairs + mixer.index_heads * mixer.index_dim * met)
