"""The house keeps its shape: who may import whom, how long a file gets, what a cheap import costs."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "landrace"
MAX_LINES = 450

TOP = "top level"
"""The modules that lie in the package folder itself: `landrace`, `landrace.model`, `landrace.__main__`."""
EVERYTHING = frozenset({"*"})
FOR_ALL = ("landrace.errors", "landrace.safe_text")

MAY_USE: Mapping[str, frozenset[str]] = {
    TOP: EVERYTHING,
    "cli": EVERYTHING,
    "server": EVERYTHING,
    "certify": frozenset(
        {TOP, "evaluation", "training", "engine", "models", "kernels", "checkpoints", "text", "ledger"}
    ),
    "quantize": frozenset({TOP, "evaluation", "engine", "checkpoints", "models", "kernels", "text"}),
    "bench": frozenset({TOP, "engine", "checkpoints", "models", "kernels", "text", "ledger"}),
    "embedding": frozenset({TOP, "engine", "checkpoints", "models", "text"}),
    "evaluation": frozenset({"data", "engine", "text", "checkpoints", "ledger"}),
    "training": frozenset({"data", "engine", "models", "text", "checkpoints", "ledger"}),
    "data": frozenset(),
    "engine": frozenset({"models", "text"}),
    "checkpoints": frozenset({"models", "kernels"}),
    "models": frozenset({"kernels"}),
    "kernels": frozenset(),
    "text": frozenset(),
    "ledger": frozenset(),
}
"""Room to the rooms it may import, besides itself and the files of `FOR_ALL`."""

ONLY: Mapping[tuple[str, str], tuple[str, ...]] = {
    ("checkpoints", "models"): (
        "models.spec",
        "models.declared",
        "models.encoder_spec",
        "models.families",
        "models.lora_spec",
        "models.stored",
    ),
    ("checkpoints", "kernels"): ("kernels.reference.blocks", "kernels.reference.code_blocks"),
}
"""Where a room may use a part of another and no more."""

TORCH_FREE_ROOMS = ("data", "text", "ledger")
TORCH_FREE_IMPORTS = (
    "landrace",
    "landrace.data",
    "landrace.text",
    "landrace.ledger",
    "landrace.checkpoints.store",
    "landrace.training.options",
    "landrace.server.openai.schema",
    "landrace.cli.main",
)
REFERENCES = ("transformers", "peft", "gguf", "llama_cpp")
"""Other people's implementations: witnesses for `certify`, peers for `bench`, and no part of any answer."""
REFERENCE_ROOMS = {"certify", "bench"}
PEER_FILES = {"bench/llama_cpp_peer.py", "bench/transformers_peer.py"}
"""The files of `bench` that call a reference: everything else there knows peers by their interface only."""

MACHINE_PATH = re.compile(r"(?<![\w.~$}>)/-])/(?:home|Users|root|work|private|scratch)/[\w.-]|[A-Za-z]:\\Users\\")
TEXT_SUFFIXES = {
    ".cfg", ".css", ".html", ".ini", ".jinja", ".json", ".jsonl", ".md", ".py", ".sh", ".toml", ".txt", ".yaml", ".yml",
    "",
}  # fmt: skip


@dataclass(frozen=True)
class Import:
    """One imported name, absolute: `from landrace.text import Tokenizer` is `landrace.text.Tokenizer`."""

    file: Path
    line: int
    name: str


def imports(file: Path, package: Path) -> Iterator[Import]:
    """Every import of a file, wherever it stands: in functions, behind TYPE_CHECKING, relative, or by name."""
    inside = [package.name, *file.relative_to(package).with_suffix("").parts]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(file, node.lineno, alias.name)
        elif isinstance(node, ast.ImportFrom):
            start = ".".join(inside[: -node.level]) if node.level else ""
            module = ".".join(part for part in (start, node.module) if part)
            for alias in node.names:
                yield Import(file, node.lineno, f"{module}.{alias.name}")
        elif isinstance(node, ast.Call) and _called(node) in ("import_module", "__import__") and node.args:
            first = node.args[0]
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                yield Import(file, node.lineno, first.value)


