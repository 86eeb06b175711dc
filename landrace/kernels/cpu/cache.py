"""What one layer keeps between steps, in the layout that the C++ kernels read."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor

from landrace.kernels.cpu.checks import check_tensor
from landrace.kernels.layer_cache import INT4, LayerCache, untouched_zeros

CACHE_TYPES = {torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16", torch.int8: "i8", INT4: "i4"}
INT4_GROUP = 32
"""Channels of a head that share a scale and a minimum."""


@dataclass(frozen=True)
class Heads:
    """Grouped-query attention's shape."""

    n_heads: int
    n_kv_heads: int
    head_dim: int

    def __post_init__(self) -> None:
        if self.head_dim < 1:
            raise ValueError(f"Heads have channels, not {self.head_dim}.")
        if self.n_kv_heads < 1 or self.n_heads < 1 or self.n_heads % self.n_kv_heads:
            raise ValueError(f"{self.n_heads} heads cannot share {self.n_kv_heads} heads of keys evenly.")

    def check(self, native: ModuleType) -> None:
        """ValueError for a shape beyond what the kernels have room for."""
        if self.head_dim > native.MAX_HEAD_DIM:
            raise ValueError(f"Heads have up to {native.MAX_HEAD_DIM} channels, not {self.head_dim}.")


@dataclass(frozen=True)
class Latents:
    """Latent attention's shape: all heads share a key of rank + rope_dim channels, whose first `rank` are its value."""

    n_heads: int
    rank: int
    rope_dim: int

    def __post_init__(self) -> None:
        if self.n_heads < 1 or self.rank < 1 or self.rope_dim < 0:
            raise ValueError(f"There are no {self.n_heads} heads of {self.rank} and {self.rope_dim} channels.")

    def check(self, native: ModuleType) -> None:
        """ValueError for a shape beyond what the kernels have room for."""
        if self.rank > native.MAX_HEAD_DIM or self.rope_dim > native.MAX_ROPE_DIM:
            raise ValueError(
                f"Latents have up to {native.MAX_HEAD_DIM} channels and {native.MAX_ROPE_DIM} rotated ones beside "
                f"them, not {self.rank} and {self.rope_dim}."
            )

    @property
    def key_dim(self) -> int:
        return self.rank + self.rope_dim


@dataclass(frozen=True)
class IndexKeys:
    """What an indexer keeps: a key of each position, and no value."""

    head_dim: int
    n_gates: int | None = None
    """As many as a key has channels, and kept beside it, where keys are pooled by them; None: there are none."""

    def check(self, native: ModuleType) -> None:
        """ValueError for a shape beyond what the kernels have room for."""
        if not 1 <= self.head_dim <= native.MAX_HEAD_DIM:
            raise ValueError(f"An indexer's keys have 1 to {native.MAX_HEAD_DIM} channels, not {self.head_dim}.")


@dataclass(frozen=True)
class CompressionInputs:
    """What rows are compressed from: so many float32 values of each position."""

    width: int

    def check(self, native: ModuleType) -> None:
        """There is room for any number."""


CacheShape = Heads | Latents | IndexKeys | CompressionInputs


