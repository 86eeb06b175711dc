"""The files for operators: what other programs read of them, they can read."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DEPLOY = ROOT / "deploy"


def command_options() -> set[str]:
    from typer.main import get_command

    from landrace.cli.main import app

    served = get_command(app).commands["serve"]  # type: ignore[attr-defined]
    return {option for parameter in served.params for option in parameter.opts}


@pytest.mark.parametrize("name", ["landrace.service", "Containerfile", "nginx.conf"])
def test_options_of_serve_exist(name: str) -> None:
    text = (DEPLOY / name).read_text(encoding="utf-8")
    commands = re.findall(r"landrace serve ([^\n]*)|start the server with ([^\n]*)|\"serve\", ([^\n]*)", text)
    named = {option for command in commands for option in re.findall(r"--[\w-]+", " ".join(command))}
    assert named and named <= command_options()


def test_the_unit_is_one_that_systemd_reads(tmp_path: Path) -> None:
    verify = shutil.which("systemd-analyze")
    if verify is None:
        pytest.skip("systemd-analyze is not here")
    unit = tmp_path / "landrace.service"
    unit.write_text(
        (DEPLOY / "landrace.service").read_text(encoding="utf-8").replace("/opt/landrace/bin/landrace", "/bin/true")
    )
    done = subprocess.run([verify, "verify", str(unit)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.long
def test_the_container_is_built_and_answers() -> None:
    docker = shutil.which("docker") or shutil.which("podman")
    if docker is None or subprocess.run([docker, "info"], capture_output=True, check=False).returncode:
        pytest.skip("no container runtime answers here")
    build = [docker, "build", "-f", str(DEPLOY / "Containerfile"), "-t", "landrace-test", str(ROOT)]
    assert subprocess.run(build, check=False).returncode == 0
    done = subprocess.run(
        [docker, "run", "--rm", "landrace-test", "--version"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and "landrace" in done.stdout
