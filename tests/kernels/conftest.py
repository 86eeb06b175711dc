"""What the tests of the C++ kernels share. Makes `cpu_steps.py` importable."""

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


@pytest.fixture(scope="session")
def pool(extension: ModuleType) -> Any:
    return extension.ThreadPool(3)


@pytest.fixture
def kernels(extension: ModuleType, pool: Any) -> Kernels:
    return Kernels(extension, pool)
