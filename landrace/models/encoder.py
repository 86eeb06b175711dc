"""`Encoder`: a loaded encoder, on whichever kernels compute it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate, chain
from typing import Protocol

import torch
from torch import Tensor

from landrace.errors import OptionError, RequestError
from landrace.models.adapters import AdapterBank
from landrace.models.batch import ForwardBatch
from landrace.models.encoder_spec import EncoderSpec
from landrace.models.encoder_tree import EncoderTree
from landrace.models.load_weights import load_weights
from landrace.models.reference_ops import ReferenceOps


class EncoderBackend(Protocol):
    """What computes an encoder's passes."""

    kernels: str
    """The C++ kernels' instruction set, or reference."""
    weight_bytes: int

    def compute(self, batch: ForwardBatch) -> Tensor:
        """The final row of each token, float32 [T, d_model]."""
        ...

    def classify(self, batch: ForwardBatch) -> Tensor:
        """The labels' scores of `ForwardBatch.hidden`, float32 [T, n_labels]."""
        ...


class Encoder:
    """Reads sequences as a whole, laid end to end: nothing is padded. On the C++ kernels a sequence's numbers do not
    depend on those beside it or on the number of threads, to the bit.

    RequestError for a sequence without tokens or longer than `spec.max_length`; IndexError for a token or type that
    does not exist.
    """

    def __init__(self, spec: EncoderSpec, backend: EncoderBackend) -> None:
        self.spec = spec
        self._backend = backend

    @property
    def kernels(self) -> str:
        """See `EncoderBackend`."""
        return self._backend.kernels

    @property
    def weight_bytes(self) -> int:
        """Memory that the weights take."""
        return self._backend.weight_bytes

    def hidden(self, sequences: Sequence[Sequence[int]], token_types: Sequence[Sequence[int]] | None = None) -> Tensor:
        """The final rows of all sequences end to end, float32 [N, d_model]; the sequences' tokens include the special
        ones. `token_types`: which of a pair of texts each is of; None: the first."""
        return self._backend.compute(self._packed(sequences, token_types))

    def scores(self, sequences: Sequence[Sequence[int]], token_types: Sequence[Sequence[int]] | None = None) -> Tensor:
        """What the checkpoint's classifier makes of each sequence's first row, float32 [B, n_labels], before any
        softmax or sigmoid. OptionError where the model has none."""
        if self.spec.classifier is None:
            raise OptionError(
                "The model has no classifier, so it gives no scores.", hint="Open a cross-encoder, such as a reranker."
            )
        batch = self._packed(sequences, token_types)
        first = self._backend.compute(batch)[list(batch.starts[:-1])]
        zeros = torch.zeros(len(first), dtype=torch.long, device=batch.token_ids.device)
        starts = tuple(range(len(first) + 1))
        return self._backend.classify(ForwardBatch(zeros, zeros, starts, zeros[:0], hidden=first))

    def _packed(self, sequences: Sequence[Sequence[int]], token_types: Sequence[Sequence[int]] | None) -> ForwardBatch:
        lengths = [len(ids) for ids in sequences]
        if not lengths or min(lengths) == 0:
            raise RequestError("There is nothing to encode: a sequence has no tokens.", field="input")
        if max(lengths) > self.spec.max_length:
            raise RequestError(
                f"A sequence has {max(lengths)} tokens, but the model reads {self.spec.max_length} at most.",
                field="input",
                hint="Cut the text into parts, or let it be truncated.",
            )
        if token_types is not None and [len(types) for types in token_types] != lengths:
            raise ValueError("Every token has one type.")
        starts = (0, *accumulate(lengths))
        before = torch.tensor(starts[:-1]).repeat_interleave(torch.tensor(lengths))
        return ForwardBatch(
            token_ids=_flat(sequences),
            positions=torch.arange(starts[-1]) - before,
            starts=starts,
            logit_rows=torch.empty(0, dtype=torch.long),
            token_types=None if token_types is None else _flat(token_types),
        )


def _flat(sequences: Sequence[Sequence[int]]) -> Tensor:
    return torch.tensor(list(chain.from_iterable(sequences)), dtype=torch.long)


class ReferenceEncoder:
    """The passes in PyTorch. `load` is the only way to weights."""

    kernels = "reference"

    def __init__(self, spec: EncoderSpec) -> None:
        self._tree = EncoderTree(spec)
        self.weight_bytes = 0

    def load(self, tensors: Iterable[tuple[str, Tensor]]) -> ReferenceEncoder:
        """Takes every parameter in float32: see `load_weights`."""
        load_weights(self._tree, tensors)
        self.weight_bytes = sum(parameter.nbytes for parameter in self._tree.parameters())
        return self

    def compute(self, batch: ForwardBatch) -> Tensor:
        """See `EncoderBackend`."""
        return self._run(batch)

    def classify(self, batch: ForwardBatch) -> Tensor:
        """See `EncoderBackend`."""
        return self._run(batch)

    @torch.inference_mode()
    def _run(self, batch: ForwardBatch) -> Tensor:
        ops = ReferenceOps(batch, AdapterBank(), torch.float32, None)
        if batch.hidden is None:
            self._tree.compute(ops)
        else:
            self._tree.classify(ops)
        assert ops.kept_hidden is not None
        return ops.kept_hidden
