"""`Program`: a forward pass recorded as operations over buffers, and replayed by one call into the C++ kernels.

Everything that reaches the kernels is checked: shapes, types and strides of a step's tensors here, fields of operations
by `schema`, and which buffers and weights go together by the operations themselves.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from types import ModuleType
from typing import Any, Literal

import torch
from torch import Tensor

from landrace.kernels.cpu.schema import native_fields
from landrace.kernels.cpu.weights import PackedMatrix, PackedVector
from landrace.kernels.layer_cache import GroupView, LayerCache, untouched_zeros

TILE = 16
"""Cache slots that lie side by side: every aligned sixteen positions of a sequence are sixteen aligned slots."""
MAX_HEAD_DIM = 512
CACHE_TYPES = {torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16", torch.int8: "i8"}

ALL_ROWS = -1
LOGIT_ROWS = -2
LOGITS = -1
"""The buffer of a step's logits."""


class Epilogue(StrEnum):
    """What becomes of a product y."""

    STORE = "store"
    """out = factor * y."""
    ADD = "add"
    """out = out + factor * y."""
    SWIGLU = "swiglu"
    """out = silu(y) * (the gated matrix's y)."""


HeadNorm = Literal["none", "before_rope", "after_rope"]


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
    groups: Sequence[GroupView]
    """By cache group. Blocks are whole tiles: first positions are multiples of sixteen."""
    logit_rows: Tensor
    """[R]."""
    rotary: Sequence[Rotary] = ()
    adapter_rows: Sequence[Sequence[int]] = ()
    """By adapter slot: the rows that use it."""


