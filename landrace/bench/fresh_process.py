"""Load time and memory, in a process that does nothing else: what this one holds must not be counted.

    python -m landrace.bench.fresh_process '{"choice": {...}, "prompt": [...]}'

prints one JSON object. A parent calls `measure_fresh`.
"""

from __future__ import annotations

import importlib
import json
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from landrace.bench.peers import LLAMA_CPP, OURS, TRANSFORMERS, RunnerChoice
from landrace.errors import LandraceError

_STATUS = Path("/proc/self/status")
_IMPORTS = {
    OURS: ("landrace.bench.ours",),
    LLAMA_CPP: ("landrace.bench.llama_cpp_peer", "llama_cpp"),
    TRANSFORMERS: ("landrace.bench.transformers_peer", "transformers.models.auto.modeling_auto"),
}
"""What counts as starting the program, not as loading the model."""


@dataclass(frozen=True)
class FreshFigures:
    """One start: load, compute one prompt, and once more from its cache."""

    load_seconds: float
    """From after the imports to ready for a request."""
    peak_bytes: int
    """Most memory the process had resident, shared pages of the model's file included."""
    held_bytes: int | None
    """Of it, weights and the cache blocks in use; None for a peer, which does not tell."""


def measure_fresh(choice: RunnerChoice, prompt: Sequence[int]) -> FreshFigures:
    """Starts a process for one measurement. LandraceError with its last words when it fails."""
    task = {"choice": asdict(choice), "prompt": list(prompt)}
    command = [sys.executable, "-m", __name__, json.dumps(task)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    if done.returncode:
        words = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise LandraceError(f"{choice.name} could not be measured in a process of its own: {words[0]}")
    return FreshFigures(**json.loads(done.stdout.splitlines()[-1]))


def _measure(choice: RunnerChoice, prompt: Sequence[int]) -> FreshFigures:
    for name in _IMPORTS[choice.name]:
        importlib.import_module(name)
    begun = time.perf_counter()
    runner: Any = choice.open()
    seconds = time.perf_counter() - begun
    runner.first_token(prompt)
    runner.first_token_again(prompt)
    held = None
    if choice.name == OURS:
        held = runner.weight_bytes + runner.cache_bytes(len(prompt) + 1)
    return FreshFigures(seconds, _peak_resident_bytes(), held)


def _peak_resident_bytes() -> int:
    # Not getrusage where there is /proc: its peak may be the parent's, from before the program was replaced.
    if _STATUS.exists():
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def main() -> None:
    task = json.loads(sys.argv[1])
    figures = _measure(RunnerChoice(**task["choice"]), task["prompt"])
    print(json.dumps(asdict(figures)))


if __name__ == "__main__":
    main()
