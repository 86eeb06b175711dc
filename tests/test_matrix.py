"""`make test` meets every value of every parameter of a matrix, in few combinations."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

CONFTEST = """
import sys
sys.path.insert(0, {here!r})
import pytest
from matrix import mark_repetitions

@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    mark_repetitions(items)
"""
TESTS = """
import pytest

absent = pytest.param("absent", marks=pytest.mark.skip("not here"))

@pytest.mark.matrix
@pytest.mark.parametrize("a", ["x", "y", "z"])
@pytest.mark.parametrize("b", range(5))
@pytest.mark.parametrize("c", [absent, "here", "there"])
def test_matrix(a, b, c):
    pass

@pytest.mark.matrix
@pytest.mark.parametrize(("a", "b"), [(a, b) for a in "xyz" for b in range(5)])
def test_together(a, b):
    pass

@pytest.mark.parametrize("a", ["x", "y"])
@pytest.mark.parametrize("b", range(5))
def test_plain(a, b):
    pass
"""
SETTINGS = "[pytest]\nmarkers =\n    matrix\n    long\n"


def collected(folder: Path, *options: str) -> list[str]:
    """Parameters of the tests of the matrix that would run, and the name of the others."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *options]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    tests = re.findall(r"::(\w+)\[(.*)\]", done.stdout)
    return [ids if name == "test_matrix" else name for name, ids in tests]


def test_every_value_comes_once(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST.format(here=str(Path(__file__).parent)))
    (tmp_path / "test_it.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text(SETTINGS)
    few = collected(tmp_path, "-m", "not long")
    assert few.count("test_plain") == 10
    assert few.count("test_together") == 5
    values = [ids.split("-") for ids in few if "-" in ids and "absent" not in ids]
    assert len(values) == 5
    assert [set(kind) for kind in zip(*values, strict=True)] == [{"here", "there"}, {*"01234"}, {"x", "y", "z"}]
    assert len(collected(tmp_path)) == 45 + 15 + 10
