"""`Source`: which parts of which checkpoint tensors make one canonical parameter, there and back.

Only rows are ever selected or reordered, so a `Source` of one matrix also serves its bias [out] and the `lora_B`
[out, r] of an adapter on it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from landrace.errors import CheckpointError

Shape = tuple[int, ...]
Form = Literal["plain", "plus_one", "unit_rows", "log_of_minus"]

UNIT_ROWS = 4096
"""Rows that are divided by their lengths at once, so that a head is not held in float32 beside itself."""
UNIT_TOLERANCE = 1e-2
"""How far the length of a unit row may be from 1: more than bfloat16 rounds."""


@dataclass(frozen=True)
class Rotary:
    """The rows are `n_heads` heads of `head_dim`, of which `rotary_dim` rows from `first` on are stored as interleaved
    pairs.

    Pair i of a head lies in its rows 2i and 2i + 1 of those; in the half layout it lies in rows i and
    rotary_dim / 2 + i.
    """

    n_heads: int
    head_dim: int
    rotary_dim: int
    first: int = 0

    def __post_init__(self) -> None:
        turned = 0 < self.rotary_dim <= self.head_dim - self.first
        if self.n_heads < 1 or self.rotary_dim % 2 or self.first < 0 or not turned:
            raise CheckpointError(f"The rotary layout is impossible: {self}.")

    def to_half(self, tensor: Tensor) -> Tensor:
        """Interleaved rows to half rows: evens first, then odds; a head's other rows stay."""
        (before, turned, after), rest = self._heads(tensor)
        return torch.cat((before, turned[:, 0::2], turned[:, 1::2], after), dim=1).reshape(-1, *rest)

    def to_interleaved(self, tensor: Tensor) -> Tensor:
        """The inverse of `to_half`."""
        (before, turned, after), rest = self._heads(tensor)
        first, second = turned.chunk(2, dim=1)
        pairs = torch.stack((first, second), dim=2).reshape(self.n_heads, self.rotary_dim, *rest)
        return torch.cat((before, pairs, after), dim=1).reshape(-1, *rest)

    def check_rows(self, rows: int) -> None:
        """CheckpointError unless `rows` are the heads' rows."""
        if rows != self.n_heads * self.head_dim:
            raise CheckpointError(f"A rotary tensor has {rows} rows, but {self.n_heads} heads of {self.head_dim}.")

    def _heads(self, tensor: Tensor) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        """Of each head the rows before the turned ones, those, and the rows behind them."""
        self.check_rows(tensor.shape[0])
        rest = tuple(tensor.shape[1:])
        sizes = [self.first, self.rotary_dim, self.head_dim - self.first - self.rotary_dim]
        return torch.split(tensor.reshape(self.n_heads, self.head_dim, *rest), sizes, dim=1), rest


@dataclass(frozen=True)
class Rounds:
    """The entries are heads of equal width in `n_groups` groups of `n_each`, stored group by group; the parameter has
    the first head of every group, then the second ones and so on (llama.cpp's order)."""

    n_groups: int
    n_each: int

    def to_rounds(self, tensor: Tensor) -> Tensor:
        """The first axis, from stored to the parameter's order."""
        return _swapped(tensor, self.n_groups, self.n_each)

    def to_groups(self, tensor: Tensor) -> Tensor:
        """The inverse of `to_rounds`."""
        return _swapped(tensor, self.n_each, self.n_groups)


def _swapped(tensor: Tensor, n_outer: int, n_inner: int) -> Tensor:
    return tensor.reshape(n_outer, n_inner, -1, *tensor.shape[1:]).transpose(0, 1).flatten(0, 2)


