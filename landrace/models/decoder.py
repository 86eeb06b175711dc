"""`Decoder`: the one forward pass, built from a `ModelSpec`, and its weights for PyTorch.

Parameters carry the names transformers gives Llama's, without the `model.` prefix.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import assert_never

import torch
from torch import Tensor, nn

from landrace.errors import OptionError
from landrace.kernels.layer_cache import CompressedCache, LayerCache, LayerMemory, LayerState
from landrace.kernels.reference import sampling
from landrace.kernels.sampling_rule import SamplingRule
from landrace.models.adapters import AdapterBank, adapter_of
from landrace.models.batch import ForwardBatch
from landrace.models.build import stream_head
from landrace.models.compressed_spec import Compressed
from landrace.models.layer import Layer
from landrace.models.load_weights import load_weights
from landrace.models.lora_spec import LoraSpec
from landrace.models.mixer_spec import Gdn, Gqa, Kda, Lightning, Mla
from landrace.models.mtp import mtp_block
from landrace.models.ops import Ops, X
from landrace.models.params import Linear, Norm, Table, adaptable, as_parameter, name_weights
from landrace.models.reference_ops import Reduce, ReferenceOps
from landrace.models.residual.attention import BlockAttention
from landrace.models.residual.gated import GatedHead
from landrace.models.residual.hyper import HyperHead
from landrace.models.spec import AttentionResiduals, GatedStreams, LayerSpec, ModelSpec


def new_layer_memory(
    spec: LayerSpec, slots: Sequence[int], dtype: torch.dtype, device: torch.device, n_guesses: int
) -> LayerMemory:
    """Zeroed memory for what the layer keeps of so many tokens, by group of its `caches`, or for so many states and
    guesses beside them, in the reference kernels' layout."""
    zeros = partial(torch.zeros, dtype=dtype, device=device)
    mixer, index, n_slots = spec.mixer, None, slots[0]
    if isinstance(mixer, Gqa | Mla) and mixer.index_dim:
        inputs = None
        if mixer.pool > 1:
            inputs = LayerCache(zeros(slots[1], 1, mixer.index_dim + mixer.index_gates))
        index = LayerCache(zeros(slots[-1], 1, mixer.index_dim), inputs=inputs)
    match mixer:
        case Gqa():
            shape = (n_slots, mixer.n_kv_heads, mixer.head_dim)
            return LayerCache(zeros(*shape), zeros(*shape), index=index)
        case Mla():
            return LayerCache(zeros(n_slots, 1, mixer.kv_rank + mixer.rope_dim), index=index)
        case Compressed():
            keys = LayerCache(zeros(n_slots, 1, mixer.head_dim))
            compressed = tuple(
                LayerCache(
                    zeros(slots[1], 1, width),
                    inputs=LayerCache(torch.zeros(n_slots, mixer.input_width(width), device=device)),
                )
                for width in mixer.compressed_widths
            )
            return CompressedCache(keys, compressed)
        case Gdn() | Kda() | Lightning():
            shapes = (*spec.first_states(n_guesses), *mixer.state_shapes(n_guesses))
            return LayerState(tuple(torch.zeros(n_slots, *shape, device=device) for shape in shapes), n_guesses)
        case _:
            assert_never(mixer)


