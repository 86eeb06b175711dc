"""`CpuDecoder`: the decoder of `decoder.py`, recorded as a program of the C++ kernels.

The same arithmetic in the same order, but matrices stay as the checkpoint stores them, and their inputs are quantised
to 8 bits where the matrix is. A row's result does not depend on the other rows, on how its sequence was cut, on the
number of threads or on the instruction set, to the bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from landrace.errors import CheckpointError, OptionError
from landrace.kernels.cpu import quantising, sampling
from landrace.kernels.cpu.program import (
    LOGIT_ROWS,
    LOGITS,
    MAX_HEAD_DIM,
    TILE,
    Epilogue,
    Heads,
    Part,
    Program,
    Rotary,
    StepInput,
    new_layer_cache,
)
from landrace.kernels.cpu.weights import PackedMatrix, PackedVector, WeightMemory, as_rows, total_bytes
from landrace.kernels.layer_cache import LayerCache
from landrace.kernels.mask import Sliding
from landrace.kernels.sampling_rule import SamplingRule
from landrace.models.batch import CacheView, ForwardBatch
from landrace.models.decoder import Decoder
from landrace.models.ffn_spec import Dense
from landrace.models.lora import checked_pairs
from landrace.models.lora_spec import LoraSpec
from landrace.models.rope import rotary_tables
from landrace.models.spec import LayerSpec, ModelSpec, Residual, Sandwich
from landrace.models.stored import StoredTensor

_FIRST_POSITIONS = 512


@contextmanager
def _one_torch_thread() -> Iterator[None]:
    """PyTorch's threads spin after each of its operations, on the processors that the pool goes on with."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class _Adapter:
    """A LoRA adapter's matrices, packed."""

    def __init__(self, native: ModuleType, pool: Any, pairs: Mapping[str, tuple[Tensor, Tensor]], scale: float) -> None:
        shapes = [(*as_rows(matrix)[1:], *matrix.shape) for pair in pairs.values() for matrix in pair]
        self._memory = WeightMemory(native, pool, total_bytes(native, shapes, ()))
        self.scale = scale
        self.pairs = {name: (self._pack(a), self._pack(b)) for name, (a, b) in pairs.items()}

    def _pack(self, matrix: Tensor) -> PackedMatrix:
        rows, block_type = as_rows(matrix)
        return self._memory.matrix(rows, block_type, matrix.shape[1])


