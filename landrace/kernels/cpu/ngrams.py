"""Embeddings of n-grams in a program."""

from __future__ import annotations

from landrace.kernels.cpu.program import Program
from landrace.kernels.cpu.weights import PackedMatrix
from landrace.kernels.ngrams import NGrams


def ngrams(program: Program, table: PackedMatrix, form: NGrams, out: int) -> None:
    """out = the rows of `table` that belong to the n-grams ending at each token, side by side.

    Keeps a part of the state: 1 + the last tokens, latest first.
    """
    multipliers, sizes = ([{"value": value} for value in values] for values in (form.multipliers, form.sizes))
    program.add("ngrams", table=table, multipliers=multipliers, sizes=sizes, filler=form.filler, out=out)


def gated_values(program: Program, keys: int, queries: int, values: int, count: int, out: int) -> None:
    """out = the values for each of `count` streams, gated: see `kernels.reference.ngrams`."""
    program.add("gated_values", keys=keys, queries=queries, values=values, count=count, out=out)