def new_layer_cache(native: ModuleType, shape: CacheShape, n_slots: int, dtype: torch.dtype) -> LayerCache:
    """Zeroed memory for `n_slots` tokens in tiles of 16: every aligned sixteen positions of a sequence are sixteen
    aligned slots, which lie side by side.

    Heads: a head's keys [head_dim, 16] and right behind them its values [16, padded head_dim], which are padded to a
    multiple of 16. So `keys` [n_slots / 16, n_kv_heads, head_dim, 16] and `values` [n_slots / 16, n_kv_heads, 16,
    padded head_dim] are two views of one memory. int8 also has float32 scales [n_slots / 16, n_kv_heads, 16] of both.
    INT4 has two channels in a byte, keys [..., head_dim / 2, 16] and values [..., 16, padded head_dim / 2], rounded up
    to whole bytes and groups of 32, and float16 scales and minima [n_slots / 16, n_kv_heads, groups, 2, 16] of both.
    Latents: `keys` [n_slots / 16, 16, padded rank + padded rope_dim] hold the values too; int8 has scales [n_slots /
    16, 1, 16], of the latents in `value_scales` and of the channels beside them in `key_scales`. An indexer's keys
    lie as those of one head, [n_slots / 16, 1, head_dim + n_gates, 16], the scales of gates in `value_scales`. Neither
    is ever INT4. What rows are compressed from is float32 [n_slots / 16, 16, width] whatever the type. ValueError when
    the slots are no whole tiles or the type is not one of the cache's.
    """
    tile: int = native.TILE
    if n_slots % tile or n_slots < 0:
        raise ValueError(f"{n_slots} cache slots are not whole tiles of {tile}.")
    if dtype not in CACHE_TYPES:
        raise ValueError(f"The cache holds {', '.join(map(str, CACHE_TYPES))}, not {dtype}.")

    def padded(n_channels: int) -> int:
        return -(-n_channels // tile) * tile

    n_tiles, kv_heads = n_slots // tile, shape.n_kv_heads if isinstance(shape, Heads) else 1
    if dtype == INT4 and not isinstance(shape, Heads):
        raise ValueError("Latents and the keys of indexers are kept in 8 bits at the least.")
    if isinstance(shape, CompressionInputs):
        return LayerCache(untouched_zeros((n_tiles, tile, shape.width), torch.float32))
    if isinstance(shape, IndexKeys):
        key_scales, gate_scales = _scales(dtype, (n_tiles, 1, tile))
        keys = untouched_zeros((n_tiles, 1, shape.head_dim + (shape.n_gates or 0), tile), dtype)
        return LayerCache(keys, None, key_scales, gate_scales if shape.n_gates else None)
    if isinstance(shape, Latents):
        width = padded(shape.rank) + padded(shape.rope_dim)
        return LayerCache(untouched_zeros((n_tiles, tile, width), dtype), None, *_scales(dtype, (n_tiles, 1, tile)))
    key_rows, value_width = shape.head_dim, padded(shape.head_dim)
    scales: tuple[int, ...] = (n_tiles, kv_heads, tile)
    if dtype == INT4:
        n_groups = -(-shape.head_dim // INT4_GROUP)
        key_rows, value_width = -(-shape.head_dim // 2), n_groups * INT4_GROUP // 2
        scales = (n_tiles, kv_heads, n_groups, 2, tile)
    tiles = untouched_zeros((n_tiles, kv_heads, key_rows + value_width, tile), dtype)
    keys, values = tiles[:, :, :key_rows], tiles[:, :, key_rows:]
    return LayerCache(keys, values.view(n_tiles, kv_heads, tile, value_width), *_scales(dtype, scales))


def _scales(dtype: torch.dtype, shape: tuple[int, ...]) -> tuple[Tensor | None, Tensor | None]:
    """Of keys and of values."""
    kept = {torch.int8: torch.float32, INT4: torch.float16}.get(dtype)
    return (None, None) if kept is None else (untouched_zeros(shape, kept), untouched_zeros(shape, kept))


def check_layer_cache(native: ModuleType, cache: LayerCache, shape: CacheShape) -> int:
    """How many slots the cache has. ValueError unless it is one as `new_layer_cache` makes them."""
    n_tiles: int = cache.keys.shape[0]
    like = new_layer_cache(native, shape, 2 * native.TILE, cache.keys.dtype)
    for name in ("keys", "values", "key_scales", "value_scales"):
        tensor, expected = getattr(cache, name), getattr(like, name)
        if (tensor is None) != (expected is None):
            raise ValueError(
                f"A cache of {cache.keys.dtype} has scales exactly if it is of integers, and values if it is heads'."
            )
        if tensor is not None:
            expected_shape = (n_tiles, *expected.shape[1:])
            check_tensor(tensor, expected.dtype, expected_shape, f"a cache's {name}", expected.stride())
    if cache.values is None or like.values is None:
        return n_tiles * int(native.TILE)
    distance = like.values.data_ptr() - like.keys.data_ptr()
    if n_tiles and cache.values.data_ptr() - cache.keys.data_ptr() != distance:
        raise ValueError("A cache's values lie behind its keys, as new_layer_cache makes them.")
    return n_tiles * int(native.TILE)