def _called(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def room_of(name: str, package: Path) -> str | None:
    """The room that a dotted name lies in; None for other people's packages."""
    parts = name.split(".")
    if parts[0] != package.name:
        return None
    return parts[1] if len(parts) > 1 and (package / parts[1]).is_dir() else TOP


def violations(package: Path) -> list[str]:
    """Every import that the tables do not allow, as "file:line room imports name"."""
    found = []
    for file in sorted(package.rglob("*.py")):
        parts = file.relative_to(package).parts
        room = parts[0] if len(parts) > 1 else TOP
        for item in sorted(imports(file, package), key=lambda item: item.line):
            used = room_of(item.name, package)
            if used is not None and not _allowed(room, used, item.name):
                found.append(f"{file.relative_to(package.parent)}:{item.line} {room} imports {item.name}")
    return found


def _allowed(room: str, used: str, name: str) -> bool:
    if used == room or any(name == one or name.startswith(f"{one}.") for one in FOR_ALL):
        return True
    if MAY_USE[room] != EVERYTHING and used not in MAY_USE[room]:
        return False
    parts = ONLY.get((room, used))
    inner = name.partition(".")[2]
    return parts is None or any(inner == part or inner.startswith(f"{part}.") for part in parts)


def package_files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def test_every_room_is_in_the_table_and_nothing_else() -> None:
    rooms = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    assert rooms == set(MAY_USE) - {TOP}


def test_the_table_has_no_way_back_up() -> None:
    """Whoever is used is finished before its user: an order exists in which every room uses earlier ones only."""
    left = {room: set(used) for room, used in MAY_USE.items() if used != EVERYTHING}
    left = {room: used - {TOP} for room, used in left.items()}
    while free := [room for room, used in left.items() if not used & left.keys()]:
        for room in free:
            del left[room]
    assert not left


def test_rooms_import_only_what_they_may() -> None:
    assert violations(PACKAGE) == []


def test_the_checker_catches_every_form_of_import(tmp_path: Path) -> None:
    package = tmp_path / "landrace"
    for room in ("engine", "server", "models", "kernels", "checkpoints", "text"):
        (package / room).mkdir(parents=True)
    (package / "engine" / "bad.py").write_text(
        "from __future__ import annotations\n"
        "import torch\n"
        "import landrace.server.app\n"
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n"
        "    from landrace.training.options import TuneOptions\n"
        "def late():\n"
        "    from landrace.server import app\n"
        "    from ..kernels import dense\n"
        "    from landrace import model\n"
        "    import_module('landrace.server')\n"
        "from landrace.errors import LandraceError\n"
        "from landrace.models.spec import ModelSpec\n"
        "from .own import thing\n"
    )
    (package / "checkpoints" / "bad.py").write_text(
        "from landrace.models.adapters import adapter_of\n"
        "from landrace.models.lora_spec import LoraSpec\n"
        "from landrace.models.spec import ModelSpec\n"
        "from landrace.models import decoder, families\n"
        "from landrace.kernels.reference import attention, blocks\n"
        "import landrace.models\n"
    )
    (package / "text" / "bad.py").write_text("from landrace.models import spec\n")
    (package / "training").mkdir()
    assert violations(package) == [
        "landrace/checkpoints/bad.py:1 checkpoints imports landrace.models.adapters.adapter_of",
        "landrace/checkpoints/bad.py:4 checkpoints imports landrace.models.decoder",
        "landrace/checkpoints/bad.py:5 checkpoints imports landrace.kernels.reference.attention",
        "landrace/checkpoints/bad.py:6 checkpoints imports landrace.models",
        "landrace/engine/bad.py:3 engine imports landrace.server.app",
        "landrace/engine/bad.py:6 engine imports landrace.training.options.TuneOptions",
        "landrace/engine/bad.py:8 engine imports landrace.server.app",
        "landrace/engine/bad.py:9 engine imports landrace.kernels.dense",
        "landrace/engine/bad.py:10 engine imports landrace.model",
        "landrace/engine/bad.py:11 engine imports landrace.server",
        "landrace/text/bad.py:1 text imports landrace.models.spec",
    ]


@pytest.mark.parametrize("file", package_files(), ids=lambda file: str(file.relative_to(PACKAGE)))
def test_a_file_is_short_and_says_what_it_is_for(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert text.count("\n") <= MAX_LINES, "the file asks to be two"
    assert ast.get_docstring(ast.parse(text)), "the module has no docstring"


@pytest.mark.parametrize("room", TORCH_FREE_ROOMS)
def test_rooms_without_torch_never_import_it(room: str) -> None:
    found = [item for file in (PACKAGE / room).rglob("*.py") for item in imports(file, PACKAGE)]
    assert found
    assert [item for item in found if item.name.partition(".")[0] == "torch"] == []


def test_only_certify_and_the_bench_s_peers_call_the_references() -> None:
    found = [item for file in package_files() for item in imports(file, PACKAGE)]
    files = {item.file.relative_to(PACKAGE).as_posix() for item in found if item.name.partition(".")[0] in REFERENCES}
    assert {file.partition("/")[0] for file in files} == REFERENCE_ROOMS
    assert {file for file in files if file.startswith("bench/")} == PEER_FILES


def test_what_must_start_fast_does_not_import_torch() -> None:
    lines = ["import importlib, sys"]
    for name in TORCH_FREE_IMPORTS:
        lines += [f"importlib.import_module({name!r})", f"assert 'torch' not in sys.modules, {name!r}"]
    # The last line proves that the check can fail.
    lines += ["import landrace.model", "assert 'torch' in sys.modules, 'landrace.model without torch'"]
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def project_files() -> list[Path]:
    """What git tracks or would track; without git, everything that is not hidden."""
    if (ROOT / ".git").exists() and shutil.which("git"):
        command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        names = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\0")
        paths = [ROOT / name for name in names if name]
    else:
        paths = [path for path in ROOT.rglob("*") if not any(p.startswith(".") for p in path.relative_to(ROOT).parts)]
    return sorted(path for path in paths if path.suffix in TEXT_SUFFIXES and path.is_file())


def test_no_text_holds_a_path_of_somebodys_machine() -> None:
    files = project_files()
    assert PACKAGE / "errors.py" in files
    found = [
        f"{file.relative_to(ROOT)}:{number} {line.strip()[:80]}"
        for file in files
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1)
        if MACHINE_PATH.search(line)
    ]
    assert found == []


@pytest.mark.parametrize(
    ("text", "caught"),
    [
        ("open('{}home/ann/model')", True),
        ("see {}work/tmp", True),
        ("C:\\" + "Users\\ann", True),
        ("~{}work/tmp", False),
        ("https://example.org{}home/index", False),
        ("HOME{}work/", False),
        ("{}v1/models", False),
    ],
)
def test_machine_paths_are_told_from_others(text: str, caught: bool) -> None:
    assert bool(MACHINE_PATH.search(text.format("/"))) is caught