class CpuDecoder:
    """A decoder-only transformer on the C++ kernels.

    `isa` is one of the instruction sets that the extension lists; None: the best. OptionError for a model that the
    kernels cannot compute.
    """

    differentiable = False
    cache_tile = TILE

    def __init__(self, spec: ModelSpec, native: ModuleType, *, threads: int, isa: str | None = None) -> None:
        widest = max(layer.mixer.head_dim for layer in spec.layers)
        if widest > MAX_HEAD_DIM:
            raise OptionError(
                f"The C++ kernels compute heads of at most {MAX_HEAD_DIM} channels, and this model has {widest}.",
                hint="Choose the reference kernels.",
            )
        self.spec = spec
        self.device = torch.device("cpu")
        self.threads = threads
        self._native = native
        self.isa = isa or native.instruction_sets()[-1]
        self._pool = native.ThreadPool(threads)
        self._matrices: dict[str, PackedMatrix] = {}
        self._vectors: dict[str, PackedVector] = {}
        self._adapters: dict[int, _Adapter] = {}
        self._ropes = list(dict.fromkeys(layer.mixer.rope for layer in spec.layers if layer.mixer.rope))
        self._tables: dict[int, tuple[Tensor, Tensor]] = {}
        """By index of the rope."""
        self._bound: tuple[LayerCache, ...] = ()
        self.weight_bytes = 0

    @property
    def cache_dtype(self) -> torch.dtype:
        """The cache's type where nothing else is asked for."""
        return cache_dtype_beside(matrix.block_type for matrix in self._matrices.values())

    def load(self, tensors: Mapping[str, StoredTensor]) -> CpuDecoder:
        """Packs every parameter. Raises CheckpointError for an unknown name, a wrong shape or one that is missing."""
        expected = Decoder(self.spec).expected_shapes()
        for name, tensor in tensors.items():
            if name not in expected:
                raise CheckpointError(f"The model has no place for the tensor {name!r}.")
            if tensor.shape != expected[name]:
                raise CheckpointError(
                    f"The tensor {name!r} has shape {list(tensor.shape)}, but the configuration says "
                    f"{list(expected[name])}."
                )
        if missing := [name for name in expected if name not in tensors]:
            some = ", ".join(missing[:5])
            raise CheckpointError(f"The checkpoint lacks {len(missing)} tensors the configuration asks for: {some}.")
        matrices = [(t.block_type, *t.shape) for t in tensors.values() if len(t.shape) == 2]
        vectors = [t.shape[0] for t in tensors.values() if len(t.shape) == 1]
        self._memory = WeightMemory(self._native, self._pool, total_bytes(self._native, matrices, vectors))
        # In the order of use, so that a step reads memory from front to back.
        with _one_torch_thread():
            for name in expected:
                tensor = tensors[name]
                if len(tensor.shape) == 2:
                    self._matrices[name] = self._memory.matrix(tensor.read(), tensor.block_type, tensor.shape[1])
                else:
                    self._vectors[name] = self._memory.vector(tensor.values())
        self.weight_bytes = self._memory.used_bytes
        self._program = self._record()
        return self

    def quantize_weights(self, values: Tensor, block_type: str) -> Tensor:
        """See `kernels.cpu.quantising`."""
        return quantising.quantize_weights(self._native, self._pool, self.isa, values, block_type)

    def new_cache(self, n_slots: Sequence[int], dtype: torch.dtype | None = None) -> tuple[LayerCache, ...]:
        """See `ServingDecoder`: multiples of 16 tokens, in float32, float16, bfloat16 or int8; None: `cache_dtype`."""
        return new_cpu_cache(self.spec, n_slots, dtype or self.cache_dtype)

    def add_adapter(self, spec: LoraSpec, tensors: Mapping[str, Tensor]) -> int:
        """Takes an adapter under the names `lora.attach_adapter` knows; returns its slot for `AdapterRows`."""
        shapes = {
            name.removesuffix(".weight"): (matrix.n_out, matrix.n_in)
            for name, matrix in self._matrices.items()
            if name.startswith("layers.") and name.split(".")[-2] in spec.targets
        }
        slot = max(self._adapters, default=-1) + 1
        self._adapters[slot] = _Adapter(self._native, self._pool, checked_pairs(shapes, spec, tensors), spec.scale)
        self._program = self._record()
        return slot

    def remove_adapter(self, slot: int) -> None:
        del self._adapters[slot]
        self._program = self._record()

    def __call__(self, batch: ForwardBatch) -> Tensor:
        """Float32 logits [R, vocab] of the wanted rows."""
        return self._program.run(self._step(batch))

    def choose_tokens(
        self, logits: Tensor, rows: Sequence[int], rules: Sequence[SamplingRule], uniforms: Sequence[float]
    ) -> list[int]:
        """See `ServingDecoder`."""
        return sampling.choose_tokens(self._native, self._pool, self.isa, logits, rows, rules, uniforms, self.threads)

    def profile(self, batch: ForwardBatch) -> list[tuple[str, float]]:
        """Computes a step operation by operation: (name, seconds) of each."""
        return self._program.profile(self._step(batch), self.threads)

    def _step(self, batch: ForwardBatch) -> StepInput:
        cache = batch.cache or self._whole_sequences(batch)
        if cache.layers is not self._bound:
            self._program.bind_cache(cache.layers)
            self._bound = cache.layers
        rows: list[list[int]] = [[] for _ in range(max(self._adapters, default=-1) + 1)]
        for adapter in batch.adapters:
            rows[adapter.slot] = list(range(batch.token_ids.numel())) if adapter.rows is None else adapter.rows.tolist()
        logit_rows = batch.logit_rows
        n_positions = max([slots.numel() for slots in cache.sequence_slots], default=0)
        return StepInput(
            token_ids=batch.token_ids,
            positions=batch.positions,
            starts=batch.starts,
            slots=cache.sequence_slots,
            write_slots=cache.write_slots,
            logit_rows=torch.arange(batch.token_ids.numel()) if logit_rows is None else logit_rows,
            rotary=[self._rotary(index, batch, n_positions) for index in range(len(self._ropes))],
            adapter_rows=rows,
        )

    def _whole_sequences(self, batch: ForwardBatch) -> CacheView:
        """A cache for sequences that came without one."""
        slots, first = [], 0
        for start, end in zip(batch.starts, batch.starts[1:], strict=False):
            slots.append(torch.arange(first, first + end - start))
            first += -(-(end - start) // TILE) * TILE
        n_groups = len(self.spec.cache_groups)
        layers = self.new_cache([first] * n_groups, torch.float32)
        return CacheView.whole(layers, n_groups, torch.cat(slots), tuple(slots))

    def _rotary(self, index: int, batch: ForwardBatch, n_positions: int) -> Rotary:
        tables = self._tables.get(index)
        if tables is None or tables[0].shape[0] < n_positions:
            positions = torch.arange(max(2 * n_positions, _FIRST_POSITIONS))
            tables = self._tables[index] = rotary_tables(self._ropes[index], positions)
        return Rotary(*tables, batch.positions)

    def _record(self) -> Program:
        """The forward pass as a program."""
        spec, program = self.spec, Program(self._native, self._pool, self.isa)
        x = program.buffer(spec.d_model)
        table = self._matrices["embed_tokens.weight"]
        program.embedding(table, spec.embed_scale, x)
        buffers = _Buffers(program)
        for index, layer in enumerate(spec.layers):
            self._record_attention(program, buffers, index, layer, x)
            self._record_feed_forward(program, buffers, index, layer, x)
        head = table if spec.tie_embeddings else self._matrices["lm_head.weight"]
        part = Part(head, LOGITS, self._vectors.get("lm_head.bias"), factor=1.0 / spec.logit_divisor)
        norm = self._vectors["norm.weight"]
        program.product("head", x, [part], norm=norm, eps=spec.norm_eps, rows=LOGIT_ROWS, gather=True)
        self._bound = ()
        return program

    def _record_attention(self, program: Program, buffers: _Buffers, index: int, layer: LayerSpec, x: int) -> None:
        spec, name, heads = layer.mixer, f"layers.{index}.self_attn", _heads(layer)
        q = buffers("q", heads.n_heads * heads.head_dim)
        k, v = (buffers(kind, heads.n_kv_heads * heads.head_dim) for kind in "kv")
        out = buffers("mixed", heads.n_heads * heads.head_dim)
        norm = self._vectors[f"layers.{index}.input_layernorm.weight"]
        parts = [self._part(f"{name}.{kind}_proj", buffer) for kind, buffer in (("q", q), ("k", k), ("v", v))]
        program.product("qkv", x, parts, norm=norm, eps=self.spec.norm_eps)
        self._record_adapters(program, buffers, name, x, norm, {"q_proj": q, "k_proj": k, "v_proj": v})
        program.rope(
            index,
            heads,
            q,
            k,
            v,
            rotary=self._ropes.index(spec.rope) if spec.rope else None,
            rotary_half=spec.rope.rotary_dim // 2 if spec.rope else 0,
            scale=spec.scale,
            norm="none" if spec.qk_norm is None else spec.qk_norm.when,
            q_norm=self._vectors.get(f"{name}.q_norm.weight"),
            k_norm=self._vectors.get(f"{name}.k_norm.weight"),
            eps=self.spec.norm_eps,
        )
        program.attention(index, heads, q, out, window=spec.mask.window if isinstance(spec.mask, Sliding) else None)
        self._record_branch_end(program, buffers, f"{name}.o_proj", out, x, "post_self_attn_layernorm", layer.residual)

    def _record_feed_forward(self, program: Program, buffers: _Buffers, index: int, layer: LayerSpec, x: int) -> None:
        name, width = f"layers.{index}.mlp", _dense(layer).d_hidden
        norm = self._vectors[f"layers.{index}.post_attention_layernorm.weight"]
        hidden = buffers("hidden", width)
        gate, up = (self._part(f"{name}.{kind}_proj", hidden) for kind in ("gate", "up"))
        if any(
            f"{name}.{kind}_proj" in adapter.pairs for adapter in self._adapters.values() for kind in ("gate", "up")
        ):
            gate_out, up_out = buffers("gate", width), buffers("up", width)
            parts = [replace(gate, out=gate_out), replace(up, out=up_out)]
            program.product("gate, up", x, parts, norm=norm, eps=self.spec.norm_eps)
            self._record_adapters(program, buffers, name, x, norm, {"gate_proj": gate_out, "up_proj": up_out})
            program.swiglu(gate_out, up_out, hidden)
        else:
            both = replace(gate, epilogue=Epilogue.SWIGLU, gated=up.matrix, gated_bias=up.bias)
            program.product("gate, up", x, [both], norm=norm, eps=self.spec.norm_eps)
        self._record_branch_end(program, buffers, f"{name}.down_proj", hidden, x, "post_mlp_layernorm", layer.residual)

    def _record_branch_end(
        self,
        program: Program,
        buffers: _Buffers,
        projection: str,
        branch: int,
        x: int,
        sandwich_norm: str,
        residual: Residual,
    ) -> None:
        """A branch's last projection and its way into the residual stream."""
        room, _, leaf = projection.rpartition(".")
        factor = residual.scale
        if isinstance(residual, Sandwich):
            out = buffers("branch", self.spec.d_model)
            program.product(leaf, branch, [self._part(projection, out)])
            self._record_adapters(program, buffers, room, branch, None, {leaf: out})
            norm = self._vectors[f"{room.rpartition('.')[0]}.{sandwich_norm}.weight"]
            program.norm(out, norm, self.spec.norm_eps, x, add=factor)
        else:
            program.product(leaf, branch, [replace(self._part(projection, x), epilogue=Epilogue.ADD, factor=factor)])
            self._record_adapters(program, buffers, room, branch, None, {leaf: x}, factor)

    def _record_adapters(
        self,
        program: Program,
        buffers: _Buffers,
        room: str,
        x: int,
        norm: PackedVector | None,
        outputs: Mapping[str, int],
        factor: float = 1.0,
    ) -> None:
        """output = output + factor * scale * B A x, for the rows of each adapter."""
        for slot, adapter in self._adapters.items():
            for leaf, out in outputs.items():
                pair = adapter.pairs.get(f"{room}.{leaf}")
                if pair is None:
                    continue
                a, b = pair
                low = buffers("low", a.n_out)
                program.product("adapter", x, [Part(a, low)], norm=norm, eps=self.spec.norm_eps, rows=slot, gather=True)
                part = Part(b, out, epilogue=Epilogue.ADD, factor=factor * adapter.scale)
                program.product("adapter", low, [part], rows=slot, scatter=True)

    def _part(self, projection: str, out: int) -> Part:
        return Part(self._matrices[f"{projection}.weight"], out, self._vectors.get(f"{projection}.bias"))


class _Buffers:
    """A program's buffers by purpose and width, shared by all layers."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._made: dict[tuple[str, int], int] = {}

    def __call__(self, purpose: str, width: int) -> int:
        if (purpose, width) not in self._made:
            self._made[purpose, width] = self._program.buffer(width)
        return self._made[purpose, width]


def cache_dtype_beside(block_types: Iterable[str]) -> torch.dtype:
    """How the cache is kept beside matrices of these types unless somebody asks otherwise: as exact as they are."""
    return torch.float32 if all(kind in ("F32", "F16") for kind in block_types) else torch.float16


def new_cpu_cache(spec: ModelSpec, n_slots: Sequence[int], dtype: torch.dtype) -> tuple[LayerCache, ...]:
    """See `CpuDecoder.new_cache`; needs no weights."""
    if any(n % TILE for n in n_slots):
        raise OptionError(
            f"The C++ kernels keep the cache in tiles of {TILE} tokens, and {max(n_slots)} are not whole tiles.",
            hint=f"Choose a block_size that {TILE} divides.",
        )
    slots = {layer: n for group, n in zip(spec.cache_groups, n_slots, strict=True) for layer in group.layers}
    return tuple(new_layer_cache(_heads(layer), slots[index], dtype) for index, layer in enumerate(spec.layers))


def _dense(layer: LayerSpec) -> Dense:
    assert isinstance(layer.ffn, Dense)
    return layer.ffn


def _heads(layer: LayerSpec) -> Heads:
    spec = layer.mixer
    return Heads(spec.n_heads, spec.n_kv_heads, spec.head_dim)