class Decoder(nn.Module):
    """A decoder-only transformer.

    `dtype` is how matrices are stored; `product_dtype` (default: `dtype`) is what their products run in: bfloat16 over
    float32 weights trains all of a model at bfloat16's speed without losing small updates. Built without
    memory (on the meta device); `load` gives it weights.
    """

    cache_tile = 1
    slow: tuple[str, ...] = ()

    def __init__(
        self, spec: ModelSpec, *, dtype: torch.dtype = torch.float32, product_dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        self.spec = spec
        self.dtype = dtype
        self.product_dtype = product_dtype or dtype
        self.adapters = AdapterBank()
        with torch.device("meta"):
            self.embed_tokens = Table(spec.vocab_size, spec.d_model, dtype)
            self.layers = nn.ModuleList(Layer(index, layer, spec, dtype) for index, layer in enumerate(spec.layers))
            self.hc_head = None if spec.streams is None else stream_head(spec.streams, spec, dtype)
            residual = spec.layers[0].residual
            self.head_blocks = None
            if isinstance(residual, AttentionResiduals):
                self.head_blocks = BlockAttention(residual, spec.d_model, spec.norm_eps)
            self.norm = None if isinstance(spec.streams, GatedStreams) else Norm(spec.d_model, spec.norm_eps)
            self.lm_head = None
            if not spec.tie_embeddings:
                self.lm_head = Linear(spec.d_model, spec.vocab_size, spec.lm_head_bias, dtype, "out")
            self.mtp = None if spec.mtp is None else mtp_block(spec.mtp, spec, dtype)
        name_weights(self)
        self.eval()

    @property
    def device(self) -> torch.device:
        return self.embed_tokens.weight.device

    def named_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Every weight under the name `load` takes it by."""
        for name, parameter in self.named_parameters():
            yield name, parameter.detach()

    def load(
        self, tensors: Iterable[tuple[str, Tensor]], device: str | torch.device = "cpu", under: str = ""
    ) -> Decoder:
        """Takes every parameter whose name begins with `under` exactly once, cast to this decoder's dtypes.

        Raises CheckpointError for an unknown name, a second copy, a wrong shape, a tensor that is not floating point,
        or a parameter nobody gave.
        """
        load_weights(self, tensors, device, under)
        return self

    def unload(self, under: str) -> None:
        """Gives back the memory of the parameters whose names begin so."""
        for name, parameter in [pair for pair in self.named_parameters() if pair[0].startswith(under)]:
            path, _, leaf = name.rpartition(".")
            setattr(self.get_submodule(path), leaf, as_parameter(parameter.detach().to("meta")))

    def around_step(self) -> AbstractContextManager[None]:
        """See `ServingDecoder`."""
        return torch.inference_mode()

    def new_cache(
        self, n_slots: Sequence[int], dtype: torch.dtype | None = None, n_guesses: int = 0
    ) -> tuple[LayerMemory, ...]:
        """Zeroed memory, so that no row ever holds what was there before: see `ServingDecoder`.

        `dtype` is float32 (None: the same), bfloat16 or float16; OptionError for another.
        """
        if dtype not in (None, torch.float32, torch.bfloat16, torch.float16):
            raise OptionError(
                "The reference kernels, which compute here, keep no cache in 8 or 4 bits: the C++ kernels alone do.",
                hint="Choose float16, bfloat16 or float32, or the C++ kernels (--kernels cpu).",
            )
        kind = dtype or torch.float32
        return tuple(
            new_layer_memory(layer, slots, kind, self.device, n_guesses)
            for layer, slots in zip(self.spec.caching_layers, self.spec.slots_by_layer(n_slots), strict=True)
        )

    def adaptable(self, targets: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
        """The shapes of the weights that an adapter with these targets is made for, by name."""
        return adaptable(self, targets)

    def add_adapter(self, spec: LoraSpec, tensors: Mapping[str, Tensor]) -> int:
        """Takes an adapter (`adapters.adapter_of`); returns its place for `AdapterRows`. Float32 tensors on this device
        are kept, not copied."""
        return self.adapters.add(adapter_of(self.adaptable(spec.targets), spec, tensors, self.device))

    def remove_adapter(self, place: int) -> None:
        """Takes the adapter in `place` off again."""
        self.adapters.remove(place)

    @property
    def weight_bytes(self) -> int:
        """Memory that the weights take."""
        return sum(self.held_bytes.values())

    @property
    def held_bytes(self) -> dict[str, int]:
        """Memory that each weight takes, by name."""
        return {name: parameter.nbytes for name, parameter in self.named_parameters()}

    def forward(self, batch: ForwardBatch, *, reduce: Reduce | None = None) -> Tensor:
        """Float32 logits [R, vocab] of the wanted rows (all T without `logit_rows`), or what `reduce` makes of them."""
        return self.compute(ReferenceOps(batch, self.adapters, self.product_dtype, reduce))

    def with_hidden(self, batch: ForwardBatch, operations: type[ReferenceOps] = ReferenceOps) -> tuple[Tensor, Tensor]:
        """See `ServingDecoder`."""
        ops = operations(batch, self.adapters, self.product_dtype, None)
        logits = self.compute(ops, keep_hidden=True) if batch.hidden is None else self.guess(ops)
        assert ops.kept_hidden is not None
        return logits, ops.kept_hidden

    def compute(self, ops: Ops[X], *, keep_hidden: bool = False) -> X:
        """The forward pass, for any backend. `keep_hidden`: what the head reads of every row is kept, as it always is
        where an MTP layer needs it."""
        x = self.begin(ops)
        for layer in self.layers:
            x = layer(x, ops)
        return self.end(x, ops, keep_hidden=keep_hidden)

    def begin(self, ops: Ops[X]) -> X:
        """What the first layer reads."""
        x = ops.embed(self.embed_tokens, self.spec.embed_scale)
        return x if self.spec.streams is None else ops.widen(x, self.spec.streams.count)

    def end(self, x: X, ops: Ops[X], *, keep_hidden: bool = False) -> X:
        """What the head makes of the last layer's result."""
        if self.head_blocks is not None:
            x = self.head_blocks(x, ops)
        return self._head(x, self.hc_head, self.norm, ops, keep_hidden=keep_hidden)

    def guess(self, ops: Ops[X]) -> X:
        """The MTP layer's pass."""
        assert self.mtp is not None
        embedded = ops.embed(self.embed_tokens, self.spec.embed_scale)
        streams = self.spec.streams
        width = self.spec.d_model * (1 if streams is None else streams.count)
        x: X = self.mtp(ops.hidden(width), embedded, ops)
        return self._head(x, self.mtp.hc_head, self.mtp.norm, ops)

    def _head(
        self,
        x: X,
        hc_head: HyperHead | GatedHead | None,
        norm: Norm | None,
        ops: Ops[X],
        *,
        keep_hidden: bool = False,
    ) -> X:
        """Logits of what a last layer leaves."""
        if self.mtp is not None:
            ops.keep_hidden(x, norm if hc_head is None else None)
        if hc_head is not None:
            x = hc_head(x, ops)
        if keep_hidden and self.mtp is None:
            ops.keep_hidden(x, norm)
        return ops.head(x, self.lm_head or self.embed_tokens, norm, self.spec.logit_divisor)

    def choose_tokens(
        self,
        logits: Tensor,
        rows: Sequence[int],
        rules: Sequence[SamplingRule],
        uniforms: Sequence[float],
        masks: Sequence[Tensor | None] = (),
    ) -> list[int]:
        """See `ServingDecoder`."""
        return sampling.choose_tokens(logits, rows, rules, uniforms, masks)