@dataclass(frozen=True)
class LastFirst:
    """The rows are `n_heads` heads of `head_dim`, of which the last `n_last` come first in the parameter.

    `interleaved`: those are stored as interleaved pairs, as `Rotary` says.
    """

    n_heads: int
    head_dim: int
    n_last: int
    interleaved: bool = False

    def to_half(self, tensor: Tensor) -> Tensor:
        """Rows as stored to the parameter's."""
        heads = self._heads(tensor)
        first, last = heads[:, : -self.n_last], heads[:, -self.n_last :]
        if self.interleaved:
            last = torch.cat((last[:, 0::2], last[:, 1::2]), dim=1)
        return torch.cat((last, first), dim=1).reshape(tensor.shape)

    def to_interleaved(self, tensor: Tensor) -> Tensor:
        """The inverse of `to_half`."""
        heads = self._heads(tensor)
        last, first = heads[:, : self.n_last], heads[:, self.n_last :]
        if self.interleaved:
            last = torch.stack(last.chunk(2, dim=1), dim=2).reshape(last.shape)
        return torch.cat((first, last), dim=1).reshape(tensor.shape)

    def check_rows(self, rows: int) -> None:
        """CheckpointError unless `rows` are the heads' rows."""
        if rows != self.n_heads * self.head_dim:
            raise CheckpointError(f"A tensor has {rows} rows, but {self.n_heads} heads of {self.head_dim}.")

    def _heads(self, tensor: Tensor) -> Tensor:
        self.check_rows(tensor.shape[0])
        return tensor.reshape(self.n_heads, self.head_dim, *tensor.shape[1:])


