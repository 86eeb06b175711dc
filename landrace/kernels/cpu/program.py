"""`Program`: a forward pass recorded as operations over buffers, and replayed by one call into the C++ kernels.

Everything that reaches the kernels is checked: shapes, types and strides of a step's tensors here, fields of operations
by `schema`, and which buffers and weights go together by the operations themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from types import ModuleType
from typing import Any, Literal

import torch
from torch import Tensor

from landrace.kernels.activation import SWIGLU, Activation
from landrace.kernels.cpu.cache import CACHE_TYPES, CacheShape, Heads, IndexKeys, check_layer_cache
from landrace.kernels.cpu.checks import check_tensor
from landrace.kernels.cpu.part import Part, by_order
from landrace.kernels.cpu.schema import mask_fields, native_fields
from landrace.kernels.cpu.step import NativeStep, StepInput
from landrace.kernels.cpu.weights import PackedMatrix, PackedVector
from landrace.kernels.head_form import QkNorm, Temperature
from landrace.kernels.layer_cache import INT4, LayerCache, LayerState
from landrace.kernels.mask import FULL, Mask

EmbeddingOf = Literal["tokens", "positions", "types"]


class Program:
    """Records operations; `run` replays them. Results do not depend on `threads` or on the instruction set."""

    def __init__(self, native: ModuleType, pool: Any, isa: str) -> None:
        self._native = native
        self._pool = pool
        self._program = native.Program(pool, isa)
        self.logits: int = native.LOGITS
        """The buffer of a step's logits."""
        self.logit_rows: int = native.LOGIT_ROWS
        """What `product` takes for the rows whose logits are wanted."""
        self.all_rows: int = native.ALL_ROWS
        """What operations take for all rows."""
        self._shapes: list[CacheShape] = []
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

    def add_writer(
        self,
        operation: str,
        layer: int,
        shape: CacheShape,
        *,
        channels: int,
        rotary: int | None,
        rotary_half: int,
        group: int,
        **fields: Any,
    ) -> None:
        """Records the operation that writes a layer's cache, and turns `channels` channels by one of the step's tables.

        `group`: the cache group of the layer, one of `StepInput.groups`.
        """
        turning: dict[str, Any] = {"rotary": rotary, "rotary_half": rotary_half or None}
        self.add_turning(operation, channels, turning, layer=layer, **vars(shape), group=group, **fields)
        self.keep_layer(shape, group)

    def keep_layer(self, shape: CacheShape, group: int) -> None:
        """Says that the operation before writes a layer's cache."""
        self._shapes.append(shape)
        self._groups.append(group)

    def turn(self, x: int, out: int, heads: Heads, *, rotary: int, rotary_half: int) -> None:
        """out = x with the heads of queries turned by `StepInput.rotary[rotary]`."""
        turning = {"rotary": rotary, "rotary_half": rotary_half}
        self.add_turning("turn", heads.head_dim, turning, x=x, out=out, n_heads=heads.n_heads, head_dim=heads.head_dim)

    def turn_pairs(
        self,
        x: int,
        n_heads: int,
        head_dim: int,
        *,
        rotary: int,
        rotary_half: int,
        eps: float | None = None,
        scale: float = 1.0,
        back: bool = False,
    ) -> None:
        """x = `scale` times its heads, normalised without a weight where there is an eps, with the last channels turned
        as neighbours, or back."""
        turning = {"rotary": rotary, "rotary_half": rotary_half}
        facts = {"n_heads": n_heads, "head_dim": head_dim, "eps": eps, "scale": scale, "back": back}
        self.add_turning("turn_pairs", head_dim, turning, x=x, **facts)

    def add_turning(self, operation: str, channels: int, turning: Mapping[str, Any], **fields: Any) -> None:
        """Records an operation that turns `channels` channels by one of the step's tables."""
        known, rotary, half = self._rotary_halves, turning["rotary"], turning["rotary_half"] or 0
        if rotary is not None and not 0 <= rotary <= len(known):
            raise ValueError(f"Tables are numbered in order: the next is {len(known)}, not {rotary}.")
        if (rotary is None) != (half == 0):
            raise ValueError(f"{channels} channels cannot turn in {half} pairs.")
        if rotary is not None and rotary < len(known) and known[rotary] != half:
            raise ValueError("One table of angles serves rotations of one size.")
        self.add(operation, **turning, **fields)
        if rotary == len(known):
            known.append(half)

    def call(self, name: str, function: Callable[[StepInput], None]) -> None:
        """Calls function(step) there: what the kernels do not have an operation for, on one thread of PyTorch's.

        The function reads and writes buffers through `view`. What it raises ends the step.
        """
        self.add("call", name=name, index=len(self._calls))
        self._calls.append(function)

    def embedding(
        self, table: PackedMatrix, factor: float, out: int, *, of: EmbeddingOf = "tokens", add: bool = False
    ) -> None:
        """out = factor * (the rows of `table` that the tokens name, or their positions or types), or with `add`
        out = out + that."""
        self.add("embedding", table=table, factor=factor, out=out, of=of, add=add)

    def norm(
        self,
        x: int,
        weight: PackedVector,
        eps: float,
        out: int,
        *,
        factor: float = 1.0,
        add: bool = False,
        bias: PackedVector | None = None,
    ) -> None:
        """out = factor * norm(x), or with `add` out = out + that. With a bias it is a LayerNorm."""
        self.add("norm", x=x, weight=weight, eps=eps, out=out, factor=factor, add=add, bias=bias)

    def gate(self, gate: int, up: int, out: int, activation: Activation = SWIGLU) -> None:
        """out = activation(gate, up)."""
        self.add("gate", gate=gate, up=up, out=out, activation=[vars(activation)])

    def join(self, xs: Sequence[int], out: int) -> None:
        """out = the rows of `xs` side by side."""
        self.add("join", parts=[{"x": x} for x in xs], out=out)

    def gate_heads(self, x: int, gate: int, out: int) -> None:
        """out = each head of x times the sigmoid of its own gate: x [n_heads * head_dim], gate [n_heads], or as many
        gates as x has values."""
        self.add("gate_heads", x=x, gate=gate, out=out)

    def product(
        self,
        name: str,
        x: int,
        parts: Sequence[Part],
        *,
        norm: PackedVector | None = None,
        eps: float = 0.0,
        rows: int | None = None,
        gather: bool = False,
        scatter: bool = False,
    ) -> None:
        """Rows of `x`, normalised first where `norm` is given, times every part's matrix.

        `rows` says which: `logit_rows`, an adapter's slot, or None for all. With `gather` they are taken from their
        places in `x`, with `scatter` put into their places in the outputs; otherwise they lie densely. Matrices whose
        inputs are in orders of their own are an operation for each order; one that gates another must have the same.
        """
        for order, own in by_order(parts):
            records = [vars(part) | {"activation": [vars(part.activation)]} for part in own]
            self.add(
                "product", name=name, x=x, parts=records, norm=norm, eps=eps, order=order,
                rows=self.all_rows if rows is None else rows, gather=gather, scatter=scatter,
            )  # fmt: skip

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
        norm: QkNorm | None = None,
        q_norm: PackedVector | None = None,
        k_norm: PackedVector | None = None,
        eps: float = 0.0,
        temperature: Temperature | None = None,
        group: int = 0,
    ) -> None:
        """Turns the heads of q and k by `StepInput.rotary[rotary]`, multiplies q by `scale` and by what `temperature`
        says for its position, and writes k and v to the cache.

        Channel i of a head turns with channel i + rotary_half. `norm` takes the weights q_norm and k_norm unless it is
        l2. `group`: the cache group of the layer, one of `StepInput.groups`.
        """
        if norm is not None and (norm.kind == "rms") != (q_norm is not None and k_norm is not None):
            raise ValueError("An RMS norm over heads needs weights for q and for k, and another has none.")
        self.add_writer(
            "rope", layer, heads, channels=heads.head_dim, rotary=rotary, rotary_half=rotary_half, group=group,
            q=q, k=k, v=v, scale=scale, norm=norm and norm.when, over_all_heads=norm and norm.over == "all_heads",
            q_norm=q_norm, k_norm=k_norm, eps=eps, temperature=temperature and temperature.scale,
            floor=temperature and temperature.floor,
        )  # fmt: skip

    def attention(
        self,
        layer: int,
        heads: Heads,
        q: int,
        out: int,
        *,
        mask: Mask = FULL,
        sinks: PackedVector | None = None,
        slopes: Tensor | None = None,
        most: int | None = None,
        onset: int | None = None,
        together: bool | None = None,
        chunk: int | None = None,
        further: tuple[int, int] | None = None,
    ) -> None:
        """out = softmax(q k) v over those of the sequence's cached positions that `mask` shows. `most`: over what the
        last choice of `selection` of so many positions is, for rows from `onset` on (None: from `most` on); it is one
        for all heads `together`, or one for each head of keys.

        sinks [n_heads]: scores that take part in each head's softmax and have no value. slopes [n_heads]: times
        (position of the key - position of the row), added to the head's scores. chunk: positions are counted anew after
        so many; q meets the keys of its own chunk, and `further` those of the chunk before and of all earlier ones.
        """
        q_next, q_older = further or (None, None)
        self.add(
            "attention", layer=layer, **vars(heads), q=q, out=out, **mask_fields(mask), sinks=sinks, slopes=slopes,
            most=most, onset=onset, together=together, chunk=chunk, q_next=q_next, q_older=q_older,
        )  # fmt: skip

    def bind_cache(self, layers: Sequence[LayerCache]) -> None:
        """Says where the layers' keys and values are, a layer's before its indexer's. The tensors must live as long as
        they are bound."""
        if len(layers) != len(self._shapes):
            raise ValueError(f"The program has {len(self._shapes)} layers of attention, the cache {len(layers)}.")
        for group in set(self._groups):
            own = [cache for cache, other in zip(layers, self._groups, strict=True) if other == group]
            sizes = {cache.keys.shape[0] for cache in own}
            if len(sizes) > 1:
                raise ValueError(f"The layers of a cache group have one number of tiles, not {sorted(sizes)}.")
        chosen = any(isinstance(shape, IndexKeys) for shape in self._shapes)
        if chosen and any(cache.keys.dtype == INT4 for cache in layers):
            raise ValueError("What an indexer chooses is kept in 8 bits at the least.")
        for layer, cache in enumerate(layers):
            n_slots = check_layer_cache(self._native, cache, self._shapes[layer])
            self._program.bind_cache(
                layer, CACHE_TYPES[cache.keys.dtype], cache.keys.data_ptr(),
                0 if cache.key_scales is None else cache.key_scales.data_ptr(),
                0 if cache.value_scales is None else cache.value_scales.data_ptr(), n_slots,
            )  # fmt: skip
        self._kept_cache = list(layers)

    def bind_states(self, layers: Sequence[LayerState]) -> None:
        """Says where the states are: for each part that operations keep a part of a layer's, in order.

        The tensors must live as long as they are bound.
        """
        sizes: list[tuple[int, int]] = self._program.state_sizes
        parts = [part for layer in layers for part in layer.parts]
        n_guesses = max((layer.n_guesses for layer in layers), default=0)
        if len(parts) != len(sizes):
            raise ValueError(f"The program keeps {len(sizes)} parts of a state, not {len(parts)}.")
        n_states = {part.shape[0] for part in parts}
        if len(n_states) > 1:
            raise ValueError(f"All parts have one number of states, not {sorted(n_states)}.")
        for index, (part, (size, guess_size)) in enumerate(zip(parts, sizes, strict=True)):
            whole = size + n_guesses * guess_size
            if part[:1].numel() != min(part.shape[0], 1) * whole:
                raise ValueError(f"A part of {whole} values a state does not lie in {list(part.shape)}.")
            check_tensor(part, torch.float32, tuple(part.shape), "states")
            self._program.bind_state(index, part.data_ptr(), part.shape[0], n_guesses)
        self._kept_states = list(parts)

    def run(self, step: StepInput, threads: int = 0) -> Tensor:
        """Computes a step and returns its logits, float32 [R, width of the part that stores to `logits`].

        `threads`: 0 for as many of the pool's as were fastest lately. IndexError for a token, row or slot that does not
        exist.
        """
        logits = torch.empty(step.logit_rows.numel(), self._program.vocabulary)
        own = NativeStep(self._native, step, self._rotary_halves, logits)
        self._program.run(own.handle, threads, partial(self._called, step))
        return logits

    def profile(self, step: StepInput, threads: int) -> list[tuple[str, float]]:
        """Computes a step operation by operation: (name, seconds) of each."""
        logits = torch.empty(step.logit_rows.numel(), self._program.vocabulary)
        own = NativeStep(self._native, step, self._rotary_halves, logits)
        timings: list[tuple[str, float]] = self._program.profile(own.handle, threads, partial(self._called, step))
        return timings

    def view(self, buffer: int, n_rows: int) -> Tensor:
        """The first rows of a buffer, float32 [n_rows, width], in its own memory: until it grows."""
        rows: Tensor = self._program.view(buffer, n_rows)
        return rows

    def write(self, buffer: int, rows: Tensor) -> None:
        """Puts rows, float32 [n, width], into a buffer, where the next step finds them."""
        check_tensor(rows, torch.float32, (*rows.shape[:1], self.view(buffer, 0).shape[1]), "rows")
        self.view(buffer, rows.shape[0]).copy_(rows)

    def read(self, buffer: int, n_rows: int) -> Tensor:
        """The first rows of a buffer as the last step left them."""
        return self.view(buffer, n_rows).clone()

    def _called(self, step: StepInput, index: int) -> None:
        with one_torch_thread():
            self._calls[index](step)


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """PyTorch's threads spin after each of its operations, on the processors that the pool goes on with."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
