"""Canonical parameters out of the tensors of a checkpoint's files: every byte is read once, straight to where it
stays, whether a parameter lies in many stored tensors or many parameters in one."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from landrace.checkpoints.tensor_info import PLAIN, Readable, require_weights
from landrace.errors import UnsupportedError
from landrace.kernels.reference.blocks import BLOCKS
from landrace.models.families.weights import Shape, Source
from landrace.models.stored import WHOLE, StoredTensor

Infos = Mapping[str, Readable]


def stored_parameters(sources: Mapping[str, Source], infos: Infos) -> dict[str, StoredTensor]:
    """Canonical name to the parameter as the files store it; nothing is read yet.

    Raises CheckpointError for tensors that a source does not fit, UnsupportedError for types that it cannot be made of.
    """
    mixed: dict[str, _Mixed] = {}
    found = {}
    for name, source in sources.items():
        read = read_by(source, infos)
        block_type = _block_type(source, read, whole=name.endswith(".table"))
        shape = source.shape({one: tensor.shape for one, tensor in read.items()})
        if source.by_head and source.transposed:
            tensor = _of_transposed_heads(read[source.tensor], shape)
        elif source.whole_rows:
            order = None if source.stacked is not None else read[source.tensor].order
            tensor = _of_spans(block_type, shape, _Spans.of(source, read), source, order)
        else:
            group = mixed.setdefault(source.tensor, _Mixed(read[source.tensor]))
            tensor = StoredTensor(block_type, shape, group.reader(name, source))
        found[name] = tensor if source.form == "plain" else _formed(source, tensor)
    return found


def read_by(source: Source, infos: Infos) -> dict[str, Readable]:
    """The tensors that the parameter is read from. Only a matrix that is rows of a single one may have its columns in
    another order: those of experts, say, each have their own."""
    ordered = source.stacked is None and source.whole_rows
    return {name: infos[name] if ordered else infos[name].in_order() for name in source.tensors}


def _block_type(source: Source, infos: Infos, whole: bool) -> str:
    """`whole`: the parameter is of whole numbers."""
    for one in source.tensors:
        require_weights(infos[one], tuple(WHOLE) if whole else tuple(BLOCKS))
    kinds = sorted({infos[one].dtype for one in source.tensors})
    if len(kinds) > 1:
        raise UnsupportedError(f"The tensors '{source.tensor}' are stored in different types: {', '.join(kinds)}.")
    if source.transposed and not source.by_head and kinds[0] not in PLAIN:
        raise UnsupportedError(f"The tensor '{source.tensor}' is stored as {kinds[0]}, but not by rows.")
    return kinds[0]


@dataclass(frozen=True)
class _Spans:
    """The stretches of the files that hold a parameter, in order."""

    each: tuple[Readable, ...]
    single: bool = False
    """Each is one entry of the parameter's first axis, not as many as it has itself."""

    @classmethod
    def of(cls, source: Source, infos: Infos) -> _Spans:
        if source.stacked is not None:
            return cls(tuple(infos[one].part(source.rows) for one in source.tensors), single=not source.joined)
        info = infos[source.tensor]
        if source.entry is not None:
            return cls((info.entry(source.entry),))
        if source.per_expert and source.rows is not None:
            return cls(tuple(info.entry(expert).part(source.rows) for expert in range(info.shape[0])), single=True)
        if source.heads is not None and source.rows is not None:
            each, (first, end) = info.shape[0] // source.heads, source.rows
            return cls(tuple(info.part((head * each + first, head * each + end)) for head in range(source.heads)))
        return cls((info.part(source.rows),))

    def part(self, first: int, end: int) -> _Spans:
        """Those of the entries [first, end)."""
        if self.single:
            return replace(self, each=self.each[first:end])
        found, at = [], 0
        for span in self.each:
            begin, stop = max(first - at, 0), min(end - at, span.shape[0])
            if begin < stop:
                found.append(span.part((begin, stop)))
            at += span.shape[0]
        return replace(self, each=tuple(found))

    def read(self) -> Tensor:
        out = torch.empty(sum(span.nbytes for span in self.each), dtype=torch.uint8)
        at = 0
        for span in self.each:
            span.read_into(out[at : at + span.nbytes])
            at += span.nbytes
        return out


def _of_spans(block_type: str, shape: Shape, spans: _Spans, source: Source, order: Tensor | None) -> StoredTensor:
    def read() -> Tensor:
        out = spans.read()
        if source.is_turned:
            # Turning moves entries of the first axis; the bytes of one entry of it stay together.
            out = source.turn(out.view(sum(span.shape[0] for span in spans.each), -1))
        return out.view(math.prod(shape[:-1]), -1)

    def part(first: int, end: int) -> StoredTensor:
        return _of_spans(block_type, (end - first, *shape[1:]), spans.part(first, end), source, order)

    return StoredTensor(block_type, shape, read, order=order, part=None if source.is_turned else part)


def _of_transposed_heads(info: Readable, shape: tuple[int, ...]) -> StoredTensor:
    def read() -> Tensor:
        out = torch.empty(info.nbytes, dtype=torch.uint8)
        info.read_into(out)
        return out.view(math.prod(info.shape[:-1]), -1)

    return StoredTensor(info.dtype, shape, read, transposed_heads=info.shape[0])


class _Mixed:
    """Parameters whose entries alternate in one stored tensor: the first one that is read brings the others along,
    each of which then waits in memory for its own first reading."""

    def __init__(self, info: Readable) -> None:
        self._info = info
        self._sources: dict[str, Source] = {}
        self._ready: dict[str, Tensor] = {}
        self._unread: set[str] = set()

    def reader(self, name: str, source: Source) -> Callable[[], Tensor]:
        self._sources[name] = source
        self._unread.add(name)
        return lambda: self._read(name)

    def _read(self, name: str) -> Tensor:
        if name not in self._ready:
            self._fill({name, *self._unread})
        self._unread.discard(name)
        values = self._ready.pop(name)
        return values.view(-1, values.shape[-1]).view(torch.uint8)

    def _fill(self, names: set[str]) -> None:
        info, dtype = self._info, _element_type(self._info)
        shape = (*info.shape[:-1], info.nbytes // dtype.itemsize // math.prod(info.shape[:-1]))
        made = {name: torch.empty(self._sources[name].part_shape(shape), dtype=dtype) for name in names}
        for expert in range(shape[0]) if self._by_expert else (None,):
            stored = _elements(info if expert is None else info.entry(expert))
            for name, whole in made.items():
                source = replace(self._sources[name], per_expert=False)
                (whole if expert is None else whole[expert]).copy_(source.part(stored))
        self._ready |= made

    @property
    def _by_expert(self) -> bool:
        return all(source.per_expert for source in self._sources.values())


def _formed(source: Source, stored: StoredTensor) -> StoredTensor:
    kept = source.form == "unit_rows" and stored.block_type in PLAIN
    return StoredTensor(
        stored.block_type if kept else "F32",
        stored.shape,
        lambda: StoredTensor.of(source.formed(stored.floats())).read(),
    )


def _element_type(info: Readable) -> torch.dtype:
    """What a row is made of: numbers, or the bytes of blocks."""
    return PLAIN.get(info.dtype, torch.uint8)


def _elements(info: Readable) -> Tensor:
    out = torch.empty(info.nbytes, dtype=torch.uint8)
    info.read_into(out)
    return out.view(_element_type(info)).view(*info.shape[:-1], -1)
