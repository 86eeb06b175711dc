"""How fast a GPU reads its memory and multiplies, by PyTorch's own operations."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

import torch

from landrace.kernels.machine_limits import MachineLimits

_PASSES = 5
_BUFFER_BYTES = 2**32
"""Many times any cache of a GPU."""
_MATMUL_SIDE = 8192


def measure_gpu(device: torch.device, threads: int) -> MachineLimits:
    """Reads and multiplies for about a second on a CUDA device. `threads`: of the host, recorded only."""
    properties = torch.cuda.get_device_properties(device)
    words = torch.randn(min(_BUFFER_BYTES, properties.total_memory // 8) // 4, device=device)
    read = words.numel() * words.element_size() / _seconds(words.sum) / 1e9
    del words
    return MachineLimits(
        threads=threads,
        instruction_set=f"sm_{properties.major}{properties.minor}",
        read_gb_s=read,
        int8_gop_s=None,
        bf16_gflop_s=_matmul_rate(torch.bfloat16, device),
        fp32_gflop_s=_matmul_rate(torch.float32, device),
        processor=properties.name,
        int8_by=None,
        bf16_by="PyTorch matrix product (bfloat16)",
        fp32_by="PyTorch matrix product (float32)",
    )


def _matmul_rate(dtype: torch.dtype, device: torch.device) -> float:
    # Random: a product of zeros needs less power and is faster.
    one, other = (torch.randn(_MATMUL_SIDE, _MATMUL_SIDE, device=device).to(dtype) for _ in range(2))
    return 2 * _MATMUL_SIDE**3 / _seconds(lambda: one @ other) / 1e9


def _seconds(work: Callable[[], object]) -> float:
    """The median pass on the device's own clock; the first, in which clocks and libraries wake up, does not count."""
    taken: list[float] = []
    for _ in range(_PASSES + 1):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        begin.record()
        work()
        end.record()
        end.synchronize()
        taken.append(begin.elapsed_time(end) / 1000)
    return median(taken[1:])
