"""The shapes of mixers as the C++ kernels and their caches know them."""

from __future__ import annotations

from typing import assert_never

from landrace.kernels.cpu.cache import CacheShape, CompressionInputs, Heads, IndexKeys, Latents
from landrace.models.compressed_spec import Compressed
from landrace.models.mixer_spec import Attention, Gqa, Mla


def heads_of(spec: Gqa) -> Heads:
    """The shape that the kernels and the cache need."""
    return Heads(spec.n_heads, spec.n_kv_heads, spec.head_dim)


def latents_of(spec: Mla) -> Latents:
    """The shape that the kernels and the cache need."""
    return Latents(spec.n_heads, spec.kv_rank, spec.rope_dim)


def keys_of(spec: Compressed) -> Latents:
    """The shape that the kernels and the cache need: nothing lies beside what turns in place."""
    return Latents(spec.n_heads, spec.head_dim, 0)


def compressed_shapes(spec: Compressed) -> tuple[tuple[CompressionInputs, Latents | IndexKeys], ...]:
    """Of its compressed rows, and of its indexer's, the inputs and the rows."""
    own, *index = spec.compressed_widths or (None,)
    if own is None:
        return ()
    rows: list[tuple[int, Latents | IndexKeys]] = [(own, keys_of(spec))]
    rows += [(width, IndexKeys(width)) for width in index]
    return tuple((CompressionInputs(spec.input_width(width)), row) for width, row in rows)


def cache_shapes(mixer: Attention) -> tuple[CacheShape, ...]:
    """What the cache of a layer holds, part by part (`LayerCache.parts`): the layer's own, and that of its indexer or
    its compressed rows."""
    match mixer:
        case Gqa():
            return (heads_of(mixer), *index_shapes(mixer))
        case Mla():
            return (latents_of(mixer), *index_shapes(mixer))
        case Compressed():
            return (keys_of(mixer), *(shape for both in compressed_shapes(mixer) for shape in both))
        case _:
            assert_never(mixer)


def index_shapes(mixer: Gqa | Mla) -> tuple[IndexKeys, ...]:
    """Of its indexer's keys, and before them of what they are made of, where pools have them."""
    if not mixer.index_dim:
        return ()
    keys = IndexKeys(mixer.index_dim)
    return (keys,) if mixer.pool == 1 else (IndexKeys(mixer.index_dim, mixer.index_gates or None), keys)
