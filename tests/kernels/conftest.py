"""The extension and its instruction sets, for the tests of the C++ kernels. Makes `cpu_steps.py` importable."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from cpu_steps import Kernels

torch.set_num_threads(1)

INSTRUCTION_SETS = ("plain", "avx2", "avx2_vnni", "avx512", "avx512_bf16")


@pytest.fixture(scope="session")
def extension() -> ModuleType:
    """The C++ kernels."""
    from landrace.kernels.cpu import MISSING, native

    module = native()
    if module is None:
        pytest.skip(MISSING)
    return module


@pytest.fixture(params=INSTRUCTION_SETS)
def isa(request: pytest.FixtureRequest, extension: ModuleType) -> str:
    """Every instruction set that this machine has."""
    if request.param not in extension.instruction_sets():
        pytest.skip(f"this machine or this build does not have {request.param}")
    return str(request.param)


@pytest.fixture(scope="session")
def pool(extension: ModuleType) -> Any:
    return extension.ThreadPool(3)


@pytest.fixture
def kernels(extension: ModuleType, pool: Any) -> Kernels:
    return Kernels(extension, pool)
