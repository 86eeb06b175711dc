"""Which of many variants `make test` runs.

A test marked `matrix` is to hold for every combination of its parameters. `make test` runs so many of them that each
value of each parameter comes once, and `make test-all` all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Sequence
from typing import Any

import pytest


def mostly_long(values: Iterable[Any], usual: Container[Any]) -> list[Any]:
    """For `parametrize`: the values, of which all but the `usual` ones are left to `make test-all`."""
    return [value if value in usual else pytest.param(value, marks=pytest.mark.long) for value in values]


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
    met: Counter[tuple[str, str]] = Counter()
    while left:
        # Whatever meets the most, so that few are needed; of those, values that came seldom: all come about as often.
        best = max(
            left, key=lambda item: (len(_values(item) - met.keys()), -sum(met[value] for value in _values(item)))
        )
        if _values(best) <= met.keys():
            break
        met.update(_values(best))
        left.remove(best)
    return left


def _values(item: pytest.Function) -> set[tuple[str, str]]:
    """Each parameter, those of fixtures too, with its value: of a `parametrize` with several names, each by itself."""
    return {(name, repr(value)) for name, value in item.callspec.params.items()}
