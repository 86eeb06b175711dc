"""Rows that are the same: what is measured on rows that were trained on says nothing about new ones."""

from __future__ import annotations

import base64
from collections.abc import Iterable

from landrace.training.data import Row, rows_sha256

_BYTES = 6
"""Of a row's hash: two rows that differ are taken for the same once in 280 million million times."""
_MOST_ROWS = 300_000
"""Of more rows no list is kept: it would fill the adapter's record."""


def row_hashes(rows: Iterable[Row]) -> str | None:
    """The rows' hashes as one text, without order and repetition, for a record; None when they are too many."""
    found = sorted(_hashes(rows))
    return base64.b64encode(b"".join(found)).decode() if len(found) <= _MOST_ROWS else None


def count_shared(rows: Iterable[Row], others: Iterable[Row] | str) -> int:
    """How many of `rows` are, word for word, among `others`: rows, or what `row_hashes` made of them."""
    known = _unpack(others) if isinstance(others, str) else _hashes(others)
    return sum(_hash(row) in known for row in rows)


def _unpack(text: str) -> set[bytes]:
    try:
        packed = base64.b64decode(text, validate=True)
    except ValueError:  # not of our making: nothing is known
        return set()
    return {packed[at : at + _BYTES] for at in range(0, len(packed), _BYTES)}


def _hashes(rows: Iterable[Row]) -> set[bytes]:
    return {_hash(row) for row in rows}


def _hash(row: Row) -> bytes:
    return bytes.fromhex(rows_sha256([row]))[:_BYTES]
