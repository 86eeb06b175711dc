"""Which combinations of a matrix `make test` runs.

A test marked `matrix` is to hold for every combination of its parameters. `make test` runs so many of them that each
value of each parameter comes once, and `make test-all` all.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest


def mark_repetitions(items: Sequence[pytest.Item]) -> None:
    """Marks as `long` what is left of each matrix when every value has come; what is skipped here meets none."""
    matrices: dict[str, list[pytest.Function]] = {}
    for item in items:
        if item.get_closest_marker("matrix") and isinstance(item, pytest.Function):
            matrices.setdefault(item.nodeid.partition("[")[0], []).append(item)
    for matrix in matrices.values():
        for item in _repetitions(matrix):
            item.add_marker("long")


def _repetitions(matrix: Sequence[pytest.Function]) -> list[pytest.Function]:
    left = [item for item in matrix if not item.get_closest_marker("skip")]
    met: set[tuple[str, int]] = set()
    while left:
        # Whatever meets the most, so that few are needed.
        best = max(left, key=lambda item: len(_values(item) - met))
        if _values(best) <= met:
            break
        met |= _values(best)
        left.remove(best)
    return left


def _values(item: pytest.Function) -> set[tuple[str, int]]:
    return set(item.callspec.indices.items())
