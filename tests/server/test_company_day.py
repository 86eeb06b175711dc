"""The day in `examples/operate`, from the first key to the last sum, on a tiny model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from patience import SECONDS

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.long
def test_the_day_ends_as_it_should(tiny_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "day"
    asked = ("--model", str(tiny_model), "--out", str(out), "--tickets", "12", "--epochs", "2")
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "operate" / "company_day.py"), *asked],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=6 * SECONDS,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for said in ("status 429", "answered again", "tickets that nobody has corrected", "is served as", "reports"):
        assert said in done.stdout, done.stdout
    rows = [json.loads(line) for line in (out / "rows.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 12 and all(row["messages"][-1]["role"] == "assistant" for row in rows)
    assert "landrace_" not in done.stdout, "a key's secret was shown"
