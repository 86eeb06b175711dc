"""The numbers behind drawn tokens: a fixed function of seed and index, uniform, and unlike their neighbours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from statistics import correlation

import pytest

from landrace.engine.draws import uniform

N = 1 << 14
"""Numbers of each stream: every test sees the same ones, so none can fail by chance."""
PINNED = [0.0564663990004608, 0.44008326622012284, 0.6487508310490744, 0.527444135302869]
STREAMS = {
    "indices of a seed": [uniform(0, index) for index in range(N)],
    "indices of another": [uniform(2**64 - 1, index) for index in range(N)],
    "seeds": [uniform(seed, 0) for seed in range(N)],
    "seeds, far on": [uniform(seed, 4095) for seed in range(N)],
    "seeds that differ in high bits": [uniform(seed << 50, 1) for seed in range(N)],
    "both at once": [uniform(n, n) for n in range(N)],
}


def chi_squared(counts: Sequence[int]) -> float:
    """Of equally likely cells, as a number of standard deviations from what is expected."""
    mean = sum(counts) / len(counts)
    degrees = len(counts) - 1
    return (sum((count - mean) ** 2 for count in counts) / mean - degrees) / math.sqrt(2 * degrees)


def test_the_numbers_are_the_same_on_every_machine() -> None:
    """Whoever changes one changes every seeded answer."""
    assert [uniform(0, 0), uniform(0, 1), uniform(1, 0), uniform(2**64 - 1, 2**31)] == PINNED


def test_seeds_count_modulo_two_to_the_64() -> None:
    assert uniform(-1, 3) == uniform(2**64 - 1, 3)
    assert uniform(2**64, 3) == uniform(0, 3)


@pytest.mark.parametrize("numbers", STREAMS.values(), ids=STREAMS)
def test_uniform(numbers: Sequence[float]) -> None:
    assert all(0 <= number < 1 for number in numbers)
    assert all((number * 2**53).is_integer() for number in numbers)
    assert len(set(numbers)) == N
    for cells in (2, 10, 256):
        counts = [0] * cells
        for number in numbers:
            counts[int(number * cells)] += 1
        assert abs(chi_squared(counts)) < 4
    low_bits = [0] * 256
    for number in numbers:
        low_bits[int(number * 2**53) % 256] += 1
    assert abs(chi_squared(low_bits)) < 4


@pytest.mark.parametrize("numbers", STREAMS.values(), ids=STREAMS)
def test_neighbours_have_nothing_in_common(numbers: Sequence[float]) -> None:
    for lag in (1, 2, 3, 16):
        assert abs(correlation(numbers[:-lag], numbers[lag:])) < 4 / math.sqrt(N)
    pairs = [0] * 256
    for first, second in pairwise(numbers):
        pairs[int(first * 16) * 16 + int(second * 16)] += 1
    assert abs(chi_squared(pairs)) < 5, "pairs overlap, so their cells vary somewhat more"


def test_streams_of_neighbouring_seeds_have_nothing_in_common() -> None:
    first = STREAMS["indices of a seed"]
    for seed in (1, 2, 1 << 32, 2**63):
        other = [uniform(seed, index) for index in range(N)]
        assert abs(correlation(first, other)) < 4 / math.sqrt(N)
        for lag in (1, 2):  # seed + 1 is not the same stream, one further on
            assert abs(correlation(first[lag:], other[:-lag])) < 4 / math.sqrt(N)
            assert abs(correlation(first[:-lag], other[lag:])) < 4 / math.sqrt(N)
