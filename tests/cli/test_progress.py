"""What is said while something takes long and the output is no terminal."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time

import pytest
from patience import wait_until

from landrace.cli import progress
from landrace.cli.progress import byte_progress, count_progress, plain_lines, spinner


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.05)


class Told:
    """What is said on stderr."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def wait_for(self, pattern: str) -> None:
        """Until a new line matches."""
        wait_until(lambda: any(re.fullmatch(pattern, line) for line in self.rest().splitlines()))

    def rest(self) -> str:
        """All that is new."""
        return self._capsys.readouterr().err


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Told:
    return Told(capsys)


@pytest.mark.usefixtures("often")
def test_lines_come_by_themselves_while_one_step_takes_long(told: Told) -> None:
    with count_progress("tuning [bold]x") as report:
        for _ in range(2):
            told.wait_for(r"tuning \[bold\]x \(\d+ s\)")
        report(3, 9, "loss 1.5")
        for _ in range(2):
            told.wait_for(r"tuning \[bold\]x: 3 of 9, loss 1\.5 \(\d+ s\)")


@pytest.mark.usefixtures("often")
def test_loading_and_fetching_are_said_too(told: Told) -> None:
    with spinner("opening tiny"):
        told.wait_for(r"opening tiny \(\d+ s\)")
    with byte_progress() as fetched:
        fetched("downloading", 1_500_000, 3_000_000)
        told.wait_for(r"downloading: 1\.5 MB of 3\.0 MB \(\d+ s\)")
        fetched("unpacking", 5, None)
        told.wait_for(r"unpacking: 5 B \(\d+ s\)")


def test_the_time_to_the_next_line_counts_from_the_last_one(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever work wrote it: short works in a row leave no long silence, and what is quick is not told of."""
    monkeypatch.setattr(progress, "LINE_SECONDS", 3600.0)
    monkeypatch.setattr(progress, "_written", [time.monotonic() - 3600])
    with spinner("first"):
        told.wait_for(r"first \(\d+ s\)")
    for name in ("second", "third"):
        with plain_lines(name):
            pass
    assert told.rest() == ""


def test_waiting_threads_may_sleep_and_the_users_word_stands() -> None:
    """Read by OpenMP when PyTorch is loaded, so `main` has to say it before."""
    code = (
        "import os, sys; from landrace.cli import main as m; sys.argv = ['landrace', '--version']; "
        "m.app = lambda **_: print('torch' in sys.modules, os.environ.get('GOMP_SPINCOUNT')); m.main()"
    )

    def told(**given: str) -> str:
        quiet = {key: value for key, value in os.environ.items() if key not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
        done = subprocess.run([sys.executable, "-c", code], env=quiet | given, capture_output=True, text=True)
        return done.stdout.strip()

    assert told() == "False 1000"
    assert told(GOMP_SPINCOUNT="7") == "False 7"
    assert told(OMP_WAIT_POLICY="active") == "False None"
