"""The loops that measure the machine do the work they are timed for, in every instruction set."""

from __future__ import annotations

import math
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from landrace.errors import OptionError
from landrace.kernels.cpu import machine
from landrace.kernels.cpu.machine import measure_machine
from landrace.kernels.machine_limits import MachineLimits

KINDS = ("int8", "bf16", "fp32")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rounds", [0, 1, 3, 1000])
def test_every_counted_operation_is_done(extension: ModuleType, kind: str, rounds: int) -> None:
    for isa in extension.instruction_sets():
        total, operations = extension.run_peak(isa, kind, rounds)
        # Both factors are one: each multiply-add, two operations, adds one.
        assert total == operations / 2
        assert (operations > 0) == (rounds > 0)


@pytest.mark.parametrize("count", [0, 1, 15, 16, 63, 64, 65, 1003])
def test_every_word_is_read(extension: ModuleType, count: int) -> None:
    words = np.random.default_rng(count).integers(0, 2**64, size=count, dtype=np.uint64)
    for isa in extension.instruction_sets():
        assert extension.read_sum(isa, words) == int(words.sum(dtype=np.uint64))


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_a_rate_for_each_pass(extension: ModuleType, threads: int) -> None:
    for isa in extension.instruction_sets():
        for rates in (
            extension.measure_read(isa, threads, 2**20 + 3, 4),
            extension.measure_peak(isa, "int8", threads, 4),
        ):
            assert len(rates) == 4
            assert all(math.isfinite(rate) and rate > 0 for rate in rates)


def test_unknown_names_are_refused(extension: ModuleType) -> None:
    with pytest.raises(ValueError, match="no instruction set mmx"):
        extension.measure_read("mmx", 1, 2**20, 1)
    with pytest.raises(ValueError, match="no arithmetic is called fp8"):
        extension.measure_peak("plain", "fp8", 1, 1)


def check_limits(limits: MachineLimits) -> None:
    assert limits.processor and limits.instruction_set
    for rate in (limits.read_gb_s, limits.bf16_gflop_s, limits.fp32_gflop_s):
        assert math.isfinite(rate) and rate > 0


def test_the_limits_of_the_extension(extension: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_SMALLEST_BUFFER", 2**20)
    limits = measure_machine(1)
    check_limits(limits)
    assert limits.threads == 1
    assert limits.instruction_set == extension.instruction_sets()[-1]
    assert limits.int8_gop_s is not None and limits.int8_gop_s > 0
    assert (limits.bf16_by == "vdpbf16ps") == ("avx512_bf16" in extension.instruction_sets())


def test_the_limits_without_the_extension(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "native", lambda: None)
    monkeypatch.setattr(machine, "_SMALLEST_BUFFER", 2**20)
    monkeypatch.setattr(machine, "_MATMUL_SIDE", 64)
    before = torch.get_num_threads()
    limits = measure_machine(before + 1)
    check_limits(limits)
    assert limits.threads == before + 1
    assert limits.int8_gop_s is None
    assert torch.get_num_threads() == before


def test_a_machine_without_threads_is_refused() -> None:
    with pytest.raises(OptionError, match="at least one thread, not 0"):
        measure_machine(0)


def test_a_shared_cache_counts_once(tmp_path: Path) -> None:
    for cpu, shared, size in ((0, "0-1", "32768K"), (1, "0-1", "32768K"), (2, "2", "16384K")):
        cache = tmp_path / f"cpu{cpu}" / "cache" / "index3"
        cache.mkdir(parents=True)
        (cache / "size").write_text(f"{size}\n")
        (cache / "shared_cpu_list").write_text(f"{shared}\n")
    (tmp_path / "cpufreq").mkdir()
    assert machine._cache_bytes(tmp_path) == 48 * 2**20
    assert machine._cache_bytes(tmp_path / "nowhere") == 0
