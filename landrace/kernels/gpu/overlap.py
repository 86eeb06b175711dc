"""Kernels that come while the one before them still runs (programmatic dependent launch, Hopper and later).

Each lets the next one come as soon as it begins, and waits for what the one before has written before it reads or
writes anything but weights.
"""

from __future__ import annotations

from functools import cache

import torch
import triton
import triton.language as tl


@cache
def overlap(device: torch.device) -> dict[str, bool]:
    """Further arguments of every launch."""
    there = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (9, 0)
    return {"OVERLAPS": there, "launch_pdl": there}


@triton.jit
def begin(OVERLAPS: tl.constexpr):
    """Comes before all loads and stores but `fetch`."""
    if OVERLAPS:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()


@triton.jit
def fetch(weights, OVERLAPS: tl.constexpr):
    """Asks for the lines of memory that these addresses of weights lie in, and waits for none."""
    if OVERLAPS:
        tl.inline_asm_elementwise(
            "prefetch.global.L2 [$1]; mov.u32 $0, 0;", "=r,l", [weights], dtype=tl.int32, is_pure=False, pack=1
        )
