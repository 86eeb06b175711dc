"""What a machine can do at most: the limits a model's speed is held against."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class MachineLimits:
    """The measured limits of `threads` threads together, or of a GPU, each the median of five passes.

    `read_gb_s` is in 1e9 bytes a second, the others in 1e9 operations a second; a multiply-add is two operations.
    The `*_by` fields name what was timed: where a processor lacks dot products of bfloat16 or of bytes, the fastest
    substitute is. `int8_gop_s` is None where nothing measures it.
    """

    threads: int
    instruction_set: str
    read_gb_s: float
    int8_gop_s: float | None
    bf16_gflop_s: float
    fp32_gflop_s: float
    processor: str
    int8_by: str | None
    bf16_by: str
    fp32_by: str
