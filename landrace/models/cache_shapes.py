"""The shapes of mixers as the C++ kernels and their caches know them."""

from __future__ import annotations

from typing import assert_never

from landrace.kernels.cpu.cache import CacheShape, Heads, IndexKeys, Latents
from landrace.models.mixer_spec import Gqa, Mla


def heads_of(spec: Gqa) -> Heads:
    """The shape that the kernels and the cache need."""
    return Heads(spec.n_heads, spec.n_kv_heads, spec.head_dim)


def latents_of(spec: Mla) -> Latents:
    """The shape that the kernels and the cache need."""
    return Latents(spec.n_heads, spec.kv_rank, spec.rope_dim)


def cache_shapes(mixer: Gqa | Mla) -> tuple[CacheShape, ...]:
    """What the cache of a layer holds, and that of its indexer."""
    index = (IndexKeys(mixer.index_dim, mixer.index_gates or None),) if mixer.index_dim else ()
    match mixer:
        case Gqa():
            return (heads_of(mixer), *index)
        case Mla():
            return (latents_of(mixer), *index)
        case _:
            assert_never(mixer)
