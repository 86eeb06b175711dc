"""The shapes of mixers as the C++ kernels and their caches know them."""

from __future__ import annotations

from typing import assert_never

from landrace.kernels.cpu.cache import CacheShape, Heads, IndexKeys, Latents, PoolInputs
from landrace.models.mixer_spec import Attention, Gqa, Mla
from landrace.models.pooled_spec import Pooled


def heads_of(spec: Gqa) -> Heads:
    """The shape that the kernels and the cache need."""
    return Heads(spec.n_heads, spec.n_kv_heads, spec.head_dim)


def latents_of(spec: Mla) -> Latents:
    """The shape that the kernels and the cache need."""
    return Latents(spec.n_heads, spec.kv_rank, spec.rope_dim)


def keys_of(spec: Pooled) -> Latents:
    """The shape that the kernels and the cache need: nothing lies beside what turns in place."""
    return Latents(spec.n_heads, spec.head_dim, 0)


def pool_shapes(spec: Pooled) -> tuple[tuple[PoolInputs, Latents | IndexKeys], ...]:
    """Of each of its pools the inputs and the rows."""
    own, *index = spec.pool_widths or (None,)
    if own is None:
        return ()
    rows: list[tuple[int, Latents | IndexKeys]] = [(own, keys_of(spec))]
    rows += [(width, IndexKeys(width)) for width in index]
    return tuple((PoolInputs(spec.input_width(width)), row) for width, row in rows)


def cache_shapes(mixer: Attention) -> tuple[CacheShape, ...]:
    """What the cache of a layer holds: the layer's own, and that of its indexer or its pools."""
    match mixer:
        case Gqa():
            return (heads_of(mixer), *_index_keys(mixer))
        case Mla():
            return (latents_of(mixer), *_index_keys(mixer))
        case Pooled():
            return (keys_of(mixer), *(shape for pool in pool_shapes(mixer) for shape in pool))
        case _:
            assert_never(mixer)


def _index_keys(mixer: Gqa | Mla) -> tuple[IndexKeys, ...]:
    return (IndexKeys(mixer.index_dim, mixer.index_gates or None),) if mixer.index_dim else ()