class Program:
    """Records operations; `run` replays them. Results do not depend on `threads` or on the instruction set."""

    def __init__(self, native: ModuleType, pool: Any, isa: str) -> None:
        self._native = native
        self._pool = pool
        self._program = native.Program(pool, isa)
        self._heads: list[Heads] = []
        """By layer, like the cache groups."""
        self._groups: list[int] = []
        self._rotary_halves: list[int] = []
        """By table of angles."""
        self._calls: list[Callable[[StepInput], None]] = []
        self._kept: list[object] = []
        """What the operations point to."""

    def buffer(self, width: int) -> int:
        """A new buffer of `width` floats for every row of a step."""
        if width < 1:
            raise ValueError(f"A buffer's rows have at least one value, not {width}.")
        index: int = self._program.add_buffer(width)
        return index

    def add(self, operation: str, *, name: str | None = None, **fields: object) -> None:
        """Records an operation of csrc/ops. `name`: what profiles call it.

        Fields are checked against the operation's schema, and by the operation itself: ValueError.
        """
        self._program.add(operation, name or operation, native_fields(self._native, operation, fields))
        self._kept.append(fields)

    def call(self, name: str, function: Callable[[StepInput], None]) -> None:
        """Calls function(step) there: what the kernels do not have an operation for, on one thread of PyTorch's.

        The function reads and writes buffers through `view`. What it raises ends the step.
        """
        self.add("call", name=name, index=len(self._calls))
        self._calls.append(function)

    def embedding(self, table: PackedMatrix, factor: float, out: int) -> None:
        """out = factor * (the rows of `table` that the tokens name)."""
        self.add("embedding", table=table, factor=factor, out=out)

    def norm(self, x: int, weight: PackedVector, eps: float, out: int, *, add: float | None = None) -> None:
        """out = norm(x), or with `add` out = out + add * norm(x)."""
        self.add("norm", x=x, weight=weight, eps=eps, out=out, add=add is not None, factor=add)

    def swiglu(self, gate: int, up: int, out: int) -> None:
        """out = silu(gate) * up."""
        self.add("swiglu", gate=gate, up=up, out=out)

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
        records = [vars(part) for part in parts]
        self.add(
            "product", name=name, x=x, parts=records, norm=norm, eps=eps, rows=rows, gather=gather, scatter=scatter
        )

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
        group: int = 0,
    ) -> None:
        """Turns the heads of q and k by `StepInput.rotary[rotary]`, multiplies q by `scale`, and writes k and v to the
        cache.

        Channel i of a head turns with channel i + rotary_half. `norm` is an RMS norm over each head. `group`: the
        cache group of the layer, one of `StepInput.groups`.
        """
        if rotary is not None and not 0 <= rotary <= len(self._rotary_halves):
            raise ValueError(f"Tables are numbered in order: the next is {len(self._rotary_halves)}, not {rotary}.")
        if (rotary is None) != (rotary_half == 0):
            raise ValueError(f"{heads.head_dim} channels cannot turn in {rotary_half} pairs.")
        if rotary is not None and rotary < len(self._rotary_halves) and self._rotary_halves[rotary] != rotary_half:
            raise ValueError("One table of angles serves rotations of one size.")
        self.add(
            "rope", layer=layer, **vars(heads), q=q, k=k, v=v, rotary=rotary, rotary_half=rotary_half, scale=scale,
            norm=norm, q_norm=q_norm, k_norm=k_norm, eps=eps, group=group,
        )  # fmt: skip
        self._heads.append(heads)
        self._groups.append(group)
        if rotary == len(self._rotary_halves):
            self._rotary_halves.append(rotary_half)

    def attention(self, layer: int, heads: Heads, q: int, out: int, *, window: int | None) -> None:
        """out = softmax(q k) v over the sequence's cached positions up to the row's own, at most `window` of them."""
        if window is not None and window < 1:
            raise ValueError(f"A window holds at least one position, not {window}.")
        self.add("attention", layer=layer, **vars(heads), q=q, out=out, window=window)

    def bind_cache(self, layers: Sequence[LayerCache]) -> None:
        """Says where the layers' keys and values are. The tensors must live as long as they are bound."""
        if len(layers) != len(self._heads):
            raise ValueError(f"The program has {len(self._heads)} layers of attention, the cache {len(layers)}.")
        for group in set(self._groups):
            own = [cache for cache, other in zip(layers, self._groups, strict=True) if other == group]
            sizes = {cache.keys.shape[0] * TILE for cache in own}
            if len(sizes) > 1:
                raise ValueError(f"The layers of a cache group have one number of slots, not {sorted(sizes)}.")
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
        logits = torch.empty(step.logit_rows.numel(), self._program.vocabulary)
        self._program.run(self._step(step, logits), threads, partial(self._called, step))
        return logits

    def profile(self, step: StepInput, threads: int) -> list[tuple[str, float]]:
        """Computes a step operation by operation: (name, seconds) of each."""
        logits = torch.empty(step.logit_rows.numel(), self._program.vocabulary)
        native_step, call = self._step(step, logits), partial(self._called, step)
        timings: list[tuple[str, float]] = self._program.profile(native_step, threads, call)
        return timings

    def view(self, buffer: int, n_rows: int) -> Tensor:
        """The first rows of a buffer, float32 [n_rows, width], in its own memory: until it grows."""
        rows: Tensor = self._program.view(buffer, n_rows)
        return rows

    def write(self, buffer: int, rows: Tensor) -> None:
        """Puts rows, float32 [n, width], into a buffer, where the next step finds them."""
        _check(rows, torch.float32, (*rows.shape[:1], self.view(buffer, 0).shape[1]), "rows")
        self.view(buffer, rows.shape[0]).copy_(rows)

    def read(self, buffer: int, n_rows: int) -> Tensor:
        """The first rows of a buffer as the last step left them."""
        return self.view(buffer, n_rows).clone()

    def _called(self, step: StepInput, index: int) -> None:
        with one_torch_thread():
            self._calls[index](step)

    def _step(self, step: StepInput, logits: Tensor) -> Any:
        """The kernels' own view of a step."""
        n_rows, n_sequences = step.token_ids.numel(), len(step.starts) - 1
        _check(step.token_ids, torch.int64, (n_rows,), "token_ids")
        _check(step.positions, torch.int64, (n_rows,), "positions")
        _check(step.logit_rows, torch.int64, (step.logit_rows.numel(),), "logit_rows")
        if step.starts[0] != 0 or step.starts[-1] != n_rows:
            raise ValueError(f"{n_rows} rows do not go from {step.starts[0]} to {step.starts[-1]}.")
        groups, kept = [], []
        for group in step.groups:
            addresses, counts, firsts = array("Q"), array("q"), array("q", group.first_positions)
            if not len(group.sequence_slots) == len(firsts) == n_sequences:
                raise ValueError(
                    f"{n_sequences} sequences and {len(group.sequence_slots)} lists of slots do not match."
                )
            for slots in group.sequence_slots:
                _check(slots, torch.int64, (slots.numel(),), "slots")
                addresses.append(slots.data_ptr())
                counts.append(slots.numel())
            _check(group.write_slots, torch.int64, (n_rows,), "write_slots")
            numbers = (addresses, counts, firsts)
            groups.append((*(own.buffer_info()[0] for own in numbers), group.write_slots.data_ptr()))
            kept.append(numbers)
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
        self._kept_step = (starts, kept)
        return self._native.Step(
            n_rows=n_rows,
            token_ids=step.token_ids.data_ptr(),
            positions=step.positions.data_ptr(),
            n_sequences=n_sequences,
            starts=starts.buffer_info()[0],
            groups=groups,
            n_logit_rows=step.logit_rows.numel(),
            logit_rows=step.logit_rows.data_ptr(),
            rotary=tables,
            adapter_rows=step.adapter_rows,
            logits=logits.data_ptr(),
        )


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """PyTorch's threads spin after each of its operations, on the processors that the pool goes on with."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


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
