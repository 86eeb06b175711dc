"""The extension is built where it can be, loads where it is, and its absence costs nothing but speed."""

from __future__ import annotations

import importlib.machinery
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

from landrace.kernels.cpu import MISSING, native

ROOT = Path(__file__).resolve().parents[2]
SUFFIX = importlib.machinery.EXTENSION_SUFFIXES[0]
CPUINFO = Path("/proc/cpuinfo")

FLAGS = {
    "avx2": {"avx2", "fma", "f16c"},
    "avx2_vnni": {"avx2", "fma", "f16c", "avx_vnni"},
    "avx512": {"avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512_vnni"},
}
FLAGS["avx512_bf16"] = FLAGS["avx512"] | {"avx512_bf16"}
"""What the kernel calls the instructions of each set."""


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True)


def test_a_machine_with_a_compiler_has_the_extension() -> None:
    compiler = os.environ.get("CXX", "c++")
    if shutil.which(compiler) is None or not (Path(sysconfig.get_path("include")) / "Python.h").exists():
        pytest.skip("no C++ compiler, or no headers of Python's")
    assert native() is not None, "pip went on without the extension: `make native` shows the compiler's messages"


def test_the_instruction_sets_are_those_the_system_reports(extension: ModuleType) -> None:
    if platform.machine() != "x86_64" or not CPUINFO.exists():
        pytest.skip("no list of processor flags to compare with")
    line = next(line for line in CPUINFO.read_text().splitlines() if line.startswith("flags"))
    flags = set(line.partition(":")[2].split())
    available = extension.instruction_sets()
    # A compiler may know fewer sets than the processor; GCC 12 and Clang 15 know all of them.
    assert available[0] == "plain"
    assert set(available) - {"plain"} <= {name for name, needed in FLAGS.items() if needed <= flags}
    assert available == [name for name in ("plain", *FLAGS) if name in available]


def test_the_extension_needs_no_torch(extension: ModuleType) -> None:
    done = run_python(
        "import sys; from landrace.kernels.cpu import native; native(); assert 'torch' not in sys.modules"
    )
    assert done.returncode == 0, done.stderr


def test_the_extension_loads_from_another_folder(extension: ModuleType, tmp_path: Path) -> None:
    assert extension.__file__ is not None
    shutil.copy(extension.__file__, tmp_path / f"_native{SUFFIX}")
    done = run_python(
        "from landrace.kernels.cpu import native; print(native().__file__); import landrace.kernels.cpu._native",
        LANDRACE_NATIVE_DIR=str(tmp_path),
    )
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).parent == tmp_path


@pytest.mark.parametrize(
    ("content", "error"),
    [(None, "OptionError: LANDRACE_NATIVE_DIR names"), (b"", "ImportError"), (b"not a library", "ImportError")],
    ids=["missing", "empty", "no library"],
)
def test_an_extension_that_cannot_be_loaded_is_an_error(tmp_path: Path, content: bytes | None, error: str) -> None:
    if content is not None:
        (tmp_path / f"_native{SUFFIX}").write_bytes(content)
    code = "from landrace.kernels.cpu import native; native()"
    done = run_python(code, LANDRACE_NATIVE_DIR=str(tmp_path))
    assert done.returncode != 0
    assert error in done.stderr.splitlines()[-1]


def test_without_a_compiler_the_package_is_built_all_the_same(tmp_path: Path) -> None:
    """What pip does with `.` when CMake finds no compiler, which takes two seconds."""
    source = tmp_path / "source"
    examples = ("examples/records", "examples/support")
    for folder in ("landrace", *examples):
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "CMakeLists.txt", "README.md", "LICENSE", ".gitignore"):
        shutil.copy(ROOT / file, source)
    build = "from scikit_build_core.build import build_wheel; print(build_wheel('dist'))"
    environment = os.environ | {"CXX": str(tmp_path / "no-compiler")}
    done = subprocess.run(
        [sys.executable, "-c", build], cwd=source, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    wheel = source / "dist" / done.stdout.splitlines()[-1]
    assert wheel.name.endswith("-py3-none-any.whl")

    names = set(zipfile.ZipFile(wheel).namelist())
    modules = {str(file.relative_to(ROOT)) for file in (ROOT / "landrace").rglob("*.py")}
    data = {f"landrace/{folder}/{file.name}" for folder in examples for file in (ROOT / folder).iterdir()}
    assert modules | data <= names
    assert not [name for name in names if "_native" in name or "csrc" in name]
    assert {name.partition(".dist-info/")[2] for name in names if ".dist-info/" in name} == {
        "METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE",
    }  # fmt: skip


def test_the_line_about_missing_kernels_says_what_to_do() -> None:
    assert "\n" not in MISSING
    assert "reference kernels serve" in MISSING
    assert "compiler" in MISSING
