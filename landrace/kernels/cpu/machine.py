"""How fast this machine's processor reads memory and multiplies.

Measured, not looked up: with the C++ kernels by loops of the best instruction set, without them by PyTorch. A shared
machine's limits move from minute to minute, so measure close to what is compared with them.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from types import ModuleType

import torch

from landrace.errors import OptionError
from landrace.kernels.cpu import native
from landrace.kernels.machine_limits import MachineLimits

_PASSES = 5
_SMALLEST_BUFFER = 512 * 2**20
_MATMUL_SIDE = 1536


def measure_machine(threads: int) -> MachineLimits:
    """Reads and multiplies for about a second on `threads` threads. Raises `OptionError` if there are none."""
    if threads < 1:
        raise OptionError(f"A machine is measured with at least one thread, not {threads}.")
    extension = native()
    if extension is None:
        return _measure_with_torch(threads)
    return _measure_with(extension, threads)


def read_rate(threads: int) -> float:
    """`read_gb_s` alone, in a few tenths of a second."""
    extension = native()
    if extension is None:
        return _read_with_torch()
    isa: str = extension.instruction_sets()[-1]
    return _median(extension.measure_read(isa, threads, _buffer_bytes(), _PASSES + 1))


def _measure_with(extension: ModuleType, threads: int) -> MachineLimits:
    isa: str = extension.instruction_sets()[-1]

    def peak(kind: str) -> float:
        return _median(extension.measure_peak(isa, kind, threads, _PASSES + 1))

    return MachineLimits(
        threads=threads,
        instruction_set=isa,
        read_gb_s=read_rate(threads),
        int8_gop_s=peak("int8"),
        bf16_gflop_s=peak("bf16"),
        fp32_gflop_s=peak("fp32"),
        processor=extension.processor_name() or _cpu_model(),
        int8_by=extension.peak_instruction(isa, "int8"),
        bf16_by=extension.peak_instruction(isa, "bf16"),
        fp32_by=extension.peak_instruction(isa, "fp32"),
    )


def _measure_with_torch(threads: int) -> MachineLimits:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        read = _read_with_torch()
        bf16, fp32 = _matmul_rate(torch.bfloat16), _matmul_rate(torch.float32)
    finally:
        torch.set_num_threads(before)
    return MachineLimits(
        threads=threads,
        instruction_set=torch.backends.cpu.get_cpu_capability().lower(),
        read_gb_s=read,
        int8_gop_s=None,
        bf16_gflop_s=bf16,
        fp32_gflop_s=fp32,
        processor=_cpu_model(),
        int8_by=None,
        bf16_by="PyTorch matrix product (bfloat16)",
        fp32_by="PyTorch matrix product (float32)",
    )


def _read_with_torch() -> float:
    words = torch.ones(_buffer_bytes() // 4, dtype=torch.float32)
    size = words.numel() * words.element_size()
    return _median([size / seconds / 1e9 for seconds in _timed(words.sum)])


def _matmul_rate(dtype: torch.dtype) -> float:
    matrix = torch.ones(_MATMUL_SIDE, _MATMUL_SIDE, dtype=dtype)
    return _median([2 * _MATMUL_SIDE**3 / seconds / 1e9 for seconds in _timed(lambda: matrix @ matrix)])


def _timed(work: Callable[[], object]) -> list[float]:
    """Seconds of each pass, and one pass more than is wanted: see `_median`."""
    taken = []
    for _ in range(_PASSES + 1):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return taken


def _median(passes: list[float]) -> float:
    """Of all passes but the first, in which threads and memory wake up."""
    return median(passes[1:])


def _buffer_bytes() -> int:
    """Four times what the last-level caches hold, so that little is read from them; at most a quarter of the memory."""
    wanted = max(_SMALLEST_BUFFER, 4 * _cache_bytes())
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        wanted = min(wanted, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4)
    return wanted


def _cache_bytes(cpus: Path = Path("/sys/devices/system/cpu")) -> int:
    """All third-level caches together as Linux lists them; 0 where it lists none."""
    sizes: dict[str, int] = {}
    for cache in cpus.glob("cpu[0-9]*/cache/index3"):
        size = (cache / "size").read_text().strip()
        sizes[(cache / "shared_cpu_list").read_text().strip()] = int(size.removesuffix("K")) * 1024
    return sum(sizes.values())


def _cpu_model() -> str:
    return platform.processor() or platform.machine() or "unknown"
