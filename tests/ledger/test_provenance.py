"""Facts about the machine, the versions and the commit."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

import pytest

from landrace.ledger import Provenance, describe_machine, package_commit, package_version


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@t", "-c", "commit.gpgsign=false"]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    (tmp_path / "landrace").mkdir()
    (tmp_path / "landrace" / "a.py").write_text("x = 1\n")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "first")
    return tmp_path


def test_machine() -> None:
    machine = describe_machine()
    assert machine == describe_machine()
    assert machine.cpu
    assert 1 <= machine.cores <= (os.cpu_count() or 1)
    assert machine.memory_bytes is None or machine.memory_bytes > 1 << 24
    assert machine.python == platform.python_version()
    assert machine.torch == metadata.version("torch")


def test_commit_of_a_checkout(checkout: Path) -> None:
    commit = git(checkout, "rev-parse", "HEAD")
    assert package_commit(checkout) == commit
    (checkout / "notes.txt").write_text("outside of the package")
    assert package_commit(checkout) == commit
    (checkout / "landrace" / "a.py").write_text("x = 2\n")
    assert package_commit(checkout) == f"{commit}-dirty"
    git(checkout, "checkout", "-q", "landrace")
    (checkout / "landrace" / "new.py").write_text("")
    assert package_commit(checkout) == f"{commit}-dirty"


def test_a_hooks_environment_does_not_name_another_repository(
    checkout: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = git(checkout, "rev-parse", "HEAD")
    other = tmp_path_factory.mktemp("other")
    git(other, "init", "-q")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    assert package_commit(checkout) == commit


def test_no_commit_outside_of_a_checkout(checkout: Path) -> None:
    # As in site-packages of a virtual environment inside some other project's checkout.
    installed = checkout / "venv" / "site-packages"
    (installed / "landrace").mkdir(parents=True)
    assert package_commit(installed) is None


def test_no_commit_before_the_first_and_none_without_git(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert package_commit(checkout) is None
    monkeypatch.undo()
    empty = checkout / "empty"
    empty.mkdir()
    git(empty, "init", "-q")
    assert package_commit(empty) is None


def test_provenance_here() -> None:
    origin = Provenance.here(weights_sha256="w", seed=3)
    assert (origin.weights_sha256, origin.seed, origin.adapter_sha256) == ("w", 3, None)
    assert origin.machine == describe_machine()
    assert origin.package_version == package_version()
    assert origin.package_version
