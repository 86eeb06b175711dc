"""`Program`: a forward pass recorded as operations over buffers, and replayed by one call into the C++ kernels.

Everything that reaches the kernels is checked here: shapes, types and strides of tensors, sizes of buffers, and which
buffer belongs where.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from types import ModuleType
from typing import Any, Literal

import torch
from torch import Tensor

from landrace.kernels.cpu.weights import PackedMatrix, PackedVector
from landrace.kernels.layer_cache import LayerCache, untouched_zeros

TILE = 16
"""Cache slots that lie side by side: every aligned sixteen positions of a sequence are sixteen aligned slots."""
MAX_HEAD_DIM = 512
CACHE_TYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2, torch.int8: 3}

ALL_ROWS = -1
LOGIT_ROWS = -2
LOGITS = -1
"""The buffer of a step's logits."""


class Epilogue(IntEnum):
    """What becomes of a product y."""

    STORE = 0
    """out = factor * y."""
    ADD = 1
    """out = out + factor * y."""
    SWIGLU = 2
    """out = silu(y) * (the gated matrix's y)."""


HeadNorm = Literal["none", "before_rope", "after_rope"]
_HEAD_NORMS: Mapping[str, int] = {"none": 0, "before_rope": 1, "after_rope": 2}


@dataclass(frozen=True)
class Heads:
    """Grouped-query attention's shape."""

    n_heads: int
    n_kv_heads: int
    head_dim: int

    def __post_init__(self) -> None:
        if not 1 <= self.head_dim <= MAX_HEAD_DIM:
            raise ValueError(f"Heads have 1 to {MAX_HEAD_DIM} channels, not {self.head_dim}.")
        if self.n_kv_heads < 1 or self.n_heads < 1 or self.n_heads % self.n_kv_heads:
            raise ValueError(f"{self.n_heads} heads cannot share {self.n_kv_heads} heads of keys evenly.")

    @property
    def padded_dim(self) -> int:
        """Channels of a value in the cache."""
        return -(-self.head_dim // TILE) * TILE


@dataclass(frozen=True)
class Part:
    """One matrix of a product and what becomes of it."""

    matrix: PackedMatrix
    out: int
    """A buffer, or `LOGITS`."""
    bias: PackedVector | None = None
    epilogue: Epilogue = Epilogue.STORE
    factor: float = 1.0
    gated: PackedMatrix | None = None
    gated_bias: PackedVector | None = None


def new_layer_cache(heads: Heads, n_slots: int, dtype: torch.dtype) -> LayerCache:
    """Zeroed memory for `n_slots` tokens in tiles of 16: a head's keys [head_dim, 16] and right behind them its values
    [16, padded head_dim].

    So `keys` [n_slots / 16, n_kv_heads, head_dim, 16] and `values` [n_slots / 16, n_kv_heads, 16, padded head_dim] are
    two views of one memory. int8 also has float32 scales [n_slots / 16, n_kv_heads, 16] of both. ValueError when the
    slots are no whole tiles or the type is not one of the cache's.
    """
    if n_slots % TILE or n_slots < 0:
        raise ValueError(f"{n_slots} cache slots are not whole tiles of {TILE}.")
    if dtype not in CACHE_TYPES:
        raise ValueError(f"The cache holds {', '.join(map(str, CACHE_TYPES))}, not {dtype}.")
    shape = (n_slots // TILE, heads.n_kv_heads)
    tiles = untouched_zeros((*shape, heads.head_dim + heads.padded_dim, TILE), dtype)
    keys, values = tiles[:, :, : heads.head_dim], tiles[:, :, heads.head_dim :]
    scales = [untouched_zeros((*shape, TILE), torch.float32) if dtype == torch.int8 else None for _ in range(2)]
    return LayerCache(keys, values.view(*shape, TILE, heads.padded_dim), *scales)


@dataclass(frozen=True)
class Rotary:
    """Angles of one kind of rotation: row i of a step turns by row `rows[i]` of the tables."""

    cos: Tensor
    """[table rows, rotary_dim / 2] float32, like `sin`."""
    sin: Tensor
    rows: Tensor
    """[T] int64."""


@dataclass(frozen=True)
class StepInput:
    """One step. Tensors are contiguous int64 on the CPU."""

    token_ids: Tensor
    """[T]."""
    positions: Tensor
    """[T]: consecutive within a sequence."""
    starts: Sequence[int]
    """S + 1 row indices: sequence s owns rows starts[s] to starts[s + 1]."""
    slots: Sequence[Tensor]
    """One a sequence: the cache slots of its positions from 0 to its last row's."""
    write_slots: Tensor
    """[T]."""
    logit_rows: Tensor
    """[R]."""
    rotary: Sequence[Rotary] = ()
    adapter_rows: Sequence[Sequence[int]] = ()
    """By adapter slot: the rows that use it."""


class Program:
    """Records operations; `run` replays them. Results do not depend on `threads` or on the instruction set."""

    def __init__(self, native: ModuleType, pool: Any, isa: str) -> None:
        self._pool = pool
        self._program = native.Program(pool, isa)
        self._widths: list[int] = []
        self._heads: dict[int, Heads] = {}
        self._rotary_halves: dict[int, int] = {}
        self._logits_width: int | None = None
        self._kept: list[object] = []
        """What the operations point to."""

    def buffer(self, width: int) -> int:
        """A new buffer of `width` floats for every row of a step."""
        if width < 1:
            raise ValueError(f"A buffer's rows have at least one value, not {width}.")
        self._widths.append(width)
        index: int = self._program.add_buffer(width)
        return index

    def embedding(self, table: PackedMatrix, factor: float, out: int) -> None:
        """out = factor * (the rows of `table` that the tokens name)."""
        self._expect(out, table.n_in)
        self._kept.append(table)
        self._program.add_embedding(table.handle, factor, out)

    def norm(self, x: int, weight: PackedVector, eps: float, out: int, *, add: float | None = None) -> None:
        """out = norm(x), or with `add` out = out + add * norm(x)."""
        self._expect(x, weight.size)
        self._expect(out, weight.size)
        self._kept.append(weight)
        self._program.add_norm(x, weight.address, eps, add is not None, add or 0.0, out)

    def swiglu(self, gate: int, up: int, out: int) -> None:
        """out = silu(gate) * up."""
        width = self._width(gate)
        self._expect(up, width)
        self._expect(out, width)
        self._program.add_swiglu(gate, up, out)

    def product(
        self,
        name: str,
        x: int,
        parts: Sequence[Part],
        *,
        norm: PackedVector | None = None,
        eps: float = 0.0,
        rows: int = ALL_ROWS,
        gather: bool = False,
        scatter: bool = False,
    ) -> None:
        """Rows of `x`, normalised first where `norm` is given, times every part's matrix.

        `rows` says which: ALL_ROWS, LOGIT_ROWS or an adapter's slot. With `gather` they are taken from their places in
        `x`, with `scatter` put into their places in the outputs; otherwise they lie densely.
        """
        if not parts:
            raise ValueError("A product needs a matrix.")
        if rows < LOGIT_ROWS:
            raise ValueError(f"There are no rows {rows}.")
        for part in parts:
            self._check_part(part, self._width(x), rows)
        if norm is not None:
            self._expect(x, norm.size)
        if (gather and rows == ALL_ROWS) or (scatter and rows < 0):
            raise ValueError("There are no places to gather from or scatter to.")
        self._kept += [parts, norm]
        native_parts = [
            (
                part.matrix.handle,
                part.gated is not None,
                (part.gated or part.matrix).handle,
                _vector(part.bias),
                _vector(part.gated_bias),
                int(part.epilogue),
                part.factor,
                part.out,
            )
            for part in parts
        ]
        self._program.add_product(name, x, _vector(norm), eps, rows, gather, scatter, native_parts)

    def rope(
        self,
        layer: int,
        heads: Heads,
        q: int,
        k: int,
        v: int,
        *,
        rotary: int | None,
        rotary_half: int = 0,
        scale: float = 1.0,
        norm: HeadNorm = "none",
        q_norm: PackedVector | None = None,
        k_norm: PackedVector | None = None,
        eps: float = 0.0,
    ) -> None:
        """Turns the heads of q and k by `StepInput.rotary[rotary]`, multiplies q by `scale`, and writes k and v to the
        cache.

        Channel i of a head turns with channel i + rotary_half. `norm` is an RMS norm over each head.
        """
        self._expect(q, heads.n_heads * heads.head_dim)
        self._expect(k, heads.n_kv_heads * heads.head_dim)
        self._expect(v, heads.n_kv_heads * heads.head_dim)
        if layer != len(self._heads):
            raise ValueError(f"Layers are recorded in order: the next is {len(self._heads)}, not {layer}.")
        if rotary is not None and not 0 <= rotary <= len(self._rotary_halves):
            raise ValueError(f"Tables are numbered in order: the next is {len(self._rotary_halves)}, not {rotary}.")
        if (rotary is None) != (rotary_half == 0) or not 0 <= 2 * rotary_half <= heads.head_dim:
            raise ValueError(f"{heads.head_dim} channels cannot turn in {rotary_half} pairs.")
        if rotary is not None and self._rotary_halves.setdefault(rotary, rotary_half) != rotary_half:
            raise ValueError("One table of angles serves rotations of one size.")
        if norm != "none" and not (q_norm and k_norm and q_norm.size == k_norm.size == heads.head_dim):
            raise ValueError("A norm over heads needs a weight for each channel of q's and of k's.")
        self._heads[layer] = heads
        self._kept += [q_norm, k_norm]
        self._program.add_rope(
            layer, rotary or 0, heads.n_heads, heads.n_kv_heads, heads.head_dim, _HEAD_NORMS[norm],
            _vector(q_norm), _vector(k_norm), eps, rotary_half, scale, q, k, v,
        )  # fmt: skip

    def attention(self, layer: int, heads: Heads, q: int, out: int, *, window: int | None) -> None:
        """out = softmax(q k) v over the sequence's cached positions up to the row's own, at most `window` of them."""
        self._expect(q, heads.n_heads * heads.head_dim)
        self._expect(out, heads.n_heads * heads.head_dim)
        if self._heads.get(layer) != heads:
            raise ValueError(f"No keys of {heads} are written to layer {layer}.")
        if window is not None and window < 1:
            raise ValueError(f"A window holds at least one position, not {window}.")
        self._program.add_attention(layer, heads.n_heads, heads.n_kv_heads, heads.head_dim, window or 0, q, out)

    def bind_cache(self, layers: Sequence[LayerCache]) -> None:
        """Says where the layers' keys and values are. The tensors must live as long as they are bound."""
        if len(layers) != len(self._heads):
            raise ValueError(f"The program has {len(self._heads)} layers of attention, the cache {len(layers)}.")
        sizes = {cache.keys.shape[0] * TILE for cache in layers}
        if len(sizes) > 1:
            raise ValueError(f"The layers of a cache have one number of slots, not {sorted(sizes)}.")
        for layer, cache in enumerate(layers):
            heads, n_slots = self._heads[layer], cache.keys.shape[0] * TILE
            like = new_layer_cache(heads, 2 * TILE, cache.keys.dtype)
            for name in ("keys", "values", "key_scales", "value_scales"):
                tensor, expected = getattr(cache, name), getattr(like, name)
                if (tensor is None) != (expected is None):
                    raise ValueError(f"A cache of {cache.keys.dtype} has scales exactly if it is int8.")
                if tensor is not None:
                    shape = (n_slots // TILE, *expected.shape[1:])
                    _check(tensor, expected.dtype, shape, f"a cache's {name}", expected.stride())
            if (
                n_slots
                and cache.values.data_ptr() - cache.keys.data_ptr() != like.values.data_ptr() - like.keys.data_ptr()
            ):
                raise ValueError("A cache's values lie behind its keys, as new_layer_cache makes them.")
            self._program.bind_cache(
                layer, CACHE_TYPES[cache.keys.dtype], cache.keys.data_ptr(),
                0 if cache.key_scales is None else cache.key_scales.data_ptr(),
                0 if cache.value_scales is None else cache.value_scales.data_ptr(), n_slots,
            )  # fmt: skip
        self._kept_cache = list(layers)

    def run(self, step: StepInput, threads: int = 0) -> Tensor:
        """Computes a step and returns its logits, float32 [R, width of the part that stores to LOGITS].

        `threads`: 0 for as many of the pool's as were fastest lately. IndexError for a token, row or slot that does not
        exist.
        """
        logits = torch.empty(step.logit_rows.numel(), self._logits_width or 0)
        self._program.run(threads, *self._arguments(step), logits.data_ptr())
        return logits

    def profile(self, step: StepInput, threads: int) -> list[tuple[str, float]]:
        """Computes a step operation by operation: (name, seconds) of each."""
        logits = torch.empty(step.logit_rows.numel(), self._logits_width or 0)
        timings: list[tuple[str, float]] = self._program.profile(threads, *self._arguments(step), logits.data_ptr())
        return timings

    def write(self, buffer: int, rows: Tensor) -> None:
        """Puts rows, float32 [n, width], into a buffer, where the next step finds them."""
        _check(rows, torch.float32, (*rows.shape[:1], self._width(buffer)), "rows")
        self._program.write(buffer, rows.data_ptr(), rows.shape[0])

    def read(self, buffer: int, n_rows: int) -> Tensor:
        """The first rows of a buffer as the last step left them."""
        out = torch.empty(n_rows, self._width(buffer))
        self._program.read(buffer, out.data_ptr(), n_rows)
        return out

    def _arguments(self, step: StepInput) -> tuple[Any, ...]:
        n_rows, n_sequences = step.token_ids.numel(), len(step.starts) - 1
        _check(step.token_ids, torch.int64, (n_rows,), "token_ids")
        _check(step.positions, torch.int64, (n_rows,), "positions")
        _check(step.write_slots, torch.int64, (n_rows,), "write_slots")
        _check(step.logit_rows, torch.int64, (step.logit_rows.numel(),), "logit_rows")
        if len(step.slots) != n_sequences or step.starts[0] != 0 or step.starts[-1] != n_rows:
            raise ValueError(
                f"{n_rows} rows, {n_sequences} sequences and {len(step.slots)} lists of slots do not match."
            )
        addresses, counts = array("Q"), array("q")
        for slots in step.slots:
            _check(slots, torch.int64, (slots.numel(),), "slots")
            addresses.append(slots.data_ptr())
            counts.append(slots.numel())
        if len(step.rotary) != len(self._rotary_halves):
            raise ValueError(f"The program turns by {len(self._rotary_halves)} tables, not {len(step.rotary)}.")
        tables = []
        for index, rotary in enumerate(step.rotary):
            shape = (rotary.cos.shape[0], self._rotary_halves[index])
            _check(rotary.cos, torch.float32, shape, "cos")
            _check(rotary.sin, torch.float32, shape, "sin")
            _check(rotary.rows, torch.int64, (n_rows,), "rows of the angles")
            tables.append((rotary.cos.data_ptr(), rotary.sin.data_ptr(), rotary.rows.data_ptr(), shape[0]))
        starts = array("q", step.starts)
        self._kept_step = (starts, addresses, counts)
        return (
            n_rows, step.token_ids.data_ptr(), step.positions.data_ptr(),
            n_sequences, starts.buffer_info()[0], addresses.buffer_info()[0], counts.buffer_info()[0],
            step.write_slots.data_ptr(),
            step.logit_rows.numel(), step.logit_rows.data_ptr(), tables, step.adapter_rows,
        )  # fmt: skip

    def _width(self, buffer: int) -> int:
        if not 0 <= buffer < len(self._widths):
            raise ValueError(f"There is no buffer {buffer}.")
        return self._widths[buffer]

    def _expect(self, buffer: int, width: int) -> None:
        if not 0 <= buffer < len(self._widths) or self._widths[buffer] != width:
            raise ValueError(f"Buffer {buffer} does not have rows of {width} values.")

    def _check_part(self, part: Part, n_in: int, rows: int) -> None:
        if part.matrix.n_in != n_in:
            raise ValueError(f"A matrix with {part.matrix.n_in} inputs cannot take rows of {n_in} values.")
        if (part.gated is not None) != (part.epilogue == Epilogue.SWIGLU):
            raise ValueError("A second matrix goes with SWIGLU, and SWIGLU with a second matrix.")
        if part.gated is not None and (part.gated.n_in, part.gated.n_out) != (n_in, part.matrix.n_out):
            raise ValueError("Two matrices of different shapes cannot gate one another.")
        for bias in (part.bias, part.gated_bias):
            if bias is not None and bias.size != part.matrix.n_out:
                raise ValueError(f"A bias of {bias.size} does not fit {part.matrix.n_out} outputs.")
        if part.out == LOGITS:
            if part.epilogue != Epilogue.STORE or rows != LOGIT_ROWS or self._logits_width is not None:
                raise ValueError("Logits are stored once, for the rows that are wanted.")
            self._logits_width = part.matrix.n_out
        else:
            self._expect(part.out, part.matrix.n_out)


def _vector(vector: PackedVector | None) -> int:
    return 0 if vector is None else vector.address


def _lies_in_steps_of(tensor: Tensor, stride: tuple[int, ...]) -> bool:
    """Whether these are the tensor's strides, as far as they matter: where a dimension has one element they do not."""
    steps = zip(tensor.shape, tensor.stride(), stride, strict=True)
    return tensor.numel() == 0 or all(size == 1 or ours == theirs for size, ours, theirs in steps)


def _check(
    tensor: Tensor, dtype: torch.dtype, shape: tuple[int, ...], name: str, stride: tuple[int, ...] | None = None
) -> None:
    """`stride`: of each dimension, in elements; None: contiguous."""
    fits = tensor.dtype == dtype and tensor.shape == shape and tensor.is_cpu
    if not fits or not (tensor.is_contiguous() if stride is None else _lies_in_steps_of(tensor, stride)):
        layout = "contiguous" if stride is None else f"of strides {list(stride)}"
        raise ValueError(
            f"{name} must be {dtype} {list(shape)}, {layout}, in main memory, not {tensor.dtype} {list(tensor.shape)}."
        )
