"""Attention over a window and over compressed rows in a program: one key for all heads, which is its own value."""

from __future__ import annotations

from landrace.kernels.cpu.cache import CompressionInputs, IndexKeys, Latents
from landrace.kernels.cpu.program import Program
from landrace.kernels.cpu.schema import mask_fields
from landrace.kernels.cpu.weights import PackedVector
from landrace.kernels.mask import Mask


def keep_row(
    program: Program,
    layer: int,
    shape: Latents,
    x: int,
    *,
    norm: PackedVector,
    eps: float,
    rotary: int,
    rotary_half: int,
    group: int = 0,
) -> None:
    """Writes norm(x), the last 2 * rotary_half channels turned as neighbours, to the cache. Tables and groups are those
    of `Program.rope`."""
    program.add_writer(
        "keep_row", layer, shape, channels=shape.rank, rotary=rotary, rotary_half=rotary_half, group=group, x=x,
        norm=norm, eps=eps,
    )  # fmt: skip


def keep_inputs(
    program: Program, layer: int, shape: CompressionInputs, values: int, gates: int, *, group: int = 0
) -> None:
    """Writes what rows are compressed from to the cache: `values`, and `gates` of the same width."""
    program.add_writer(
        "keep_inputs", layer, shape, channels=0, rotary=None, rotary_half=0, group=group, values=values, gates=gates
    )


def compress(
    program: Program,
    layer: int,
    shape: Latents | IndexKeys,
    *,
    inputs: int,
    width: int,
    ratio: int,
    bias: PackedVector,
    norm: PackedVector,
    eps: float,
    rotary: int,
    rotary_half: int,
    group: int = 0,
) -> None:
    """Writes a row for every `ratio` positions to the cache (`kernels.reference.compression`), once the last of them is
    there: out of what the layer `inputs`, so wide, keeps, normalised and turned as its first position is.

    bias [ratio * width / 2]. Row p of a table of angles is that of position p.
    """
    turns: dict[str, int] = {"rotary": rotary, "rotary_half": rotary_half}
    program.add_writer(
        "compress", layer, shape, channels=width, **turns, group=group, inputs=inputs, width=width, ratio=ratio,
        bias=bias, norm=norm, eps=eps,
    )  # fmt: skip


def select_compressed(
    program: Program,
    layer: int,
    keys: IndexKeys,
    *,
    n_heads: int,
    most: int,
    q: int,
    weights: int,
    ratio: int,
    scale: float = 1.0,
) -> None:
    """As `selection.select`, among the compressed rows of a layer: q is turned already."""
    program.add(
        "select", layer=layer, **vars(keys), n_heads=n_heads, most=most, q=q, weights=weights, scale=scale, every=ratio
    )


def attend_compressed(
    program: Program,
    layer: int,
    compressed: int,
    shape: Latents,
    q: int,
    out: int,
    *,
    mask: Mask,
    ratio: int,
    most: int | None,
    sinks: PackedVector,
) -> None:
    """out [n_heads * rank] = softmax(q k) k over the compressed rows of the layer `compressed` that are there, one for
    every `ratio` positions, or with `most` those that the last `select_compressed` has chosen; and over the positions
    of `layer` that `mask` shows."""
    program.add(
        "attend_compressed", layer=layer, compressed=compressed, **vars(shape), q=q, out=out, **mask_fields(mask),
        ratio=ratio, most=most, sinks=sinks,
    )  # fmt: skip
