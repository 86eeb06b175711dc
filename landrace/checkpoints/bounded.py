"""Reads from files that are not trusted: nothing is allocated before it is known to fit in the file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from landrace.errors import CheckpointError


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """What the operating system refuses becomes a CheckpointError that names `path`."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(f"{path} could not be read: {error.strerror}.") from error


def file_size(path: Path) -> int:
    """Bytes in a regular file. CheckpointError when there is none."""
    with readable(path):
        if not path.is_file():
            raise CheckpointError(f"There is no file {path}.")
        return path.stat().st_size


def read_range(path: Path, offset: int, count: int) -> Tensor:
    """Bytes [offset, offset + count) as a uint8 tensor of its own. CheckpointError when the file ends before."""
    _check_end(path, offset + count)
    out = torch.empty(count, dtype=torch.uint8)
    read_into(path, offset, out)
    return out


def read_into(path: Path, offset: int, out: Tensor) -> None:
    """Fills `out`, contiguous uint8, with the bytes from `offset` on. CheckpointError when the file ends before."""
    count = out.numel()
    _check_end(path, offset + count)
    view = out.numpy().data
    with readable(path), path.open("rb", buffering=0) as file:
        file.seek(offset)
        done = 0
        while done < count:
            got = file.readinto(view[done:])
            if not got:
                raise CheckpointError(f"{path} ended while it was read.", hint="Fetch it again.")
            done += got


def _check_end(path: Path, end: int) -> None:
    if end > file_size(path):
        raise CheckpointError(f"{path} ends before byte {end}.", hint="Fetch it again.")


def parse_json(data: bytes, what: str) -> dict[str, Any]:
    """A JSON object without repeated keys. `what` names the text in the error."""
    value = _parsed(data, what)
    if not isinstance(value, dict):
        raise CheckpointError(f"{what} is not a JSON object.")
    return value


def read_json(path: Path, limit: int) -> dict[str, Any]:
    """The JSON object in a file of at most `limit` bytes."""
    return parse_json(_whole(path, limit), str(path))


def read_json_list(path: Path, limit: int) -> list[Any]:
    """The JSON list in a file of at most `limit` bytes."""
    value = _parsed(_whole(path, limit), str(path))
    if not isinstance(value, list):
        raise CheckpointError(f"{path} is not a JSON list.")
    return value


def _whole(path: Path, limit: int) -> bytes:
    size = file_size(path)
    if size > limit:
        raise CheckpointError(f"{path} has {size} bytes; at most {limit} are accepted.")
    return read_range(path, 0, size).numpy().tobytes()


def _parsed(data: bytes, what: str) -> Any:
    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=_unique_keys)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise CheckpointError(f"{what} is not valid JSON: {reason}.") from error


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key is repeated")
    "".join(found).encode("utf-8")  # Half a surrogate pair could not even be printed in an error.
    return found
