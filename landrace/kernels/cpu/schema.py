"""Fields of an operation, checked against the schema that the C++ kernels export for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from landrace.kernels.cpu.weights import PackedMatrix, PackedVector
from landrace.kernels.mask import Chunked, Full, Mask, Sliding, Whole


@dataclass(frozen=True)
class _Field:
    name: str
    kind: str
    needed: bool
    choices: Sequence[str]
    fields: Sequence[tuple[Any, ...]]


def native_fields(native: ModuleType, operation: str, fields: Mapping[str, object]) -> dict[str, object]:
    """The fields as the kernels take them; what is None is left out.

    A buffer is its number, a record a mapping of its own fields, a vector a `PackedVector` or a contiguous float32
    tensor in main memory.

    ValueError, with the operation and the field, for a field that is unknown, missing or of another kind, and for an
    operation that there is not.
    """
    if operation not in native.OPERATIONS:
        raise ValueError(f"There is no operation {operation}, but {', '.join(native.OPERATIONS)}.")
    return _checked(operation, native.OPERATIONS[operation], fields)


def mask_fields(mask: Mask) -> dict[str, Any]:
    """A mask as the operations of attention take it."""
    match mask:
        case Full():
            return {"mask": "full", "extent": 0}
        case Sliding(window):
            return {"mask": "sliding", "extent": window}
        case Chunked(chunk):
            return {"mask": "chunked", "extent": chunk}
        case Whole():
            return {"mask": "whole", "extent": 0}


def _checked(operation: str, schema: Sequence[tuple[Any, ...]], fields: Mapping[str, object]) -> dict[str, object]:
    known = [_Field(*field) for field in schema]
    given = {name: value for name, value in fields.items() if value is not None}
    if unknown := given.keys() - {field.name for field in known}:
        raise ValueError(f"{operation} has no field {min(unknown)}, but {', '.join(field.name for field in known)}.")
    for field in known:
        if field.needed and field.name not in given:
            raise ValueError(f"{operation} needs the field {field.name}.")
    return {field.name: _value(operation, field, given[field.name]) for field in known if field.name in given}


def _value(operation: str, field: _Field, value: object) -> object:
    match field.kind, value:
        case "buffer" | "integer", int() if not isinstance(value, bool):
            return int(value)
        case "number", int() | float() if not isinstance(value, bool):
            return float(value)
        case "flag", bool():
            return int(value)
        case "choice", str() if value in field.choices:
            return str(value)
        case "matrix", PackedMatrix():
            return value.handle
        case "vector", PackedVector():
            return value.address, value.size
        case "vector", Tensor() if (
            value.dtype == torch.float32 and value.dim() == 1 and value.is_cpu and value.is_contiguous()
        ):
            return value.data_ptr(), value.numel()
        case "records", list() | tuple() if all(isinstance(record, Mapping) for record in value):
            return [_checked(f"{operation}.{field.name}", field.fields, record) for record in value]
    wanted = f"one of {', '.join(field.choices)}" if field.kind == "choice" else f"of the kind {field.kind}"
    shown = repr(value) if isinstance(value, (str, int, float)) else type(value).__name__
    raise ValueError(f"{operation}: the field {field.name} must be {wanted}, not {shown}.")