@dataclass(frozen=True)
class Source:
    """How one parameter is kept: the whole of one tensor, unless a field says otherwise."""

    tensor: str
    """The stored tensor's name; where `stacked`, that of each, with {} for its number."""
    rows: tuple[int, int] | None = None
    """The parameter is these rows (with `per_expert`: of each expert), not all."""
    rotary: Rotary | LastFirst | None = None
    """Its rows are stored in the interleaved layout, or otherwise not in the order that turns as halves."""
    rounds: Rounds | None = None
    """Its rows are stored in another order of heads."""
    column_rounds: Rounds | None = None
    """Its columns are."""
    ones: Shape | None = None
    """The stored tensor's shape where it has axes of length 1 beside the parameter's only one, which is -1 here."""
    spare: int = 0
    """Rows of the stored tensor behind `rows` that nothing is read from; zeros where it is written."""
    step: int = 1
    """Of `rows`, every so many-th, beginning with the first."""
    stacked: int | None = None
    """So many stored tensors, one under another on a new first axis: the experts, one by one."""
    joined: bool = False
    """Those of `stacked` hold rows that follow one another instead, on the first axis that is there."""
    per_expert: bool = False
    """The stored tensor's first axis counts experts, so that the rows are on its second."""
    transposed: bool = False
    """The last two axes are stored the other way round, [in, out]."""
    adapted_as_stored: bool = False
    """Adapters of the hub's kind change the stored matrix, not the transposed one: see `adapter_modules`."""
    heads: int | None = None
    """The stored rows are those of so many heads, and `rows` those of each head."""
    by_head: int = 0
    """The stored tensor's first axis counts so many heads, and the parameter is their matrices one under another."""
    entry: int | None = None
    """The parameter is this entry of the stored tensor's first axis."""
    form: Form = "plain"
    """plus_one: the parameter is 1 + what is stored (norms whose weights are stored around 0). unit_rows: each stored
    row is divided by its length (Baichuan 2's output head). log_of_minus: -e^parameter is stored (llama.cpp's decays).
    """

    @property
    def tensors(self) -> tuple[str, ...]:
        """The stored tensors' names."""
        if self.stacked is None:
            return (self.tensor,)
        return tuple(self.tensor.replace("{}", str(number)) for number in range(self.stacked))

    @property
    def whole_rows(self) -> bool:
        """Whether the parameter's rows are stored rows, next to one another, and not entries of several."""
        return not self.transposed and self.step == 1

    def take(self, stored: Mapping[str, Tensor]) -> Tensor:
        """The parameter out of the checkpoint's tensors, by name. May share memory with them.

        Raises CheckpointError for tensors that it cannot be taken from.
        """
        found = [self._canonical(stored[name]) for name in self.tensors]
        if self.joined:
            return torch.cat(found)
        return found[0] if self.stacked is None else torch.stack(found)

    def put(self, stored: Mapping[str, Tensor], parameter: Tensor) -> None:
        """Writes the parameter into the checkpoint's tensors, in place: the inverse of `take`.

        Raises CheckpointError for a parameter of the wrong shape, or whose rows should have the length 1 and have not.
        """
        values = self._as_stored(parameter)
        parts: Iterable[Tensor] = (values,) if self.stacked is None else values
        if self.joined:
            parts = torch.split(values, [stored[name].shape[0] for name in self.tensors])
        for name, part in zip(self.tensors, parts, strict=True):
            place = self._part(stored[name])
            expected = self.part_shape(tuple(stored[name].shape))
            if expected != part.shape:
                raise CheckpointError(f"'{name}' takes {list(expected)}, but got {list(part.shape)}.")
            part = self._turned_back(self.put_columns(part))
            place.copy_(part.view_as(place) if self._in_heads else part)

    def take_rows(self, tensor: Tensor) -> Tensor:
        """The parameter's rows out of a tensor whose first axis is the stored matrix's outputs, an adapter's B."""
        rows = self._rows(tensor, 0)
        return self.turn(rows if self.heads is None else rows.flatten(0, 1))

    def put_rows(self, dest: Tensor, rows: Tensor) -> None:
        """The inverse of `take_rows`, in place."""
        place = self._rows(dest, 0)
        rows = self._turned_back(rows)
        place.copy_(rows if self.heads is None else rows.reshape(place.shape))

    def take_columns(self, tensor: Tensor) -> Tensor:
        """The parameter's columns out of a tensor whose last axis is the stored matrix's inputs, an adapter's A."""
        rounds = self.column_rounds
        return tensor if rounds is None else rounds.to_rounds(tensor.movedim(-1, 0)).movedim(0, -1)

    def put_columns(self, tensor: Tensor) -> Tensor:
        """The inverse of `take_columns`."""
        rounds = self.column_rounds
        return tensor if rounds is None else rounds.to_groups(tensor.movedim(-1, 0)).movedim(0, -1)

    def part(self, tensor: Tensor) -> Tensor:
        """What one stored tensor holds of the parameter, in the parameter's orientation: a view of it where its rows
        are not those of heads."""
        part = self._part(tensor)
        return part.flatten(0, 1) if self._in_heads else part

    @property
    def is_turned(self) -> bool:
        """Whether rows are stored in another order than the parameter's."""
        return self.rotary is not None or self.rounds is not None

    def turn(self, part: Tensor) -> Tensor:
        """Rows as stored into the parameter's order. May share memory with `part`."""
        part = part if self.rotary is None else self.rotary.to_half(part)
        return part if self.rounds is None else self.rounds.to_rounds(part)

    def formed(self, values: Tensor) -> Tensor:
        """Stored values into the parameter's: what `form` says. Unit rows keep their type, 1 + x is float32."""
        if self.form == "plus_one":
            return values.float() + 1.0
        if self.form == "log_of_minus":
            return (-values.float()).log()
        if self.form == "unit_rows":
            out = torch.empty_like(values)
            for at in range(0, len(values), UNIT_ROWS):
                out[at : at + UNIT_ROWS] = F.normalize(values[at : at + UNIT_ROWS].float(), dim=-1)
            return out
        return values

    def shape(self, stored: Mapping[str, Shape]) -> Shape:
        """The parameter's shape, for stored tensors of these shapes. CheckpointError if it cannot be taken."""
        if self.joined:
            each = [self.part_shape(stored[name]) for name in self.tensors]
            if any(one[1:] != each[0][1:] for one in each):
                raise CheckpointError(f"The tensors '{self.tensor}' differ in the width of their rows.")
            return (sum(one[0] for one in each), *each[0][1:])
        shapes = {self.part_shape(stored[name]) for name in self.tensors}
        if len(shapes) > 1:
            raise CheckpointError(f"The tensors '{self.tensor}' differ in shape: {sorted(map(list, shapes))}.")
        (part,) = shapes
        return part if self.stacked is None else (self.stacked, *part)

    def part_shape(self, stored: Shape) -> Shape:
        """The shape of `part`. CheckpointError if these rows cannot be taken of a tensor of that shape."""
        if len(stored) <= self._axis or (self.transposed and len(stored) < 2):
            raise CheckpointError(f"The tensor '{self.tensor}' has the shape {list(stored)}, which is too few axes.")
        if self.ones is not None:
            if [size for size in stored if size != 1] != [max(stored)]:
                raise CheckpointError(f"The tensor '{self.tensor}' has the shape {list(stored)}, which is no vector's.")
            return (max(stored),)
        if self.entry is not None:
            if self.entry >= stored[0]:
                raise CheckpointError(f"'{self.tensor}' has {stored[0]} entries, but entry {self.entry} is needed.")
            return stored[1:]
        shape = list((*stored[:-2], stored[-1], stored[-2]) if self.transposed else stored)
        if self.by_head:
            shape = [shape[0] * shape[1], *shape[2:]]
        shape[self._axis] = self._rows_of(shape[self._axis])
        return tuple(shape)

    def stored_shape(self, parameter: Shape, rows: int | None) -> Shape:
        """The shape of each stored tensor; `rows` of them where the parameter is a part, None where it is all."""
        if self.ones is not None:
            return tuple(parameter[0] if size == -1 else size for size in self.ones)
        if self.joined and self.stacked is not None:
            if parameter[0] % self.stacked:
                raise CheckpointError(f"{parameter[0]} rows cannot be written as {self.stacked} equal tensors.")
            return (parameter[0] // self.stacked, *parameter[1:])
        shape = list(parameter if self.stacked is None else parameter[1:])
        if self.entry is not None:
            return (self.entry + 1, *shape)
        if self.by_head:
            shape = [self.by_head, shape[0] // self.by_head, *shape[1:]]
        if rows is not None:
            shape[self._axis] = rows
        if self.transposed:
            shape[-2], shape[-1] = shape[-1], shape[-2]
        return tuple(shape)

    @property
    def total_rows(self) -> int | None:
        """How many rows of the stored tensor there are at least; None where `rows` does not say."""
        return None if self.rows is None else self.rows[1] * (self.heads or 1) + self.spare

    @property
    def _axis(self) -> int:
        return 1 if self.per_expert else 0

    @property
    def _in_heads(self) -> bool:
        return self.by_head > 0 or self.heads is not None

    def _part(self, tensor: Tensor) -> Tensor:
        """`part` as a view, with an axis of heads where there are any."""
        if self.ones is not None:
            return tensor.view(-1)
        if self.entry is not None:
            return tensor[self.entry]
        turned = tensor.transpose(-1, -2) if self.transposed else tensor
        return self._rows(turned, self._axis)

    def _rows_of(self, have: int) -> int:
        """How many of so many stored rows are the parameter's. CheckpointError if they are not there."""
        heads = self.heads or 1
        each, rest = divmod(have, heads)
        start, end = self.rows or (0, each)
        if rest or not 0 <= start < end <= each:
            of_each = f" of each of {heads} heads" if self.heads else ""
            raise CheckpointError(f"'{self.tensor}' has {have} rows, but rows {start} to {end}{of_each} are needed.")
        rows = heads * len(range(start, end, self.step))
        if self.rotary is not None:
            self.rotary.check_rows(rows)
        return rows

    def _rows(self, tensor: Tensor, axis: int) -> Tensor:
        if self.by_head:
            return tensor
        self._rows_of(tensor.shape[axis])
        if self.rows is None:
            return tensor
        if self.heads is not None:
            return tensor.view(self.heads, -1, *tensor.shape[1:])[:, slice(*self.rows)]
        index = (slice(None),) * axis + (slice(*self.rows, self.step),)
        return tensor[index]

    def _canonical(self, tensor: Tensor) -> Tensor:
        return self.formed(self.take_columns(self.turn(self.part(tensor))))

    def _turned_back(self, part: Tensor) -> Tensor:
        part = part if self.rounds is None else self.rounds.to_groups(part)
        return part if self.rotary is None else self.rotary.to_interleaved(part)

    def _as_stored(self, parameter: Tensor) -> Tensor:
        if self.form == "plus_one":
            return parameter.float() - 1.0
        if self.form == "log_of_minus":
            return -parameter.float().exp()
        if self.form == "unit_rows":
            lengths = parameter.float().norm(dim=-1)
            if not torch.allclose(lengths, torch.ones(()), rtol=0, atol=UNIT_TOLERANCE):
                raise CheckpointError(
                    f"This family divides each row of '{self.tensor}' by its length, so rows of another length cannot "
                    "be stored.",
                    hint="Tune the model without its output head.",
                )
        return parameter


def total_rows(sources: Iterable[Source]) -> dict[str, int]:
    """Stored tensors that several parameters share, by name, to the rows they have."""
    found: dict[str, int] = {}
    for source in sources:
        if source.total_rows is not None:
            for name in source.tensors:
                found[name] = max(found.get(name, 0), source.total_rows)
    return found
