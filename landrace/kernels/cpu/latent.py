"""Latent attention in a program: one key for all heads, whose first channels are its value."""

from __future__ import annotations

from collections.abc import Sequence

from landrace.kernels.cpu.cache import Latents
from landrace.kernels.cpu.program import Program
from landrace.kernels.cpu.schema import mask_fields
from landrace.kernels.cpu.weights import PackedMatrix, PackedVector
from landrace.kernels.mask import FULL, Mask


def head_product(
    program: Program,
    name: str,
    x: int,
    matrices: Sequence[PackedMatrix],
    out: int,
    *,
    add: bool = False,
    factor: float = 1.0,
    rows: int | None = None,
    gather: bool = False,
    scatter: bool = False,
) -> None:
    """out[h] = factor * x[h] W[h]^T for every head h, or with `add` out = out + that.

    Rows of x and of `out` are heads side by side, one for each matrix, which takes and gives its head's first channels.
    `rows`, `gather` and `scatter` are those of `Program.product`.
    """
    program.add(
        "head_product", name=name, x=x, out=out, heads=[{"matrix": matrix} for matrix in matrices], add=add,
        factor=factor, rows=program.all_rows if rows is None else rows, gather=gather, scatter=scatter,
    )  # fmt: skip


def keep_latents(
    program: Program,
    layer: int,
    shape: Latents,
    q: int,
    latents: int,
    queries: int,
    *,
    norm: PackedVector,
    eps: float,
    rotary: int | None,
    rotary_half: int = 0,
    scale: float = 1.0,
    group: int = 0,
) -> None:
    """Writes norm(the first `rank` channels of `latents`) and the others, turned, to the cache; and the last rope_dim
    channels of q's heads, turned and times `scale`, to the last of those of `queries`.

    latents [rank + rope_dim]; queries [n_heads * (rank + rope_dim)], of which a `head_product` gives the others. Tables
    and groups are those of `Program.rope`.
    """
    program.add_writer(
        "keep_latents", layer, shape, channels=shape.rope_dim, rotary=rotary, rotary_half=rotary_half, group=group,
        q=q, latents=latents, queries=queries, norm=norm, eps=eps, scale=scale,
    )  # fmt: skip


def attend_latents(
    program: Program,
    layer: int,
    shape: Latents,
    queries: int,
    out: int,
    *,
    mask: Mask = FULL,
    most: int | None = None,
    sinks: PackedVector | None = None,
) -> None:
    """out [n_heads * rank] = softmax(q k) c over those of the sequence's cached positions that `mask` shows: all heads
    share the keys, whose first `rank` channels are c. `most`: over what the last `selection.select` of so many
    positions has chosen. `sinks` are those of `Program.attention`."""
    program.add(
        "attend_latents", layer=layer, **vars(shape), q=queries, out=out, **mask_fields(mask), most=most, sinks=sinks
    )
